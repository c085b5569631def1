//! The traffic tool `fabric-traffic`: servers in the background, clients to their end.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Container, Host,
    process::{output, signal},
};

/// A server of the traffic tool. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts `fabric-traffic` with `args` and returns when it listens. `command` enters the namespace.
    ///
    /// # Errors
    /// If it does not start or ends before it listens.
    pub fn start(command: impl FnOnce(&[&str]) -> Command, args: &[&str]) -> Result<Self> {
        let mut child = command(&[&["fabric-traffic"], args].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("fabric-traffic does not start")?;
        let mut line = String::new();
        // Unbuffered beyond this line: what follows is read when the server ends.
        let mut stdout = BufReader::with_capacity(1, child.stdout.as_mut().context("no standard output")?);
        stdout.read_line(&mut line)?;
        if line.trim() != "ready" {
            let mut errors = String::new();
            child.stderr.take().context("no standard error")?.read_to_string(&mut errors)?;
            let _ = child.wait();
            bail!("fabric-traffic {}: {}{}", args.join(" "), errors.trim(), line.trim());
        }
        Ok(Self { child })
    }

    /// Asks the server to end (it also ends by itself after its `--seconds`) and returns its report.
    ///
    /// # Errors
    /// If it printed none.
    pub fn report(mut self) -> Result<Value> {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            signal(pid, Signal::SIGTERM);
        }
        let mut text = String::new();
        self.child.stdout.take().context("no standard output")?.read_to_string(&mut text)?;
        let mut errors = String::new();
        self.child.stderr.take().context("no standard error")?.read_to_string(&mut errors)?;
        self.child.wait()?;
        serde_json::from_str(&text)
            .with_context(|| format!("fabric-traffic printed {text:?}, and {:?} as errors", errors.trim()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn client(mut command: Command) -> Result<Value> {
    let result = output(&mut command)?;
    if !result.success() {
        bail!("fabric-traffic: {}", result.stderr.trim());
    }
    serde_json::from_str(&result.stdout)
        .with_context(|| format!("fabric-traffic printed {:?}", result.stdout))
}

impl Host {
    /// Starts a server of the traffic tool on the host.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn serve(&self, args: &[&str]) -> Result<Server> {
        Server::start(|line| self.command(line), args)
    }

    /// Runs a client of the traffic tool on the host to its end and returns its report.
    ///
    /// # Errors
    /// If it fails.
    pub fn traffic(&self, args: &[&str]) -> Result<Value> {
        client(self.command(&[&["fabric-traffic"], args].concat()))
    }
}

impl Container {
    /// Starts a server of the traffic tool in the container.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn serve(&self, args: &[&str]) -> Result<Server> {
        Server::start(|line| self.command(line), args)
    }

    /// Runs a client of the traffic tool in the container to its end and returns its report.
    ///
    /// # Errors
    /// If it fails.
    pub fn traffic(&self, args: &[&str]) -> Result<Value> {
        client(self.command(&[&["fabric-traffic"], args].concat()))
    }
}
