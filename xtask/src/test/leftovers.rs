//! What tests must not leave on the machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use fabric_common::abi::program;

use crate::workspace::bin_dir;

/// The kernel takes namespaces and programs down in the background.
const SETTLE: Duration = Duration::from_secs(10);

/// What is on the machine, by kind.
pub(crate) struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    /// # Errors
    /// If a tool fails.
    pub(crate) fn take() -> Result<Self> {
        Ok(Self(BTreeMap::from([
            ("network namespace", names_in("/run/netns")),
            ("link", names_in("/sys/class/net")),
            ("lab directory", names_in("/run/fabric-lab")),
            ("pin", names_in("/sys/fs/bpf")),
            ("BPF program", programs()?),
            ("BPF link", links()?),
            ("mount", mounts()?),
            ("process", processes()),
        ])))
    }

    /// Compares with what is there now, after a time for the kernel to settle.
    ///
    /// # Errors
    /// Lists what is new.
    pub(crate) fn compare(&self) -> Result<String> {
        let start = Instant::now();
        loop {
            let new = self.new_in(&Self::take()?);
            if new.is_empty() {
                return Ok(String::new());
            }
            if start.elapsed() > SETTLE {
                bail!("left behind:\n  {}", new.join("\n  "));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn new_in(&self, now: &Self) -> Vec<String> {
        let mut new = Vec::new();
        for (kind, things) in &now.0 {
            let before = self.0.get(kind);
            let added = things.iter().filter(|thing| before.is_none_or(|before| !before.contains(*thing)));
            new.extend(added.map(|thing| format!("{kind} {thing}")));
        }
        new
    }
}

fn names_in(directory: &str) -> BTreeSet<String> {
    // No directory, no names.
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn bpftool(what: &str) -> Result<Vec<serde_json::Value>> {
    let output = Command::new("bpftool")
        .args(["--json", what, "show"])
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .context("bpftool does not start")?;
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

fn our_programs() -> Result<BTreeMap<u64, String>> {
    Ok(bpftool("prog")?
        .iter()
        .filter_map(|entry| Some((entry["id"].as_u64()?, entry["name"].as_str()?.to_owned())))
        .filter(|(_, name)| program::ALL.contains(&name.as_str()))
        .collect())
}

fn programs() -> Result<BTreeSet<String>> {
    Ok(our_programs()?.into_iter().map(|(id, name)| format!("{id} {name}")).collect())
}

fn links() -> Result<BTreeSet<String>> {
    let ours = our_programs()?;
    Ok(bpftool("link")?
        .iter()
        .filter_map(|entry| Some((entry["id"].as_u64()?, ours.get(&entry["prog_id"].as_u64()?)?)))
        .map(|(id, name)| format!("{id} of {name}"))
        .collect())
}

fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // iproute2 makes this one at its first use and keeps it.
        .filter(|point| *point != "/run/netns")
        .map(str::to_owned)
        .collect())
}

fn processes() -> BTreeSet<String> {
    let ours = bin_dir();
    names_in("/proc")
        .into_iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|pid| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let name = program.file_name()?.to_str()?;
            (program.parent()? == ours && name.starts_with("fabric")).then(|| format!("{pid} {name}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::Snapshot;

    #[test]
    fn only_what_is_new_is_reported() {
        let of = |names: &[&str]| {
            Snapshot(BTreeMap::from([(
                "link",
                names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(),
            )]))
        };
        assert_eq!(of(&["lo", "eth0"]).new_in(&of(&["lo", "fab0"])), ["link fab0"]);
        assert!(of(&["lo", "eth0"]).new_in(&of(&["lo"])).is_empty());
    }
}
