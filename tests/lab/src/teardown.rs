//! Removing a lab, whoever made it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    docker, net,
    process::{alive, signal, wait_for},
    topology::{check_id, directory, prefix},
};

/// Removes everything that a lab of this id made: processes, namespaces, its directory. Absence is success.
///
/// # Errors
/// If a process does not end or something can't be removed.
pub fn remove(id: &str) -> Result<()> {
    check_id(id)?;
    let namespaces = net::with_prefix(&prefix(id));
    // Every process of a lab is in one of its network namespaces: agents, holders, containers, captures. The mount
    // namespaces, and with them the bpffs instances and their pins, go with the last process in them.
    let processes: Vec<i32> = namespaces.iter().flat_map(|name| net::processes(name)).collect();
    for pid in &processes {
        signal(*pid, Signal::SIGKILL);
    }
    let ended = wait_for("processes of the lab end", Duration::from_secs(10), || {
        !processes.iter().any(|pid| alive(*pid))
    });
    let containers = docker::end_groups(&prefix(id));
    for name in &namespaces {
        net::delete(name)?;
    }
    containers?;
    ended?;
    let directory = directory(id);
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("can't remove {}", directory.display()))?;
    }
    // The last lab takes the base directory with it.
    if let Some(base) = directory.parent() {
        let _ = fs::remove_dir(base);
    }
    Ok(())
}
