//! Static routes of a network: packets for a prefix go to the endpoint that leads there, and that one alone may send with sources
//! from there.
//!
//! ```text
//! BLUE: 10.9.0.0/16 and fd00:9::/32 by CA2 (HOST_A); 10.9.8.0/24 and fd00:9:8::/48 by CB1; all else by CB2 (HOST_B)
//! ```

use std::net::IpAddr;

use fabric_api::{Object, object::Route};
use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{
        BLUE, CA1, CA2, CB1, CB2, Container, FAMILIES, Family, GREEN, HOST_A, HOST_B, HOST_C, Host,
        NOBODY_V4, NOBODY_V6, OVERLAY_MTU,
    },
    frame::{self, Arp, ETH, INNER, IPV4, Outer, Path, assert_same, on_the_wire},
    icmp::{self, Kind},
    ledger::{action, dropped, received, sender_dropped, sent},
    load::Globals,
    routing::{self, RA1, answered, refused, routed, with_ttl},
    walk::{Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 5000);
const PAYLOAD: &[u8] = b"by way of a router";
const HOOK: Hook = Hook::FromContainer;
const NO_ROUTE: Kind = Kind { v4: (3, 0), v6: (1, 0), mtu: 0 };
const NO_HOST: Kind = Kind { v4: (3, 1), v6: (1, 3), mtu: 0 };
const TTL_EXCEEDED: Kind = Kind { v4: (11, 0), v6: (3, 0), mtu: 0 };

/// Behind CA2, behind CB1 inside of that, and behind CB2.
const BEHIND_CA2: [&str; 2] = ["10.9.1.2", "fd00:9:1::2"];
const BEHIND_CB1: [&str; 2] = ["10.9.8.2", "fd00:9:8::2"];
const BEHIND_CB2: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The one of the family.
fn of(family: Family, [v4, v6]: [&str; 2]) -> IpAddr {
    ip(if family == Family::V4 { v4 } else { v6 })
}

fn with_routes(mut objects: Vec<Object>, routes: &[(&str, IpAddr)]) -> Vec<Object> {
    for object in &mut objects {
        if let Object::Network(network) = object
            && network.metadata.name == BLUE.name
        {
            network.spec.routes = routes
                .iter()
                .map(|(prefix, next_hop)| Route {
                    prefix: prefix.parse().expect("a prefix"),
                    next_hop: *next_hop,
                })
                .collect();
        }
    }
    objects
}

/// BLUE, with RED opened to it.
fn rig(stage: &Stage, host: &'static Host) -> Rig {
    let routes = [
        ("10.9.0.0/16", CA2.v4.into()),
        ("10.9.8.0/24", CB1.v4.into()),
        ("0.0.0.0/0", CB2.v4.into()),
        ("fd00:9::/32", CA2.v6.into()),
        ("fd00:9:8::/48", CB1.v6.into()),
        ("::/0", CB2.v6.into()),
    ];
    let objects = routing::objects(host, &[&BLUE], OVERLAY_MTU as u16);
    stage.rig_with(host, &with_routes(objects, &routes), Globals::default())
}

/// Through the gateway to somewhere else.
fn path(from: &Container, family: Family, to: [&str; 2]) -> Path {
    Path::between(from, from, family).with_dst_mac(from.network.gateway_mac).with_dst(of(family, to))
}

#[track_caller]
fn tunnelled(rig: &mut Rig, from: &Container, what: &str, frame: &[u8], inner: &[u8], routed: bool) {
    let ran = rig.run(rig.port(from), frame);
    let length = frame.len();
    let mut expected = vec![action(HOOK, Action::Remote, length), sent(from, length)];
    if routed {
        expected.push(action(HOOK, Action::Routed, length));
    }
    ran.assert(what, Verdict::Sent, &expected);
    let packet = on_the_wire(ran.bytes, &HOST_A, &HOST_B);
    let src_port = u16::from_be_bytes([packet[ETH + IPV4], packet[ETH + IPV4 + 1]]);
    let outer = Outer { src_port, ..Outer::between(&HOST_A, &HOST_B, BLUE.vni) };
    assert_same(what, &packet, &outer.around(inner));
}

#[test]
fn the_longest_prefix_says_who_leads_there() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    for family in FAMILIES {
        let frame = path(&CA1, family, BEHIND_CA2).udp(PORTS, PAYLOAD);
        let ran = rig.run(rig.port(&CA1), &frame);
        let length = frame.len();
        let expected = [
            action(HOOK, Action::Local, length),
            action(HOOK, Action::Routed, length),
            sent(&CA1, length),
            received(&CA2, length),
        ];
        ran.assert("a next hop on this host", Verdict::Sent, &expected);
        assert_same("one hop less", &ran.bytes, &routed(&frame, &CA2));
        assert_eq!(frame::fault(&ran.bytes), None);
        for (to, next_hop) in [(BEHIND_CB1, &CB1), (BEHIND_CB2, &CB2)] {
            let frame = path(&CA1, family, to).tcp(PORTS, PAYLOAD);
            tunnelled(&mut rig, &CA1, "a next hop on another", &frame, &routed(&frame, next_hop), true);
        }
        let frame = Path::between(&CA1, &CB1, family).with_dst_mac(BLUE.gateway_mac).udp(PORTS, PAYLOAD);
        tunnelled(&mut rig, &CA1, "not what is in a subnet", &frame, &routed(&frame, &CB1), true);
        let last = with_ttl(path(&CA1, family, BEHIND_CB2).udp(PORTS, PAYLOAD), 1);
        answered(&mut rig, &CA1, "the last hop", &last, DropReason::TtlExceeded, TTL_EXCEEDED);
    }
}

#[test]
fn the_next_hop_alone_sends_from_behind_it() {
    let stage = Stage::enter();
    let (mut a, mut b) = (rig(&stage, &HOST_A), rig(&stage, &HOST_B));
    for family in FAMILIES {
        let from = |who: &Container, to: &Container, src: [&str; 2]| {
            Path::between(who, to, family).with_src(of(family, src)).udp(PORTS, PAYLOAD)
        };
        let frame = from(&CA2, &CA1, BEHIND_CA2);
        let ran = a.run(a.port(&CA2), &frame);
        let length = frame.len();
        let expected = [action(HOOK, Action::Local, length), sent(&CA2, length), received(&CA1, length)];
        ran.assert("near", Verdict::Sent, &expected);
        let frame = from(&CA2, &CB1, BEHIND_CA2);
        tunnelled(&mut a, &CA2, "far", &frame, &frame, false);
        let lies = [(&CA1, BEHIND_CA2), (&CA1, BEHIND_CB2), (&CA2, BEHIND_CB1), (&CA2, BEHIND_CB2)];
        for (who, src) in lies {
            let frame = from(who, &CB1, src);
            refused(&mut a, who, &format!("{} as {src:?}", who.name), &frame, DropReason::SpoofIp);
        }
    }
    // However wide its prefix is.
    for src in [
        "127.0.0.1",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "192.168.10.1",
        "192.168.10.200",
        "192.168.10.11",
        "192.168.20.200",
        "10.9.1.2",
        "::1",
        "ff02::1",
        "fe80::1234",
        "fd00:10::1",
        "fd00:10::200",
        "fd00:10::b",
        "fd00:20::200",
        "fd00:9:1::2",
    ] {
        let family = if ip(src).is_ipv4() { Family::V4 } else { Family::V6 };
        let frame = Path::between(&CB2, &CA1, family).with_src(ip(src)).udp(PORTS, PAYLOAD);
        refused(&mut b, &CB2, &format!("the next hop of all as {src}"), &frame, DropReason::SpoofIp);
    }
}

#[test]
fn the_receiving_host_believes_the_next_hops_host_alone() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    let inner = |src: &str| {
        let family = if ip(src).is_ipv4() { Family::V4 } else { Family::V6 };
        Path::between(&CB2, &CA1, family).with_src(ip(src)).udp(PORTS, PAYLOAD)
    };
    let hook = Hook::FromUplink;
    for src in BEHIND_CB1.into_iter().chain(BEHIND_CB2) {
        let packet = Outer::between(&HOST_B, &HOST_A, BLUE.vni).around(&inner(src));
        let early = rig.run(rig.uplink_xdp(), &packet);
        early.assert(src, Verdict::ToStack, &[action(Hook::FromUplinkXdp, Action::Checked, packet.len())]);
        let ran = rig.run(rig.uplink(), &packet);
        let expected = [action(hook, Action::Local, packet.len()), received(&CA1, packet.len() - INNER)];
        ran.assert(src, Verdict::Sent, &expected);
        assert_same(src, &ran.bytes, &inner(src));
    }
    let refused = |rig: &mut Rig, from: &Host, vni: u32, src: &str, reason: DropReason| {
        let packet = Outer::between(from, &HOST_A, vni).around(&inner(src));
        let ran = rig.run(rig.uplink(), &packet);
        let what = format!("{src} from {} in {vni}", from.name);
        ran.assert(&what, Verdict::Taken, &[dropped(hook, reason, packet.len())]);
    };
    for src in BEHIND_CA2.into_iter().chain([
        "127.0.0.1",
        "224.0.0.1",
        "192.168.10.200",
        "192.168.10.1",
        "192.168.20.200",
        "fd00:10::200",
        "fd00:20::200",
    ]) {
        refused(&mut rig, &HOST_B, BLUE.vni, src, DropReason::SpoofSource);
    }
    for src in BEHIND_CB2 {
        refused(&mut rig, &HOST_C, BLUE.vni, src, DropReason::VtepNotInVni);
        refused(&mut rig, &HOST_B, GREEN.vni, src, DropReason::SpoofSource);
        refused(&mut rig, &HOST_B, RA1.network.vni, src, DropReason::SpoofSource);
    }
}

#[test]
fn nothing_goes_round() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    for family in FAMILIES {
        let frame = path(&CA2, family, BEHIND_CA2).udp(PORTS, PAYLOAD);
        refused(&mut rig, &CA2, "back to the next hop", &frame, DropReason::Hairpin);
    }
    for to in ["127.0.0.1", "0.1.2.3", "169.254.1.1", "240.0.0.1", "::1", "fe80::1"] {
        let family = if ip(to).is_ipv4() { Family::V4 } else { Family::V6 };
        let frame = path(&CA1, family, [to, to]).udp(PORTS, PAYLOAD);
        let ran = rig.run(rig.port(&CA1), &frame);
        let lost = ran.changes.lines().get(&format!("drops {HOOK} {} packets", DropReason::NoRoute));
        assert_eq!(lost, Some(&1), "to {to}: {:#?}", ran.changes.lines());
    }
}

/// An opening is for what the networks have themselves.
#[test]
fn networks_that_are_opened_have_no_part_in_the_routes() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    for family in FAMILIES {
        for to in [BEHIND_CA2, BEHIND_CB1, BEHIND_CB2] {
            let frame = path(&RA1, family, to).udp(PORTS, PAYLOAD);
            let ran = rig.run(rig.port(&RA1), &frame);
            let answer = icmp::error_by(routing::RED_GATEWAYS, &RA1, &frame, NO_ROUTE);
            let told = action(HOOK, Action::IcmpError, answer.len());
            let expected = [dropped(HOOK, DropReason::NoRoute, frame.len()), sender_dropped(&RA1), told];
            ran.assert("from a network that is opened", Verdict::Sent, &expected);
            assert_same("the answer", &ran.bytes, &answer);
        }
        let frame =
            Path::between(&CA2, &RA1, family).with_dst_mac(BLUE.gateway_mac).with_src(of(family, BEHIND_CA2));
        let frame = frame.udp(PORTS, PAYLOAD);
        let ran = rig.run(rig.port(&CA2), &frame);
        let told = action(HOOK, Action::IcmpError, icmp::error(&CA2, &frame, NO_HOST).len());
        let expected = [dropped(HOOK, DropReason::NoRoute, frame.len()), sender_dropped(&CA2), told];
        ran.assert("into a network that is opened", Verdict::Sent, &expected);
    }
}

#[test]
fn a_next_hop_that_nobody_has_is_an_unreachable_host() {
    let routes = [("10.9.0.0/16", NOBODY_V4.into()), ("fd00:9::/32", NOBODY_V6.into())];
    let objects = with_routes(fabric_tests::cast::objects(&HOST_A), &routes);
    let mut rig = Stage::enter().rig_with(&HOST_A, &objects, Globals::default());
    for family in FAMILIES {
        let frame = path(&CA1, family, BEHIND_CA2).udp(PORTS, PAYLOAD);
        answered(&mut rig, &CA1, "nobody leads there", &frame, DropReason::NoRoute, NO_HOST);
        let frame = path(&CA1, family, BEHIND_CB2).udp(PORTS, PAYLOAD);
        answered(&mut rig, &CA1, "no route", &frame, DropReason::NoRoute, NO_ROUTE);
    }
}

/// A router asks in the name of its own addresses behind the fabric, when it sends from them.
#[test]
fn the_next_hop_asks_for_neighbours_as_what_is_behind_it() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (ip(BEHIND_CA2[0]), ip(BEHIND_CA2[1])) else {
        unreachable!("one of each")
    };
    for (who, honest) in [(&CA2, true), (&CA1, false)] {
        let arp = Arp { sender: v4, ..Arp::who_has(who, CB1.v4) }.frame();
        let option = [&[1, 1][..], &who.mac.bytes].concat();
        let path = Path::between(who, &CB1, Family::V6).with_src(v6);
        let solicitation = path.icmpv6(135, 0, [0; 4], &[&CB1.v6.octets()[..], &option].concat(), 255);
        for (frame, lie) in [(arp, DropReason::SpoofArp), (solicitation, DropReason::SpoofNd)] {
            if !honest {
                refused(&mut rig, who, "in the name of another's", &frame, lie);
                continue;
            }
            let ran = rig.run(rig.port(who), &frame);
            ran.assert("answered", Verdict::Sent, &[action(HOOK, Action::Answered, frame.len())]);
            assert_eq!(ran.bytes[..12], [who.mac.bytes, CB1.mac.bytes].concat(), "to whom, from whom");
            assert_eq!(frame::fault(&ran.bytes), None);
        }
    }
}
