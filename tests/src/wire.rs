//! Frames that come in and go out for real.

use std::{
    io::Read as _,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use aya::{Ebpf, TestRun, TestRunAttrs, TestRunOptions, programs::Program};
use fabric_common::abi::program;
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, socket,
    },
};

use crate::{
    cast::{Container, Host},
    frame::{ETH, IPV4, IPV6},
    load::{Globals, load},
    walk::{Rig, xdp_md},
};

/// How long the stack may take for a frame: it is done in the same call, but for what it leaves to the next softirq.
const SETTLE: Duration = Duration::from_millis(10);

/// Gives frames to the kernel as if they had come in at an interface.
pub struct Wire {
    ebpf: Ebpf,
    ifindex: u32,
}

impl Wire {
    /// Into the uplink of a rig. What passes the frames on is our XDP program without any tables, to which nothing is its
    /// own and everything passes.
    pub fn into_uplink(rig: &Rig) -> Self {
        Self { ebpf: load(Globals::default()), ifindex: rig.uplink().ifindex() }
    }

    /// The same into a container's port.
    pub fn into_port(rig: &Rig, container: &Container) -> Self {
        Self { ebpf: load(Globals::default()), ifindex: rig.port(container).ifindex() }
    }

    /// One frame. Returns when the kernel has had time for it.
    pub fn inject(&mut self, frame: &[u8]) {
        let Some(Program::Xdp(program)) = self.ebpf.program_mut(program::FROM_UPLINK_XDP) else {
            panic!("{} is no XDP program", program::FROM_UPLINK_XDP)
        };
        let context = xdp_md(frame.len(), self.ifindex);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.attrs = TestRunAttrs::new().xdp_live_frames(1);
        program.test_run(options).expect("Linux 5.18 or later injects frames");
        std::thread::sleep(SETTLE);
    }
}

/// Sees what leaves an uplink.
pub struct Tap(std::fs::File);

impl Tap {
    /// Behind the uplink of a host.
    ///
    /// # Panics
    /// Without the privileges of root.
    pub fn behind_uplink(host: &Host) -> Self {
        let name = format!("up-{}-x", host.name);
        let index = if_nametoindex(name.as_str()).expect("the interface exists");
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket: OwnedFd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .expect("root may open a packet socket");
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: i32::try_from(index).expect("an interface index"),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: a whole `sockaddr_ll` of its own family.
        let address =
            unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(size_of_val(&address) as u32)) };
        bind(socket.as_raw_fd(), &address.expect("a link address"))
            .expect("the interface can be listened to");
        Self(socket.into())
    }

    /// The tunnel packets that left since the last call.
    pub fn tunnelled(&mut self) -> Vec<Vec<u8>> {
        let (mut packets, mut buffer) = (Vec::new(), vec![0; 65_536]);
        while let Ok(length) = self.0.read(&mut buffer) {
            let port = crate::cast::VXLAN_PORT.to_be_bytes();
            let frame = &buffer[..length];
            let udp = match frame.get(12..ETH) {
                Some([0x08, 0x00]) => ETH + IPV4,
                Some([0x86, 0xdd]) => ETH + IPV6,
                _ => continue,
            };
            if frame.get(udp + 2..udp + 4) == Some(&port) {
                packets.push(frame.to_vec());
            }
        }
        packets
    }
}
