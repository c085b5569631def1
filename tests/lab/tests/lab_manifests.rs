//! Remote nodes and endpoints from a directory of manifests, and a VTEP that is not one of our agents.

use std::fs;

use anyhow::{Context, Result};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};
use fabric_api::status::State;
use fabric_lab::{
    Capture, Host, Lab,
    foreign::{self, Foreign},
    until,
};

const NODE: &str =
    "kind: Node\nmetadata: {name: far}\nspec: {vteps: [10.0.2.1], networks: [{network: n1}]}\n";
const ENDPOINT: &str =
    "kind: Endpoint\nmetadata: {name: faraway}\nspec: {network: n1, node: far, addresses: [192.168.10.21]}\n";

fn write(host: &Host, file: &str, text: &str) -> Result<()> {
    // Written beside the directory and moved, so that the agent never reads half a file.
    let draft = host.directory().join("run/draft");
    fs::write(&draft, text)?;
    fs::rename(&draft, host.manifests().join(file))?;
    Ok(())
}

fn state(host: &Host, endpoint: &str) -> Option<State> {
    host.endpoint(endpoint).ok()?.status.map(|status| status.state)
}

fn problems(host: &Host) -> String {
    host.status().map(|status| status.problems.join("\n")).unwrap_or_default()
}

#[test]
fn objects_come_and_go_with_their_files() -> Result<()> {
    let lab = Lab::new("files", 1)?;
    let host = lab.host(1);
    host.fabric(&["network", "create", "n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    write(host, "node.yaml", NODE)?;
    write(host, "endpoint.yaml", ENDPOINT)?;
    until("the endpoint is there", || state(host, "faraway") == Some(State::Ready))?;
    let endpoint = host.endpoint("faraway")?;
    assert_eq!(endpoint.metadata.owner, "manifests:/run/fabric/manifests");
    assert!(endpoint.status.is_some_and(|status| !status.local));

    // Another front door does not touch it.
    let refused = host.try_fabric(&["endpoint", "detach", "faraway"])?;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("manifests:/run/fabric/manifests"), "{refused:?}");
    // And the directory does not touch another's.
    write(
        host,
        "other.yaml",
        "kind: Network\nmetadata: {name: n1}\nspec: {subnets: [10.9.0.0/16], vni: 100}\n",
    )?;
    until("the clash is reported", || problems(host).contains("n1"))?;
    assert!(problems(host).contains("cli"), "{}", problems(host));
    assert_eq!(host.networks()?[0].spec.subnets[0].to_string(), "192.168.10.0/24");
    fs::remove_file(host.manifests().join("other.yaml"))?;
    until("the problem is gone", || problems(host).is_empty())?;

    // A file that is broken keeps what it had.
    write(host, "endpoint.yaml", "kind: Endpoint\nmetadata: {name: faraway\n")?;
    until("the broken file is reported", || problems(host).contains("endpoint.yaml"))?;
    assert_eq!(state(host, "faraway"), Some(State::Ready), "{}", problems(host));
    write(host, "endpoint.yaml", &ENDPOINT.replace("addresses", "adresses"))?;
    until("the unknown key is reported", || problems(host).contains("adresses"))?;
    assert_eq!(state(host, "faraway"), Some(State::Ready));

    write(host, "endpoint.yaml", ENDPOINT)?;
    until("the problem is gone", || problems(host).is_empty())?;
    fs::remove_file(host.manifests().join("endpoint.yaml"))?;
    until("the endpoint goes with its file", || host.endpoint("faraway").is_err())?;
    assert!(host.fabric(&["node", "inspect", "far", "-o", "json"]).is_ok());
    fs::remove_file(host.manifests().join("node.yaml"))?;
    until("the node goes with its file", || host.fabric(&["node", "inspect", "far"]).is_err())?;
    Ok(())
}

fn both_ways(id: &str, checksum: &str, taken: &str, not_taken: &str) -> Result<()> {
    let (a, k, lab) = foreign::lab(id, &Foreign { device: checksum, ..Foreign::default() })?;
    let before = lab.host(1).counts()?;
    until("the bridge forwards", || k.ping("192.168.10.11").is_ok())?;
    foreign::everything(&a, &k)?;
    let moved = lab.host(1).counts()?.since(&before);
    assert!(moved.get(&format!("{taken} action local")) > 100, "{moved:?}");
    assert_eq!(moved.get(&format!("{not_taken} action local")), 0, "{moved:?}");
    Ok(())
}

#[test]
fn a_linux_vtep_with_outer_checksums_is_reached_both_ways() -> Result<()> {
    both_ways("csum", "udpcsum", "from_vxlan", "from_uplink")
}

#[test]
fn a_linux_vtep_without_outer_checksums_is_reached_both_ways() -> Result<()> {
    both_ways("nocsum", "noudpcsum", "from_uplink", "from_vxlan")
}

/// A tunnel packet from host 2 with an inner datagram to container `a`: the outer IP header's payload.
fn outer_udp(a: [u8; 6]) -> Vec<u8> {
    let mut inner = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x21], a)
        .ipv4([192, 168, 10, 21], [192, 168, 10, 11], 64)
        .udp(4242, 7777)
        .write(&mut inner, &[0x5a; 600])
        .expect("it fits");
    let vxlan = [&[8, 0, 0, 0, 0, 0, 100, 0][..], &inner].concat();
    let length = u16::try_from(8 + vxlan.len()).expect("a datagram").to_be_bytes();
    [&50_000_u16.to_be_bytes()[..], &4789_u16.to_be_bytes(), &length, &[0, 0], &vxlan].concat()
}

fn outer(wire: &[u8], payload: &[u8], adjust: impl FnOnce(&mut Ipv4Header)) -> Result<Vec<u8>> {
    let length = u16::try_from(payload.len())?;
    let mut header = Ipv4Header::new(length, 64, IpNumber::UDP, [10, 0, 2, 1], [10, 0, 1, 1])?;
    header.identification = 4711;
    adjust(&mut header);
    header.set_payload_len(payload.len())?;
    let mut frame = wire.to_vec();
    header.write(&mut frame)?;
    frame.extend(payload);
    Ok(frame)
}

#[test]
fn outer_fragments_and_options_take_the_slow_path() -> Result<()> {
    let (a, k, lab) = foreign::lab("slow", &Foreign { device: "noudpcsum", ..Foreign::default() })?;
    until("the bridge forwards", || k.ping("192.168.10.11").is_ok())?;
    let mac = |text: &str| -> Result<Vec<u8>> {
        text.trim().split(':').map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
    };
    let own = mac(&lab.host(2).link_attribute("u0", "address")?)?;
    let neighbours = lab.host(2).sh(&["ip", "neigh", "show", "10.0.2.254"])?;
    let router = neighbours.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    let router = mac(router.with_context(|| format!("no router in {neighbours:?}"))?)?;
    let wire = [&router[..], &own, &[8, 0]].concat();
    let mac_a = mac(&lab.host(1).endpoint("a")?.spec.mac.context("a MAC")?)?;
    let payload = outer_udp(mac_a.as_slice().try_into()?);

    let capture = Capture::start(|l| a.command(l), "eth0", "udp port 7777", lab.directory().join("s.pcap"))?;
    let before = lab.host(1).counts()?;
    let (first, second) = payload.split_at(256);
    lab.host(2).send_frame(&outer(&wire, first, |ip| ip.more_fragments = true)?, 1)?;
    lab.host(2).send_frame(
        &outer(&wire, second, |ip| ip.fragment_offset = IpFragOffset::try_new(32).expect("it fits"))?,
        1,
    )?;
    // Router alert (RFC 2113): an option that changes nothing.
    let options = outer(&wire, &payload, |ip| ip.options = [0x94, 4, 0, 0].into())?;
    lab.host(2).send_frame(&options, 1)?;
    until("both went through the vxlan device", || {
        lab.host(1).counts().is_ok_and(|now| now.since(&before).get("from_vxlan action local") >= 2)
    })
    .with_context(|| format!("{:?}", lab.host(1).counts().map(|now| now.since(&before))))?;
    let moved = lab.host(1).counts()?.since(&before);
    assert_eq!(moved.get("from_uplink action outer_fragment"), 2, "{moved:?}");
    assert_eq!(moved.get("from_uplink action outer_options"), 1, "{moved:?}");
    // The kernel behind the foreign VTEP also sends what nobody asked for, on the fast path.
    let drops = moved.drops();
    assert!(!drops.keys().any(|name| name.starts_with("from_vxlan")), "{drops:?}");
    let lines = capture.text(&["-v"])?;
    assert_eq!(lines.iter().filter(|line| line.contains("UDP, length 600")).count(), 2, "{lines:#?}");
    Ok(())
}
