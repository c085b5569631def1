//! A router of the underlay marks congestion: the containers get to know it, and their streams stay whole.

use anyhow::{Context, Result};
use fabric_lab::{Capture, Container, Lab, Options, UNDERLAY};

/// Makes the router mark tunnel packets that match `which` (nft syntax).
fn mark(lab: &Lab, which: &str) -> Result<()> {
    let rules = format!(
        "table ip congestion {{ chain forward {{ type filter hook forward priority 0; udp dport 4789 {which} ip ecn set ce; }}; }}"
    );
    let nft = ["ip", "netns", "exec", &lab.router(), "nft"].map(str::to_owned);
    for rest in [vec!["flush".to_owned(), "ruleset".to_owned()], vec![rules]] {
        lab.host(1).sh(&[&nft[..], &rest].concat())?;
    }
    Ok(())
}

/// One of the container's counters by its SNMP name.
fn counter(container: &Container, name: &str) -> Result<u64> {
    let text = container.sh(&["nstat", "-asz", name])?;
    let line = text.lines().find(|line| line.starts_with(name)).context("nstat prints it")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? as u64)
}

#[test]
fn marks_of_the_underlay_reach_the_containers() -> Result<()> {
    let lab = Lab::new("ecn", 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--ip", "fd00:10::11"])?;
    lab.host(2).attach(&b, "b", "n1", &["--ip", "192.168.10.21", "--ip", "fd00:10::21"])?;
    lab.declare_peers()?;
    for container in [&a, &b] {
        container.sh(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_ecn"])?;
    }
    let before = lab.host(2).counts()?;
    mark(&lab, "ip ecn != not-ect")?;
    for (to, marked) in [("192.168.10.21:5000", "IpExtInCEPkts"), ("[fd00:10::21]:5000", "Ip6InCEPkts")] {
        let server = b.serve(&["exact-tcp-sink", "--bind", to])?;
        let sent = a.traffic(&["exact-tcp-send", "--to", to, "--sizes", "1-40,65536,65536,65536,65536"])?;
        assert_eq!(sent["hash"], server.report()?["hash"], "{to}");
        assert!(counter(&b, marked)? > 0, "{to}: no packet came with the mark");
    }
    for name in ["TcpInCsumErrors", "TcpInErrs", "IpInHdrErrors"] {
        assert_eq!(counter(&b, name)?, 0, "{name}");
    }
    a.ping("192.168.10.21")?;
    let drops = lab.host(2).counts()?.since(&before).drops();
    assert!(drops.is_empty(), "what can't be marked is left alone: {drops:?}");
    // A router that marks what it must not: dropped, since nobody would slow down.
    mark(&lab, "")?;
    let answer = a.exec(&["ping", "-c2", "-i0.2", "-W1", "192.168.10.21"])?;
    assert_eq!(answer.code, 1, "{answer:?}");
    assert_eq!(lab.host(2).counts()?.since(&before).get("from_uplink drop ecn"), 2);
    Ok(())
}

#[test]
fn the_dscp_of_the_settings_is_on_the_wire() -> Result<()> {
    let agent_args = ["--dscp", "46"].map(str::to_owned).into();
    let lab = Lab::with("kdscp", &Options { hosts: 2, agent_args, ..Options::default() })?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11"])?;
    lab.host(2).attach(&b, "b", "n1", &["--ip", "192.168.10.21"])?;
    lab.declare_peers()?;
    let file = lab.directory().join("dscp.pcap");
    let wire = Capture::start(|line| lab.host(2).command(line), UNDERLAY, "udp port 4789", file)?;
    a.ping("192.168.10.21")?;
    let lines = wire.text(&["-v"])?;
    let outer: Vec<_> = lines.iter().filter(|line| line.contains("proto UDP")).collect();
    assert!(outer.len() >= 2 && outer.iter().all(|line| line.contains("(tos 0xb8,")), "{lines:#?}");
    Ok(())
}
