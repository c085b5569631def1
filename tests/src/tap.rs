//! Frames that really leave: copies of a broadcast or multicast frame go out while the program runs.

use std::{
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike, bind, socket},
};

/// What goes out of an interface, from now on.
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Listens at an interface.
    ///
    /// # Panics
    /// Without the privileges of root.
    pub fn at(ifindex: u32) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .expect("walks need root: run them with `cargo xtask test`");
        let raw = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: i32::try_from(ifindex).expect("an index is small"),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: a complete `sockaddr_ll` of the family and length that are named.
        let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(size_of_val(&raw) as u32)) };
        bind(socket.as_raw_fd(), &address.expect("a link-layer address")).expect("the interface exists");
        Self { socket }
    }

    /// The frames since the last call, in order. The kernel hands them over while they leave: there is nothing to wait for.
    ///
    /// # Panics
    /// If the socket fails.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0u8; 65536];
        loop {
            let mut from = MaybeUninit::<libc::sockaddr_ll>::zeroed();
            let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            let room = (&raw mut buffer).cast();
            // SAFETY: buffer and address are as large as is said; an all-zero address is valid.
            let (length, from) = unsafe {
                let socket = self.socket.as_raw_fd();
                let length =
                    libc::recvfrom(socket, room, buffer.len(), 0, from.as_mut_ptr().cast(), &raw mut size);
                (length, from.assume_init())
            };
            match (usize::try_from(length), nix::Error::last()) {
                (Ok(length), _) if from.sll_pkttype == libc::PACKET_OUTGOING => {
                    frames.push(buffer[..length].to_vec());
                }
                (Ok(_), _) => {}
                (Err(_), nix::Error::EAGAIN) => return frames,
                // Told once of an interface that was set down.
                (Err(_), nix::Error::ENETDOWN) => {}
                (Err(_), error) => panic!("a packet socket fails: {error}"),
            }
        }
    }
}
