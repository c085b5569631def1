//! Builds and starts the programs of the workspace.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    setup, ui,
    workspace::{bin_dir, cargo},
};

/// Builds the agent (its build script builds the eBPF object), the CLI and the traffic tool.
///
/// # Errors
/// With the compiler's output if it does not compile.
pub(crate) fn build() -> Result<()> {
    build_step(
        "agent, eBPF programs, CLI and traffic tool",
        &["build", "--package=fabric-agent", "--package=fabric-cli", "--package=fabric-lab", "--bins"],
    )
}

/// As [`build`], and every test.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_all() -> Result<()> {
    build()?;
    build_step("tests", &["test", "--no-run", "--workspace"])
}

fn build_step(name: &str, args: &[&str]) -> Result<()> {
    ui::run_step(name, cargo().args(args)).map(drop)
}

/// As [`build`], without a line of its own.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_quiet() -> Result<()> {
    ui::run_quiet(cargo().args(["build", "--package=fabric-agent", "--bins"]), |_| ()).map(drop)
}

/// Builds the agent and becomes it.
///
/// # Errors
/// If it does not compile or can't be started.
pub(crate) fn run(args: &[String]) -> Result<()> {
    setup::build_tools()?;
    build()?;
    let program = bin_dir().join("fabric-agent");
    let error = Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("{} does not start", program.display()))
}

/// Fails with a sentence if a program that the lab starts is missing.
///
/// # Errors
/// Names the program.
pub(crate) fn check_built() -> Result<()> {
    for name in ["fabric-agent", "fabric", "fabric-traffic"] {
        if !bin_dir().join(name).is_file() {
            bail!("{} was not built; run `cargo xtask build`", bin_dir().join(name).display());
        }
    }
    Ok(())
}
