//! Packets to the gateway's MAC: into another subnet, into a network that is opened, or nowhere.

use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{
        BLUE, CA1, CA2, CB1, Container, FAMILIES, Family, GATEWAY_V4, GATEWAY_V6, GB1, GREEN, HOST_A, HOST_B,
        NOBODY_V4, Network, OVERLAY_MTU,
    },
    frame::{self, ETH, INNER, IPV4, IPV6, Outer, Path, TTL, assert_same, on_the_wire},
    icmp::Kind,
    ledger::{action, dropped, received, sent},
    load::Globals,
    routing::{self, RA1, RA2, RB1, RB2, RED, RED_GATEWAYS, RED_NOBODY, answered, refused, routed, with_ttl},
    walk::{Gso, Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 5000);
const PAYLOAD: &[u8] = b"through the gateway";
const HOOK: Hook = Hook::FromContainer;

const NO_ROUTE: Kind = Kind { v4: (3, 0), v6: (1, 0), mtu: 0 };
const NO_HOST: Kind = Kind { v4: (3, 1), v6: (1, 3), mtu: 0 };
const NO_PORT: Kind = Kind { v4: (3, 3), v6: (1, 4), mtu: 0 };
const TTL_EXCEEDED: Kind = Kind { v4: (11, 0), v6: (3, 0), mtu: 0 };

/// BLUE and RED are opened to each other.
fn rig(stage: &Stage) -> Rig {
    rig_with(stage, &[&BLUE], OVERLAY_MTU as u16)
}

fn rig_with(stage: &Stage, from: &[&Network], mtu: u16) -> Rig {
    stage.rig_with(&HOST_A, &routing::objects(&HOST_A, from, mtu), Globals::default())
}

/// By way of the gateway.
fn path(from: &Container, to: &Container, family: Family) -> Path {
    Path::between(from, to, family).with_dst_mac(from.network.gateway_mac)
}

/// A frame is routed to a container of this host.
#[track_caller]
fn delivered(rig: &mut Rig, from: &Container, to: &Container, what: &str, frame: &[u8]) {
    let ran = rig.run(rig.port(from), frame);
    let length = frame.len();
    let mut expected = vec![action(HOOK, Action::Local, length), action(HOOK, Action::Routed, length)];
    expected.extend([sent(from, length), received(to, length)]);
    ran.assert(what, Verdict::Sent, &expected);
    assert_same(what, &ran.bytes, &routed(frame, to));
    assert_eq!(frame::fault(&ran.bytes), None, "{what}");
}

/// A frame is routed to a container of the other host; the packet on the wire.
#[track_caller]
fn tunnelled(rig: &mut Rig, from: &Container, to: &Container, what: &str, frame: &[u8]) -> Vec<u8> {
    let ran = rig.run(rig.port(from), frame);
    let length = frame.len();
    let expected =
        [action(HOOK, Action::Remote, length), action(HOOK, Action::Routed, length), sent(from, length)];
    ran.assert(what, Verdict::Sent, &expected);
    let packet = on_the_wire(ran.bytes, &HOST_A, &HOST_B);
    let src_port = u16::from_be_bytes([packet[ETH + IPV4], packet[ETH + IPV4 + 1]]);
    let outer = Outer { src_port, ..Outer::between(&HOST_A, &HOST_B, to.network.vni) };
    assert_same(what, &packet, &outer.around(&routed(frame, to)));
    assert_eq!(frame::fault(&packet[INNER..]), None, "{what}");
    packet
}

#[test]
fn opened_networks_reach_each_other_near_and_far() {
    let mut rig = rig(&Stage::enter());
    for family in FAMILIES {
        for (from, near, far) in [(&CA1, &RA1, &RB1), (&CA1, &RA2, &RB2), (&RA1, &CA1, &CB1)] {
            for length in [0, 1, 1000] {
                let payload = vec![3; length];
                let what = format!("{length} bytes, {family:?}, {} to {}", from.name, near.name);
                delivered(&mut rig, from, near, &what, &path(from, near, family).udp(PORTS, &payload));
                let what = format!("{length} bytes, {family:?}, {} to {}", from.name, far.name);
                tunnelled(&mut rig, from, far, &what, &path(from, far, family).tcp(PORTS, &payload));
            }
            let largest = path(from, far, family).of_length(ETH + OVERLAY_MTU);
            tunnelled(&mut rig, from, far, "the largest packet", &largest);
        }
    }
}

#[test]
fn subnets_of_a_network_reach_each_other() {
    let mut rig = rig_with(&Stage::enter(), &[], OVERLAY_MTU as u16);
    for family in FAMILIES {
        delivered(&mut rig, &RA1, &RA2, "near", &path(&RA1, &RA2, family).ping(PAYLOAD));
        tunnelled(&mut rig, &RA1, &RB2, "far", &path(&RA1, &RB2, family).ping(PAYLOAD));
        delivered(&mut rig, &CA1, &CA2, "in one subnet", &path(&CA1, &CA2, family).ping(PAYLOAD));
        let own = path(&CA1, &CA1, family).ping(PAYLOAD);
        refused(&mut rig, &CA1, "to itself", &own, DropReason::Hairpin);
    }
}

/// Every time to live, so that the checksum's update carries.
#[test]
fn each_hop_is_counted() {
    let mut rig = rig(&Stage::enter());
    for family in FAMILIES {
        for ttl in 2..=255 {
            let frame = with_ttl(path(&CA1, &RA1, family).udp(PORTS, &[ttl; 3]), ttl);
            let (verdict, bytes) = rig.run_uncounted(rig.port(&CA1), &frame, Gso::default());
            assert_eq!((verdict, frame::fault(&bytes)), (Verdict::Sent, None), "TTL {ttl}");
            assert_same("one less", &bytes, &routed(&frame, &RA1));
        }
    }
    let frame = path(&CA1, &RA1, Family::V4).udp(PORTS, PAYLOAD);
    for n in 0..=u16::MAX {
        let mut frame = frame.clone();
        frame[ETH + 4..ETH + 6].copy_from_slice(&n.to_be_bytes());
        frame::fix_ip_checksum(&mut frame, ETH);
        let (_, bytes) = rig.run_uncounted(rig.port(&CA1), &frame, Gso::default());
        assert_eq!(frame::fault(&bytes), None, "ID {n}");
    }
}

#[test]
fn a_packet_at_its_last_hop_is_answered() {
    let mut rig = rig(&Stage::enter());
    let reason = DropReason::TtlExceeded;
    for family in FAMILIES {
        for (from, to) in [(&CA1, &RA1), (&CA1, &RB1), (&RA1, &CA1)] {
            for length in [0, 1, 2, 3, 60, 85, 86, 87, 100, 1000] {
                let frame = with_ttl(path(from, to, family).udp(PORTS, &vec![5; length]), 1);
                let what = format!("{length} bytes from {}, {family:?}", from.name);
                answered(&mut rig, from, &what, &frame, reason, TTL_EXCEEDED);
            }
        }
        let probe = with_ttl(path(&CA1, &RA1, family).ping(PAYLOAD), 1);
        answered(&mut rig, &CA1, "a ping", &probe, reason, TTL_EXCEEDED);
        let gone = with_ttl(path(&CA1, &RA1, family).ping(PAYLOAD), 0);
        answered(&mut rig, &CA1, "no hop at all", &gone, reason, TTL_EXCEEDED);
        let mut padded = with_ttl(path(&CA1, &RA1, family).udp(PORTS, &[]), 1);
        padded.extend([0; 18]);
        answered(&mut rig, &CA1, "padding is not quoted", &padded, reason, TTL_EXCEEDED);
    }
    // RFC 1122 section 3.2.2: not about errors, nor about later fragments.
    let mut error = with_ttl(path(&CA1, &RA1, Family::V4).ping(PAYLOAD), 1);
    error[ETH + IPV4] = 11;
    refused(&mut rig, &CA1, "an error", &error, reason);
    let error = path(&CA1, &RA1, Family::V6).icmpv6(3, 0, [0; 4], PAYLOAD, 1);
    refused(&mut rig, &CA1, "an ICMPv6 error", &error, reason);
    let mut later = path(&CA1, &RA1, Family::V4).udp(PORTS, PAYLOAD);
    later[ETH + 7] = 9;
    refused(&mut rig, &CA1, "a later fragment", &with_ttl(later, 1), reason);
}

#[test]
fn what_is_not_opened_has_no_route() {
    let stage = Stage::enter();
    let mut rig = rig_with(&stage, &[&GREEN], OVERLAY_MTU as u16);
    let reason = DropReason::NoRoute;
    for family in FAMILIES {
        for to in [&RA1, &RB2] {
            let frame = path(&CA1, to, family).tcp(PORTS, PAYLOAD);
            answered(&mut rig, &CA1, "closed", &frame, reason, NO_ROUTE);
        }
        let world: std::net::IpAddr = match family {
            Family::V4 => [8, 8, 8, 8].into(),
            Family::V6 => "2001:db8::8".parse().expect("an address"),
        };
        let frame = path(&CA1, &RA1, family).with_dst(world).udp(PORTS, PAYLOAD);
        answered(&mut rig, &CA1, "the world", &frame, reason, NO_ROUTE);
    }
    // GREEN, which RED lets in, has the addresses of BLUE.
    let frame = path(&RA1, &CB1, Family::V4).udp(PORTS, PAYLOAD);
    tunnelled(&mut rig, &RA1, &GB1, "to GREEN's, not to BLUE's", &frame);
}

#[test]
fn addresses_that_nobody_has() {
    let mut rig = rig(&Stage::enter());
    let reason = DropReason::NoRoute;
    let (v4, v6) = RED_NOBODY;
    let to = |family| path(&CA1, &RA1, family);
    answered(&mut rig, &CA1, "IPv4", &to(Family::V4).with_dst(v4).udp(PORTS, PAYLOAD), reason, NO_HOST);
    answered(&mut rig, &CA1, "IPv6", &to(Family::V6).with_dst(v6).udp(PORTS, PAYLOAD), reason, NO_HOST);
    let own = to(Family::V4).with_dst(NOBODY_V4).udp(PORTS, PAYLOAD);
    answered(&mut rig, &CA1, "in the own subnet", &own, reason, NO_HOST);
    let node = HOST_B.blue_address.expect("it has one");
    let node = to(Family::V4).with_dst(node).udp(PORTS, PAYLOAD);
    answered(&mut rig, &CA1, "a node's own address", &node, reason, NO_HOST);
    let at_once = with_ttl(to(Family::V4).with_dst([8, 8, 8, 8]).udp(PORTS, PAYLOAD), 1);
    answered(&mut rig, &CA1, "no route comes before the last hop", &at_once, reason, NO_ROUTE);
    for group in [[224, 0, 0, 1], [255, 255, 255, 255]] {
        refused(&mut rig, &CA1, "a group", &to(Family::V4).with_dst(group).udp(PORTS, PAYLOAD), reason);
    }
    let group: std::net::Ipv6Addr = "ff05::2".parse().expect("an address");
    refused(&mut rig, &CA1, "a group", &to(Family::V6).with_dst(group).udp(PORTS, PAYLOAD), reason);
    let mapped = RA1.v4.to_ipv6_mapped();
    let mapped = to(Family::V6).with_dst(mapped).udp(PORTS, PAYLOAD);
    refused(&mut rig, &CA1, "an IPv4 address in an IPv6 packet", &mapped, DropReason::Malformed);
}

/// RFC 4291 section 2.5.6.
#[test]
fn link_local_addresses_stay_on_their_link() {
    let mut rig = rig(&Stage::enter());
    let path = path(&CA1, &RA1, Family::V6);
    let beyond = Kind { v4: (3, 0), v6: (1, 2), mtu: 0 };
    let frame = path.with_src(CA1.link_local()).udp(PORTS, PAYLOAD);
    answered(&mut rig, &CA1, "a source", &frame, DropReason::NoRoute, beyond);
    let frame = path.with_dst(CA2.link_local()).udp(PORTS, PAYLOAD);
    answered(&mut rig, &CA1, "a destination", &frame, DropReason::NoRoute, NO_ROUTE);
}

#[test]
fn gateways_of_other_subnets_and_networks_answer_pings_alone() {
    let mut rig = rig(&Stage::enter());
    for (from, gateway) in [(&CA1, RED_GATEWAYS), (&RA2, RED_GATEWAYS), (&RA1, (GATEWAY_V4, GATEWAY_V6))] {
        for family in FAMILIES {
            let path = match family {
                Family::V4 => path(from, &RA1, family).with_dst(gateway.0),
                Family::V6 => path(from, &RA1, family).with_dst(gateway.1),
            };
            for ttl in [1, TTL] {
                let ping = with_ttl(path.ping(PAYLOAD), ttl);
                let ran = rig.run(rig.port(from), &ping);
                ran.assert("a ping", Verdict::Sent, &[action(HOOK, Action::Answered, ping.len())]);
                let back =
                    Path { src_mac: path.dst_mac, dst_mac: path.src_mac, src: path.dst, dst: path.src };
                assert_same("the reply", &ran.bytes, &back.pong(PAYLOAD));
            }
            for frame in [path.udp(PORTS, PAYLOAD), path.tcp(PORTS, &[])] {
                answered(&mut rig, from, "no ports", &frame, DropReason::NoRoute, NO_PORT);
            }
            refused(&mut rig, from, "a reply", &path.pong(PAYLOAD), DropReason::NoRoute);
        }
    }
}

#[test]
fn the_smaller_network_and_the_way_there_limit_the_size() {
    let stage = Stage::enter();
    let mut rig = rig_with(&stage, &[&BLUE], 1300);
    let too_big = |mtu| Kind { v4: (3, 4), v6: (2, 0), mtu };
    for family in FAMILIES {
        for to in [&RA1, &RB1] {
            let fits = path(&CA1, to, family).of_length(ETH + 1300);
            let ran = rig.run(rig.port(&CA1), &fits);
            assert_eq!(ran.verdict, Verdict::Sent);
            assert!(
                ran.changes.lines().keys().any(|name| name.contains("routed")),
                "{:?}",
                ran.changes.lines()
            );
            let frame = path(&CA1, to, family).of_length(ETH + 1301);
            answered(&mut rig, &CA1, to.name, &frame, DropReason::TooBig, too_big(1300));
        }
        let frame = path(&RA1, &CB1, family).of_length(ETH + OVERLAY_MTU + 1);
        answered(&mut rig, &RA1, "the underlay", &frame, DropReason::TooBig, too_big(OVERLAY_MTU as u16));
    }
}

#[test]
fn segments_are_routed_as_one_packet() {
    let mut rig = rig(&Stage::enter());
    for family in FAMILIES {
        for to in [&RA1, &RB1] {
            let frame = path(&CA1, to, family).tcp(PORTS, &[1; 2800]);
            let ran = rig.run_gso(rig.port(&CA1), &frame, Gso { size: 1390, segments: 3 });
            assert_eq!(ran.verdict, Verdict::Sent);
            let count = |name: &str| ran.changes.lines().get(name).copied().unwrap_or(0);
            assert_eq!(count("actions from_container routed packets"), 3, "{:?}", ran.changes.lines());
            // Toward the other host through the `vxlan` device: a test run's GSO packets are of no type that takes headers.
            assert_same("the whole packet", &ran.bytes, &routed(&frame, to));
        }
    }
    let frame = path(&CA1, &RB1, Family::V4).tcp(PORTS, &[1; 3000]);
    let ran = rig.run_gso(rig.port(&CA1), &frame, Gso { size: 1460, segments: 3 });
    assert!(
        ran.changes.lines().contains_key("drops from_container too_big packets"),
        "{:?}",
        ran.changes.lines()
    );
}

/// A router does not look behind the IP header, nor at the options in it.
#[test]
fn fragments_options_and_extension_headers_are_routed() {
    let mut rig = rig(&Stage::enter());
    let whole = path(&CA1, &RA1, Family::V4).udp(PORTS, &[1; 64]);
    for field in [[0x20, 0], [0, 4]] {
        let mut frame = whole.clone();
        frame[ETH + 6..ETH + 8].copy_from_slice(&field);
        frame::fix_ip_checksum(&mut frame, ETH);
        delivered(&mut rig, &CA1, &RA1, "a fragment", &frame);
    }
    let mut options = [&whole[..ETH + IPV4], &[1; 8], &whole[ETH + IPV4..]].concat();
    options[ETH] = 0x47;
    let length = ((options.len() - ETH) as u16).to_be_bytes();
    options[ETH + 2..ETH + 4].copy_from_slice(&length);
    frame::fix_ip_checksum(&mut options, ETH);
    delivered(&mut rig, &CA1, &RA1, "options", &options);
    let whole = path(&CA1, &RA1, Family::V6).udp(PORTS, &[1; 64]);
    let mut behind = [&whole[..ETH + IPV6], &[17, 0, 1, 4, 0, 0, 0, 0], &whole[ETH + IPV6..]].concat();
    behind[ETH + 6] = 60;
    let length = ((behind.len() - ETH - IPV6) as u16).to_be_bytes();
    behind[ETH + 4..ETH + 6].copy_from_slice(&length);
    let ran = rig.run(rig.port(&CA1), &behind);
    assert_same("destination options", &ran.bytes, &routed(&behind, &RA1));
}

#[test]
fn a_source_that_is_not_the_containers_is_not_routed() {
    let mut rig = rig(&Stage::enter());
    let frame = path(&CA1, &RA1, Family::V4).with_src(CA2.v4).udp(PORTS, PAYLOAD);
    refused(&mut rig, &CA1, "another one's", &frame, DropReason::SpoofIp);
    let frame = path(&CA1, &RB1, Family::V4).with_src(RA1.v4).udp(PORTS, PAYLOAD);
    refused(&mut rig, &CA1, "one of the other network", &frame, DropReason::SpoofIp);
}

/// What one host routes, the other one takes, by a record of the source in the destination's network.
#[test]
fn the_other_host_takes_what_was_routed() {
    let stage = Stage::enter();
    let mut sender = rig(&stage);
    let open = |from: &[&Network]| {
        stage.rig_with(&HOST_B, &routing::objects(&HOST_B, from, OVERLAY_MTU as u16), Globals::default())
    };
    let hook = Hook::FromUplink;
    let packets: Vec<_> = FAMILIES
        .iter()
        .flat_map(|family| [(&CA1, &RB1, *family), (&RA2, &CB1, *family), (&RA1, &RB2, *family)])
        .map(|(from, to, family)| {
            let frame = path(from, to, family).udp(PORTS, PAYLOAD);
            (from, to, tunnelled(&mut sender, from, to, "out", &frame))
        })
        .collect();
    let mut receiver = open(&[&BLUE]);
    for (_, to, packet) in &packets {
        let length = packet.len();
        let ran = receiver.run(receiver.uplink(), packet);
        let expected = [action(hook, Action::Local, length), received(to, length - INNER)];
        ran.assert("opened", Verdict::Sent, &expected);
        assert_same("inside", &ran.bytes, &packet[INNER..]);
        let ran = receiver.run(receiver.uplink_xdp(), packet);
        ran.assert("XDP", Verdict::ToStack, &[action(Hook::FromUplinkXdp, Action::Checked, length)]);
    }
    // From a node that is not the source's home.
    let forged = Outer::between(&fabric_tests::cast::HOST_C, &HOST_B, RED.vni);
    let packet = forged.around(&packets[0].2[INNER..]);
    let ran = receiver.run(receiver.uplink(), &packet);
    ran.assert("forged", Verdict::Taken, &[dropped(hook, DropReason::VtepNotInVni, packet.len())]);
}
