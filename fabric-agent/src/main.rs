//! `fabric-agent`: the privileged agent that runs on every host. See the library for how it is built.

mod cleanup;
mod run;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Parser;
use fabric_agent::{
    config::{Args, Command, Config, StoreAddress},
    observe::log::RecentLog,
    store::{self, EmbeddedStore, EtcdStore, Store},
};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever caused it; a stderr that is closed is no reason to fail differently.
            let _ = writeln!(io::stderr(), "fabric-agent: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, without those that it names already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

fn start(args: &Args) -> anyhow::Result<()> {
    // It does not depend on any setting.
    if args.command == Some(Command::Openapi) {
        return say(&fabric_agent::api::openapi());
    }
    if args.command == Some(Command::Metrics) {
        return say(&fabric_agent::observe::metrics::document());
    }
    let config = Config::load(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .context("can't start the agent's threads")?;
    match args.command {
        None => {
            let log = log(&config);
            runtime.block_on(run::run(config, log))
        }
        Some(Command::Cleanup { purge }) => {
            let done = runtime.block_on(cleanup::cleanup(&config, purge))?;
            say(&done.iter().map(|line| format!("{line}\n")).collect::<String>())
        }
        Some(Command::Export | Command::Openapi | Command::Metrics) => runtime.block_on(export(&config)),
    }
}

/// Logs to standard error, and keeps the end of it for reports.
fn log(config: &Config) -> RecentLog {
    // The programs' lines have the eBPF object's name as their target.
    let usual = if config.debug_dataplane { "info,fabric=debug" } else { "info" };
    let filter = EnvFilter::try_from_env("FABRIC_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let recent = RecentLog::default();
    tracing_subscriber::registry()
        .with(filter)
        .with(fmt::layer().with_target(false).with_writer(io::stderr).with_ansi(io::stderr().is_terminal()))
        .with(fmt::layer().with_target(false).with_writer(recent.clone()).with_ansi(false))
        .init();
    recent
}

async fn export(config: &Config) -> anyhow::Result<()> {
    let store: Box<dyn Store> = match &config.store {
        StoreAddress::Local(directory) => {
            if !EmbeddedStore::exists(directory) {
                bail!("there is no store in {}: name it with --store", directory.display());
            }
            Box::new(EmbeddedStore::open(directory)?)
        }
        StoreAddress::Etcd(access) => Box::new(EtcdStore::open(access.clone(), None).await?),
    };
    let snapshot = store.snapshot().await?;
    say(&store::export_yaml(&snapshot).context("can't write the store as YAML")?)
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("can't write to standard output")
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    #[derive(Debug, thiserror::Error)]
    #[error("can't open it: {0}")]
    struct Wrapped(#[source] io::Error);

    #[test]
    fn a_cause_is_said_once() {
        let wrapped = Wrapped(io::Error::other("it is made of stone"));
        let error = Err::<(), _>(wrapped).context("can't start").expect_err("it is one");
        assert_eq!(super::sentence(&error), "can't start: can't open it: it is made of stone");
    }
}
