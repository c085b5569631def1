//! Two hosts, containers on both: who reaches whom, what the wire shows and how large packets may be.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use fabric_lab::{Capture, Container, Lab, UNDERLAY, exact::same_bytes, until};

const V4: &str = "192.168.10.0/24";
const V6: &str = "fd00:10::/64";

/// A network with both families, and a container on each host at .11 and .21.
fn scene(id: &str) -> Result<(Container, Container, Lab)> {
    let lab = Lab::new(id, 2)?;
    lab.create_network(&["n1", "--subnet", V4, "--subnet", V6, "--vni", "100"])?;
    let a = attach(&lab, 1, "a", "n1", &["192.168.10.11", "fd00:10::11"])?;
    let b = attach(&lab, 2, "b", "n1", &["192.168.10.21", "fd00:10::21"])?;
    lab.declare_peers()?;
    Ok((a, b, lab))
}

fn attach(lab: &Lab, host: usize, name: &str, network: &str, addresses: &[&str]) -> Result<Container> {
    let container = lab.container(host, name)?;
    let args: Vec<&str> = addresses.iter().flat_map(|address| ["--ip", address]).collect();
    lab.host(host).attach(&container, name, network, &args)?;
    Ok(container)
}

#[test]
fn containers_talk_near_and_far_in_both_families() -> Result<()> {
    let (a, b, lab) = scene("bridge")?;
    let near = attach(&lab, 1, "c", "n1", &["192.168.10.12", "fd00:10::12"])?;
    lab.declare_peers()?;
    let before: Vec<_> = lab.hosts().iter().map(|host| host.counts()).collect::<Result<_>>()?;
    for to in ["192.168.10.21", "fd00:10::21", "192.168.10.12", "fd00:10::12"] {
        a.ping(to)?;
    }
    for to in ["192.168.10.11", "fd00:10::11"] {
        b.ping(to)?;
        near.ping(to)?;
    }
    for gateway in ["192.168.10.1", "fd00:10::1"] {
        a.ping(gateway)?;
        b.ping(gateway)?;
    }
    for (from, to, v4, v6) in [
        (&a, &b, "192.168.10.21:5000", "[fd00:10::21]:5000"),
        (&b, &a, "192.168.10.11:5000", "[fd00:10::11]:5000"),
        (&a, &near, "192.168.10.12:5000", "[fd00:10::12]:5000"),
        (&near, &a, "192.168.10.11:5001", "[fd00:10::11]:5001"),
    ] {
        same_bytes(from, to, v4)?;
        same_bytes(from, to, v6)?;
    }
    for (host, before) in lab.hosts().iter().zip(&before) {
        let drops = host.counts()?.since(before).drops();
        assert!(drops.is_empty(), "{}: {drops:?}", host.name());
    }
    Ok(())
}

#[test]
fn networks_with_the_same_addresses_stay_apart() -> Result<()> {
    let lab = Lab::new("twins", 2)?;
    lab.create_network(&["n1", "--subnet", V4, "--vni", "100"])?;
    lab.create_network(&["n2", "--subnet", V4, "--vni", "200"])?;
    let mut containers = Vec::new();
    for (network, count) in [("n1", "7"), ("n2", "5")] {
        let client = attach(&lab, 1, &format!("{network}a"), network, &["192.168.10.11"])?;
        let server = attach(&lab, 2, &format!("{network}b"), network, &["192.168.10.21"])?;
        containers.push((client, server, count));
    }
    lab.declare_peers()?;
    let address = "192.168.10.21:5000";
    let mut sinks = Vec::new();
    for (_, server, _) in &containers {
        sinks.push(server.serve(&["udp-sink", "--bind", address])?);
    }
    for (client, _, count) in &containers {
        client.ping("192.168.10.21")?;
        client.traffic(&["udp-flood", "--to", address, "--count", count, "--rate", "1000"])?;
    }
    let got: Vec<_> =
        sinks.into_iter().map(|sink| Ok(sink.report()?["packets"].clone())).collect::<Result<_>>()?;
    assert_eq!(got, [7, 5], "each network's .21 got its own network's packets");
    Ok(())
}

#[test]
fn neighbours_are_never_asked_for_on_the_underlay() -> Result<()> {
    let (a, b, lab) = scene("quiet")?;
    for container in [&a, &b] {
        container.sh(&["ip", "neigh", "flush", "dev", "eth0"])?;
    }
    let capture =
        Capture::start(|line| lab.host(1).command(line), UNDERLAY, "", lab.directory().join("quiet.pcap"))?;
    a.ping("192.168.10.21")?;
    a.ping("fd00:10::21")?;
    for unknown in ["192.168.10.99", "fd00:10::99"] {
        let answer = a.exec(&["ping", "-c1", "-W1", unknown])?;
        assert_eq!(answer.code, 1, "nobody is {unknown}: {answer:?}");
    }
    // A frame to a MAC that nobody has is not flooded either.
    a.sh(&["ip", "neigh", "replace", "192.168.10.98", "lladdr", "02:00:00:00:00:98", "dev", "eth0"])?;
    let answer = a.exec(&["ping", "-c1", "-W1", "192.168.10.98"])?;
    assert_eq!(answer.code, 1, "nobody has this MAC: {answer:?}");
    let lines = capture.text(&["-e"])?;
    let overlay: Vec<_> =
        lines.iter().filter(|line| line.contains("VXLAN") || line.contains("4789")).collect();
    assert_eq!(overlay.len(), 4, "two requests and two replies: {overlay:#?}");
    let asked: Vec<_> =
        lines.iter().filter(|line| line.contains("192.168.10.") && line.contains("ARP")).collect();
    assert!(asked.is_empty(), "{asked:#?}");
    let asked: Vec<_> =
        lines.iter().filter(|line| line.contains("neighbor") && line.contains("fd00:10:")).collect();
    assert!(asked.is_empty(), "{asked:#?}");
    Ok(())
}

fn set_underlay_mtu(lab: &Lab, mtu: u32) -> Result<()> {
    let mtu = mtu.to_string();
    let (last, router) = (lab.hosts().len(), lab.router());
    for n in 1..=last {
        let cable = format!("h{n}");
        // The router end is in no host; a host's own mount namespace has its name as well.
        lab.host(1).sh(&["ip", "-n", &router, "link", "set", &cable, "mtu", &mtu])?;
        lab.host(n).sh(&["ip", "link", "set", UNDERLAY, "mtu", &mtu])?;
    }
    Ok(())
}

fn number_after(text: &str, word: &str) -> Option<u32> {
    let mut words = text.split_whitespace();
    words.find(|w| *w == word)?;
    words.next()?.parse().ok()
}

#[test]
fn every_mtu_follows_the_underlay() -> Result<()> {
    let (a, b, lab) = scene("mtu")?;
    lab.create_network(&["small", "--subnet", "192.168.20.0/24", "--vni", "101", "--mtu", "1200"])?;
    let small = attach(&lab, 1, "s", "small", &["192.168.20.11"])?;
    for underlay in [1500, 1400, 9000] {
        set_underlay_mtu(&lab, underlay)?;
        let inner = underlay - 50;
        let of = |container: &Container| {
            let text = container.sh(&["ip", "-o", "link", "show", "eth0"]).unwrap_or_default();
            number_after(&text, "mtu").unwrap_or(0)
        };
        until(&format!("containers have MTU {inner}"), || of(&a) == inner && of(&b) == inner)?;
        let endpoint = lab.host(1).endpoint("a")?;
        let host_side = endpoint.status.context("a status")?.host_ifname;
        assert_eq!(
            lab.host(1).link_attribute(&host_side, "mtu")?,
            inner.to_string(),
            "host side of the veth"
        );
        assert_eq!(lab.host(1).link_attribute("fabric_vxlan", "mtu")?, inner.to_string(), "the vxlan device");
        for family in ["-4", "-6"] {
            // What counts is what the kernel would take toward the peer: route metric, else the device.
            let to = if family == "-4" { "192.168.10.21" } else { "fd00:10::21" };
            let route = a.sh(&["ip", family, "route", "get", to])?;
            let mtu = number_after(&route, "mtu").unwrap_or(inner);
            assert_eq!(mtu, inner, "route to {to} with underlay {underlay}: {route}");
        }
        let network = lab.host(1).networks()?;
        let of_network = |name: &str| {
            network.iter().find(|n| n.metadata.name == name).and_then(|n| n.status.as_ref()).map(|s| s.mtu)
        };
        assert_eq!(of_network("n1").map(u32::from), Some(inner));
        assert_eq!(of_network("small"), Some(1200));
        assert_eq!(of(&small), 1200, "a network's own MTU stays");
        until("the largest packet passes", || {
            let size = (inner - 28).to_string();
            a.exec(&["ping", "-c1", "-W1", "-M", "do", "-s", &size, "192.168.10.21"])
                .is_ok_and(|o| o.success())
        })?;
        let size = (inner - 48).to_string();
        a.sh(&["ping", "-6", "-c1", "-W2", "-M", "do", "-s", &size, "fd00:10::21"])?;
        let size = (inner - 27).to_string();
        assert!(!a.exec(&["ping", "-c1", "-W1", "-M", "do", "-s", &size, "192.168.10.21"])?.success());
    }
    Ok(())
}

/// Outer source ports of tunnel packets from h1 to h2 in `tcpdump` lines.
fn source_ports(lines: &[String]) -> Vec<u16> {
    lines
        .iter()
        .filter_map(|line| {
            let sender = line.split("10.0.1.1.").nth(1)?;
            let (port, rest) = sender.split_once(' ')?;
            rest.starts_with("> 10.0.2.1.4789").then(|| port.parse().ok())?
        })
        .collect()
}

#[test]
fn outer_packets_are_those_of_rfc_7348() -> Result<()> {
    let (a, _b, lab) = scene("wirefmt")?;
    let capture = Capture::start(
        |line| lab.host(2).command(line),
        UNDERLAY,
        "udp port 4789",
        lab.directory().join("wire.pcap"),
    )?;
    a.ping("192.168.10.21")?;
    a.ping("fd00:10::21")?;
    let text = capture.text(&["-vv"])?.join("\n");
    assert_eq!(text.matches("VXLAN, flags [I] (0x08), vni 100").count(), 4, "{text}");
    assert_eq!(text.matches("[no cksum]").count(), 4, "outer UDP checksum 0: {text}");
    // Outer headers only: the inner requests carry DF or not as the container wishes.
    let outer: Vec<_> = text.lines().filter(|line| line.contains("proto UDP (17)")).collect();
    assert_eq!(outer.len(), 4, "{text}");
    assert!(outer.iter().all(|line| line.contains("flags [DF]")), "{outer:#?}");
    assert!(!text.contains("bad cksum") && !text.contains("incorrect"), "{text}");
    Ok(())
}

#[test]
fn flows_spread_over_the_source_ports() -> Result<()> {
    let (a, b, lab) = scene("flows")?;
    for to in ["192.168.10.21:7000", "[fd00:10::21]:7000"] {
        let sink = b.serve(&["udp-sink", "--bind", to])?;
        let capture = Capture::start(
            |line| lab.host(2).command(line),
            UNDERLAY,
            "udp dst port 4789 and src host 10.0.1.1",
            lab.directory().join("flows.pcap"),
        )?;
        a.traffic(&["flows", "--to", to, "--count", "1000"])?;
        std::thread::sleep(Duration::from_millis(300));
        let ports = source_ports(&capture.text(&["-q"])?);
        assert_eq!(sink.report()?["packets"], 1000);
        assert_eq!(ports.len(), 1000);
        assert!(ports.iter().all(|port| *port >= 49152), "{:?}", ports.iter().min());
        let distinct = ports.iter().collect::<BTreeSet<_>>().len();
        assert!(distinct >= 900, "only {distinct} ports for 1000 flows to {to}");
    }
    let sink = b.serve(&["udp-sink", "--bind", "192.168.10.21:7000"])?;
    let capture = Capture::start(
        |line| lab.host(2).command(line),
        UNDERLAY,
        "udp dst port 4789 and src host 10.0.1.1",
        lab.directory().join("flow.pcap"),
    )?;
    a.traffic(&["udp-flood", "--to", "192.168.10.21:7000", "--count", "50", "--rate", "1000"])?;
    let ports = source_ports(&capture.text(&["-q"])?);
    assert_eq!(sink.report()?["packets"], 50);
    assert_eq!((ports.len(), ports.iter().collect::<BTreeSet<_>>().len()), (50, 1), "one flow, one port");
    Ok(())
}
