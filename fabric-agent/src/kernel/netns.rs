//! Network namespaces of containers: found by path, recognised by inode number, entered only by threads that die.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use super::{KernelError, Netlink};

/// An open network namespace. It lives as long as this does, even if its path and processes go.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: String,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// If nothing is there, or it is not a network namespace.
    pub fn open(path: &str) -> Result<Self, KernelError> {
        let gone = || KernelError::NamespaceGone { path: path.to_owned() };
        // Not blocking: something else may be there by now, a pipe for example.
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file =
            OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
                match error.raw_os_error().map(nix::errno::Errno::from_raw) {
                    Some(nix::errno::Errno::ENOENT | nix::errno::Errno::ESRCH) => gone(),
                    _ => KernelError::NamespaceClosed { path: path.to_owned(), source: error },
                }
            })?;
        let not_one = || KernelError::NotANamespace { path: path.to_owned() };
        if fstatfs(&file).map_err(|_| not_one())?.filesystem_type() != NSFS_MAGIC {
            return Err(not_one());
        }
        let inode = file.metadata().map_err(|_| gone())?.ino();
        Ok(Self { file, path: path.to_owned(), inode })
    }

    /// Opens the namespace at `path` if it is still the one with this inode number. Zero accepts any.
    ///
    /// # Errors
    /// If nothing is there, if it is not a network namespace, or another one than before.
    pub fn open_same(path: &str, inode: u64) -> Result<Self, KernelError> {
        let gone = || KernelError::NamespaceGone { path: path.to_owned() };
        // What is left of a namespace that was bind-mounted there is an ordinary file.
        let netns = Self::open(path).map_err(|error| {
            if inode != 0 && matches!(error, KernelError::NotANamespace { .. }) { gone() } else { error }
        })?;
        if inode != 0 && netns.inode != inode { Err(gone()) } else { Ok(netns) }
    }

    /// The inode number, which tells namespaces apart.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` in the namespace, on a thread of its own that ends with it, so that no other thread can ever find
    /// itself in a container's namespace.
    ///
    /// # Errors
    /// If the namespace can't be entered.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
        .map_err(|source| KernelError::Refused {
            what: format!("entering the namespace {}", self.path),
            source,
        })
    }

    /// A netlink socket in the namespace. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the namespace can't be entered or gives no socket.
    pub fn netlink(&self) -> Result<Netlink, KernelError> {
        let runtime = tokio::runtime::Handle::current();
        self.run(|| {
            let _guard = runtime.enter();
            Netlink::new()
        })?
    }
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::{KernelError, Netns};

    #[test]
    fn a_pipe_is_no_namespace_and_nobody_waits_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
        let text = path.to_str().expect("valid");
        assert!(matches!(Netns::open(text), Err(KernelError::NotANamespace { .. })));
        assert!(matches!(Netns::open_same(text, 7), Err(KernelError::NamespaceGone { .. })));
    }
}
