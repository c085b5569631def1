//! `fabric-agent`: the privileged agent that runs on every host. See the library for how it is built.

mod cleanup;
mod run;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use fabric_agent::{
    config::{Args, Command, Config, StoreAddress},
    store::{self, EmbeddedStore, Store},
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever caused it; a stderr that is closed is no reason to fail differently.
            let _ = writeln!(io::stderr(), "fabric-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let config = Config::load(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .context("can't start the agent's threads")?;
    match args.command {
        None => {
            log_to_stderr();
            runtime.block_on(run::run(config))
        }
        Some(Command::Cleanup { purge }) => {
            let done = runtime.block_on(cleanup::cleanup(&config, purge))?;
            say(&done.iter().map(|line| format!("{line}\n")).collect::<String>())
        }
        Some(Command::Export) => runtime.block_on(export(&config)),
        Some(Command::Openapi) => say(&fabric_agent::api::openapi()),
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("FABRIC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

async fn export(config: &Config) -> anyhow::Result<()> {
    let StoreAddress::Local(directory) = &config.store;
    let store = EmbeddedStore::open(directory)?;
    let snapshot = store.snapshot().await?;
    say(&store::export_yaml(&snapshot).context("can't write the store as YAML")?)
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("can't write to standard output")
}
