//! Transfers of which every byte is compared.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{Container, Host, Server, traffic::client};

/// Where a process can run: on a host or in a container.
pub trait Place {
    /// A command there.
    fn enter(&self, line: &[&str]) -> Command;
}

impl Place for Host {
    fn enter(&self, line: &[&str]) -> Command {
        self.command(line)
    }
}

impl Place for Container {
    fn enter(&self, line: &[&str]) -> Command {
        self.command(line)
    }
}

/// Sends by `kind`, `tcp` or `udp`, with further arguments of the traffic tool (`--sizes`, `--gso`, …): what arrives at
/// `address` is what was sent.
///
/// # Errors
/// If a tool fails.
///
/// # Panics
/// If something else arrives.
pub fn same(from: &impl Place, to: &impl Place, kind: &str, address: &str, more: &[&str]) -> Result<()> {
    let sink = format!("exact-{kind}-sink");
    let server = Server::start(|line| to.enter(line), &[&sink, "--bind", address])?;
    let send = format!("exact-{kind}-send");
    let line = [&["fabric-traffic", &send, "--to", address], more].concat();
    let sent = client(from.enter(&line)).with_context(|| format!("{kind} to {address} with {more:?}"))?;
    let received = server.report()?;
    for field in ["bytes", "packets", "hash"] {
        assert_eq!(sent[field], received[field], "{field} of {kind} to {address} with {more:?}");
    }
    Ok(())
}

/// By TCP and by UDP, with writes and datagrams around the MTUs that are usual and far above them.
///
/// # Errors
/// If a tool fails.
///
/// # Panics
/// If something else arrives.
pub fn same_bytes(from: &impl Place, to: &impl Place, address: &str) -> Result<()> {
    same(from, to, "tcp", address, &["--sizes", "1-40,1400-1460,65536,65536"])?;
    same(from, to, "udp", address, &["--sizes", "1-40,1400-1460,9000"])
}
