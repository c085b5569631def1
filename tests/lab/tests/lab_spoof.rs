//! Lies: from containers, and from a machine on the underlay that makes tunnel packets of its own. Every one is dropped
//! for its own reason, exactly counted, and nothing of it arrives anywhere.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use fabric_lab::{Capture, Container, Lab, Options, UNDERLAY, until};

type Mac = [u8; 6];

const A: [u8; 4] = [192, 168, 10, 11];
const C: [u8; 4] = [192, 168, 10, 12];
const B: [u8; 4] = [192, 168, 10, 21];
/// How often every frame is sent.
const COUNT: u32 = 3;
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 0x99];
/// Nobody listens there; a capture finds what arrives.
const PORT: u16 = 7777;

struct Scene {
    a: Container,
    b: Container,
    macs: (Mac, Mac),
    lab: Lab,
}

/// Hosts 1 and 2 with agents and a container each; host 3 is a machine on the underlay.
fn scene(id: &str, mode: &str) -> Result<Scene> {
    let options = Options {
        hosts: 3,
        agents: false,
        agent_args: vec!["--uplink-mode".to_owned(), mode.to_owned()],
        ..Options::default()
    };
    let mut lab = Lab::with(id, &options)?;
    for n in [1, 2] {
        lab.host_mut(n).start_agent()?;
        let network = ["network", "create", "n1", "--subnet", "192.168.10.0/24", "--vni", "100"];
        lab.host(n).fabric(&[&network, &["--subnet", "fd00:10::/64"][..]].concat())?;
    }
    // Only the first host serves it.
    lab.host(1).fabric(&["network", "create", "n2", "--subnet", "192.168.20.0/24", "--vni", "200"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    let mac_of = |endpoint: fabric_api::object::Endpoint| mac(&endpoint.spec.mac.unwrap_or_default());
    let mac_a =
        mac_of(lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--ip", "fd00:10::11"])?)?;
    let mac_b =
        mac_of(lab.host(2).attach(&b, "b", "n1", &["--ip", "192.168.10.21", "--ip", "fd00:10::21"])?)?;
    for (n, peer, vtep, last) in [(1, "h2", "10.0.2.1", "21"), (2, "h1", "10.0.1.1", "11")] {
        let name = if n == 1 { "b" } else { "a" };
        let objects = format!(
            "kind: Node\nmetadata: {{name: {peer}}}\nspec: {{vteps: [{vtep}], networks: [{{network: n1}}]}}\n---\n\
             kind: Endpoint\nmetadata: {{name: {name}}}\nspec: {{network: n1, node: {peer}, \
             addresses: [192.168.10.{last}, 'fd00:10::{last}']}}\n"
        );
        let file = lab.host(n).directory().join("run/peer.yaml");
        std::fs::write(&file, objects)?;
        lab.host(n).fabric(&["apply", "-f", "/run/peer.yaml"])?;
    }
    until("the overlay carries packets", || {
        a.ping("192.168.10.21").is_ok() && b.ping("fd00:10::11").is_ok()
    })?;
    Ok(Scene { a, b, macs: (mac_a, mac_b), lab })
}

fn mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    Mac::try_from(bytes.as_slice()).with_context(|| format!("{text:?} is no MAC"))
}

fn udp(macs: (Mac, Mac), from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from, to, 64).udp(4242, PORT);
    packet.write(&mut frame, payload).expect("it fits");
    frame
}

fn arp(from: Mac, sender: (Mac, [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let head = [&[0xff; 6][..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&head[..], &sender.0, &sender.1, &[0; 6], &target].concat()
}

/// A neighbour advertisement for `target`, to all nodes.
fn advertisement(from: Mac, source: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    let all: [u8; 16] = "ff02::1".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let body = [&target[..], &[2, 1], &from].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(source, all, 255)
        .icmpv6_raw(136, 0, [0x20, 0, 0, 0])
        .write(&mut frame, &body)
        .expect("it fits");
    frame
}

/// What moved among the drop counters of a host.
fn exactly(reason: &str, hook: &str) -> BTreeMap<String, u64> {
    BTreeMap::from([(format!("{hook} drop {reason}"), u64::from(COUNT))])
}

#[test]
fn a_containers_lies_are_counted_by_reason_and_go_nowhere() -> Result<()> {
    let Scene { a, b: _b, macs: (mac_a, mac_b), lab } = scene("lies", "auto")?;
    let own6: [u8; 16] = "fd00:10::11".parse::<std::net::Ipv6Addr>()?.octets();
    let other6: [u8; 16] = "fd00:10::21".parse::<std::net::Ipv6Addr>()?.octets();
    let honest = udp((mac_a, mac_b), A, B, b"hello");
    let tagged = [&honest[..12], &[0x81, 0, 0, 5], &honest[12..]].concat();
    let lies: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a neighbour's address", udp((mac_a, mac_b), C, B, b"x"), "spoof_ip"),
        ("loopback", udp((mac_a, mac_b), [127, 0, 0, 1], B, b"x"), "spoof_ip"),
        ("the host's VTEP", udp((mac_a, mac_b), [10, 0, 1, 1], B, b"x"), "spoof_ip"),
        ("no address, unicast", udp((mac_a, mac_b), [0; 4], B, b"x"), "spoof_ip"),
        ("another MAC", udp((OTHER_MAC, mac_b), A, B, b"x"), "spoof_mac"),
        ("ARP for a neighbour's address", arp(mac_a, (mac_a, C), B), "spoof_arp"),
        ("ARP with another sender MAC", arp(mac_a, (OTHER_MAC, A), B), "spoof_arp"),
        ("an advertisement of a neighbour's address", advertisement(mac_a, own6, other6), "spoof_nd"),
        ("an advertisement from a neighbour's address", advertisement(mac_a, other6, own6), "spoof_nd"),
        ("a VLAN tag", tagged, "vlan_tag"),
        ("an unknown MAC", udp((mac_a, OTHER_MAC), A, B, b"x"), "unknown_destination"),
        ("back to itself", udp((mac_a, mac_a), A, A, b"x"), "hairpin"),
        ("no IP", [&honest[..12], &[0x88, 0xcc], &honest[14..]].concat(), "unsupported_ethertype"),
        ("half a header", honest[..24].to_vec(), "malformed"),
    ];
    let capture = Capture::start(
        |l| lab.host(1).command(l),
        UNDERLAY,
        "udp port 4789",
        lab.directory().join("l.pcap"),
    )?;
    let monitor = lab.host(1).monitor(&["--drops", "--endpoint", "a"])?;
    for (what, frame, reason) in &lies {
        let before = lab.host(1).counts()?;
        a.send_frame(frame, COUNT)?;
        let drops = lab.host(1).counts()?.since(&before).drops();
        assert_eq!(drops, exactly(reason, "from_container"), "{what}");
    }
    // The same through the kernel of the container, as a process with CAP_NET_RAW would.
    let before = lab.host(1).counts()?;
    a.traffic(&["spoof", "--from", "192.168.10.12:1000", "--to", "192.168.10.21:2000", "--count", "3"])?;
    assert_eq!(lab.host(1).counts()?.since(&before).drops(), exactly("spoof_ip", "from_container"));
    let capture = capture.text(&[])?;
    assert!(capture.is_empty(), "{capture:#?}");
    until("the monitor tells of the last lie", || {
        monitor.events().is_ok_and(|events| events.iter().any(|event| event.src_port == 1000))
    })?;
    let events = monitor.events()?;
    let last = events.iter().find(|event| event.src_port == 1000).context("the event")?;
    assert_eq!((last.reason.as_str(), last.hook.as_str()), ("spoof_ip", "from_container"));
    assert_eq!((last.network.as_str(), last.endpoint.as_str(), last.vni), ("n1", "a", 100));
    assert_eq!((last.src, last.dst), (Some("192.168.10.12".parse()?), Some("192.168.10.21".parse()?)));
    assert_eq!((last.dst_port, last.protocol.as_str()), (2000, "UDP"));
    for (what, _, reason) in &lies {
        assert!(events.iter().any(|event| event.reason == *reason), "{what}: no event of {reason}");
    }
    Ok(())
}

/// An outer packet around `inner`, from the attacker's machine to host 1.
struct Outer {
    from: [u8; 4],
    flags: [u8; 4],
    vni: u32,
    port: u16,
}

const HONEST: Outer = Outer { from: [10, 0, 2, 1], flags: [8, 0, 0, 0], vni: 100, port: 4789 };

impl Outer {
    fn around(&self, macs: (Mac, Mac), inner: &[u8]) -> Vec<u8> {
        let vxlan = [&self.flags[..], &(self.vni << 8).to_be_bytes(), inner].concat();
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(self.from, [10, 0, 1, 1], 64);
        packet.udp(50_000, self.port).write(&mut frame, &vxlan).expect("it fits");
        frame[40..42].fill(0);
        frame
    }
}

/// MACs of the attacker's interface and of the router, as seen from host 3.
fn attackers_macs(lab: &Lab) -> Result<(Mac, Mac)> {
    let own = mac(&lab.host(3).link_attribute(UNDERLAY, "address")?)?;
    lab.host(3).sh(&["ping", "-c1", "-W2", "10.0.1.1"])?;
    let neighbours = lab.host(3).sh(&["ip", "neigh", "show", "10.0.3.254"])?;
    let router = neighbours.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    Ok((own, mac(router.with_context(|| format!("no router in {neighbours:?}"))?)?))
}

fn forged_tunnel_packets(id: &str, mode: &str, hook: &str) -> Result<()> {
    let Scene { a, b, macs: (mac_a, mac_b), lab } = scene(id, mode)?;
    let status = lab.host(1).status()?;
    assert_eq!(status.uplinks[0].mode.contains("xdp"), mode == "xdp", "{:?}", status.uplinks);
    let wire = attackers_macs(&lab)?;
    let inner = udp((mac_b, mac_a), B, A, b"forged");
    let ethertype = |frame: &[u8], value: [u8; 2]| [&frame[..12], &value, &frame[14..]].concat();
    let group = [1, 0, 0x5e, 0, 0, 1];
    let forged: Vec<(&str, Vec<u8>, &str)> = vec![
        ("an unknown VTEP", Outer { from: [10, 0, 3, 1], ..HONEST }.around(wire, &inner), "unknown_vtep"),
        ("no I flag", Outer { flags: [0; 4], ..HONEST }.around(wire, &inner), "bad_header"),
        ("an unknown VNI", Outer { vni: 999, ..HONEST }.around(wire, &inner), "unknown_vni"),
        ("VNI 0", Outer { vni: 0, ..HONEST }.around(wire, &inner), "unknown_vni"),
        (
            "a network that the sender does not serve",
            {
                let inner = udp((mac_b, mac_a), [192, 168, 20, 5], A, b"forged");
                Outer { vni: 200, ..HONEST }.around(wire, &inner)
            },
            "vtep_not_in_vni",
        ),
        (
            "a source without a record",
            { HONEST.around(wire, &udp((mac_b, mac_a), [192, 168, 10, 99], A, b"forged")) },
            "spoof_source",
        ),
        ("a local container's source", HONEST.around(wire, &udp((mac_b, mac_a), A, A, b"forged")), "loop"),
        (
            "a source MAC that is a group",
            HONEST.around(wire, &udp((group, mac_a), B, A, b"x")),
            "bad_src_mac",
        ),
        ("no source MAC", HONEST.around(wire, &udp(([0; 6], mac_a), B, A, b"x")), "bad_src_mac"),
        ("an unknown receiver", HONEST.around(wire, &udp((mac_b, OTHER_MAC), B, A, b"x")), "not_local"),
        ("the sender's own MAC", HONEST.around(wire, &udp((mac_b, mac_b), B, A, b"x")), "not_local"),
        ("a group receiver", HONEST.around(wire, &udp((mac_b, group), B, A, b"x")), "multicast_off"),
        ("ARP", HONEST.around(wire, &arp(mac_b, (mac_b, B), A)), "inner_ethertype"),
        ("not IP", HONEST.around(wire, &ethertype(&inner, [0x88, 0xcc])), "inner_ethertype"),
        ("ten bytes inside", HONEST.around(wire, &inner[..10]), "short"),
        ("half an IP header inside", HONEST.around(wire, &inner[..24]), "malformed"),
    ];
    let arrived = Capture::start(|l| a.command(l), "eth0", "udp port 7777", lab.directory().join("f.pcap"))?;
    let monitor = lab.host(1).monitor(&["--drops"])?;
    for (what, frame, reason) in &forged {
        let before = lab.host(1).counts()?;
        lab.host(3).send_frame(frame, COUNT)?;
        let name = format!("{hook} drop {reason}");
        until(what, || {
            lab.host(1).counts().is_ok_and(|now| now.since(&before).get(&name) >= u64::from(COUNT))
        })
        .with_context(|| format!("{:?}", lab.host(1).counts().map(|now| now.since(&before))))?;
        let drops = lab.host(1).counts()?.since(&before).drops();
        assert_eq!(drops, exactly(reason, hook), "{what}");
    }
    // What is right arrives, reserved bits or not; so nothing above was dropped for another reason.
    let reserved = Outer { flags: [8, 0, 0, 1], ..HONEST }.around(wire, &inner);
    let checked = {
        let mut frame = HONEST.around(wire, &inner);
        let outer = etherparse::UdpHeader::with_ipv4_checksum(
            50_000,
            4789,
            &etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, HONEST.from, [10, 0, 1, 1])?,
            &frame[42..],
        )?;
        frame[40..42].copy_from_slice(&outer.checksum.to_be_bytes());
        frame
    };
    for frame in [&HONEST.around(wire, &inner), &reserved, &checked] {
        lab.host(3).send_frame(frame, COUNT)?;
    }
    // A wrong checksum and another port are not for us: the stack decides, and nobody listens.
    let mut wrong = checked.clone();
    wrong[41] ^= 1;
    lab.host(3).send_frame(&wrong, COUNT)?;
    lab.host(3).send_frame(&Outer { port: 8472, ..HONEST }.around(wire, &inner), COUNT)?;
    lab.host(3).sh(&["ping", "-c1", "-W2", "10.0.1.1"])?;
    let arrived = arrived.text(&[])?;
    assert_eq!(arrived.len(), 3 * COUNT as usize, "the right ones: {arrived:#?}");
    let events = monitor.events()?;
    let unknown = events.iter().find(|event| event.reason == "unknown_vtep").context("an event")?;
    assert_eq!((unknown.src, unknown.dst), (Some("192.168.10.21".parse()?), Some("192.168.10.11".parse()?)));
    assert_eq!((unknown.src_port, unknown.dst_port, unknown.protocol.as_str()), (4242, PORT, "UDP"));
    assert_eq!((unknown.vtep, unknown.hook.as_str()), (Some("10.0.3.1".parse()?), hook));
    drop(b);
    Ok(())
}

#[test]
fn forged_tunnel_packets_die_in_tc() -> Result<()> {
    forged_tunnel_packets("forgetc", "tc", "from_uplink")
}

#[test]
fn forged_tunnel_packets_die_in_xdp() -> Result<()> {
    forged_tunnel_packets("forgexdp", "xdp", "from_uplink_xdp")
}

#[test]
fn a_containers_own_tunnel_packets_are_only_its_packets() -> Result<()> {
    let Scene { a, b, macs: (mac_a, mac_b), lab } = scene("nested", "auto")?;
    let inner = udp((mac_a, mac_b), A, B, b"nested");
    let vxlan = [&[8, 0, 0, 0, 0, 0, 100, 0][..], &inner].concat();
    let tunnel = |to: [u8; 4], mac_to: Mac| {
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2(mac_a, mac_to).ipv4(A, to, 64).udp(50_000, 4789);
        packet.write(&mut frame, &vxlan).expect("it fits");
        frame
    };
    let network = lab.host(1).networks()?.into_iter().find(|network| network.metadata.name == "n1");
    let gateway =
        network.and_then(|n| n.status).and_then(|s| s.gateways.first().copied()).context("a gateway")?;
    a.exec(&["ping", "-c1", "-W1", &gateway.to_string()])?;
    let neighbours = a.sh(&["ip", "neigh", "show", &gateway.to_string()])?;
    let router = neighbours.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(mac);
    let router = router.with_context(|| format!("no gateway in {neighbours:?}"))??;
    let before: Vec<_> = [1, 2].iter().map(|n| lab.host(*n).counts()).collect::<Result<_>>()?;
    let arrived = Capture::start(|l| b.command(l), "eth0", "udp", lab.directory().join("n.pcap"))?;
    // To another host's VTEP: nothing routes it there.
    a.send_frame(&tunnel([10, 0, 2, 1], router), COUNT)?;
    assert_eq!(lab.host(1).counts()?.since(&before[0]).drops(), exactly("no_route", "from_container"));
    // To a neighbour: a datagram to port 4789 like any other.
    a.send_frame(&tunnel(B, mac_b), COUNT)?;
    let lines = arrived.text(&["-q"])?;
    assert_eq!(lines.len(), COUNT as usize, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains("192.168.10.21.4789")), "{lines:#?}");
    let drops = lab.host(2).counts()?.since(&before[1]).drops();
    assert!(drops.is_empty(), "{drops:?}");
    Ok(())
}
