//! A host: a network namespace and a private mount namespace, held by a process.

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    agent::Agent,
    net,
    process::{Output, alive, enter, netns_path, output, signal, stdout_of, wait_for},
    topology::{directory, prefix},
};

/// Runs as the host's first process: $1 is the host's directory. The namespace is a slave, so that network namespaces
/// made on the machine later appear in the host's /run/netns as well.
const INIT: &str = r#"
exec </dev/null >"$1/init.log" 2>&1
mkdir -p "$1/run/netns" "$1/run/fabric/manifests" "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
umount -l "$1/cgroup"
mount -t bpf bpf /sys/fs/bpf
mount --rbind /run/netns "$1/run/netns"
mount --rbind "$1/run" /run
: >/run/booted
exec sleep infinity
"#;

/// What another process needs to know of a host.
#[derive(Serialize, Deserialize)]
pub(crate) struct HostRecord {
    number: usize,
    init: i32,
    agent: Option<i32>,
    agent_args: Vec<String>,
    store: Option<String>,
}

/// A host of a lab.
#[derive(Debug)]
pub struct Host {
    lab: String,
    number: usize,
    /// The process that holds the namespaces.
    init: i32,
    init_child: Option<Child>,
    pub(crate) agent: Option<Agent>,
    pub(crate) agent_args: Vec<String>,
    /// The store that the hosts share; none: this host has one of its own.
    pub(crate) store: Option<String>,
}

/// The network namespace of host `number`.
pub(crate) fn netns(lab: &str, number: usize) -> String {
    format!("{}h{number}", prefix(lab))
}

impl Host {
    /// The network namespace and the directory; [`Host::boot`] follows.
    pub(crate) fn new(lab: &str, number: usize) -> Result<Self> {
        let host = Self {
            lab: lab.to_owned(),
            number,
            init: 0,
            init_child: None,
            agent: None,
            agent_args: Vec::new(),
            store: None,
        };
        net::namespace(&host.netns())?;
        // As on every host that runs containers.
        net::forward(&host.netns())?;
        fs::create_dir_all(host.directory())?;
        Ok(host)
    }

    /// Starts the process that holds the host's namespaces.
    pub(crate) fn boot(&mut self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let directory = self.directory();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", netns_path(&self.netns()).display()))
            .args(["unshare", "--mount", "--propagation", "slave", "sh", "-ec", INIT, "init"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C on the terminal is for whoever drives the lab.
            .process_group(0);
        let child = command.spawn().context("nsenter does not start; it is in the package util-linux")?;
        self.init = i32::try_from(child.id())?;
        let child = self.init_child.insert(child);
        let booted = directory.join("run/booted");
        let mut ended = false;
        let result = wait_for("the host boots", Duration::from_secs(10), || {
            ended = matches!(child.try_wait(), Ok(Some(_)) | Err(_));
            ended || booted.exists()
        });
        if ended || result.is_err() {
            let log = fs::read_to_string(directory.join("init.log")).unwrap_or_default();
            bail!("host {} does not boot: {}", self.name(), log.trim());
        }
        Ok(())
    }

    pub(crate) fn load(lab: &str, record: HostRecord) -> Result<Self> {
        if !alive(record.init) {
            bail!("host h{} of lab {lab} is gone; end the lab with `cargo xtask lab down`", record.number);
        }
        Ok(Self {
            lab: lab.to_owned(),
            number: record.number,
            init: record.init,
            init_child: None,
            agent: record.agent.map(Agent::of_process),
            agent_args: record.agent_args,
            store: record.store,
        })
    }

    pub(crate) fn record(&self) -> HostRecord {
        HostRecord {
            number: self.number,
            init: self.init,
            agent: self.agent.as_ref().map(Agent::pid),
            agent_args: self.agent_args.clone(),
            store: self.store.clone(),
        }
    }

    /// Leaves the processes running when this value is dropped.
    pub(crate) fn release(&mut self) {
        self.init_child = None;
        if let Some(agent) = &mut self.agent {
            agent.release();
        }
    }

    /// Arguments for the agent beside those that the lab gives, from its next start on.
    pub fn set_agent_args(&mut self, args: &[&str]) {
        self.agent_args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Its name, which is its node's name: `h1`.
    pub fn name(&self) -> String {
        format!("h{}", self.number)
    }

    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The id of its lab.
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// Its network namespace, as `ip netns` knows it.
    pub fn netns(&self) -> String {
        netns(&self.lab, self.number)
    }

    /// The process that holds its namespaces.
    pub(crate) fn init(&self) -> i32 {
        self.init
    }

    /// Its IPv4 address on the wire: the VTEP.
    pub fn address(&self) -> String {
        format!("10.0.{}.1", self.number)
    }

    /// Its IPv6 address on the wire.
    pub fn address6(&self) -> String {
        format!("fd00:0:0:{:x}::1", self.number)
    }

    /// Its directory on the machine; `run` in it is the host's `/run`.
    pub fn directory(&self) -> PathBuf {
        directory(&self.lab).join(self.name())
    }

    /// The directory that its agent watches for manifests, as the machine sees it.
    pub fn manifests(&self) -> PathBuf {
        self.directory().join("run/fabric/manifests")
    }

    /// A command in the host's namespaces, to be adjusted and started by the caller.
    pub fn command<S: AsRef<OsStr>>(&self, command: &[S]) -> Command {
        enter(&self.netns(), Some(self.init), command)
    }

    /// Runs a command on the host.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn exec<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Output> {
        output(&mut self.command(command))
    }

    /// Runs a command on the host that must succeed; returns its standard output.
    ///
    /// # Errors
    /// If it fails; the message holds what it printed on standard error.
    pub fn sh<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<String> {
        stdout_of(&mut self.command(command))
    }

    /// Runs the CLI on the host, whatever the outcome.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn try_fabric(&self, args: &[&str]) -> Result<Output> {
        self.exec(&[&["fabric"], args].concat())
    }

    /// Runs the CLI on the host; it must succeed. Returns its standard output.
    ///
    /// # Errors
    /// If it fails; the message holds the CLI's sentence.
    pub fn fabric(&self, args: &[&str]) -> Result<String> {
        self.sh(&[&["fabric"], args].concat())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(child) = &mut self.init_child {
            signal(self.init, Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}
