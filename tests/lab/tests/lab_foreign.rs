//! The kernel's own VXLAN device as a foreign VTEP: what it may ask of us.

use anyhow::Result;
use fabric_lab::{
    Capture, Container, Lab, UNDERLAY,
    foreign::{self, Foreign},
    until,
};

fn capture(lab: &Lab, filter: &str) -> Result<Capture> {
    let file = lab.directory().join("wire.pcap");
    Capture::start(|line| lab.host(1).command(line), UNDERLAY, filter, file)
}

/// Both directions and families.
fn everything(a: &Container, k: &Container) -> Result<()> {
    a.ping("192.168.10.21")?;
    a.ping("fd00:10::21")?;
    k.ping("fd00:10::11")?;
    for (from, to, address) in [
        (a, k, "192.168.10.21:5000"),
        (a, k, "[fd00:10::21]:5000"),
        (k, a, "192.168.10.11:5000"),
        (k, a, "[fd00:10::11]:5000"),
    ] {
        foreign::same_bytes(from, to, address)?;
    }
    Ok(())
}

/// The wire of host 1 as hardware without offloads would have it: every frame cut and summed up.
fn without_offloads(lab: &Lab) -> Result<()> {
    lab.host(1).sh(&["ethtool", "-K", UNDERLAY, "tx", "off", "tso", "off", "gso", "off"]).map(drop)
}

/// All that we send there has a right checksum.
fn checksummed(id: &str, over_v6: bool, device: &str) -> Result<(Container, Container, Lab)> {
    let node = ", udpChecksum: true";
    let (a, k, lab) = foreign::lab(id, &Foreign { over_v6, device, node, ..Foreign::default() })?;
    without_offloads(&lab)?;
    let own = if over_v6 { lab.host(1).address6() } else { lab.host(1).address() };
    let wire = capture(&lab, &format!("udp dst port 4789 and src host {own}"))?;
    everything(&a, &k)?;
    let lines = wire.text(&["-vv"])?;
    let right = lines.iter().filter(|line| line.contains("[udp sum ok] VXLAN")).count();
    let outer: Vec<_> = lines.iter().filter(|line| line.contains("VXLAN")).collect();
    assert!(right > 100, "the capture saw the traffic: {} lines", lines.len());
    let others: Vec<_> = outer.iter().filter(|line| !line.contains("[udp sum ok] VXLAN")).take(3).collect();
    assert!(others.is_empty(), "another checksum: {others:#?}");
    let listed = lab.host(1).fabric(&["node", "inspect", "switch"])?;
    assert!(
        listed.lines().any(|line| line.starts_with("udp-checksum:") && line.ends_with("computed")),
        "{listed}"
    );
    Ok((a, k, lab))
}

#[test]
fn checksums_over_ipv4_are_right() -> Result<()> {
    checksummed("icsum", false, "").map(drop)
}

/// A device that refuses what has no checksum, as it is made unless somebody asks for something else (RFC 6936).
#[test]
fn a_device_that_refuses_zero_checksums_is_reached() -> Result<()> {
    let (a, _k, lab) = checksummed("icsumv", true, "noudp6zerocsumtx noudp6zerocsumrx")?;
    let manifest = lab.host(1).manifests().join("foreign.yaml");
    let text = std::fs::read_to_string(&manifest)?.replace(", udpChecksum: true", "");
    let draft = lab.host(1).directory().join("run/draft");
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, &manifest)?;
    until("it refuses packets without a checksum", || a.ping("fd00:10::21").is_err())
}

#[test]
fn another_port_is_used_on_both_sides() -> Result<()> {
    let agent = ["--vxlan-port", "8472"];
    let (a, k, lab) = foreign::lab(
        "iport",
        &Foreign { agent: &agent, port: 8472, device: "noudpcsum", ..Foreign::default() },
    )?;
    let before = lab.host(1).counts()?;
    let wire = capture(&lab, "udp")?;
    everything(&a, &k)?;
    let lines = wire.text(&[])?;
    let to = |port: &str| lines.iter().filter(|line| line.contains(&format!(".{port}: "))).count();
    assert!(to("8472") > 500, "{} lines", lines.len());
    assert_eq!(to("4789"), 0, "the usual port is silent");
    let moved = lab.host(1).counts()?.since(&before);
    assert!(moved.get("from_uplink action local") > 100, "{moved:?}");
    let device = lab.host(1).sh(&["ip", "-d", "link", "show", "fabric_vxlan"])?;
    assert!(device.contains("dstport 8472"), "{device}");
    Ok(())
}
