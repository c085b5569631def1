//! The agent of a host.

use std::{
    fs::{self, File},
    os::unix::{net::UnixStream, process::CommandExt},
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    Host, UNDERLAY,
    process::{alive, patience, signal, wait_for},
};

/// Loading and verifying the programs takes its time.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running agent. Dropping a child of ours ends it.
#[derive(Debug)]
pub(crate) struct Agent {
    pid: i32,
    child: Option<Child>,
}

impl Agent {
    /// An agent that another process started.
    pub(crate) fn of_process(pid: i32) -> Self {
        Self { pid, child: None }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Leaves it running when this value is dropped.
    pub(crate) fn release(&mut self) {
        self.child = None;
    }

    fn running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => alive(self.pid),
        }
    }

    /// Sends `signal` and waits until it has ended.
    fn end(&mut self, with: Signal) -> Result<()> {
        signal(self.pid, with);
        wait_for("the agent ends", Duration::from_secs(10), || !self.running())
    }
}

impl Host {
    /// Starts the agent and waits until it is in sync.
    ///
    /// # Errors
    /// If it runs already, can't be started, ends, or is not in sync within a minute; the message holds the end of
    /// its log.
    pub fn start_agent(&mut self) -> Result<()> {
        self.launch_agent()?;
        self.wait_in_sync()
    }

    /// Starts the agent and waits for nothing.
    ///
    /// # Errors
    /// If it runs already or can't be started.
    pub fn launch_agent(&mut self) -> Result<()> {
        if self.agent.as_mut().is_some_and(Agent::running) {
            bail!("the agent of {} runs already", self.name());
        }
        fs::create_dir_all(self.manifests())?;
        let log = File::options().create(true).append(true).open(self.directory().join("agent.log"))?;
        let mut line: Vec<String> = [
            "fabric-agent",
            "--node",
            &self.name(),
            "--underlay",
            UNDERLAY,
            "--store",
            self.store.as_deref().unwrap_or("local:///run/fabric/store"),
            "--socket",
            "/run/fabric/fabric.sock",
            "--manifests",
            "/run/fabric/manifests",
        ]
        .map(str::to_owned)
        .into();
        line.extend(self.agent_args.iter().cloned());
        let child = self
            .command(&line)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("the agent does not start")?;
        self.agent = Some(Agent { pid: i32::try_from(child.id())?, child: Some(child) });
        Ok(())
    }

    /// Waits until the agent is in sync.
    ///
    /// # Errors
    /// If it ends, or is not in sync within a minute; the message holds the end of its log.
    pub fn wait_in_sync(&mut self) -> Result<()> {
        let socket = self.directory().join("run/fabric/fabric.sock");
        let start = Instant::now();
        while !(UnixStream::connect(&socket).is_ok() && self.in_sync()) {
            if !self.agent_running() {
                bail!("the agent of {} ended at its start:\n{}", self.name(), self.agent_log_tail(20));
            }
            if start.elapsed() > START_LIMIT * patience() {
                bail!("the agent of {} is not in sync:\n{}", self.name(), self.agent_log_tail(20));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn in_sync(&self) -> bool {
        self.try_fabric(&["status", "-o", "json"])
            .ok()
            .filter(crate::Output::success)
            .and_then(|output| serde_json::from_str::<serde_json::Value>(&output.stdout).ok())
            .is_some_and(|status| status["inSync"] == true)
    }

    /// Whether the agent runs.
    pub fn agent_running(&mut self) -> bool {
        self.agent.as_mut().is_some_and(Agent::running)
    }

    /// The agent's process number, if one was started.
    pub fn agent_pid(&self) -> Option<i32> {
        self.agent.as_ref().map(Agent::pid)
    }

    /// Ends the agent by SIGKILL; the datapath stays.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.end_agent(Signal::SIGKILL)
    }

    /// Ends the agent by SIGTERM; the datapath stays.
    ///
    /// # Errors
    /// If it does not end within ten seconds.
    pub fn term_agent(&mut self) -> Result<()> {
        self.end_agent(Signal::SIGTERM)
    }

    fn end_agent(&mut self, with: Signal) -> Result<()> {
        match &mut self.agent {
            Some(agent) => agent.end(with)?,
            None => bail!("no agent was started on {}", self.name()),
        }
        self.agent = None;
        Ok(())
    }

    /// The last lines of the agent's log.
    pub fn agent_log_tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.directory().join("agent.log")).unwrap_or_default();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
