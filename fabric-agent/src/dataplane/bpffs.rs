//! Our directory on a bpffs: mounted if needed, held by one agent at a time.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, fstatfs},
};

use super::{
    error::DataplaneError,
    ownership::{LINKS_DIR, MAPS_DIR, MOUNT_SOURCE, PROGRAMS_DIR},
};

/// Where everybody expects a bpffs; sysfs lets nobody make directories beside it.
const USUAL: &str = "/sys/fs/bpf";

/// The locked directory. The lock goes with the value, and with the process.
pub(super) struct Directory {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Directory {
    /// Mounts a bpffs if `root` is on none, makes the directories and takes the lock.
    pub(super) fn open(root: &Path) -> Result<Self, DataplaneError> {
        if !root.is_absolute() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the path must be absolute");
            return Err(DataplaneError::Path { what: "use", path: root.into(), source });
        }
        ensure_mounted(root)?;
        fs::create_dir_all(root).map_err(DataplaneError::path("create", root))?;
        let lock = lock(root)?;
        for name in [MAPS_DIR, LINKS_DIR, PROGRAMS_DIR] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(DataplaneError::path("create", &path))?;
        }
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(MAPS_DIR)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join(LINKS_DIR)
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.root.join(PROGRAMS_DIR)
    }
}

/// Takes the directory's lock, or says that another agent has it.
pub(super) fn lock(root: &Path) -> Result<Flock<File>, DataplaneError> {
    let file = File::open(root).map_err(DataplaneError::path("open", root))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK {
            return DataplaneError::InUse { path: root.into() };
        }
        DataplaneError::Path { what: "lock", path: root.into(), source: errno.into() }
    })
}

/// Whether an existing path is on a bpffs.
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    Ok(fstatfs(file.as_fd())?.filesystem_type() == BPF_FS_MAGIC)
}

/// Where to mount for `root`, whose nearest existing ancestor is not on a bpffs.
fn mount_point(root: &Path) -> &Path {
    if root.starts_with(USUAL) { Path::new(USUAL) } else { root }
}

fn ensure_mounted(root: &Path) -> Result<(), DataplaneError> {
    let nearest = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if is_bpffs(nearest).map_err(DataplaneError::path("look at", nearest))? {
        return Ok(());
    }
    let point = mount_point(root);
    fs::create_dir_all(point).map_err(DataplaneError::path("create", point))?;
    mount(
        Some(MOUNT_SOURCE),
        point,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|errno| DataplaneError::Path {
        what: "mount a bpffs at",
        path: point.into(),
        source: errno.into(),
    })?;
    tracing::info!("mounted a bpffs at {}", point.display());
    Ok(())
}

/// The mount point at or above `root` of a bpffs that we mounted ourselves, from the text of `/proc/self/mountinfo`.
pub(super) fn own_mount(mountinfo: &str, root: &Path) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter_map(parse_mount)
        .filter(|point| root.starts_with(point))
        .max_by_key(|p| p.as_os_str().len())
}

/// The mount point of a line of mountinfo, if it is a bpffs with our source name.
fn parse_mount(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let ours = filesystem.next() == Some("bpf") && filesystem.next() == Some(MOUNT_SOURCE);
    ours.then(|| mount.split(' ').nth(4).map(unescape))?
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> PathBuf {
    let text =
        text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(text)
}

/// Files of a directory by name, sorted; empty if it does not exist.
pub(super) fn files(directory: &Path) -> Result<Vec<String>, DataplaneError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(DataplaneError::Path { what: "read", path: directory.into(), source }),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(DataplaneError::path("read", directory))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Removes a pin; absent is success. Says whether it was there.
pub(super) fn unpin(path: &Path) -> Result<bool, DataplaneError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DataplaneError::Path { what: "remove", path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{mount_point, own_mount};

    const MOUNTS: &str = "\
24 1 0:22 / /sys rw,nosuid - sysfs sysfs rw
40 24 0:35 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700
41 24 0:36 / /run/lab\\040one/bpf rw,nosuid - bpf fabric rw,mode=700
42 24 0:37 / /run/other rw - tmpfs fabric rw";

    #[test]
    fn only_a_bpffs_that_we_mounted_is_ours() {
        assert_eq!(own_mount(MOUNTS, Path::new("/sys/fs/bpf/fabric")), None);
        assert_eq!(own_mount(MOUNTS, Path::new("/run/other/x")), None);
        assert_eq!(
            own_mount(MOUNTS, Path::new("/run/lab one/bpf/fabric")),
            Some(PathBuf::from("/run/lab one/bpf"))
        );
        assert_eq!(own_mount(MOUNTS, Path::new("/run/lab one/bpffs")), None);
    }

    #[test]
    fn the_usual_place_is_used_where_it_fits() {
        assert_eq!(mount_point(Path::new("/sys/fs/bpf/fabric")), Path::new("/sys/fs/bpf"));
        assert_eq!(mount_point(Path::new("/run/fabric/bpf")), Path::new("/run/fabric/bpf"));
    }
}
