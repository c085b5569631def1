//! Containers: network namespaces with a process.

use std::{
    ffi::OsStr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use fabric_api::object::Endpoint;
use nix::sys::signal::Signal;

use crate::{
    Host, net,
    process::{Output, enter, netns_path, output, processes_gone, signal, stdout_of},
};

/// A container on a host. Dropping it removes it, unless [`Container::keep`] was called; its endpoint, if it has one, is
/// not detached by that.
#[derive(Debug)]
pub struct Container {
    netns: String,
    name: String,
    host: usize,
    child: Option<Child>,
    pid: i32,
}

impl Container {
    pub(crate) fn new(host: &Host, name: &str) -> Result<Self> {
        ensure!(
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()),
            "container name {name:?} is not letters and digits"
        );
        let netns = format!("{}-{name}", host.netns());
        net::namespace(&netns)?;
        let child = start(&netns);
        if child.is_err() {
            net::delete(&netns)?;
        }
        let child = child?;
        let pid = i32::try_from(child.id())?;
        Ok(Self { netns, name: name.to_owned(), host: host.number(), child: Some(child), pid })
    }

    /// Leaves the container running when this value is dropped; it ends with its lab.
    pub fn keep(mut self) {
        self.child = None;
    }

    /// Its name on its host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its host.
    pub fn host(&self) -> usize {
        self.host
    }

    /// Its network namespace, as `ip netns` knows it, on the machine and on every host of the lab.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// The path of its network namespace.
    pub fn netns_path(&self) -> PathBuf {
        netns_path(&self.netns)
    }

    /// The process in it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A command in the container, to be adjusted and started by the caller.
    pub fn command<S: AsRef<OsStr>>(&self, command: &[S]) -> Command {
        enter(&self.netns, None, command)
    }

    /// Runs a command in the container, whatever the outcome.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn exec<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Output> {
        output(&mut self.command(command))
    }

    /// Runs a command in the container that must succeed; returns its standard output.
    ///
    /// # Errors
    /// If it fails; the message holds what it printed on standard error.
    pub fn sh<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<String> {
        stdout_of(&mut self.command(command))
    }

    /// Ends the container as an engine does when nobody detached its endpoint: process and namespace go.
    ///
    /// # Errors
    /// If the namespace can't be removed.
    pub fn vanish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let processes = net::processes(&self.netns);
        for pid in &processes {
            signal(*pid, Signal::SIGKILL);
        }
        let _ = child.wait();
        processes_gone(&processes)?;
        net::delete(&self.netns)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("container {}: {error:#}", self.netns);
        }
    }
}

/// The container's process.
fn start(netns: &str) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    enter(netns, None, &["sleep", "infinity"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("the container's process does not start")
}

impl Host {
    /// Attaches a container of this host to a network as endpoint `name`, with further arguments of
    /// `fabric endpoint attach`. Returns the endpoint as the agent shows it then.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn attach(
        &self,
        container: &Container,
        name: &str,
        network: &str,
        args: &[&str],
    ) -> Result<Endpoint> {
        let path = container.netns_path();
        let path = path.to_str().context("the namespace's path is not UTF-8")?;
        let line = ["endpoint", "attach", name, "--network", network, "--netns", path];
        self.fabric(&[&line, args].concat())?;
        self.endpoint(name)
    }

    /// An endpoint as this host's agent shows it.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint> {
        let text = self.fabric(&["endpoint", "inspect", name, "-o", "json"])?;
        crate::peers::parse(&text).with_context(|| format!("endpoint {name} as {} shows it", self.name()))
    }
}
