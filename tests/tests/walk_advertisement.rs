//! Router solicitations in a network whose gateway answers them.

use std::net::{IpAddr, Ipv6Addr};

use fabric_api::Object;
use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{self, BLUE, CA1, CA2, GA1, HOST_A},
    frame::{ETH, IPV6, Path, fault, multicast_mac, solicited_node, source},
    ledger::{action, dropped, sender_dropped},
    load::Globals,
    walk::{Rig, Stage, Verdict},
};

const HOOK: Hook = Hook::FromContainer;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

fn rig() -> Rig {
    let mut objects = cast::objects(&HOST_A);
    for object in &mut objects {
        if let Object::Network(network) = object {
            network.spec.router_advertisement = network.metadata.name == BLUE.name;
        }
    }
    Stage::enter().rig_with(&HOST_A, &objects, Globals::default())
}

fn path(src: Ipv6Addr, dst: Ipv6Addr) -> Path {
    Path { src_mac: CA1.mac, dst_mac: multicast_mac(dst), src: src.into(), dst: dst.into() }
}

fn solicitation(src: Ipv6Addr, rest: &[u8]) -> Vec<u8> {
    path(src, ALL_ROUTERS).icmpv6(133, 0, [0; 4], rest, 255)
}

/// RFC 4861 section 4.2, field by field.
#[track_caller]
fn assert_advertises(rig: &Rig, bytes: &[u8]) {
    assert_eq!(fault(bytes), None);
    assert_eq!(bytes[..6], multicast_mac(ALL_NODES).bytes);
    assert_eq!(bytes[6..12], BLUE.gateway_mac.bytes);
    assert_eq!(source(bytes), Some(BLUE.gateway_mac.link_local().to_ip()));
    assert_eq!(bytes[ETH + 24..ETH + IPV6], ALL_NODES.octets());
    assert_eq!(bytes[ETH + 7], 255, "hop limit");
    let message = &bytes[ETH + IPV6..];
    assert_eq!(message[..2], [134, 0]);
    assert_eq!(message[4..8], [64, 0, 0xff, 0xff], "hop limit, neither M nor O, lifetime");
    assert_eq!(message[8..16], [0; 8], "reachable and retransmission times");
    let mut options = &message[16..];
    let mut seen = Vec::new();
    while let [kind, length, ..] = *options {
        let (option, rest) = options.split_at(usize::from(length) * 8);
        match kind {
            1 => assert_eq!(option[2..8], BLUE.gateway_mac.bytes),
            5 => {
                let mtu = u32::from(rig.tables.networks[&BLUE.vni].mtu);
                assert_eq!(option[4..8], mtu.to_be_bytes());
            }
            3 => {
                assert_eq!(option[2..4], [64, 0x80], "length, on-link, not for addresses");
                assert_eq!(option[4..12], [0xff; 8], "for ever");
                assert_eq!(option[16..24], CA1.v6.octets()[..8]);
                assert_eq!(option[24..32], [0; 8]);
            }
            other => panic!("an option of type {other}"),
        }
        seen.push(kind);
        options = rest;
    }
    assert_eq!(seen, [1, 5, 3]);
}

/// Who has learned of the router asks for its MAC.
#[test]
fn the_gateways_link_local_address_is_resolved() {
    let mut rig = rig();
    let IpAddr::V6(router) = BLUE.gateway_mac.link_local().to_ip() else { panic!("IPv6") };
    let octets = router.octets();
    let group = solicited_node(router);
    let rest = [&octets[..], &[1, 1], &CA1.mac.bytes].concat();
    let frame = path(CA1.link_local(), group).icmpv6(135, 0, [0; 4], &rest, 255);
    let ran = rig.run(rig.port(&CA1), &frame);
    ran.assert("asked", Verdict::Sent, &[action(HOOK, Action::Answered, frame.len())]);
    assert_eq!(fault(&ran.bytes), None);
    let message = &ran.bytes[ETH + IPV6..];
    assert_eq!(message[..2], [136, 0]);
    assert_eq!(message[4], 0xe0, "a router, solicited, override");
    assert_eq!(message[8..24], octets);
    assert_eq!(message[24..32], [&[2, 1], &BLUE.gateway_mac.bytes[..]].concat());
}

#[test]
fn networks_without_advertisements_answer_nothing() {
    let mut rig = rig();
    let frame =
        Path { src_mac: GA1.mac, ..path(GA1.link_local(), ALL_ROUTERS) }.icmpv6(133, 0, [0; 4], &[], 255);
    rig.run(rig.port(&GA1), &frame).assert(
        "green",
        Verdict::Taken,
        &[action(HOOK, Action::Absorbed, frame.len())],
    );
}

#[test]
fn the_gateway_answers_solicitations() {
    let mut rig = rig();
    let mac = [&[1, 1], &CA1.mac.bytes[..]].concat();
    for (what, frame) in [
        ("with its MAC", solicitation(CA1.link_local(), &mac)),
        ("without", solicitation(CA1.link_local(), &[])),
        ("before it has an address", solicitation(Ipv6Addr::UNSPECIFIED, &[])),
        ("with padding", [solicitation(CA1.v6, &mac), vec![0; 300]].concat()),
    ] {
        let ran = rig.run(rig.port(&CA1), &frame);
        ran.assert(what, Verdict::Sent, &[action(HOOK, Action::Answered, frame.len())]);
        assert_advertises(&rig, &ran.bytes);
    }
}

/// Puts destination options between the IPv6 header and the message.
fn hidden(mut frame: Vec<u8>) -> Vec<u8> {
    let next = std::mem::replace(&mut frame[ETH + 6], 60);
    frame.splice(ETH + IPV6..ETH + IPV6, [next, 0, 1, 4, 0, 0, 0, 0]);
    let length = (frame.len() - ETH - IPV6) as u16;
    frame[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

#[test]
fn lies_are_refused() {
    let mut rig = rig();
    let mac = [&[1, 1], &CA1.mac.bytes[..]].concat();
    let other = [&[1, 1], &CA2.mac.bytes[..]].concat();
    let near = path(CA1.link_local(), ALL_ROUTERS);
    let advertisement = path(CA1.link_local(), ALL_NODES).icmpv6(134, 0, [64, 0, 7, 8], &[0; 8], 255);
    let mut gateways = advertisement.clone();
    gateways[ETH + 8..ETH + 24].copy_from_slice(&BLUE.gateway_mac.link_local().bytes);
    for (what, frame) in [
        ("the neighbour's MAC", solicitation(CA1.link_local(), &other)),
        ("a MAC without an address", solicitation(Ipv6Addr::UNSPECIFIED, &mac)),
        ("the neighbour's address", solicitation(CA2.link_local(), &[])),
        ("a code", near.icmpv6(133, 1, [0; 4], &[], 255)),
        ("a hop limit of 254", near.icmpv6(133, 0, [0; 4], &[], 254)),
        ("an advertisement", advertisement.clone()),
        ("one with the gateway's address", gateways.clone()),
        ("one behind destination options", hidden(advertisement)),
        ("one with the gateway's address behind them", hidden(gateways)),
        ("a solicitation behind them", hidden(solicitation(CA1.link_local(), &mac))),
    ] {
        let ran = rig.run(rig.port(&CA1), &frame);
        ran.assert(
            what,
            Verdict::Taken,
            &[dropped(HOOK, DropReason::SpoofNd, frame.len()), sender_dropped(&CA1)],
        );
    }
}
