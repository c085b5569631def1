//! `fabric`, the command line of Fabric: a client of the agent's API over its Unix socket, unprivileged but for the
//! right to open that socket. One file a noun; `output` is the only one that writes to standard output.

mod apply;
mod args;
mod bugreport;
mod capture;
mod counters;
mod deny;
mod endpoint;
mod flows;
mod generate;
mod monitor;
mod namespace;
mod network;
mod node;
mod output;
mod packets;
mod policy;
mod session;
mod status;
mod trace;

use std::{io, process::ExitCode};

use anyhow::{Context, bail};
use clap::Parser;
use fabric_api::client::Client;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output (`head`, a pager) has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the I/O runtime")?;
    let client = Client::new(cli.socket);
    runtime.block_on(async {
        match cli.command {
            Command::Network(command) => network::run(&client, command).await,
            Command::Endpoint(command) => endpoint::run(&client, command).await,
            Command::Node(command) => node::run(&client, command).await,
            Command::Apply(args) => apply::run(&client, args).await,
            Command::Status(args) => status::run(&client, args).await,
            Command::Counters(args) => counters::run(&client, args).await,
            Command::Monitor(args) => monitor::run(&client, args).await,
            Command::Completions(args) => generate::completions(&args),
            Command::Man(args) => generate::man(&args),
            Command::Namespace(command) => namespace::run(&client, command).await,
            Command::Deny(command) => deny::run(&client, command).await,
            Command::Policy(command) => policy::run(&client, command).await,
            Command::Service(_) => unavailable("service"),
            Command::Flows(args) => flows::run(&client, args).await,
            Command::Trace(args) => trace::run(&client, args).await,
            Command::Capture(args) => capture::run(&client, args).await,
            Command::Top(_) => unavailable("top"),
            Command::Bugreport(args) => bugreport::run(&client, args).await,
        }
    })
}

/// Refuses what INTERFACE names but this version does not have.
fn unavailable(what: &str) -> anyhow::Result<()> {
    bail!("{what} is not available in this version")
}
