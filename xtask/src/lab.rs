//! `cargo xtask lab`: a lab that stays up until it is ended.

use std::{os::unix::process::CommandExt, path::Path};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use fabric_lab::{Lab, Options, remove};

use crate::{agent, setup, ui, workspace::bin_dir};

/// The id of the lab that `lab` and `run --keep` leave up.
pub(crate) const ID: &str = "lab";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Bring up a lab; one that is up is replaced.
    #[command(after_help = "Example: cargo xtask lab up --hosts 3")]
    Up {
        /// Number of hosts.
        #[arg(long, default_value_t = 2)]
        hosts: usize,
        /// Where the agents keep their state: `local`, each for itself, or `etcd`, a cluster that they share.
        #[arg(long, default_value = "local")]
        store: String,
        /// Containers on each host, attached to a network `demo` that spans all hosts.
        #[arg(long, default_value_t = 1)]
        containers: usize,
    },
    /// Run a command on a host (`h1`) or in a container (`h1-c1`).
    #[command(after_help = "Example: cargo xtask lab exec h1 -- fabric endpoint ls")]
    Exec {
        /// Host or container.
        place: String,
        /// Command and arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Show hosts, agents and containers.
    Status,
    /// End the lab; success if there is none.
    Down,
}

/// # Errors
/// As the command's.
pub(crate) fn run(command: Command) -> Result<()> {
    point_at_binaries();
    match command {
        Command::Up { hosts, store, containers } => up(hosts, &store, containers),
        Command::Exec { place, command } => exec(&place, &command),
        Command::Status => status(),
        Command::Down => {
            let step = ui::Step::start("lab down");
            remove(ID)?;
            step.done();
            Ok(())
        }
    }
}

/// The lab finds agent, CLI and traffic tool where cargo puts them.
pub(crate) fn point_at_binaries() {
    // SAFETY: called first thing in a command, while this process has one thread.
    unsafe { std::env::set_var("FABRIC_BIN_DIR", bin_dir()) };
}

fn up(hosts: usize, store: &str, containers: usize) -> Result<()> {
    let members = match store {
        "local" => 0,
        // Three outlive the death of one; with fewer hosts there are fewer.
        "etcd" => hosts.min(3),
        _ => bail!("--store {store} is not known; use --store local, or --store etcd"),
    };
    if containers > 200 {
        bail!("--containers {containers} is more than 200");
    }
    setup::lab_tools()?;
    agent::build()?;
    agent::check_built()?;
    let also = if members > 0 { format!(", members of etcd: {members}") } else { String::new() };
    let step = ui::Step::start(format!("hosts: {hosts}, an agent on each{also}"));
    let lab = Lab::with(ID, &Options { hosts, etcd: members, ..Options::default() });
    let lab = match lab {
        Ok(lab) => lab,
        Err(error) => {
            step.failed("");
            return Err(error);
        }
    };
    step.done();
    if containers > 0 {
        let step = ui::Step::start(format!("network demo, containers on each host: {containers}"));
        let network = ["demo", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"];
        if members > 0 {
            lab.host(1).fabric(&[&["network", "create"], &network[..]].concat())?;
        } else {
            lab.create_network(&network)?;
        }
        populate(&lab, containers, members == 0)?;
        step.done();
    }
    lab.keep()?;
    status()?;
    if containers > 0 {
        // The first container of the second host, if there is one.
        let address = 11 + if hosts > 1 { containers } else { 0 };
        print_hints("c1", &format!("192.168.10.{address}"));
    }
    Ok(())
}

/// Containers that stay. Where every host has a store of its own, which allocates addresses, they are chosen here, and all hosts
/// are told of all others.
fn populate(lab: &Lab, containers: usize, apart: bool) -> Result<()> {
    for host in lab.hosts() {
        for c in 1..=containers {
            let container = lab.container(host.number(), &format!("c{c}"))?;
            let address = (host.number() - 1) * containers + c + 10;
            if address > 250 {
                bail!("the network demo has no room for so many containers; choose fewer");
            }
            let (v4, v6) = (format!("192.168.10.{address}"), format!("fd00:10::{address:x}"));
            let labels = [format!("app=c{c}"), format!("host={}", host.name())];
            let args = ["--ip", &v4, "--ip", &v6, "--label", &labels[0], "--label", &labels[1]];
            host.attach(&container, &format!("{}-c{c}", host.name()), "demo", &args)?;
            container.keep();
        }
    }
    if apart { lab.declare_peers() } else { Ok(()) }
}

/// What to type next: a container of h1, and an address to ping.
pub(crate) fn print_hints(container: &str, address: &str) {
    println!("\nTry:");
    let ping = format!("cargo xtask lab exec h1-{container} -- ping -c3 {address}");
    for (line, about) in [
        ("cargo xtask lab exec h1 -- fabric endpoint ls -o wide", "who is where"),
        ("cargo xtask lab exec h1 -- fabric status", "is this node healthy"),
        ("cargo xtask lab exec h1 -- fabric monitor --drops", "packets that are refused, with their reason"),
        (
            "cargo xtask lab exec h1 -- sh -c 'bpftool map dump pinned /sys/fs/bpf/fabric/maps/endpoints@*'",
            "the same, straight from the kernel",
        ),
        (&*ping, "traffic across the overlay"),
        ("cargo xtask lab exec h1 -- tcpdump -ni u0 udp port 4789", "the tunnel on the wire"),
        ("cargo xtask lab down", "the end"),
    ] {
        println!("  {line}\n      {}", ui::dim(about));
    }
}

/// Becomes the command, so that its terminal, signals and exit status are its own.
fn exec(place: &str, command: &[String]) -> Result<()> {
    let lab = Lab::load(ID)?;
    let (host, container) = place.split_once('-').map_or((place, None), |(host, name)| (host, Some(name)));
    let host = lab.hosts().iter().find(|candidate| candidate.name() == host).with_context(|| {
        let names: Vec<_> = lab.hosts().iter().map(fabric_lab::Host::name).collect();
        format!("the lab has no host {host:?}; its hosts are {}", names.join(", "))
    })?;
    agent::check_built()?;
    let mut line = match container {
        None => host.command(command),
        Some(name) => {
            let netns = format!("{}-{name}", host.netns());
            if !Path::new("/run/netns").join(&netns).exists() {
                bail!("{} has no container {name:?}; see `cargo xtask lab status`", host.name());
            }
            let mut inner = vec!["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), netns];
            inner.extend(command.iter().cloned());
            host.command(&inner)
        }
    };
    Err(line.exec()).context("nsenter does not start; it is in the package util-linux")
}

fn status() -> Result<()> {
    let mut lab = Lab::load(ID)?;
    for n in 1..=lab.hosts().len() {
        let running = lab.host_mut(n).agent_running();
        let host = lab.host(n);
        let agent = match (host.agent_pid(), running) {
            (Some(pid), true) => format!("agent {pid} runs"),
            (Some(pid), false) => format!("agent {pid} is gone"),
            (None, _) => "no agent".to_owned(),
        };
        println!("{:<4} {:<10} {:<18} {agent}", ui::bold(&host.name()), host.address(), host.netns());
        let prefix = format!("{}-", host.netns());
        let mut containers: Vec<_> = std::fs::read_dir("/run/netns")?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        containers.sort();
        for name in containers {
            println!("     container {}", &name[prefix.len()..]);
        }
    }
    println!("files: {}", lab.directory().display());
    Ok(())
}
