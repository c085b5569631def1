//! Who has this address? Asked by a container, answered by its own host, never heard by anybody else (recipe R24).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_common::{
    addr::Mac,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{BLUE, CA1, CA2, CB1, GATEWAY_V4, GATEWAY_V6, HOST_A, HOST_B, NOBODY_MAC, NOBODY_V4, NOBODY_V6},
    frame::{self, Arp, BROADCAST, ETH, IPV6, Path, assert_same, multicast_mac, solicited_node},
    ledger::{action, dropped, sender_dropped},
    walk::{Rig, Stage, Verdict},
};
use smoltcp::wire::{
    EthernetFrame, Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscNeighborFlags as Flags, NdiscRepr,
    RawHardwareAddress,
};

const HOOK: Hook = Hook::FromContainer;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

#[track_caller]
fn refused(rig: &mut Rig, what: &str, frame: &[u8], reason: DropReason) {
    let ran = rig.run(rig.port(&CA1), frame);
    ran.assert(what, Verdict::Taken, &[dropped(HOOK, reason, frame.len()), sender_dropped(&CA1)]);
}

#[track_caller]
fn absorbed(rig: &mut Rig, what: &str, frame: &[u8]) {
    let ran = rig.run(rig.port(&CA1), frame);
    ran.assert(what, Verdict::Taken, &[action(HOOK, Action::Absorbed, frame.len())]);
}

#[track_caller]
fn answer(rig: &mut Rig, what: &str, frame: &[u8]) -> Vec<u8> {
    let ran = rig.run(rig.port(&CA1), frame);
    ran.assert(what, Verdict::Sent, &[action(HOOK, Action::Answered, frame.len())]);
    ran.bytes
}

fn host_mac() -> Mac {
    fabric_agent::model::ids::node_mac(HOST_B.name)
}

#[test]
fn arp_is_answered_for_everybody_in_the_network() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let who = [
        ("a remote container", CB1.v4, CB1.mac),
        ("the neighbour", CA2.v4, CA2.mac),
        ("the gateway", GATEWAY_V4, BLUE.gateway_mac),
        ("another host", HOST_B.blue_address.expect("it has one"), host_mac()),
    ];
    for (name, address, mac) in who {
        let ask = Arp::who_has(&CA1, address);
        // A conflict probe (RFC 5227) of somebody else's address must be told that it is taken.
        for sender in [CA1.v4, Ipv4Addr::UNSPECIFIED] {
            for eth_dst in [BROADCAST, mac] {
                let ask = Arp { sender, eth_dst, ..ask };
                let reply = Arp {
                    eth_src: mac,
                    eth_dst: CA1.mac,
                    sender_mac: mac,
                    sender: address,
                    target_mac: CA1.mac,
                    target: sender,
                    reply: true,
                };
                assert_same(name, &answer(&mut rig, name, &ask.frame()), &reply.frame());
            }
        }
    }
}

#[test]
fn an_answer_keeps_the_padding() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let mut ask = Arp::who_has(&CA1, CB1.v4).frame();
    ask.resize(60, 0);
    assert_eq!(answer(&mut rig, "a frame of the least length", &ask).len(), 60);
}

#[test]
fn arp_that_needs_no_answer_is_absorbed() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let own = Arp::who_has(&CA1, CA1.v4);
    let cases = [
        ("an address of nobody", Arp::who_has(&CA1, NOBODY_V4)),
        (
            "a probe for an address of nobody",
            Arp { sender: Ipv4Addr::UNSPECIFIED, ..Arp::who_has(&CA1, NOBODY_V4) },
        ),
        ("an announcement", own),
        ("a probe for its own address", Arp { sender: Ipv4Addr::UNSPECIFIED, ..own }),
        ("an announcement as a reply", Arp { reply: true, target_mac: BROADCAST, ..own }),
        (
            "an honest reply",
            Arp { reply: true, target_mac: CB1.mac, eth_dst: CB1.mac, ..Arp::who_has(&CA1, CB1.v4) },
        ),
    ];
    for (name, arp) in cases {
        absorbed(&mut rig, name, &arp.frame());
    }
}

/// Recipe R5, ARP.
#[test]
fn arp_lies_are_refused() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let ask = Arp::who_has(&CA1, CB1.v4);
    for reply in [false, true] {
        for sender in
            [CA2.v4, CB1.v4, GATEWAY_V4, NOBODY_V4, Ipv4Addr::LOCALHOST, HOST_A.vtep, Ipv4Addr::BROADCAST]
        {
            let lie = Arp { sender, reply, ..ask };
            refused(&mut rig, &format!("sender {sender}"), &lie.frame(), DropReason::SpoofArp);
        }
        for sender_mac in [CA2.mac, BLUE.gateway_mac, NOBODY_MAC, Mac::ZERO, BROADCAST] {
            let lie = Arp { sender_mac, reply, ..ask };
            refused(&mut rig, &format!("sender {sender_mac}"), &lie.frame(), DropReason::SpoofArp);
        }
    }
    let both = Arp { sender_mac: CA2.mac, sender: CA2.v4, ..ask };
    refused(&mut rig, "all of the neighbour's", &both.frame(), DropReason::SpoofArp);
}

/// A solicitation of CA1 as its kernel sends it.
#[derive(Clone, Copy)]
struct Ask {
    src: Ipv6Addr,
    target: Ipv6Addr,
    unicast: Option<Mac>,
    option: bool,
}

impl Ask {
    fn frame(self) -> Vec<u8> {
        self.frame_with(0, 255)
    }

    fn frame_with(self, code: u8, hop_limit: u8) -> Vec<u8> {
        let group = solicited_node(self.target);
        let (dst, dst_mac) = match self.unicast {
            Some(mac) => (self.target, mac),
            None => (group, multicast_mac(group)),
        };
        let option = [&[1, 1], &CA1.mac.bytes[..]].concat();
        let rest = [&self.target.octets()[..], if self.option { &option } else { &[] }].concat();
        path(self.src, dst, dst_mac).icmpv6(SOLICITATION, code, [0; 4], &rest, hop_limit)
    }
}

fn path(src: Ipv6Addr, dst: Ipv6Addr, dst_mac: Mac) -> Path {
    Path { src_mac: CA1.mac, dst_mac, src: IpAddr::V6(src), dst: IpAddr::V6(dst) }
}

fn ask(target: Ipv6Addr) -> Ask {
    Ask { src: CA1.v6, target, unicast: None, option: true }
}

/// Reads an advertisement with the second library and checks every field of it.
#[track_caller]
fn assert_advertises(what: &str, bytes: &[u8], flags: Flags, target: Ipv6Addr, mac: Mac, to: Ipv6Addr) {
    assert_eq!(frame::fault(bytes), None, "{what}:\n{}", frame::explain(bytes));
    let eth = EthernetFrame::new_checked(bytes).expect("an Ethernet frame");
    assert_eq!(eth.src_addr().as_bytes(), mac.bytes, "{what}: Ethernet source");
    let to_mac = if to.is_multicast() { multicast_mac(to) } else { CA1.mac };
    assert_eq!(eth.dst_addr().as_bytes(), to_mac.bytes, "{what}: Ethernet destination");
    let ip = Ipv6Packet::new_checked(eth.payload()).expect("an IPv6 packet");
    assert_eq!(ETH + IPV6 + usize::from(ip.payload_len()), bytes.len(), "{what}: nothing behind the packet");
    assert_eq!((ip.src_addr(), ip.dst_addr(), ip.hop_limit()), (target, to, 255), "{what}");
    let icmp = Icmpv6Packet::new_checked(ip.payload()).expect("an ICMPv6 packet");
    let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &Default::default())
        .expect("a right message");
    let lladdr = Some(RawHardwareAddress::from_bytes(&mac.bytes));
    let want = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr });
    assert_eq!(repr, want, "{what}");
}

#[test]
fn solicitations_are_answered_for_everybody_in_the_network() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let solicited = Flags::SOLICITED | Flags::OVERRIDE;
    let who = [
        ("a remote container", CB1.v6, CB1.mac, Flags::empty()),
        ("a remote container's link-local address", CB1.link_local(), CB1.mac, Flags::empty()),
        ("the neighbour", CA2.v6, CA2.mac, Flags::empty()),
        ("the gateway", GATEWAY_V6, BLUE.gateway_mac, Flags::ROUTER),
    ];
    for (name, target, mac, router) in who {
        for src in [CA1.v6, CA1.link_local()] {
            for ask in [
                Ask { src, ..ask(target) },
                Ask { src, unicast: Some(mac), ..ask(target) },
                // As the kernel probes a neighbour that it knows (NUD).
                Ask { src, unicast: Some(mac), option: false, ..ask(target) },
            ] {
                let bytes = answer(&mut rig, name, &ask.frame());
                assert_advertises(name, &bytes, solicited | router, target, mac, src);
            }
        }
        // Duplicate address detection of somebody else's address: told to all, not solicited (RFC 4861 section 7.2.4).
        let dad = Ask { src: Ipv6Addr::UNSPECIFIED, option: false, ..ask(target) };
        let bytes = answer(&mut rig, name, &dad.frame());
        assert_advertises(name, &bytes, Flags::OVERRIDE | router, target, mac, ALL_NODES);
    }
}

#[test]
fn solicitations_with_padding_or_more_options_are_answered_alike() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let nonce = [&CB1.v6.octets()[..], &[14, 1, 1, 2, 3, 4, 5, 6]].concat();
    let group = solicited_node(CB1.v6);
    let enhanced =
        path(Ipv6Addr::UNSPECIFIED, group, multicast_mac(group)).icmpv6(SOLICITATION, 0, [0; 4], &nonce, 255);
    let bytes = answer(&mut rig, "enhanced duplicate address detection", &enhanced);
    assert_advertises(
        "enhanced duplicate address detection",
        &bytes,
        Flags::OVERRIDE,
        CB1.v6,
        CB1.mac,
        ALL_NODES,
    );
    let mut long = ask(CB1.v6).frame();
    long.extend([0; 60]);
    let bytes = answer(&mut rig, "padding", &long);
    assert_advertises("padding", &bytes, Flags::SOLICITED | Flags::OVERRIDE, CB1.v6, CB1.mac, CA1.v6);
}

#[test]
fn discovery_that_needs_no_answer_is_absorbed() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let dad = |target| Ask { src: Ipv6Addr::UNSPECIFIED, option: false, ..ask(target) }.frame();
    absorbed(&mut rig, "an address of nobody", &ask(NOBODY_V6).frame());
    absorbed(&mut rig, "a probe for an address of nobody", &dad(NOBODY_V6));
    absorbed(&mut rig, "an IPv4 address", &ask(CB1.v4.to_ipv6_mapped()).frame());
    absorbed(&mut rig, "a probe for its own address", &dad(CA1.v6));
    absorbed(&mut rig, "a probe for its own link-local address", &dad(CA1.link_local()));
    for src in [CA1.v6, CA1.link_local()] {
        let rest = [&CA1.v6.octets()[..], &[2, 1], &CA1.mac.bytes].concat();
        let announcement = path(src, ALL_NODES, multicast_mac(ALL_NODES));
        absorbed(
            &mut rig,
            "an announcement",
            &announcement.icmpv6(ADVERTISEMENT, 0, [0x20, 0, 0, 0], &rest, 255),
        );
    }
    let routers = path(CA1.link_local(), ALL_ROUTERS, multicast_mac(ALL_ROUTERS));
    let option = [&[1, 1], &CA1.mac.bytes[..]].concat();
    absorbed(&mut rig, "a router solicitation", &routers.icmpv6(133, 0, [0; 4], &option, 255));
    let early = routers.with_src(Ipv6Addr::UNSPECIFIED);
    absorbed(
        &mut rig,
        "a router solicitation before there is an address",
        &early.icmpv6(133, 0, [0; 4], &[], 255),
    );
}

/// Recipe R5, neighbour discovery.
#[test]
fn discovery_lies_are_refused() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let announce = |target: Ipv6Addr| {
        let rest = [&target.octets()[..], &[2, 1], &CA1.mac.bytes].concat();
        path(CA1.v6, ALL_NODES, multicast_mac(ALL_NODES)).icmpv6(
            ADVERTISEMENT,
            0,
            [0x20, 0, 0, 0],
            &rest,
            255,
        )
    };
    let other_mac = [&CB1.v6.octets()[..], &[1, 1], &CA2.mac.bytes].concat();
    let group = solicited_node(CB1.v6);
    let unborn = Ask { src: Ipv6Addr::UNSPECIFIED, ..ask(CB1.v6) };
    let routers = path(CA2.link_local(), ALL_ROUTERS, multicast_mac(ALL_ROUTERS));
    let everybody = path(CA1.link_local(), ALL_NODES, multicast_mac(ALL_NODES));
    let cases = [
        ("the neighbour's address announced", announce(CA2.v6)),
        ("the gateway's address announced", announce(GATEWAY_V6)),
        ("nobody's address announced", announce(NOBODY_V6)),
        ("asked as the neighbour", Ask { src: CA2.v6, ..ask(CB1.v6) }.frame()),
        ("asked as the gateway", Ask { src: GATEWAY_V6, ..ask(CB1.v6) }.frame()),
        ("asked as nobody", Ask { src: NOBODY_V6, ..ask(CB1.v6) }.frame()),
        (
            "asked with the neighbour's MAC",
            path(CA1.v6, group, multicast_mac(group)).icmpv6(SOLICITATION, 0, [0; 4], &other_mac, 255),
        ),
        ("a probe that names a MAC", unborn.frame()),
        ("a hop limit of 254", ask(CB1.v6).frame_with(0, 254)),
        ("a code of 1", ask(CB1.v6).frame_with(1, 255)),
        ("a router solicitation as the neighbour", routers.icmpv6(133, 0, [0; 4], &[], 255)),
        ("a router advertisement", everybody.icmpv6(134, 0, [64, 0, 7, 8], &[0; 8], 255)),
        ("a redirect", everybody.icmpv6(137, 0, [0; 4], &[0; 32], 255)),
    ];
    for (name, frame) in &cases {
        refused(&mut rig, name, frame, DropReason::SpoofNd);
    }
}

/// Puts extension headers, given as (type, bytes), between the IPv6 header and what follows.
fn behind(frame: &[u8], headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let at = ETH + IPV6;
    let mut next = frame[ETH + 6];
    let mut chain = Vec::new();
    for (kind, bytes) in headers.iter().rev() {
        let mut bytes = bytes.clone();
        bytes[0] = next;
        next = *kind;
        chain = [bytes, chain].concat();
    }
    let mut frame = [&frame[..at], &chain, &frame[at..]].concat();
    frame[ETH + 6] = next;
    let length = (frame.len() - at) as u16;
    frame[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

#[test]
fn discovery_behind_extension_headers_is_refused() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let options = || vec![0, 0, 1, 4, 0, 0, 0, 0];
    let long_options = || [vec![0, 1, 1, 12], vec![0; 12]].concat();
    let fragment = || vec![0; 8];
    let first_fragment = || vec![0, 0, 0, 1, 0, 0, 0, 9];
    let authentication =
        || vec![0; 16].into_iter().enumerate().map(|(i, _)| if i == 1 { 2 } else { 0 }).collect::<Vec<u8>>();
    let chains: Vec<Vec<(u8, Vec<u8>)>> = vec![
        vec![(0, options())],
        vec![(60, options())],
        vec![(60, long_options())],
        vec![(43, vec![0; 8])],
        vec![(44, fragment())],
        vec![(44, first_fragment())],
        vec![(51, authentication())],
        vec![(0, options()), (60, options()), (43, vec![0; 8]), (44, fragment())],
        (0..5).map(|_| (60, options())).collect(),
        (0..6).map(|_| (60, options())).collect(),
        (0..12).map(|_| (60, options())).collect(),
    ];
    let rest = [&CA2.v6.octets()[..], &[2, 1], &CA1.mac.bytes].concat();
    let lie = path(CA1.v6, ALL_NODES, multicast_mac(ALL_NODES)).icmpv6(
        ADVERTISEMENT,
        0,
        [0x20, 0, 0, 0],
        &rest,
        255,
    );
    let question = ask(CB1.v6).frame();
    for chain in &chains {
        let kinds: Vec<u8> = chain.iter().map(|(kind, _)| *kind).collect();
        refused(
            &mut rig,
            &format!("an advertisement behind {kinds:?}"),
            &behind(&lie, chain),
            DropReason::SpoofNd,
        );
        refused(
            &mut rig,
            &format!("a solicitation behind {kinds:?}"),
            &behind(&question, chain),
            DropReason::SpoofNd,
        );
    }
}

/// A first fragment that ends before the upper header (RFC 7112 forbids it) could hide anything in the second one.
#[test]
fn a_first_fragment_without_the_whole_header_chain_is_refused() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let carrier = Path::between(&CA1, &CB1, fabric_tests::cast::Family::V6).udp((1, 2), &[]);
    let empty = carrier[..ETH + IPV6].to_vec();
    let first = vec![0, 0, 0, 1, 0, 0, 0, 9];
    for last in [60, 58] {
        let mut frame = empty.clone();
        frame[ETH + 6] = last;
        let chains = if last == 60 {
            vec![(44, first.clone()), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])]
        } else {
            vec![(44, first.clone())]
        };
        let mut frame = behind(&frame, &chains);
        if last == 60 {
            // The options header in the fragment says that yet another one follows, which is not there.
            let at = frame.len() - 8;
            frame[at] = 60;
        }
        refused(
            &mut rig,
            &format!("a first fragment that ends before header {last}"),
            &frame,
            DropReason::SpoofNd,
        );
    }
}

#[test]
fn other_packets_behind_extension_headers_pass() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let echo = Path::between(&CA1, &CB1, fabric_tests::cast::Family::V6).ping(&[1; 32]);
    for chain in [vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])], vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])]] {
        let frame = behind(&echo, &chain);
        let ran = rig.run(rig.port(&CA1), &frame);
        let length = frame.len();
        let expected = [action(HOOK, Action::Remote, length), fabric_tests::ledger::sent(&CA1, length)];
        ran.assert("an echo request behind a header", Verdict::Sent, &expected);
    }
}
