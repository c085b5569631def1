//! Packet sockets (`packet(7)`): what passes an interface, both ways, as the kernel hands it to tcpdump. All unsafe code of
//! captures is in this file.

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{libc, net::if_::if_nametoindex};
use tokio::io::{Interest, unix::AsyncFd};

use super::{KernelError, netns::Netns};

/// What the kernel keeps for a reader that is late, bytes.
const BUFFER: libc::c_int = 8 << 20;
/// The largest frame: a GSO packet, its headers, and what BIG TCP may add.
pub const LARGEST: usize = 256 << 10;
/// `TP_STATUS_VLAN_VALID` and `TP_STATUS_VLAN_TPID_VALID` (`include/uapi/linux/if_packet.h`).
const VLAN_VALID: u32 = 1 << 4;
const TPID_VALID: u32 = 1 << 6;

/// A frame that passed the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// When, since 1970.
    pub time: Duration,
    /// Whether it came out of the interface, seen from the stack that the interface belongs to; else it came in.
    pub outgoing: bool,
    /// Its length on the interface, bytes.
    pub length: usize,
    /// Its first bytes, from the Ethernet header on, a VLAN tag that the kernel keeps beside it put back.
    pub data: Vec<u8>,
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Tap {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    received: u64,
    lost: u64,
}

impl Tap {
    /// Listens on interface `name` of `netns`, or of this process's own namespace, from now on: on UDP packets to
    /// `udp_port` alone, where one is given. At most `snaplen` bytes of a frame are copied. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// No such interface, or the kernel gives no socket.
    pub fn open(
        netns: Option<&Netns>,
        name: &str,
        udp_port: Option<u16>,
        snaplen: usize,
    ) -> Result<Self, KernelError> {
        let socket = match netns {
            Some(netns) => netns.run(|| socket(name, udp_port))?,
            None => socket(name, udp_port),
        };
        let refused =
            |source| KernelError::Refused { what: format!("listening on interface {name}"), source };
        // SAFETY: the descriptor is owned by the value that is registered with it, which keeps it open and the same.
        let socket =
            socket.and_then(|fd| unsafe { Ok(AsyncFd::register_with_interest(fd, Interest::READABLE)?) });
        let socket = socket.map_err(refused)?;
        Ok(Self { socket, buffer: vec![0; snaplen.clamp(1, LARGEST)], received: 0, lost: 0 })
    }

    /// The next frame. Cancelling this future loses nothing.
    ///
    /// # Errors
    /// The interface is gone or down, or the socket failed.
    pub async fn next(&mut self) -> io::Result<Tapped> {
        loop {
            let mut ready = self.socket.readable().await?;
            let buffer = &mut self.buffer;
            if let Ok(result) = ready.try_io(|socket| receive(socket.get_ref(), buffer)) {
                self.received += u64::from(result.is_ok());
                return result;
            }
        }
    }

    /// Frames that were received, and frames that were lost because the reader was late, since the tap was opened.
    pub fn statistics(&mut self) -> (u64, u64) {
        let (mut counts, mut length) = ([0_u32; 2], size_of::<[u32; 2]>() as libc::socklen_t);
        // SAFETY: `struct tpacket_stats` is two u32: packets (those lost included) and drops. Reading resets them.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            self.lost += u64::from(counts[1]);
        }
        (self.received, self.lost)
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket that is bound to the interface. It is opened for no protocol, so that nothing of other interfaces gets in before.
fn socket(name: &str, udp_port: Option<u16>) -> io::Result<OwnedFd> {
    let ifindex = if_nametoindex(name).map_err(io::Error::from)?;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system calls; the descriptor is owned at once, options and the address are of the types that they want.
    unsafe {
        let socket = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?);
        let fd = socket.as_raw_fd();
        for (level, option, value) in [
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER),
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1),
            (libc::SOL_PACKET, libc::PACKET_AUXDATA, 1),
        ] {
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            check(libc::setsockopt(fd, level, option, (&raw const value).cast(), size))?;
        }
        if let Some(port) = udp_port {
            let mut steps = udp_to(port);
            let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
            let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
            let option = libc::SO_ATTACH_FILTER;
            check(libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const program).cast(), size))?;
        }
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as i32;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        check(libc::bind(fd, (&raw const address).cast(), size))?;
        Ok(socket)
    }
}

/// A filter (`Documentation/networking/filter.rst`) that takes UDP packets to `port`, no fragments but the first.
fn udp_to(port: u16) -> [libc::sock_filter; 16] {
    const HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        step(HALF, 0, 0, 12),
        step(EQUAL, 0, 7, 0x0800),
        step(BYTE, 0, 0, 23),
        step(EQUAL, 0, 11, 17),
        step(HALF, 0, 0, 20),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 9, 0, 0x1fff),
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 14),
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 16),
        // To the comparison of the port.
        step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 4),
        step(EQUAL, 0, 5, 0x86dd),
        step(BYTE, 0, 0, 20),
        step(EQUAL, 0, 3, 17),
        step(HALF, 0, 0, 56),
        step(EQUAL, 0, 1, u32::from(port)),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}

/// Room for the control messages: a time and the auxiliary data, with their headers.
#[repr(C, align(8))]
struct Control([u8; 128]);

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Tapped> {
    let mut control = Control([0; 128]);
    // SAFETY: every pointer of the message is to memory that outlives the call, with its length; control messages are read
    // as the kernel wrote them.
    unsafe {
        let mut address: libc::sockaddr_ll = zeroed();
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message: libc::msghdr = zeroed();
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // MSG_TRUNC: the whole length, also if the buffer is shorter.
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC);
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut tapped = Tapped {
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            length: length as usize,
            data: buffer[..buffer.len().min(length as usize)].to_vec(),
        };
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(found) = header.as_ref() {
            let data = libc::CMSG_DATA(header);
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
                let time = ptr::read_unaligned(data.cast::<libc::timespec>());
                tapped.time = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
            } else if (found.cmsg_level, found.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
                let aux = ptr::read_unaligned(data.cast::<libc::tpacket_auxdata>());
                if aux.tp_status & VLAN_VALID != 0 {
                    let tpid = if aux.tp_status & TPID_VALID != 0 { aux.tp_vlan_tpid } else { 0x8100 };
                    tapped.length += retag(&mut tapped.data, tpid, aux.tp_vlan_tci);
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok(tapped)
    }
}

/// Puts a VLAN tag back behind the MACs; returns the bytes that were added.
pub fn retag(data: &mut Vec<u8>, tpid: u16, tci: u16) -> usize {
    if data.len() < 12 {
        return 0;
    }
    data.splice(12..12, [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    4
}
