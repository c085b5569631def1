//! Segmentation and checksum offload: whatever the containers' devices leave to later, the same bytes arrive.

use anyhow::{Context, Result};
use fabric_lab::{Capture, Container, Lab, UNDERLAY, exact::same};

const SWITCHES: [&str; 3] = ["tx", "tso", "gro"];

fn container(lab: &Lab, host: usize, name: &str, last: &str) -> Result<Container> {
    let container = lab.container(host, name)?;
    let (v4, v6) = (format!("192.168.10.{last}"), format!("fd00:10::{last}"));
    lab.host(host).attach(&container, name, "n1", &["--ip", &v4, "--ip", &v6])?;
    Ok(container)
}

fn switch(container: &Container, on: [bool; 3]) -> Result<()> {
    for (name, on) in SWITCHES.iter().zip(on) {
        // TSO without checksums does not exist: ethtool then says that nothing changed.
        container.exec(&["ethtool", "-K", "eth0", name, if on { "on" } else { "off" }])?;
    }
    let features = container.sh(&["ethtool", "-k", "eth0"])?;
    let is_on = |name: &str| {
        let line = features.lines().find(|line| line.trim().starts_with(&format!("{name}:")));
        line.is_some_and(|line| line.contains(": on"))
    };
    let wanted = [
        ("tx-checksumming", on[0]),
        ("tx-tcp-segmentation", on[0] && on[1]),
        ("generic-receive-offload", on[2]),
    ];
    for (name, on) in wanted {
        assert_eq!(is_on(name), on, "{name}: {features}");
    }
    Ok(())
}

/// One setting of both containers' devices, `on` in the order of [`SWITCHES`].
fn one(id: &str, settings: &[[bool; 3]]) -> Result<()> {
    let lab = Lab::new(id, 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, b) = (container(&lab, 1, "a", "11")?, container(&lab, 2, "b", "21")?);
    lab.declare_peers()?;
    for on in settings {
        offloads(&lab, &a, &b, *on).with_context(|| format!("{SWITCHES:?} {on:?}"))?;
    }
    Ok(())
}

fn offloads(lab: &Lab, a: &Container, b: &Container, on: [bool; 3]) -> Result<()> {
    switch(a, on)?;
    switch(b, on)?;
    let before: Vec<_> = lab.hosts().iter().map(|host| host.counts()).collect::<Result<_>>()?;
    let file = lab.directory().join("offload.pcap");
    let capture = Capture::start(|line| lab.host(2).command(line), UNDERLAY, "udp port 4789", file)?;
    let (v4, v6) = ("192.168.10.21:5000", "[fd00:10::21]:5000");
    for address in [v4, v6] {
        same(a, b, "tcp", address, &["--sizes", "1300-1460,65536"])?;
        same(a, b, "udp", address, &["--sizes", "1300-1460,65000"])?;
    }
    // Segments are packets: as large as the MTU allows.
    same(a, b, "udp", v4, &["--sizes", "1300-1422", "--gso"])?;
    same(a, b, "udp", v6, &["--sizes", "1300-1402", "--gso"])?;
    same(b, a, "tcp", "192.168.10.11:5000", &["--sizes", "1300-1460,65536"])?;
    let lines = capture.text(&["-vv"])?;
    assert!(lines.len() > 1000, "the capture saw the traffic: {} lines", lines.len());
    if !on[0] {
        // The containers finished their checksums, so what is on the wire must be right, inside and outside.
        let wrong: Vec<_> = lines
            .iter()
            .filter(|line| {
                line.contains("incorrect") || line.contains("bad udp") || line.contains("bad cksum")
            })
            .take(5)
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
    for (host, before) in lab.hosts().iter().zip(&before) {
        let drops = host.counts()?.since(before).drops();
        assert!(drops.is_empty(), "{}: {drops:?}", host.name());
    }
    Ok(())
}

#[test]
fn bytes_are_kept_with_checksum_offload() -> Result<()> {
    let settings = [[true, true, true], [true, true, false], [true, false, true], [true, false, false]];
    one("offon", &settings)
}

#[test]
fn bytes_are_kept_without_checksum_offload() -> Result<()> {
    let settings = [[false, true, true], [false, true, false], [false, false, true], [false, false, false]];
    one("offoff", &settings)
}
