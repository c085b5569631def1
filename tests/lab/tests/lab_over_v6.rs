//! An underlay of IPv6, alone and beside IPv4: which family a pair of hosts uses, and that whatever containers send arrives.

use anyhow::{Context, Result};
use fabric_lab::{
    Capture, Container, Lab, Options, UNDERLAY,
    exact::same,
    foreign::{self, Foreign},
    until,
};

/// Takes a host's address of one family from the wire.
fn without(lab: &Lab, n: usize, family: &str) -> Result<()> {
    lab.host(n).sh(&["ip", family, "address", "flush", "dev", UNDERLAY, "scope", "global"]).map(drop)
}

/// Hosts whose wires lost addresses, with a network and a container on each at .N1.
fn scene(id: &str, hosts: usize, lost: &[(usize, &str)]) -> Result<(Vec<Container>, Lab)> {
    let mut lab = Lab::with(id, &Options { hosts, agents: false, ..Options::default() })?;
    for (n, family) in lost {
        without(&lab, *n, family)?;
    }
    for n in 1..=hosts {
        lab.host_mut(n).start_agent()?;
    }
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let mut containers = Vec::new();
    for n in 1..=hosts {
        let container = lab.container(n, &format!("c{n}"))?;
        let (v4, v6) = (format!("192.168.10.{n}1"), format!("fd00:10::{n}1"));
        lab.host(n).attach(&container, &format!("c{n}"), "n1", &["--ip", &v4, "--ip", &v6])?;
        containers.push(container);
    }
    lab.declare_peers()?;
    Ok((containers, lab))
}

/// Pings, bulk and segments in both directions and families between two containers at .A1 and .B1.
fn everything(a: (&Container, usize), b: (&Container, usize)) -> Result<()> {
    for ((from, _), (to, n)) in [(a, b), (b, a)] {
        let (v4, v6) = (format!("192.168.10.{n}1"), format!("fd00:10::{n}1"));
        from.ping(&v4)?;
        from.ping(&v6)?;
        let (v4, v6) = (format!("{v4}:5000"), format!("[{v6}]:5000"));
        for address in [&v4, &v6] {
            same(from, to, "tcp", address, &["--sizes", "1-40,1300-1460,65536,65536"])?;
            same(from, to, "udp", address, &["--sizes", "1-40,1300-1460,9000"])?;
        }
        // Segments are packets: as large as the MTU of 1430 allows.
        same(from, to, "udp", &v4, &["--sizes", "1300-1402", "--gso"])?;
        same(from, to, "udp", &v6, &["--sizes", "1300-1382", "--gso"])?;
    }
    Ok(())
}

fn capture(lab: &Lab, host: usize) -> Result<Capture> {
    let file = lab.directory().join(format!("wire{host}.pcap"));
    Capture::start(|line| lab.host(host).command(line), UNDERLAY, "udp port 4789", file)
}

#[test]
fn an_underlay_of_ipv6_alone_carries_everything() -> Result<()> {
    let (containers, lab) = scene("uonly", 2, &[(1, "-4"), (2, "-4")])?;
    let before: Vec<_> = lab.hosts().iter().map(|host| host.counts()).collect::<Result<_>>()?;
    let wire = capture(&lab, 2)?;
    everything((&containers[0], 1), (&containers[1], 2))?;
    let lines = wire.text(&["-vv"])?;
    assert!(lines.len() > 500, "the capture saw the traffic: {} lines", lines.len());
    let outer: Vec<_> = lines.iter().filter(|line| line.contains(".4789: ")).collect();
    let odd: Vec<_> = outer.iter().filter(|line| !line.contains("fd00:0:0:")).take(3).collect();
    assert!(odd.is_empty(), "not between the VTEPs: {odd:#?}");
    for (host, before) in lab.hosts().iter().zip(&before) {
        let drops = host.counts()?.since(before).drops();
        assert!(drops.is_empty(), "{}: {drops:?}", host.name());
    }
    let listed = lab.host(1).fabric(&["node", "ls"])?;
    assert!(listed.contains("fd00:0:0:2::1") && listed.contains("1430"), "{listed}");
    Ok(())
}

#[test]
fn each_pair_of_hosts_uses_a_family_that_both_have() -> Result<()> {
    let (containers, lab) = scene("umixed", 3, &[(2, "-4"), (3, "-6")])?;
    let [one, two, three] = &containers[..] else { unreachable!("three containers") };
    let wire = capture(&lab, 1)?;
    everything((one, 1), (two, 2))?;
    everything((one, 1), (three, 3))?;
    let lines = wire.text(&["-n"])?;
    let with = |address: &str| lines.iter().filter(|line| line.contains(&format!("{address}."))).count();
    assert!(with("fd00:0:0:2::1") > 500 && with("10.0.3.1") > 500, "{} lines", lines.len());
    // Where both have both, IPv4 is used; these two have no family in common.
    let listed = lab.host(2).fabric(&["node", "inspect", "h3"])?;
    assert!(listed.contains("VTEP address"), "{listed}");
    assert!(two.ping("192.168.10.31").is_err(), "no way leads there");
    Ok(())
}

/// The kernel's own VXLAN device at the other end; which of our programs takes its packets.
fn linux_peer(id: &str, device: &str, taken: &str, not_taken: &str) -> Result<()> {
    let (a, k, lab) = foreign::lab(id, &Foreign { over_v6: true, device, ..Foreign::default() })?;
    let before = lab.host(1).counts()?;
    foreign::everything(&a, &k)?;
    let moved = lab.host(1).counts()?.since(&before);
    assert!(moved.get(&format!("{taken} action local")) > 100, "{moved:?}");
    assert_eq!(moved.get(&format!("{not_taken} action local")), 0, "{moved:?}");
    let mac = lab.host(1).endpoint("a")?.spec.mac.context("a MAC")?;
    for address in ["192.168.10.11", "fd00:10::11"] {
        assert!(foreign::found(&k, address, &mac)?, "it asked for {address}");
    }
    Ok(())
}

#[test]
fn a_linux_vtep_over_ipv6_without_checksums_is_reached_both_ways() -> Result<()> {
    linux_peer("unosum", "udp6zerocsumtx udp6zerocsumrx", "from_uplink", "from_vxlan")
}

#[test]
fn a_linux_vtep_over_ipv6_with_checksums_is_reached_both_ways() -> Result<()> {
    linux_peer("usum", "noudp6zerocsumtx udp6zerocsumrx", "from_vxlan", "from_uplink")
}

/// The uplink's first stage may be XDP there as well.
#[test]
fn xdp_looks_at_the_packets_of_an_ipv6_underlay() -> Result<()> {
    let agent = ["--uplink-mode", "xdp"];
    let device = "udp6zerocsumtx udp6zerocsumrx";
    let (a, k, lab) =
        foreign::lab("uxdp", &Foreign { over_v6: true, device, agent: &agent, ..Foreign::default() })?;
    until("packets flow", || a.ping("fd00:10::21").is_ok() && k.ping("192.168.10.11").is_ok())?;
    let counts = lab.host(1).counts()?;
    assert!(counts.get("from_uplink_xdp action checked") >= 2, "{counts:?}");
    Ok(())
}
