//! Everything a developer types: `cargo xtask run`, `test`, `lab`, `docs` and what they need.
#![expect(clippy::print_stdout, reason = "a command-line tool talks on standard output")]

mod agent;
mod demo;
mod docs;
mod ebpf;
mod kernels;
mod lab;
mod lint;
mod setup;
mod test;
mod ui;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

/// Everything a developer of Fabric types.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what a build and the tests need and this machine lacks. Every other command does so by itself.
    Setup,
    /// Build the agent (with its eBPF object), the CLI, the traffic tool and the tests.
    Build,
    /// Run every test: formatting, lints, licences, documents, unit tests and the privileged ones.
    #[command(after_help = "Example: cargo xtask test walk")]
    Test {
        /// Only tests whose name or test binary contains this; or `wire`, how packets are handled; `policy`, all of policies; `kernels`, the kernel matrix. Formatting and lints are left out.
        filter: Option<String>,
        /// Only formatting, lints and unit tests; needs no privileges.
        #[arg(long)]
        quick: bool,
    },
    /// The demonstration: two hosts, one network, real traffic across the overlay.
    #[command(args_conflicts_with_subcommands = true, after_help = "Example: cargo xtask run --keep")]
    Run {
        /// Leave the lab up and print commands to try; `cargo xtask lab down` ends it.
        #[arg(long)]
        keep: bool,
        #[command(subcommand)]
        what: Option<RunWhat>,
    },
    /// A lab of hosts, containers and agents on this machine, to play with.
    #[command(subcommand)]
    Lab(lab::Command),
    /// Write the generated documents, docs/generated.
    Docs,
    /// Side-by-side benchmarks; not available in this version.
    Bench {
        /// Workloads.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Subcommand)]
enum RunWhat {
    /// Build the agent and run it with ARGS.
    Agent {
        /// The agent's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", ui::red("error:"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup => {
            setup::test_tools(false)?;
            setup::kernel_tools()?;
            println!("{} everything is in place", ui::green("✓"));
            Ok(())
        }
        Command::Build => {
            setup::build_tools()?;
            agent::build_all()
        }
        Command::Test { filter, quick } => test::run(filter.as_deref(), quick),
        Command::Run { what: Some(RunWhat::Agent { args }), .. } => agent::run(&args),
        Command::Run { what: None, keep } => demo::run(keep),
        Command::Lab(command) => lab::run(command),
        Command::Docs => docs::write(),
        Command::Bench { .. } => bail!("bench is not available in this version"),
    }
}
