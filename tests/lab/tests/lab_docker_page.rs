//! `docs/docker.md`, as it stands: every block is run on the host that it names.

use anyhow::{Context, Result, ensure};
use fabric_lab::{Docker, Lab};

const PAGE: &str = include_str!("../../../docs/docker.md");

/// The page's blocks: the host and the commands.
fn blocks() -> Result<Vec<(usize, &'static str)>> {
    let blocks = PAGE.split("```sh\n").skip(1);
    blocks
        .map(|rest| {
            let (block, _) = rest.split_once("```").context("a block has no end")?;
            let (first, commands) = block.split_once('\n').context("a block is empty")?;
            let host = first.strip_prefix("# on h").context("a block names no host")?;
            Ok((host.parse()?, commands))
        })
        .collect()
}

#[test]
fn every_docker_command_of_the_page_works() -> Result<()> {
    let lab = Lab::with_docker("kpage", 2)?;
    let engines = [Docker::start(lab.host(1), &[])?, Docker::start(lab.host(2), &[])?];
    let blocks = blocks()?;
    ensure!(blocks.len() >= 4, "the page has only {} blocks", blocks.len());
    for (host, commands) in blocks {
        let engine = engines.get(host - 1).with_context(|| format!("there is no h{host}"))?;
        engine.script(commands).with_context(|| format!("on h{host}:\n{commands}"))?;
    }
    Ok(())
}
