//! A packet socket, as the oracle needs it: what arrives at any interface of its network namespace, with the VLAN tag that
//! the kernel took out put back.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::{errno::Errno, libc};

/// `PACKET_AUXDATA`, and what it says of a tag (`include/uapi/linux/if_packet.h`).
const AUXDATA: libc::c_int = 8;
const TAG_VALID: u32 = 1 << 4;
/// Enough for what the frames of a few rounds leave behind.
const BUFFER: libc::c_int = 8 << 20;
/// Longest frame.
const LONGEST: usize = 10_000;

/// `struct tpacket_auxdata`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Auxdata {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    tag: u16,
    tag_type: u16,
}

/// Room for one control message.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Listens and sends.
pub(super) struct Tap(OwnedFd);

fn check(result: libc::c_int, what: &str) -> libc::c_int {
    Errno::result(result).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn option(socket: &OwnedFd, name: libc::c_int, level: libc::c_int, value: libc::c_int) {
    let size = size_of::<libc::c_int>() as u32;
    // SAFETY: an integer of its own size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    check(result, "a packet socket takes options");
}

impl Tap {
    /// Listens at every interface of the calling thread's namespace.
    pub(super) fn everywhere() -> Self {
        let socket = open((libc::ETH_P_ALL as u16).to_be());
        option(&socket, AUXDATA, libc::SOL_PACKET, 1);
        option(&socket, libc::SO_RCVBUFFORCE, libc::SOL_SOCKET, BUFFER);
        Self(socket)
    }

    /// Only sends.
    pub(super) fn mute() -> Self {
        Self(open(0))
    }

    /// Sends a frame out of an interface. What is at the other end has it when this returns, as far as softirqs are done.
    pub(super) fn send(&self, ifindex: u32, frame: &[u8]) {
        let to = libc::sockaddr_ll { sll_ifindex: ifindex.cast_signed(), ..address() };
        let size = size_of_val(&to) as u32;
        // SAFETY: a frame and an address of their own sizes.
        let sent = unsafe {
            let frame_at = frame.as_ptr().cast();
            libc::sendto(self.0.as_raw_fd(), frame_at, frame.len(), 0, (&raw const to).cast(), size)
        };
        assert_eq!(sent, frame.len() as isize, "the frame can be sent: {}", Errno::last());
    }

    /// The next frame that came in, and the interface; nothing if there is none yet.
    pub(super) fn next(&self) -> Option<(u32, Vec<u8>)> {
        loop {
            let (from, frame) = self.receive()?;
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Some((from.sll_ifindex.cast_unsigned(), frame));
            }
        }
    }

    fn receive(&self) -> Option<(libc::sockaddr_ll, Vec<u8>)> {
        let (mut frame, mut from, mut control) = (vec![0_u8; LONGEST], address(), Control([0; 64]));
        let mut data = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: all zero is a valid header; its pointers are set to buffers that live beyond the call, with their sizes.
        let (length, tag) = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = (&raw mut from).cast();
            header.msg_namelen = size_of_val(&from) as u32;
            header.msg_iov = &raw mut data;
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = size_of_val(&control);
            let length = libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT);
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (
                length,
                if message.is_null() {
                    None
                } else {
                    Some(libc::CMSG_DATA(message).cast::<Auxdata>().read_unaligned())
                },
            )
        };
        if length < 0 {
            assert_eq!(Errno::last(), Errno::EAGAIN, "a packet socket can be read");
            return None;
        }
        frame.truncate(length as usize);
        if let Some(aux) = tag.filter(|aux| aux.status & TAG_VALID != 0) {
            let tag = [aux.tag_type.to_be_bytes(), aux.tag.to_be_bytes()].concat();
            frame.splice(12..12, tag);
        }
        Some((from, frame))
    }
}

fn open(protocol: u16) -> OwnedFd {
    // SAFETY: plain system calls; the descriptor is new and nobody else's.
    unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
        OwnedFd::from_raw_fd(check(fd, "root may open a packet socket"))
    }
}

fn address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}
