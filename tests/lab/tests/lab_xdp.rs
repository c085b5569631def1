//! The XDP stage on uplinks: the same bytes arrive with it as without it, at every MTU, and it can be switched under
//! traffic.

use anyhow::{Context, Result};
use fabric_lab::{Container, Lab, Options, UNDERLAY, exact::same, until};

const A: [&str; 2] = ["192.168.10.11", "fd00:10::11"];
const B: [&str; 2] = ["192.168.10.21", "fd00:10::21"];

/// Two hosts whose underlay has that MTU, agents in that uplink mode, a container on each.
fn scene(id: &str, mtu: &str, mode: &str) -> Result<(Lab, Container, Container)> {
    let options = Options {
        hosts: 2,
        agents: false,
        agent_args: vec!["--uplink-mode".to_owned(), mode.to_owned()],
        ..Options::default()
    };
    let mut lab = Lab::with(id, &options)?;
    for n in [1, 2] {
        let wire = format!("h{n}");
        lab.host(n).sh(&["ip", "-n", &lab.router(), "link", "set", &wire, "mtu", mtu])?;
        lab.host(n).sh(&["ip", "link", "set", UNDERLAY, "mtu", mtu])?;
        lab.host_mut(n).start_agent()?;
    }
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    lab.host(1).attach(&a, "a", "n1", &["--ip", A[0], "--ip", A[1]])?;
    lab.host(2).attach(&b, "b", "n1", &["--ip", B[0], "--ip", B[1]])?;
    lab.declare_peers()?;
    until("the overlay carries packets", || a.ping(B[0]).is_ok() && b.ping(A[1]).is_ok())?;
    Ok((lab, a, b))
}

/// The mode that the status of a host shows for its uplink, and why.
fn mode(lab: &Lab, host: usize) -> Result<(String, String)> {
    let status = lab.host(host).status()?;
    let uplink = status.uplinks.first().context("an uplink")?;
    Ok((uplink.mode.clone(), uplink.why.clone()))
}

fn bytes_arrive(from: &Container, to: &Container, to_addresses: [&str; 2]) -> Result<()> {
    for address in to_addresses {
        let to_address =
            if address.contains(':') { format!("[{address}]:5000") } else { format!("{address}:5000") };
        for kind in ["tcp", "udp"] {
            same(from, to, kind, &to_address, &["--sizes", "1,1300-1460,9000,65000"])?;
        }
    }
    Ok(())
}

/// The trace goes through the stage as packets do, right ones and forged ones.
fn trace_agrees(lab: &Lab, a: &Container) -> Result<()> {
    let reports = lab.trace(&["--from", "a", "--to", "b"], a)?;
    let far = reports.get(1).context("a report of the far host")?;
    assert_eq!((far.verdict.as_str(), far.endpoint.as_str()), ("local", "b"), "{far:#?}");
    assert_eq!(far.stages[0].name, "from_uplink_xdp", "{far:#?}");

    // Reserved bits do not matter (RFC 7348 section 5); nobody has this VNI, and nobody behind that VTEP has the address.
    let mut forged = far.packet.clone();
    for (what, at, hex, reason) in
        [("VNI", 46, "00beef", "unknown_vni"), ("source", 76, "c0a80a63", "spoof_source")]
    {
        let right = forged.clone();
        forged.replace_range(at * 2..at * 2 + hex.len(), hex);
        let traced = lab.host(2).fabric(&["trace", "--packet", &forged, "-o", "json"])?;
        let traced: serde_json::Value = serde_json::from_str(&traced)?;
        let told = (traced[0]["hook"].as_str(), traced[0]["verdict"].as_str(), traced[0]["reason"].as_str());
        assert_eq!(told, (Some("from_uplink_xdp"), Some("drop"), Some(reason)), "{what}: {traced:#}");
        let frame: Vec<u8> = (0..forged.len() / 2)
            .map(|at| u8::from_str_radix(&forged[at * 2..at * 2 + 2], 16))
            .collect::<Result<_, _>>()?;
        let before = lab.host(2).counts()?;
        lab.host(1).send_frame(&on_the_wire(lab, frame)?, 1)?;
        until(&format!("a forged {what} is counted"), || {
            let counter = format!("from_uplink_xdp drop {reason}");
            lab.host(2).counts().is_ok_and(|counts| counts.since(&before).get(&counter) == 1)
        })?;
        forged = right;
    }
    Ok(())
}

/// With the MACs of the first host's underlay.
fn on_the_wire(lab: &Lab, mut frame: Vec<u8>) -> Result<Vec<u8>> {
    let text = lab.host(1).sh(&[
        "sh",
        "-c",
        "ip neigh show dev u0 | sed -n 's/.*lladdr \\([0-9a-f:]*\\).*/\\1/p' | head -1",
    ])?;
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    frame[..6].copy_from_slice(&bytes);
    Ok(frame)
}

fn carries(id: &str, mtu: &str) -> Result<()> {
    let (lab, a, b) = scene(id, mtu, "xdp")?;
    trace_agrees(&lab, &a)?;
    for host in [1, 2] {
        let (mode, reason) = mode(&lab, host)?;
        assert!(mode.ends_with("+xdp") || mode.ends_with("+xdp-generic"), "{mode}: {reason}");
        assert!(!reason.is_empty());
    }
    let before: Vec<_> = lab.hosts().iter().map(|host| host.counts()).collect::<Result<_>>()?;
    bytes_arrive(&a, &b, B)?;
    bytes_arrive(&b, &a, A)?;
    for (host, before) in lab.hosts().iter().zip(&before) {
        let since = host.counts()?.since(before);
        assert!(since.drops().is_empty(), "{}: {:?}", host.name(), since.drops());
        assert!(since.get("from_uplink_xdp action checked") > 0, "{} checked nothing in XDP", host.name());
    }
    Ok(())
}

#[test]
fn bytes_are_kept_with_xdp_at_mtu_1500() -> Result<()> {
    carries("xdpa", "1500")
}

#[test]
fn bytes_are_kept_with_xdp_at_mtu_9000() -> Result<()> {
    carries("xdpb", "9000")
}

#[test]
fn the_mode_is_switched_by_a_restart_and_says_so() -> Result<()> {
    let (mut lab, a, _b) = scene("xdpc", "1500", "auto")?;
    let (before, reason) = mode(&lab, 1)?;
    assert!(!before.contains("xdp") && reason.contains("veth"), "{before}: {reason}");
    for (wanted, xdp) in [("xdp", true), ("tc", false), ("auto", false)] {
        lab.host_mut(1).term_agent()?;
        lab.host_mut(1).set_agent_args(&["--uplink-mode", wanted]);
        lab.host_mut(1).start_agent()?;
        let in_force = || mode(&lab, 1).is_ok_and(|(mode, _)| mode.contains("xdp") == xdp);
        until("the mode is in force", in_force)
            .with_context(|| format!("uplink mode {wanted}: {:?}", lab.host(1).fabric(&["status"])))?;
        a.ping(B[0])?;
        a.ping(B[1])?;
    }
    Ok(())
}
