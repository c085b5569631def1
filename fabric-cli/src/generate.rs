//! `fabric completions` and `fabric man`: what a package installs beside the program.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, output};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fabric completions bash > /etc/bash_completion.d/fabric")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fabric man | man -l -\n  fabric man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// A directory for one page a command, made if it is not there; one page on standard output if absent
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fabric", &mut script);
    output::text(&String::from_utf8(script).context("the completion script is not UTF-8")?)
}

/// Prints or writes manual pages.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<()> {
    if let Some(directory) = &args.directory {
        return fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
            .with_context(|| format!("can't write manual pages into {}", directory.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    output::text(&String::from_utf8(page).context("the manual page is not UTF-8")?)
}
