//! `fabric trace` beside what tcpdump and the counters see, for the packets that are more than bridged: routed between networks,
//! to the host, answered, too big; over either underlay.

mod frames;

use anyhow::{Context, Result};
use fabric_api::trace::TraceReport;
use fabric_lab::{Capture, Container, Host, Lab, Options, UNDERLAY, until};
use frames::{A, PORT, Sender, TTL, v6};

const BLUE: &[&str] =
    &["blue", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100", "--host-access"];
const RED: &[&str] = &["red", "--subnet", "192.168.20.0/24", "--subnet", "fd00:20::/64", "--vni", "200"];
const CLOSED: &[&str] = &["closed", "--subnet", "192.168.30.0/24", "--vni", "300"];
/// Larger packets do not fit RED.
const RED_MTU: &str = "1300";
const NEAR: ([u8; 4], [u8; 16]) = ([192, 168, 20, 11], v6(0x20, 0x11));
const FAR: ([u8; 4], [u8; 16]) = ([192, 168, 20, 21], v6(0x20, 0x21));

/// Where a packet ends up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Nowhere,
    /// Back at the sender.
    Sender,
    Near,
    Far,
    /// At the interface of host 1 or 2 in BLUE.
    Host(usize),
}

/// A packet, what the trace says of it, and what that means.
#[derive(Clone)]
struct Case {
    what: &'static str,
    frame: Vec<u8>,
    /// Verdict and reason on each host.
    verdicts: &'static [(&'static str, &'static str)],
    /// What the first host counts beside that.
    beside: &'static [&'static str],
    at: At,
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("a MAC")
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16));
    Ok(pairs.collect::<Result<_, _>>()?)
}

struct Scene {
    a: Container,
    near: Container,
    far: Container,
    sender: Sender,
    /// MAC, address and interface of the first and of the second host in BLUE.
    hosts: Vec<([u8; 6], [u8; 4], String)>,
    lab: Lab,
}

fn in_blue(host: &Host) -> Result<([u8; 6], [u8; 4], String)> {
    let networks = host.networks()?;
    let blue = networks.iter().find(|network| network.metadata.name == "blue").context("the network")?;
    let status = blue.status.as_ref().context("a status")?;
    let address = status.node_addresses.iter().find(|address| address.is_ipv4()).context("an address")?;
    let own = mac(&host.link_attribute(&status.host_ifname, "address")?)?;
    let std::net::IpAddr::V4(address) = address else { unreachable!("it is IPv4") };
    Ok((own, address.octets(), status.host_ifname.clone()))
}

fn scene(id: &str, over_v6: bool) -> Result<Scene> {
    let mut lab = Lab::with(id, &Options { hosts: 2, agents: false, ..Options::default() })?;
    for n in [1, 2] {
        if over_v6 {
            lab.host(n).sh(&["ip", "-4", "address", "flush", "dev", UNDERLAY, "scope", "global"])?;
        }
        lab.host_mut(n).start_agent()?;
    }
    lab.create_network(BLUE)?;
    lab.create_network(&[RED, &["--mtu", RED_MTU, "--allow-from", "blue"]].concat())?;
    lab.create_network(CLOSED)?;
    let attach = |n: usize, name: &str, network: &str, v4: &str, v6: &str| -> Result<_> {
        let container = lab.container(n, name)?;
        let endpoint = lab.host(n).attach(&container, name, network, &["--ip", v4, "--ip", v6])?;
        Ok((container, mac(&endpoint.spec.mac.unwrap_or_default())?))
    };
    let (a, own) = attach(1, "a", "blue", "192.168.10.11", "fd00:10::11")?;
    let (near, _) = attach(1, "near", "red", "192.168.20.11", "fd00:20::11")?;
    let (far, _) = attach(2, "far", "red", "192.168.20.21", "fd00:20::21")?;
    lab.declare_peers()?;
    until("the overlay carries packets", || a.ping("192.168.20.21").is_ok())?;
    // Nothing comes back: the answer of a port where nobody listens would be counted as well.
    for container in [&near, &far] {
        for family in ["-4", "-6"] {
            container.sh(&["ip", family, "route", "flush", "dev", "eth0"])?;
        }
    }
    let gateway = a.sh(&["ip", "neigh", "show", "192.168.10.1"])?;
    let gateway = gateway.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    let sender = Sender { own, gateway: mac(gateway.context("the gateway's MAC")?)? };
    let hosts = lab.hosts().iter().map(in_blue).collect::<Result<_>>()?;
    Ok(Scene { a, near, far, sender, hosts, lab })
}

/// Every place where a packet can be seen, the containers' and the hosts' interfaces and the wire.
struct Captures {
    places: Vec<(At, Capture)>,
    wire: Capture,
}

fn captures(scene: &Scene) -> Result<Captures> {
    let Scene { a, near, far, hosts, lab, .. } = scene;
    let mut places = Vec::new();
    for (at, container) in [(At::Sender, a), (At::Near, near), (At::Far, far)] {
        let file = lab.directory().join(format!("{}.pcap", container.netns()));
        places.push((at, Capture::start(|line| container.command(line), "eth0", "", file)?));
    }
    for (n, (_, _, ifname)) in (1..).zip(hosts) {
        let file = lab.directory().join(format!("access{n}.pcap"));
        places.push((At::Host(n), Capture::start(|line| lab.host(n).command(line), ifname, "", file)?));
    }
    let file = lab.directory().join("wire.pcap");
    let wire = Capture::start(|line| lab.host(1).command(line), UNDERLAY, "udp dst port 4789", file)?;
    Ok(Captures { places, wire })
}

fn holds(pcap: &[u8], frame: &[u8]) -> bool {
    pcap.windows(frame.len().max(1)).any(|window| window == frame)
}

impl Captures {
    /// Every foretold frame is where it was said to be, and nowhere else.
    fn compare(self, foretold: &[(&Case, Vec<TraceReport>)]) -> Result<()> {
        for (at, capture) in self.places {
            let pcap = capture.bytes()?;
            for (case, reports) in foretold {
                let last = bytes(&reports.last().context("a report")?.result)?;
                assert_eq!(last.is_empty(), case.at == At::Nowhere, "{}: {reports:#?}", case.what);
                let seen = !last.is_empty() && holds(&pcap, &last);
                // What is bridged is what the sender sent.
                let sent = at == At::Sender && last == case.frame;
                assert_eq!(seen, at == case.at || sent, "{} at {at:?}: {reports:#?}", case.what);
            }
        }
        let pcap = self.wire.bytes()?;
        for (case, reports) in foretold {
            // But for the MACs of the underlay, which the kernel fills in.
            let left = bytes(&reports[0].result)?;
            let found = left.len() > 14 && holds(&pcap, &left[14..]);
            assert_eq!(found, case.verdicts[0].0 == "remote", "{} on the wire: {reports:#?}", case.what);
        }
        Ok(())
    }
}

/// Foretells the packet and sends it: it is counted as was said, and the trace was not.
fn send(scene: &Scene, case: &Case) -> Result<Vec<TraceReport>> {
    let Scene { a, lab, .. } = scene;
    let Case { what, frame, verdicts, beside, .. } = case;
    let before = (lab.host(1).counts()?, lab.host(2).counts()?);
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let reports = lab.trace(&["--from", "a", "--packet", &hex], a)?;
    let traced: Vec<_> = reports.iter().map(|r| (r.verdict.as_str(), r.reason.as_str())).collect();
    assert_eq!(traced, *verdicts, "{what}: {reports:#?}");
    let counter = |hook: &str, (verdict, reason): (&str, &str)| {
        if reason.is_empty() { format!("{hook} action {verdict}") } else { format!("{hook} drop {reason}") }
    };
    let first = counter("from_container", verdicts[0]);
    assert_eq!(lab.host(1).counts()?.since(&before.0).get(&first), 0, "{what}: the trace itself was counted");

    a.send_frame(frame, 1)?;
    for name in beside.iter().map(|name| format!("from_container action {name}")).chain([first]) {
        until(&format!("{what} is counted as {name}"), || {
            lab.host(1).counts().is_ok_and(|counts| counts.since(&before.0).get(&name) == 1)
        })?;
    }
    if let Some(far) = verdicts.get(1) {
        let name = counter("from_uplink", *far);
        until(&format!("{what} is counted as {name}"), || {
            lab.host(2).counts().is_ok_and(|counts| counts.since(&before.1).get(&name) == 1)
        })?;
    }
    Ok(reports)
}

const ROUTED: &[&str] = &["routed"];
const TOLD: &[&str] = &["icmp_error"];
const LOCAL: &[(&str, &str)] = &[("local", "")];
const REMOTE: &[(&str, &str)] = &[("remote", ""), ("local", "")];
const ANSWERED: &[(&str, &str)] = &[("answered", "")];

fn routed(sender: &Sender) -> Result<Vec<Case>> {
    let gateway = sender.gateway;
    let case = |what, frame, verdicts, beside, at| Case { what, frame, verdicts, beside, at };
    Ok(vec![
        case("routed near", sender.udp4(gateway, NEAR.0, TTL, 8)?, LOCAL, ROUTED, At::Near),
        case("routed near, IPv6", sender.udp6(gateway, NEAR.1, TTL, 8)?, LOCAL, ROUTED, At::Near),
        case("routed far", sender.udp4(gateway, FAR.0, TTL, 8)?, REMOTE, ROUTED, At::Far),
        case("routed far, IPv6", sender.udp6(gateway, FAR.1, TTL, 8)?, REMOTE, ROUTED, At::Far),
        case("TCP near", sender.syn4(NEAR.0)?, LOCAL, ROUTED, At::Near),
        case("TCP far", sender.syn4(FAR.0)?, REMOTE, ROUTED, At::Far),
        case("TCP far, IPv6", sender.syn6(FAR.1)?, REMOTE, ROUTED, At::Far),
        case("a ping far", sender.ping(FAR.0)?, REMOTE, ROUTED, At::Far),
        case("a ping far, IPv6", sender.ping6(FAR.1)?, REMOTE, ROUTED, At::Far),
        case("a first fragment", sender.first_fragment(FAR.0)?, REMOTE, ROUTED, At::Far),
        case("a later fragment", sender.later_fragment(FAR.0)?, REMOTE, ROUTED, At::Far),
        case(
            "the last hop",
            sender.udp4(gateway, NEAR.0, 1, 8)?,
            &[("drop", "ttl_exceeded")],
            TOLD,
            At::Sender,
        ),
        case(
            "a closed network",
            sender.udp4(gateway, [192, 168, 30, 11], TTL, 8)?,
            &[("drop", "no_route")],
            TOLD,
            At::Sender,
        ),
        case("too big", sender.udp4(gateway, FAR.0, TTL, 1350)?, &[("drop", "too_big")], TOLD, At::Sender),
        case(
            "too big, IPv6",
            sender.udp6(gateway, FAR.1, TTL, 1350)?,
            &[("drop", "too_big")],
            TOLD,
            At::Sender,
        ),
    ])
}

fn answered(sender: &Sender) -> Result<Vec<Case>> {
    let case = |what, frame, verdicts, at| Case { what, frame, verdicts, beside: &[], at };
    let absorbed: &[(&str, &str)] = &[("absorbed", "")];
    Ok(vec![
        case("ARP", sender.who_has(A.0, [192, 168, 10, 1]), ANSWERED, At::Sender),
        case("ARP for nobody", sender.who_has(A.0, [192, 168, 10, 99]), absorbed, At::Nowhere),
        case(
            "ARP as another",
            sender.who_has([192, 168, 10, 99], [192, 168, 10, 1]),
            &[("drop", "spoof_arp")],
            At::Nowhere,
        ),
        case("neighbour discovery", sender.solicits(v6(0x10, 1))?, ANSWERED, At::Sender),
        case("neighbour discovery for nobody", sender.solicits(v6(0x10, 0x99))?, absorbed, At::Nowhere),
        case("a ping of the gateway", sender.ping([192, 168, 10, 1])?, ANSWERED, At::Sender),
        case("a ping of the gateway, IPv6", sender.ping6(v6(0x10, 1))?, ANSWERED, At::Sender),
    ])
}

fn to_hosts(scene: &Scene) -> Result<Vec<(Case, String)>> {
    let mut cases = Vec::new();
    for (n, (mac, address, _)) in (1..).zip(&scene.hosts) {
        let (what, verdicts) = if n == 1 { ("to this host", LOCAL) } else { ("to the other host", REMOTE) };
        let frame = scene.sender.udp4(*mac, *address, TTL, 8)?;
        let sentence = format!("delivered to node h{n} itself, in network blue");
        cases.push((Case { what, frame, verdicts, beside: &[], at: At::Host(n) }, sentence));
    }
    Ok(cases)
}

fn everything(id: &str, over_v6: bool) -> Result<()> {
    let scene = scene(id, over_v6)?;
    let captures = captures(&scene)?;
    let cases = [routed(&scene.sender)?, answered(&scene.sender)?].concat();
    let mut foretold = Vec::new();
    for case in &cases {
        let reports = send(&scene, case)?;
        let (_, told) = reports[0].sentence.split_once("the sender is told: ICMP").unzip();
        assert_eq!(told.is_some(), case.beside.contains(&"icmp_error"), "{}: {reports:#?}", case.what);
        if case.what.starts_with("too big") {
            assert!(told.is_some_and(|told| told.contains("MTU 1300")), "{}: {reports:#?}", case.what);
        }
        foretold.push((case, reports));
    }
    let hosts = to_hosts(&scene)?;
    for (n, (case, sentence)) in (1..).zip(&hosts) {
        let [a, b, c, d] = scene.hosts[n - 1].1;
        let address = format!("{a}.{b}.{c}.{d}:{PORT}");
        let _silent = scene.lab.host(n).serve(&["exact-udp-sink", "--bind", &address])?;
        let reports = send(&scene, case)?;
        assert_eq!(reports.last().context("a report")?.sentence, *sentence, "{}", case.what);
        if let [first, _] = &reports[..] {
            let known = first.known.join("\n");
            assert!(known.ends_with("is node h2's own in network blue"), "{known}");
        }
        foretold.push((case, reports));
    }
    captures.compare(&foretold)
}

#[test]
fn what_is_more_than_bridged_is_foretold_over_ipv4() -> Result<()> {
    everything("dtkind", false)
}

#[test]
fn what_is_more_than_bridged_is_foretold_over_ipv6() -> Result<()> {
    everything("dtkinv", true)
}

/// The fragments are made behind a device, where the trace ends; it says so.
#[test]
fn what_is_cut_is_foretold_as_far_as_the_device_that_cuts_it() -> Result<()> {
    let scene = scene("dtfrag", false)?;
    let frame = scene.sender.may_be_cut(NEAR.0, 1350)?;
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let reports = scene.lab.trace(&["--from", "a", "--packet", &hex], &scene.a)?;
    assert_eq!(reports[0].verdict, "fragment", "{reports:#?}");
    assert!(reports[0].unknown.iter().any(|text| text.contains("fragments")), "{reports:#?}");
    let file = scene.lab.directory().join("near.pcap");
    let capture = Capture::start(|line| scene.near.command(line), "eth0", "ip", file)?;
    let before = scene.lab.host(1).counts()?;
    scene.a.send_frame(&frame, 1)?;
    until("both fragments are delivered", || {
        scene.lab.host(1).counts().is_ok_and(|now| now.since(&before).get("from_frag action local") == 2)
    })?;
    let moved = scene.lab.host(1).counts()?.since(&before);
    assert_eq!(moved.get("from_container action fragment"), 1, "{moved:?}");
    let lines = capture.text(&["-v"])?;
    assert_eq!(lines.iter().filter(|line| line.contains("id 4711")).count(), 2, "{lines:#?}");
    Ok(())
}
