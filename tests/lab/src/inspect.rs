//! What tests look at: counters, status, live events.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use fabric_api::{
    Event,
    status::{Counter, Status},
};
use nix::sys::signal::Signal;

use crate::{
    Container, Host,
    process::{patience, signal, wait_for},
};

/// Waits until a condition holds.
///
/// # Errors
/// If it does not within 20 seconds; the message says what was awaited.
pub fn until(what: &str, condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, Duration::from_secs(20), condition)
}

/// Counters of a host by `hook kind name`, in packets; those that are zero are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// One counter.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What moved since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let moved = self.0.iter().map(|(name, n)| (name.clone(), n - before.get(name)));
        Self(moved.filter(|(_, n)| *n != 0).collect())
    }

    /// Only drops, without the group traffic (router solicitations, group reports) that every kernel sends by itself.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let noise = "from_container drop multicast_off";
        let wanted = self.0.iter().filter(|(name, _)| name.contains(" drop ") && *name != noise);
        wanted.map(|(name, n)| (name.clone(), *n)).collect()
    }
}

impl Host {
    /// All counters.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn counts(&self) -> Result<Counts> {
        let text = self.fabric(&["counters", "-o", "json"])?;
        let counters: Vec<Counter> = serde_json::from_str(&text).context("fabric counters")?;
        let rows = counters.into_iter().filter(|counter| counter.packets != 0);
        Ok(Counts(rows.map(|c| (format!("{} {} {}", c.hook, c.kind, c.name), c.packets)).collect()))
    }

    /// The agent's status.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn status(&self) -> Result<Status> {
        crate::peers::parse(&self.fabric(&["status", "-o", "json"])?).context("fabric status")
    }

    /// Starts `fabric monitor -o json` with further arguments.
    ///
    /// # Errors
    /// If it does not start.
    pub fn monitor(&self, args: &[&str]) -> Result<Monitor> {
        let file = self.directory().join("monitor.json");
        let child = self
            .command(&[&["fabric", "monitor", "-o", "json"], args].concat())
            .stdin(Stdio::null())
            .stdout(File::create(&file)?)
            .spawn()
            .context("fabric monitor does not start")?;
        // It says nothing until a packet is dropped; the connection is there within milliseconds.
        std::thread::sleep(Duration::from_millis(500));
        Ok(Monitor { child, file })
    }

    /// One of the host's interface attributes under `/sys/class/net`.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn link_attribute(&self, ifname: &str, attribute: &str) -> Result<String> {
        Ok(self.sh(&["cat", &format!("/sys/class/net/{ifname}/{attribute}")])?.trim().to_owned())
    }

    /// Names of the host's interfaces.
    ///
    /// # Errors
    /// If they can't be listed.
    pub fn link_names(&self) -> Result<Vec<String>> {
        Ok(self.sh(&["ls", "/sys/class/net"])?.split_whitespace().map(str::to_owned).collect())
    }
}

/// A running `fabric monitor`. Dropping it ends it.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    file: PathBuf,
}

impl Monitor {
    /// What it has printed so far.
    ///
    /// # Errors
    /// If a line is no event.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(&self.file)?;
        // The last line may be half written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no event: {line}")))
            .collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the traffic tool in the background, until it is told to end. Dropping it ends it.
#[derive(Debug)]
pub struct Background(Option<Child>);

impl Background {
    /// Tells it to end and returns its report.
    ///
    /// # Errors
    /// If it failed.
    pub fn report(mut self) -> Result<serde_json::Value> {
        let child = self.0.take().context("it has ended")?;
        signal(i32::try_from(child.id())?, Signal::SIGTERM);
        let output = child.wait_with_output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("fabric-traffic: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Container {
    /// Starts a client of the traffic tool in the background.
    ///
    /// # Errors
    /// If it does not start.
    pub fn background(&self, args: &[&str]) -> Result<Background> {
        let child = self
            .command(&[&["fabric-traffic"], args].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("fabric-traffic does not start")?;
        Ok(Background(Some(child)))
    }

    /// Pings once.
    ///
    /// # Errors
    /// If no answer comes within two seconds (times the patience of an emulated machine).
    pub fn ping(&self, to: &str) -> Result<()> {
        self.sh(&["ping", "-c1", &format!("-W{}", 2 * patience()), to]).map(drop)
    }

    /// One of the kernel's counters in `/proc/net/snmp`, like `Tcp` and `InSegs`.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn snmp(&self, group: &str, counter: &str) -> Result<u64> {
        let text = self.sh(&["cat", "/proc/net/snmp"])?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
        let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("no {group}"))?;
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let value = pairs.find(|(name, _)| *name == counter).map(|(_, value)| value);
        Ok(value.with_context(|| format!("{group} has no {counter}"))?.parse()?)
    }

    /// Sends a frame out of its `eth0` `count` times.
    ///
    /// # Errors
    /// If it can't be sent.
    pub fn send_frame(&self, frame: &[u8], count: u32) -> Result<()> {
        let (hex, count) = (hex(frame), count.to_string());
        self.traffic(&["frame", "--ifname", "eth0", "--hex", &hex, "--count", &count]).map(drop)
    }
}

impl Host {
    /// Sends a frame out of its underlay interface `count` times.
    ///
    /// # Errors
    /// If it can't be sent.
    pub fn send_frame(&self, frame: &[u8], count: u32) -> Result<()> {
        let (hex, count) = (hex(frame), count.to_string());
        self.traffic(&["frame", "--ifname", crate::UNDERLAY, "--hex", &hex, "--count", &count]).map(drop)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
