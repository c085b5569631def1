//! Frames that the agent itself sends to a port: toward the container, as if they came from the network.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

/// A packet socket that hears nothing.
#[derive(Debug)]
pub struct Injector(OwnedFd);

impl Injector {
    /// A socket in the calling thread's namespace.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a plain system call; the descriptor is owned at once.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, kind, 0);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// Sends a frame out of an interface.
    ///
    /// # Errors
    /// If the interface is gone or down, or its queue is full.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the address is of the type and length that is said, and the frame is as long as said.
        let sent = unsafe {
            let mut address: libc::sockaddr_ll = zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = ifindex.cast_signed();
            let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            let address = (&raw const address).cast();
            libc::sendto(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, size)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
