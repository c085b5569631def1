//! Frames that the agent itself puts into a container: out of the host side of its veth, by a packet socket (`packet(7)`).

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

use super::KernelError;

/// A packet socket that only sends.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
}

impl Injector {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, KernelError> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a plain system call. No protocol: it receives nothing.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            let source = io::Error::last_os_error();
            return Err(KernelError::Refused { what: "opening a packet socket".to_owned(), source });
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Sends a frame, Ethernet header first, out of an interface. Does not wait: where the queue is full the frame is lost, as on a wire.
    ///
    /// # Errors
    /// The interface is gone or down, or the queue is full.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid address; the kernel reads the address and `frame.len()` bytes of the frame.
        let sent = unsafe {
            let mut to: libc::sockaddr_ll = zeroed();
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_ifindex = ifindex as libc::c_int;
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
