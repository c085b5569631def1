//! Removes every trace of the dataplane, and nothing else.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use super::{
    bpffs::{self, files, own_mount, unpin},
    clsact,
    error::DataplaneError,
    features,
    ownership::{LINKS_DIR, MAPS_DIR, PROGRAMS_DIR, SUCCESSOR, is_map_pin, known_program, parse_link_pin},
    sys,
};

/// What the kernel itself puts on every bpffs.
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

/// Takes every program of ours off the interfaces of this network namespace, removes our pins and our directory, and
/// unmounts the bpffs if we mounted it and nothing else is on it. Absent is success. Returns one sentence for each.
///
/// # Errors
/// Missing privileges; an agent that still runs on the directory.
pub fn cleanup(bpffs: &Path) -> Result<Vec<String>, DataplaneError> {
    features::check_privileges()?;
    let mut done = Vec::new();
    if bpffs.exists() && bpffs::is_bpffs(bpffs).map_err(DataplaneError::path("look at", bpffs))? {
        let lock = bpffs::lock(bpffs)?;
        remove_links(&bpffs.join(LINKS_DIR), &mut done)?;
        remove_pins(&bpffs.join(PROGRAMS_DIR), is_program_pin, &mut done)?;
        remove_pins(&bpffs.join(MAPS_DIR), is_map_pin, &mut done)?;
        for name in [LINKS_DIR, PROGRAMS_DIR, MAPS_DIR] {
            remove_directory(&bpffs.join(name), &mut done)?;
        }
        // The mount is busy while a file on it is open.
        drop(lock);
    }
    for ifindex in clsact::remove_everywhere()? {
        done.push(format!("clsact filter at interface {ifindex} removed"));
    }
    remove_root(bpffs, &mut done)?;
    Ok(done)
}

fn is_program_pin(file: &str) -> bool {
    known_program(file.strip_suffix(SUCCESSOR).unwrap_or(file)).is_some()
}

/// Detaches first: a link lives on while another process has it open.
fn remove_links(directory: &Path, done: &mut Vec<String>) -> Result<(), DataplaneError> {
    for file in files(directory)? {
        if parse_link_pin(&file).is_none() {
            continue;
        }
        let path = directory.join(&file);
        if let Some(fd) = sys::obj_get(&path).map_err(DataplaneError::path("open", &path))?
            && let Ok(seat) = sys::link_seat(fd.as_fd())
            && seat.ifindex != 0
        {
            sys::detach_link(seat.id).map_err(DataplaneError::path("detach", &path))?;
        }
        unpin(&path)?;
        done.push(format!("link {file} removed"));
    }
    Ok(())
}

fn remove_pins(
    directory: &Path,
    ours: fn(&str) -> bool,
    done: &mut Vec<String>,
) -> Result<(), DataplaneError> {
    for file in files(directory)?.into_iter().filter(|file| ours(file)) {
        unpin(&directory.join(&file))?;
        done.push(format!("pin {file} removed"));
    }
    Ok(())
}

/// Removes an empty directory; one with a stranger's files stays.
fn remove_directory(path: &Path, done: &mut Vec<String>) -> Result<bool, DataplaneError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            done.push(format!("{} stays: it has files that are not ours", path.display()));
            Ok(false)
        }
        Err(source) => Err(DataplaneError::Path { what: "remove", path: path.into(), source }),
    }
}

fn remove_root(bpffs: &Path, done: &mut Vec<String>) -> Result<(), DataplaneError> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(DataplaneError::kernel("read the mounts"))?;
    let mount = own_mount(&mounts, bpffs);
    if mount.as_deref() != Some(bpffs) && remove_directory(bpffs, done)? {
        done.push(format!("{} removed", bpffs.display()));
    }
    if let Some(mount) = mount
        && files(&mount)?.iter().all(|file| KERNELS_OWN.contains(&file.as_str()))
    {
        unmount(&mount)?;
        done.push(format!("bpffs at {} unmounted", mount.display()));
        // The directory under the mount was made for it; sysfs keeps its own.
        if !mount.starts_with("/sys") && remove_directory(&mount, done)? {
            done.push(format!("{} removed", mount.display()));
        }
    }
    Ok(())
}

fn unmount(mount: &PathBuf) -> Result<(), DataplaneError> {
    match umount2(mount, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => {
            Err(DataplaneError::Path { what: "unmount", path: mount.clone(), source: errno.into() })
        }
    }
}
