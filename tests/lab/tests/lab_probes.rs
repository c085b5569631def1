//! A smaller link in the middle whose router says nothing, or whose ICMP errors are filtered: probes find it.

use std::process::Command;

use anyhow::{Context, Result};
use fabric_lab::{Container, Lab, Options, UNDERLAY, stdout_of, until};

const PORT: &str = "4788";

fn scene(id: &str, over_v6: bool) -> Result<(Lab, Container, Container)> {
    let agent_args = vec!["--probe-port".to_owned(), PORT.to_owned()];
    let mut lab = Lab::with(id, &Options { agents: false, agent_args, ..Options::default() })?;
    for n in [1, 2] {
        if over_v6 {
            lab.host(n).sh(&["ip", "-4", "address", "flush", "dev", UNDERLAY, "scope", "global"])?;
        }
        lab.host_mut(n).start_agent()?;
    }
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    for (n, container, last) in [(1, &a, "11"), (2, &b, "21")] {
        let (v4, v6) = (format!("192.168.10.{last}"), format!("fd00:10::{last}"));
        lab.host(n).attach(container, container.name(), "n1", &["--ip", &v4, "--ip", &v6])?;
    }
    lab.declare_peers()?;
    Ok((lab, a, b))
}

/// What a host knows of the path to the other one, and of the uplink there.
fn known(lab: &Lab, host: usize, other: &str) -> Option<(Option<u32>, Option<u32>)> {
    let nodes = lab.host(host).nodes().ok()?;
    let status = nodes.into_iter().find(|node| node.metadata.name == other)?.status?;
    Some((status.path_mtu, status.peer_mtu))
}

/// The router takes no packet above 1400 bytes from the first host, without a word: a veth drops a frame on arrival that is
/// longer than its MTU, an Ethernet header and a VLAN tag.
fn black_hole(lab: &Lab) -> Result<()> {
    let mut command = Command::new("ip");
    stdout_of(command.args(["-n", &lab.router(), "link", "set", "h1", "mtu", "1396"])).map(drop)
}

fn found(id: &str, over_v6: bool) -> Result<()> {
    let (lab, a, b) = scene(id, over_v6)?;
    // Each knows that the other answers; nothing limits anybody.
    let log = |n: usize| lab.host(n).agent_log_tail(60);
    until("the paths are probed", || (1..=2).all(|n| log(n).contains("carries 1500 bytes")))?;
    assert_eq!(known(&lab, 1, "h2"), Some((None, None)));
    black_hole(&lab)?;
    let wait = || until("probes find it", || known(&lab, 1, "h2") == Some((Some(1400), None)));
    // Three lost ones of the size that was good, and a search of eleven steps, some of which are lost three times.
    wait().or_else(|_| wait()).or_else(|_| wait()).context(log(1))?;
    // Single packets of every size around it; without DF, so that none has to be lost to learn.
    a.sh(&["sh", "-ec", "echo 1 >/proc/sys/net/ipv4/ip_no_pmtu_disc"])?;
    let to = "192.168.10.21:5000";
    let server = b.serve(&["exact-udp-sink", "--bind", to])?;
    let sent = a.traffic(&["exact-udp-send", "--to", to, "--sizes", "1-20,1280-1430"])?;
    assert_eq!(sent["hash"], server.report()?["hash"]);
    Ok(())
}

#[test]
fn a_silent_smaller_link_is_found_over_ipv4() -> Result<()> {
    found("pmprb4", false)
}

#[test]
fn a_silent_smaller_link_is_found_over_ipv6() -> Result<()> {
    found("pmprb6", true)
}

#[test]
fn hosts_with_different_uplinks_know_it() -> Result<()> {
    let (lab, _a, _b) = scene("pmdiff", false)?;
    lab.host(2).sh(&["ip", "link", "set", UNDERLAY, "mtu", "1400"])?;
    let wait =
        || until("the difference shows", || known(&lab, 1, "h2").is_some_and(|(_, peer)| peer == Some(1400)));
    wait().or_else(|_| wait())?;
    until("from the other side too", || known(&lab, 2, "h1").is_some_and(|(_, peer)| peer == Some(1500)))
}
