//! The kernel's own VXLAN device as a foreign VTEP: what it may ask of us.

use anyhow::Result;
use fabric_api::{object::Object, status::State};
use fabric_lab::{
    Capture, Container, Host, Lab, UNDERLAY,
    foreign::{self, Foreign},
    until,
};

fn capture(lab: &Lab, filter: &str) -> Result<Capture> {
    let file = lab.directory().join("wire.pcap");
    Capture::start(|line| lab.host(1).command(line), UNDERLAY, filter, file)
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
    foreign::everything(&a, &k)?;
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
    foreign::everything(&a, &k)?;
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

/// Tells a host of objects that live elsewhere, and waits until it has them.
fn tell(host: &Host, objects: &[Object]) -> Result<()> {
    std::fs::write(host.directory().join("run/told.json"), serde_json::to_vec(objects)?)?;
    host.fabric(&["apply", "-f", "/run/told.json"])?;
    for object in objects {
        if let Object::Endpoint(endpoint) = object {
            ready(host, &endpoint.metadata.name)?;
        }
    }
    Ok(())
}

fn ready(host: &Host, endpoint: &str) -> Result<()> {
    until("the endpoint is there", || {
        let endpoint = host.endpoint(endpoint).ok();
        endpoint.and_then(|endpoint| endpoint.status).is_some_and(|status| status.state == State::Ready)
    })
}

/// Host 1 with `a` in n1 and `c` in n2, host 3 with `d` in n2, which lets n1 in; `k` in n1 behind the device of host 2,
/// whose way out of n1 is the gateway.
#[test]
fn the_gateway_routes_for_who_is_behind_a_device() -> Result<()> {
    let (_a, k, mut lab) =
        foreign::lab("irout", &Foreign { hosts: 3, device: "noudpcsum", ..Foreign::default() })?;
    lab.host_mut(3).start_agent()?;
    let n1 = ["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"];
    lab.host(3).fabric(&[&["network", "create"], &n1[..]].concat())?;
    let n2 = ["n2", "--subnet", "192.168.20.0/24", "--subnet", "fd00:20::/64", "--vni", "200"];
    for host in [lab.host(1), lab.host(3)] {
        host.fabric(&[&["network", "create"], &n2[..], &["--allow-from", "n1"]].concat())?;
    }
    let c = lab.container(1, "c")?;
    lab.host(1).attach(&c, "c", "n2", &["--ip", "192.168.20.11", "--ip", "fd00:20::11"])?;
    let d = lab.container(3, "d")?;
    lab.host(3).attach(&d, "d", "n2", &["--ip", "192.168.20.31", "--ip", "fd00:20::31"])?;
    tell(lab.host(1), &lab.host(3).as_peer()?)?;
    tell(lab.host(3), &lab.host(1).as_peer()?)?;
    std::fs::copy(
        lab.host(1).manifests().join("foreign.yaml"),
        lab.host(3).manifests().join("foreign.yaml"),
    )?;
    ready(lab.host(3), "k")?;
    k.sh(&["ip", "route", "add", "192.168.20.0/24", "via", "192.168.10.1"])?;
    k.sh(&["ip", "route", "add", "fd00:20::/64", "via", "fd00:10::1"])?;

    for address in
        ["192.168.10.1", "fd00:10::1", "192.168.20.11", "fd00:20::11", "192.168.20.31", "fd00:20::31"]
    {
        k.ping(address)?;
    }
    for address in ["192.168.10.21", "fd00:10::21"] {
        c.ping(address)?;
        d.ping(address)?;
    }
    let before: Vec<_> = [1, 3].map(|n| lab.host(n).counts()).into_iter().collect::<Result<_>>()?;
    for (from, to, address) in [
        (&k, &c, "192.168.20.11:5000"),
        (&k, &c, "[fd00:20::11]:5000"),
        (&k, &d, "192.168.20.31:5000"),
        (&k, &d, "[fd00:20::31]:5000"),
        (&c, &k, "192.168.10.21:5000"),
        (&d, &k, "[fd00:10::21]:5000"),
    ] {
        foreign::same_bytes(from, to, address)?;
    }
    let near = lab.host(1).counts()?.since(&before[0]);
    assert!(near.get("from_vxlan action routed") > 200, "{near:?}");
    assert!(near.get("from_vxlan action via_device") > 100, "{near:?}");
    let far = lab.host(3).counts()?.since(&before[1]);
    assert!(far.get("from_uplink action local") > 100, "{far:?}");

    let one_hop = k.exec(&["ping", "-c", "1", "-W", "2", "-t", "1", "192.168.20.11"])?;
    assert!(
        one_hop.stdout.contains("From 192.168.10.1") && one_hop.stdout.contains("exceeded"),
        "{one_hop:?}"
    );
    for host in [lab.host(1), lab.host(3)] {
        host.fabric(&["network", "create", "n3", "--subnet", "192.168.30.0/24", "--vni", "300"])?;
    }
    k.sh(&["ip", "route", "add", "192.168.30.0/24", "via", "192.168.10.1"])?;
    let closed = k.exec(&["ping", "-c", "1", "-W", "2", "192.168.30.11"])?;
    assert!(
        closed.stdout.contains("From 192.168.10.1") && closed.stdout.contains("Net Unreachable"),
        "{closed:?}"
    );
    Ok(())
}
