//! Network namespaces.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::process::{enter, ip, netns_path, output, stdout_of, wait_for};

/// Makes a named network namespace with its loopback up.
pub(crate) fn namespace(name: &str) -> Result<()> {
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    Ok(())
}

/// Lets a namespace forward IPv4 and IPv6.
pub(crate) fn forward(name: &str) -> Result<()> {
    // /proc/sys/net shows the namespace of the process that opens it.
    stdout_of(&mut enter(
        name,
        None,
        &[
            "sh",
            "-ec",
            "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        ],
    ))?;
    Ok(())
}

/// No duplicate address detection on an interface: until it ends, nothing is forwarded over the interface.
pub(crate) fn skip_dad(name: &str, link: &str) -> Result<()> {
    stdout_of(&mut enter(
        name,
        None,
        &["sh", "-ec", &format!("echo 0 >/proc/sys/net/ipv6/conf/{link}/accept_dad")],
    ))?;
    Ok(())
}

/// Waits until an interface is operational.
pub(crate) fn wait_until_up(netns: &str, link: &str) -> Result<()> {
    wait_for(&format!("{link} in {netns} is up"), Duration::from_secs(5), || {
        ip(&format!("-n {netns} -br link show {link}"))
            .is_ok_and(|line| line.split_whitespace().nth(1) == Some("UP"))
    })
}

/// Names of the namespaces that begin with `prefix`.
pub(crate) fn with_prefix(prefix: &str) -> Vec<String> {
    std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Processes in a namespace.
pub(crate) fn processes(name: &str) -> Vec<i32> {
    output(Command::new("ip").args(["netns", "pids", name]))
        .map(|output| output.stdout.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
        .unwrap_or_default()
}

/// Removes a namespace's name; the namespace goes with its last process.
pub(crate) fn delete(name: &str) -> Result<()> {
    if netns_path(name).exists() {
        ip(&format!("netns del {name}"))?;
    }
    Ok(())
}
