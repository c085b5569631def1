//! Checks the path of a container's network namespace.

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
};

use nix::{
    libc,
    sys::statfs::{FsType, fstatfs},
};

use super::error::{ErrorKind, ServiceError};

/// From the path of a namespace to its inode number.
pub(super) type Resolve = fn(&str) -> Result<u64, ServiceError>;

/// Opens the path, checks that it is a network namespace other than the agent's own, and gives its inode number.
pub(super) fn resolve(path: &str) -> Result<u64, ServiceError> {
    let file = open(path)?;
    if !is_network_namespace(&file) {
        return Err(ServiceError::invalid(format!(
            "{path} is not a network namespace: give a path like /run/netns/NAME or /proc/PID/ns/net"
        )));
    }
    let inode = |file: &File| file.metadata().map(|m| m.ino()).map_err(|e| unavailable(path, &e));
    let own = open("/proc/self/ns/net")?;
    let found = inode(&file)?;
    if found == inode(&own)? {
        return Err(ServiceError::refused(format!(
            "{path} is the agent's own network namespace: give the container's, or this host would lose its network"
        )));
    }
    Ok(found)
}

fn open(path: &str) -> Result<File, ServiceError> {
    // Not blocking: the path may turn out to be a pipe.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path).map_err(|e| {
        if e.kind() == std::io::ErrorKind::NotFound {
            ServiceError::invalid(format!(
                "network namespace {path} does not exist: is the container running?"
            ))
        } else {
            unavailable(path, &e)
        }
    })
}

fn unavailable(path: &str, e: &std::io::Error) -> ServiceError {
    ServiceError::new(ErrorKind::Unavailable, format!("network namespace {path} can't be opened: {e}"))
}

fn is_network_namespace(file: &File) -> bool {
    /// `NSFS_MAGIC` of linux/magic.h.
    const NSFS: FsType = FsType(0x6e73_6673);
    /// `NS_GET_NSTYPE` of linux/nsfs.h: `_IO(0xb7, 3)`.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    if fstatfs(file).map(|fs| fs.filesystem_type()) != Ok(NSFS) {
        return false;
    }
    // SAFETY: the descriptor is open, and NS_GET_NSTYPE takes no argument and writes nothing.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn our_own_namespace_is_refused() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        assert!(resolve(&own).unwrap_err().message.contains("own network namespace"));
    }

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        for path in ["/proc/self/ns/uts", "/etc/passwd", "/proc"] {
            assert!(resolve(path).unwrap_err().message.contains("is not a network namespace"), "{path}");
        }
        assert!(resolve("/run/netns/does-not-exist").unwrap_err().message.contains("does not exist"));
    }
}
