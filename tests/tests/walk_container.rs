//! The life of what a container sends: lies end here, the rest goes to a container next door or into the tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_common::{
    addr::Mac,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{
        self, BLUE, CA1, CA2, CB1, FAMILIES, Family, GATEWAY_V4, GATEWAY_V6, HOST_A, HOST_B, NOBODY_MAC,
        NOBODY_V4, NOBODY_V6,
    },
    frame::{self, Arp, BROADCAST, ETH, INNER, IPV4, IPV6, Outer, Path, assert_same, on_the_wire},
    icmp::{self, Kind},
    ledger::{action, dropped, received, sender_dropped, sent},
    random::Random,
    routing,
    walk::{Gso, Rig, Stage, Verdict, can_run},
    wire::Wire,
};

const PORTS: (u16, u16) = (4000, 5000);
const PAYLOAD: &[u8] = b"out of the container";
const HOOK: Hook = Hook::FromContainer;

fn path(family: Family) -> Path {
    Path::between(&CA1, &CB1, family)
}

/// CA1 sends a frame that must be dropped.
#[track_caller]
fn refused(rig: &mut Rig, what: &str, frame: &[u8], reason: DropReason) {
    let ran = rig.run(rig.port(&CA1), frame);
    ran.assert(what, Verdict::Taken, &[dropped(HOOK, reason, frame.len()), sender_dropped(&CA1)]);
}

fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Recipe R5, addresses and MACs.
#[test]
fn a_container_sends_only_as_itself() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let v4 = |src: Ipv4Addr| path(Family::V4).with_src(src).udp(PORTS, PAYLOAD);
    let v6 = |src: Ipv6Addr| path(Family::V6).with_src(src).udp(PORTS, PAYLOAD);
    let cases = [
        ("its neighbour's address", v4(CA2.v4)),
        ("a remote container's address", v4(CB1.v4)),
        ("an address of nobody", v4(NOBODY_V4)),
        ("the gateway's address", v4(GATEWAY_V4)),
        ("the host's address in the network", v4(HOST_A.blue_address.expect("it has one"))),
        ("the host's VTEP address", v4(HOST_A.vtep)),
        ("loopback", v4(Ipv4Addr::LOCALHOST)),
        ("no address", v4(Ipv4Addr::UNSPECIFIED)),
        ("broadcast", v4(Ipv4Addr::BROADCAST)),
        ("a multicast address", v4(Ipv4Addr::new(224, 0, 0, 1))),
        ("its neighbour's IPv6 address", v6(CA2.v6)),
        ("its neighbour's link-local address", v6(CA2.link_local())),
        ("a remote container's IPv6 address", v6(CB1.v6)),
        ("an IPv6 address of nobody", v6(NOBODY_V6)),
        ("the gateway's IPv6 address", v6(GATEWAY_V6)),
        ("IPv6 loopback", v6(Ipv6Addr::LOCALHOST)),
        ("no IPv6 address, to one receiver", v6(Ipv6Addr::UNSPECIFIED)),
    ];
    for (name, frame) in &cases {
        refused(&mut rig, name, frame, DropReason::SpoofIp);
    }
    for v4 in [CA1.v4, CA2.v4, CB1.v4] {
        refused(
            &mut rig,
            "an IPv4 address in an IPv6 packet",
            &v6(v4.to_ipv6_mapped()),
            DropReason::Malformed,
        );
    }
    for family in FAMILIES {
        for mac in [CA2.mac, CB1.mac, BLUE.gateway_mac, HOST_A.mac, NOBODY_MAC, Mac::ZERO, BROADCAST] {
            refused(
                &mut rig,
                "another MAC",
                &path(family).with_src_mac(mac).udp(PORTS, PAYLOAD),
                DropReason::SpoofMac,
            );
        }
    }
    let arp = Arp { eth_src: CA2.mac, ..Arp::who_has(&CA1, CB1.v4) };
    refused(&mut rig, "ARP from another MAC", &arp.frame(), DropReason::SpoofMac);
}

/// Recipe R5: DHCP is not allowed by anything yet.
#[test]
fn dhcp_is_refused() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let dhcp = Path { dst_mac: BROADCAST, ..path(Family::V4) }
        .with_src(Ipv4Addr::UNSPECIFIED)
        .with_dst(Ipv4Addr::BROADCAST);
    refused(&mut rig, "DHCP", &dhcp.udp((68, 67), PAYLOAD), DropReason::SpoofIp);
}

/// Recipe R5: a container's own VXLAN packet is a packet like any other, and only a VTEP is believed.
#[test]
fn a_containers_own_vxlan_is_no_tunnel_packet() {
    let stage = Stage::enter();
    let (mut a, mut b) = (stage.rig(&HOST_A), stage.rig(&HOST_B));
    let forged = Outer {
        src_mac: CA1.mac,
        dst_mac: BLUE.gateway_mac,
        src: CA1.v4.into(),
        ..Outer::between(&HOST_A, &HOST_B, BLUE.vni)
    };
    let forged = forged.around(&path(Family::V4).udp(PORTS, PAYLOAD));
    let ran = a.run(a.port(&CA1), &forged);
    let no_route = Kind { v4: (3, 0), v6: (1, 0), mtu: 0 };
    let told = action(HOOK, Action::IcmpError, icmp::error(&CA1, &forged, no_route).len());
    let drop = dropped(HOOK, DropReason::NoRoute, forged.len());
    ran.assert("to the gateway", Verdict::Sent, &[drop, sender_dropped(&CA1), told]);
    let arrived = on_the_wire(forged, &HOST_A, &HOST_B);
    let ran = b.run(b.uplink(), &arrived);
    let drop = dropped(Hook::FromUplink, DropReason::UnknownVtep, arrived.len());
    ran.assert("if the host had routed it", Verdict::Taken, &[drop]);
}

#[test]
fn what_is_no_plain_ip_is_refused() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let frame = path(Family::V4).udp(PORTS, PAYLOAD);
    for tag in [[0x81, 0, 0, 5], [0x88, 0xa8, 0, 5]] {
        let tagged = [&frame[..12], &tag, &frame[12..]].concat();
        refused(&mut rig, "a VLAN tag", &tagged, DropReason::VlanTag);
    }
    for ether_type in [0x0000, 0x0027, 0x8847, 0x8863, 0x88cc, 0xffff] {
        let frame = frame::ethernet(CA1.mac, CB1.mac, ether_type, &[0; 46]);
        refused(&mut rig, "another EtherType", &frame, DropReason::UnsupportedEthertype);
    }
}

/// Frames below 14 bytes never get to a program. Those that the kernel does not run a program on for a test come in for
/// real.
#[test]
fn frames_cut_anywhere_are_malformed() {
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.attach(rig.port(&CA1));
    let mut wire = Wire::into_port(&rig, &CA1);
    let whole = [
        path(Family::V4).udp(PORTS, PAYLOAD),
        path(Family::V6).tcp(PORTS, PAYLOAD),
        Arp::who_has(&CA1, CB1.v4).frame(),
    ];
    for frame in whole {
        for length in ETH..frame.len() {
            let (what, cut) = (format!("cut to {length} bytes"), &frame[..length]);
            if can_run(cut) {
                refused(&mut rig, &what, cut, DropReason::Malformed);
                continue;
            }
            wire.inject(cut);
            let expected = [dropped(HOOK, DropReason::Malformed, length), sender_dropped(&CA1)];
            rig.changes().assert(&what, &expected);
        }
    }
}

#[test]
fn wrong_headers_are_malformed() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let v4 = path(Family::V4).udp(PORTS, PAYLOAD);
    let v6 = path(Family::V6).udp(PORTS, PAYLOAD);
    let length =
        |frame: &[u8], header: usize, more: u16| ((frame.len() - ETH - header) as u16 + more).to_be_bytes();
    let arp = Arp::who_has(&CA1, CB1.v4).frame();
    let cases = [
        ("IPv4 with version 6", with(v4.clone(), ETH, &[0x65])),
        ("IPv4 with version 0", with(v4.clone(), ETH, &[0x05])),
        ("IPv4 header length 0", with(v4.clone(), ETH, &[0x40])),
        ("IPv4 header length 16", with(v4.clone(), ETH, &[0x44])),
        ("IPv4 header longer than the packet", with(v4.clone(), ETH, &[0x4f])),
        ("IPv4 total length 0", with(v4.clone(), ETH + 2, &[0, 0])),
        ("IPv4 total length 19", with(v4.clone(), ETH + 2, &[0, 19])),
        ("IPv4 total length beyond the frame", with(v4.clone(), ETH + 2, &length(&v4, 0, 1))),
        ("IPv6 with version 4", with(v6.clone(), ETH, &[0x40])),
        ("IPv6 payload length beyond the frame", with(v6.clone(), ETH + 4, &length(&v6, IPV6, 1))),
        ("ARP for another hardware", with(arp.clone(), ETH + 1, &[6])),
        ("ARP for another protocol", with(arp.clone(), ETH + 2, &[0x86, 0xdd])),
        ("ARP with long hardware addresses", with(arp.clone(), ETH + 4, &[8])),
        ("ARP with long protocol addresses", with(arp.clone(), ETH + 5, &[16])),
        ("ARP with operation 3", with(arp, ETH + 7, &[3])),
    ];
    for (name, frame) in &cases {
        refused(&mut rig, name, frame, DropReason::Malformed);
    }
}

#[test]
fn only_known_receivers_get_frames() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        let to = |mac| path(family).with_dst_mac(mac).udp(PORTS, PAYLOAD);
        refused(&mut rig, "a MAC of nobody", &to(NOBODY_MAC), DropReason::UnknownDestination);
        refused(&mut rig, "the VTEP's MAC", &to(HOST_A.mac), DropReason::UnknownDestination);
        refused(&mut rig, "a MAC of the other network", &to(cast::GA1.mac), DropReason::UnknownDestination);
        refused(&mut rig, "itself", &to(CA1.mac), DropReason::Hairpin);
        refused(&mut rig, "everybody", &to(BROADCAST), DropReason::MulticastOff);
    }
    let group =
        Path { dst_mac: Mac::new([1, 0, 0x5e, 1, 1, 1]), ..path(Family::V4) }.with_dst([239, 1, 1, 1]);
    refused(&mut rig, "an IPv4 group", &group.udp(PORTS, PAYLOAD), DropReason::MulticastOff);
    let all: Ipv6Addr = "ff02::1".parse().expect("an address");
    let group = Path { dst_mac: frame::multicast_mac(all), ..path(Family::V6) }.with_dst(all);
    refused(&mut rig, "an IPv6 group", &group.udp(PORTS, PAYLOAD), DropReason::MulticastOff);
    let unborn = group.with_src(Ipv6Addr::UNSPECIFIED);
    refused(
        &mut rig,
        "a report before there is an address",
        &unborn.icmpv6(143, 0, [0; 4], &[0; 20], 1),
        DropReason::MulticastOff,
    );
}

#[test]
fn an_interface_without_a_row_forwards_nothing() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let frame = path(Family::V4).udp(PORTS, PAYLOAD);
    let ran = rig.run(rig.wrong_port(), &frame);
    ran.assert("no port", Verdict::Taken, &[dropped(HOOK, DropReason::NoPort, frame.len())]);
}

#[test]
fn neighbours_on_one_host_get_frames_unchanged() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        let frame = Path::between(&CA1, &CA2, family).tcp(PORTS, PAYLOAD);
        let ran = rig.run(rig.port(&CA1), &frame);
        let expected =
            [action(HOOK, Action::Local, frame.len()), sent(&CA1, frame.len()), received(&CA2, frame.len())];
        ran.assert("next door", Verdict::Sent, &expected);
        assert_same("next door", &ran.bytes, &frame);
    }
}

#[test]
fn nothing_moves_before_the_node_is_configured() {
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.change_settings(|settings| settings.node = 0);
    let frame = path(Family::V4).udp(PORTS, PAYLOAD);
    let ran = rig.run(rig.port(&CA1), &frame);
    ran.assert("no settings", Verdict::Taken, &[dropped(HOOK, DropReason::NotConfigured, frame.len())]);
}

/// Counters stay exact when events are limited, and the events say how many were left out.
#[test]
fn events_are_limited_and_counters_are_not() {
    const LIMIT: u32 = 2;
    const DROPS: u64 = 5;
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.stay_on_this_cpu();
    let frame = path(Family::V4).with_src(CA2.v4).udp(PORTS, PAYLOAD);
    let drops = |rig: &mut Rig, limit: u32| {
        rig.change_settings(|settings| settings.events_per_second = limit);
        // A new window starts with the first drop that comes a second after the last one's start.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        for _ in 0..DROPS {
            rig.run_uncounted(rig.port(&CA1), &frame, Gso::default());
        }
        rig.changes()
    };
    let count =
        |changes: &fabric_tests::ledger::Changes, name: &str| changes.lines().get(name).copied().unwrap_or(0);
    let limited = drops(&mut rig, LIMIT);
    assert_eq!(count(&limited, "drops from_container spoof_ip packets"), DROPS);
    assert_eq!(limited.events.len(), LIMIT as usize);
    assert_eq!(count(&limited, "events suppressed"), DROPS - u64::from(LIMIT));
    let all = drops(&mut rig, 1000);
    let told: Vec<u64> = all.events.iter().map(|event| event.suppressed).collect();
    assert_eq!(told, [DROPS - u64::from(LIMIT), 0, 0, 0, 0], "the next event tells of those left out");
    let off = drops(&mut rig, 0);
    assert_eq!(count(&off, "drops from_container spoof_ip packets"), DROPS);
    assert!(off.events.is_empty(), "events are off");
}

/// Whatever a container sends, nothing reaches the host's stack, and nothing with a foreign source reaches anybody.
#[test]
fn bent_frames_never_carry_a_foreign_source() {
    const ROUNDS: usize = 40_000;
    let mut rig = Stage::enter().rig(&HOST_A);
    let mut random = Random::from_environment();
    let seeds = seeds();
    let own = [IpAddr::from(CA1.v4), CA1.v6.into(), CA1.link_local().into()];
    let (mut runs, mut passed, mut routed, mut answered) = (0, 0, 0, 0);
    for _ in 0..ROUNDS {
        let frame = random.bend(&seeds);
        if !can_run(&frame) {
            continue;
        }
        runs += 1;
        let (verdict, bytes) = rig.run_uncounted(rig.port(&CA1), &frame, Gso::default());
        match verdict {
            Verdict::Taken => continue,
            Verdict::ToStack => panic!("the host's stack gets this frame:\n{}", frame::explain(&frame)),
            Verdict::Sent => {}
        }
        // An answer has another source MAC than CA1's and goes to it; what passes has CA1's, or is routed.
        let inner = if bytes.len() == frame.len() + INNER { &bytes[INNER..] } else { &bytes[..] };
        if bytes.len() != frame.len() + INNER && bytes[..6] == CA1.mac.bytes {
            assert!(is_answer(&bytes), "neither an answer nor CA1's own:\n{}", frame::explain(&bytes));
            answered += 1;
            continue;
        }
        passed += 1;
        if frame[..6] == BLUE.gateway_mac.bytes {
            routed += 1;
            let to =
                [&CA2, &CB1].into_iter().find(|to| inner[..6] == to.mac.bytes).expect("somebody in BLUE");
            let mut expected = routing::routed(&frame, to);
            if frame[12..ETH] == [8, 0] && !has_right_checksum(&frame) {
                // It stays wrong for the receiver to see.
                assert!(!has_right_checksum(inner), "{}", frame::explain(inner));
                expected[ETH + 10..ETH + 12].copy_from_slice(&inner[ETH + 10..ETH + 12]);
            }
            assert_same("what is routed is otherwise unchanged", inner, &expected);
        } else {
            assert_same("what passes is unchanged", inner, &frame);
            assert_eq!(inner[6..12], CA1.mac.bytes, "source MAC:\n{}", frame::explain(&frame));
        }
        let source = frame::source(inner)
            .unwrap_or_else(|| panic!("not a whole IP packet:\n{}", frame::explain(&frame)));
        assert!(own.contains(&source), "source {source}:\n{}", frame::explain(&frame));
    }
    let moved = rig.changes();
    let total: u64 = moved.lines().iter().filter(|(name, _)| is_outcome(name)).map(|(_, n)| n).sum();
    assert_eq!(total, runs, "every frame has one outcome: {:#?}", moved.lines());
    assert!(
        passed > ROUNDS / 50 && routed > ROUNDS / 500 && answered > ROUNDS / 500,
        "the test bends too hard: {passed} passed, {routed} of them routed, {answered} answered"
    );
}

/// Of the IPv4 header.
fn has_right_checksum(frame: &[u8]) -> bool {
    let mut right = frame.to_vec();
    frame::fix_ip_checksum(&mut right, ETH);
    right == frame
}

fn is_outcome(name: &str) -> bool {
    // An ICMP error is beside the drop of the packet that it answers, routing beside where the packet goes.
    let beside = [Action::IcmpError, Action::Routed].iter().any(|action| name.contains(&action.to_string()));
    !beside && name.ends_with("packets") && (name.starts_with("drops") || name.starts_with("actions"))
}

fn is_answer(bytes: &[u8]) -> bool {
    let arp = bytes[12..14] == [8, 6] && bytes[ETH + 7] == 2;
    let advertisement = bytes[12..14] == [0x86, 0xdd] && bytes[ETH + 6] == 58 && bytes[ETH + IPV6] == 136;
    let from_gateway = bytes[6..12] == BLUE.gateway_mac.bytes;
    // Echo replies; destination unreachable, time exceeded.
    let v4 = bytes[12..14] == [8, 0] && bytes[ETH] == 0x45 && matches!(bytes[ETH + IPV4], 0 | 3 | 11);
    let v6 =
        bytes[12..14] == [0x86, 0xdd] && bytes[ETH + 6] == 58 && matches!(bytes[ETH + IPV6], 129 | 1 | 3);
    arp || advertisement || (from_gateway && (v4 || v6))
}

fn seeds() -> Vec<Vec<u8>> {
    let ask = |target: Ipv6Addr| {
        let group = frame::solicited_node(target);
        let path = Path { dst_mac: frame::multicast_mac(group), ..path(Family::V6) }.with_dst(group);
        path.icmpv6(135, 0, [0; 4], &[&target.octets()[..], &[1, 1], &CA1.mac.bytes].concat(), 255)
    };
    let mut seeds = vec![
        Arp::who_has(&CA1, CB1.v4).frame(),
        Arp::who_has(&CA1, CA2.v4).frame(),
        Arp::who_has(&CA1, CA1.v4).frame(),
        ask(CB1.v6),
        ask(CA2.v6),
        path(Family::V6).icmpv6(136, 0, [0x60, 0, 0, 0], &CA1.v6.octets(), 255),
    ];
    let gateway = |family| path(family).with_dst_mac(BLUE.gateway_mac);
    seeds.push(gateway(Family::V4).with_dst(GATEWAY_V4).ping(PAYLOAD));
    seeds.push(gateway(Family::V6).with_dst(GATEWAY_V6).ping(PAYLOAD));
    for family in FAMILIES {
        for to in [&CA2, &CB1] {
            let path = Path::between(&CA1, to, family);
            seeds.extend([path.udp(PORTS, PAYLOAD), path.tcp(PORTS, PAYLOAD), path.ping(PAYLOAD)]);
            seeds.push(path.with_src(CA2.address(family)).udp(PORTS, PAYLOAD));
            seeds.push(path.with_dst_mac(BLUE.gateway_mac).udp(PORTS, PAYLOAD));
        }
    }
    seeds
}
