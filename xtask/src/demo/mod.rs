//! `cargo xtask run`: two hosts, one network, real traffic, in under two minutes.

mod measure;
mod policy;
mod restart;
mod show;
mod spoof;
mod watch;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use fabric_lab::{Container, Lab, Options};

use crate::{agent, lab, setup, ui};

const NETWORK: &str = "demo";
const SUBNETS: [&str; 2] = ["192.168.10.0/24", "fd00:10::/64"];
const VNI: &str = "100";

/// One container a host.
pub(crate) struct Cast {
    /// `blue` on host 1.
    pub(crate) blue: Container,
    /// `green` on host 2.
    pub(crate) green: Container,
}

pub(crate) const BLUE: [&str; 2] = ["192.168.10.11", "fd00:10::11"];
pub(crate) const GREEN: [&str; 2] = ["192.168.10.21", "fd00:10::21"];

/// Runs the demonstration; `keep` leaves the lab up.
///
/// # Errors
/// If anything in it does not work; everything is removed then.
pub(crate) fn run(keep: bool) -> Result<()> {
    setup::lab_tools()?;
    agent::build()?;
    agent::check_built()?;
    lab::point_at_binaries();
    if keep && Lab::load(lab::ID).is_ok() {
        bail!("a lab is up already; end it with `cargo xtask lab down`");
    }
    let start = Instant::now();
    show::topology();

    let step = ui::Step::start("two hosts, an agent on each");
    let mut lab = step.end_with(Lab::with(if keep { lab::ID } else { "demo" }, &Options::default()))?;
    let step = ui::Step::start("network demo, containers blue and green");
    let cast = step.end_with(populate(&lab))?;

    let mut table = show::Table::default();
    ping(&cast, &mut table)?;
    measure::run(&lab, &cast, &mut table)?;
    spoof::run(&lab, &cast, &mut table)?;
    policy::run(&lab, &cast, &mut table)?;
    restart::run(&mut lab, &cast, &mut table)?;

    println!();
    table.print();
    println!("\n{} in {}", ui::green("done"), ui::seconds(start.elapsed()));
    if keep {
        cast.blue.keep();
        cast.green.keep();
        lab.keep()?;
        lab::print_hints("blue", GREEN[0]);
    } else {
        drop(cast);
        drop(lab);
        show::next_steps();
    }
    Ok(())
}

fn populate(lab: &Lab) -> Result<Cast> {
    lab.create_network(&[NETWORK, "--subnet", SUBNETS[0], "--subnet", SUBNETS[1], "--vni", VNI])?;
    let cast = Cast { blue: lab.container(1, "blue")?, green: lab.container(2, "green")? };
    for (host, container, [v4, v6]) in [(1, &cast.blue, BLUE), (2, &cast.green, GREEN)] {
        lab.host(host).attach(
            container,
            container.name(),
            NETWORK,
            &["--ip", v4, "--ip", v6, "--label", &format!("app={}", container.name())],
        )?;
    }
    lab.declare_peers()?;
    Ok(cast)
}

fn ping(cast: &Cast, table: &mut show::Table) -> Result<()> {
    for (family, address) in [("IPv4", GREEN[0]), ("IPv6", GREEN[1])] {
        let step = ui::Step::start(format!("ping {family}: blue to green"));
        let (received, average) = step.end_with(ping_one(&cast.blue, address))?;
        table.row(
            &format!("ping {family}, blue → green"),
            &format!("{received} of 10 answered"),
            &format!("{average} ms"),
        );
    }
    Ok(())
}

/// Answers out of ten, and the average round trip in ms.
fn ping_one(from: &Container, to: &str) -> Result<(u32, String)> {
    let output = from.exec(&["ping", "-q", "-c10", "-i0.1", "-W1", to])?;
    let received = output
        .stdout
        .split(", ")
        .find_map(|part| part.strip_suffix(" received"))
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("ping {to}: {}{}", output.stdout.trim(), output.stderr.trim()))?;
    if received == 0 {
        bail!("{to} does not answer from {}", from.name());
    }
    // rtt min/avg/max/mdev = 0.1/0.2/0.3/0.0 ms
    let average = output.stdout.rsplit("= ").next().and_then(|times| times.split('/').nth(1)).unwrap_or("?");
    Ok((received, average.to_owned()))
}
