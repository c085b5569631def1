//! What policies admit and what they don't, at every hook, and what connection tracking makes of it.

use std::{net::Ipv4Addr, time::Duration};

use fabric_common::{
    addr::{Addr, Mac},
    flow::timeout,
    policy::{EGRESS, IDENTITY_NODE, INGRESS, port_key},
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{self, BLUE, CA1, CA2, CB1, Container, FAMILIES, Family, GATEWAY_V4, HOST_A, HOST_B},
    frame::{ETH, IPV4, IPV6, Outer, Path},
    icmp::{self, Kind},
    policed::{allow, deny, ranges, table},
    walk::{Place, Ran, Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 80);
const BACK: (u16, u16) = (80, 4000);
const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;
const RST: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Identities and policies of the containers in most walks.
const ONE: u32 = 101;
const TWO: u32 = 102;
const FAR: u32 = 103;
const P: u32 = 1;
const Q: u32 = 2;

fn rig() -> Rig {
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.stay_on_this_cpu();
    for (container, identity) in [(&CA1, ONE), (&CA2, TWO), (&CB1, FAR)] {
        rig.police(container, identity, 0);
    }
    rig
}

fn udp(from: &Container, to: &Container, family: Family, ports: (u16, u16)) -> Vec<u8> {
    Path::between(from, to, family).udp(ports, b"may I?")
}

fn tcp(from: &Container, to: &Container, family: Family, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut frame = Path::between(from, to, family).tcp(ports, b"");
    let ip = if family == Family::V4 { IPV4 } else { IPV6 };
    frame[ETH + ip + 13] = flags;
    frame
}

/// A tunnel packet from HOST_B.
fn tunnelled(inner: &[u8]) -> Vec<u8> {
    Outer::between(&HOST_B, &HOST_A, BLUE.vni).around(inner)
}

#[track_caller]
fn passes(rig: &mut Rig, what: &str, place: Place, frame: &[u8]) -> Ran {
    let ran = rig.run(place, frame);
    assert_eq!(ran.verdict, Verdict::Sent, "{what}: {:#?}", ran.changes.lines());
    ran
}

/// Panics unless the packet is dropped for this reason, which the event names, with the rule.
#[track_caller]
fn stops(rig: &mut Rig, what: &str, place: Place, frame: &[u8], reason: DropReason, rule: u32) {
    let ran = rig.run(place, frame);
    assert_eq!(ran.verdict, Verdict::Taken, "{what}: {:#?}", ran.changes.lines());
    let events: Vec<_> = ran.changes.events.iter().map(|event| (event.reason, event.rule)).collect();
    assert_eq!(events, [(reason as u8, rule)], "{what}");
}

#[track_caller]
fn denied(rig: &mut Rig, what: &str, place: Place, frame: &[u8], rule: u32) {
    stops(rig, what, place, frame, DropReason::PolicyDenied, rule);
}

#[test]
fn without_a_policy_nothing_is_tracked() {
    let mut rig = rig();
    let from = rig.port(&CA1);
    passes(&mut rig, "to a neighbour", from, &udp(&CA1, &CA2, Family::V4, PORTS));
    passes(&mut rig, "to another host", from, &udp(&CA1, &CB1, Family::V4, PORTS));
    assert_eq!(rig.count_flows(), (0, 0));
}

#[test]
fn the_senders_policy_and_the_receivers_are_both_asked() {
    let mut rig = rig();
    let (from, uplink) = (rig.port(&CA1), rig.uplink());
    for family in FAMILIES {
        rig.police(&CA1, ONE, P);
        rig.say(P, EGRESS, deny(7), &[(TWO, allow(8))]);
        rig.say(P, INGRESS, allow(9), &[]);
        denied(&mut rig, "to whom it may not", from, &udp(&CA1, &CB1, family, PORTS), 7);
        passes(&mut rig, "to whom it may", from, &udp(&CA1, &CA2, family, PORTS));
        rig.police(&CA2, TWO, Q);
        rig.say(Q, EGRESS, allow(1), &[]);
        rig.say(Q, INGRESS, deny(11), &[(FAR, allow(12))]);
        denied(&mut rig, "the receiver says no", from, &udp(&CA1, &CA2, family, PORTS), 11);
        passes(&mut rig, "from elsewhere", uplink, &tunnelled(&udp(&CB1, &CA2, family, PORTS)));
        rig.say(Q, INGRESS, deny(11), &[(FAR, deny(13))]);
        denied(&mut rig, "not any more", uplink, &tunnelled(&udp(&CB1, &CA2, family, (1, 2))), 13);
        rig.police(&CA2, TWO, 0);
        rig.say(Q, INGRESS, allow(12), &[]);
    }
}

#[test]
fn xdp_and_the_vxlan_device_ask_as_well() {
    let mut rig = rig();
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(5), &[]);
    let (xdp, inner) = (rig.uplink_xdp(), udp(&CB1, &CA1, Family::V4, PORTS));
    denied(&mut rig, "at XDP", xdp, &tunnelled(&inner), 5);
}

#[test]
fn answers_pass_and_what_was_not_asked_does_not() {
    let mut rig = rig();
    let (from, uplink) = (rig.port(&CA1), rig.uplink());
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(2), &[]);
    for family in FAMILIES {
        let answer = tunnelled(&udp(&CB1, &CA1, family, BACK));
        denied(&mut rig, "unasked", uplink, &answer, 2);
        passes(&mut rig, "the question", from, &udp(&CA1, &CB1, family, PORTS));
        passes(&mut rig, "the answer", uplink, &answer);
        denied(&mut rig, "from another port", uplink, &tunnelled(&udp(&CB1, &CA1, family, (81, 4000))), 2);
        denied(&mut rig, "to another port", uplink, &tunnelled(&udp(&CB1, &CA1, family, (80, 4001))), 2);
        let tcp = tunnelled(&tcp(&CB1, &CA1, family, BACK, SYN_ACK));
        denied(&mut rig, "of another protocol", uplink, &tcp, 2);
    }
    assert_eq!(rig.count_flows(), (2, 0), "one flow a family, both of them answered");
}

#[test]
fn a_flow_between_neighbours_has_one_row_and_two_verdicts() {
    let mut rig = rig();
    let (one, two) = (rig.port(&CA1), rig.port(&CA2));
    rig.police(&CA1, ONE, P);
    rig.police(&CA2, TWO, Q);
    rig.say(P, EGRESS, deny(1), &[(TWO, allow(2))]);
    rig.say(P, INGRESS, deny(3), &[]);
    rig.say(Q, EGRESS, deny(4), &[]);
    rig.say(Q, INGRESS, deny(5), &[(ONE, allow(6))]);
    passes(&mut rig, "the question", one, &tcp(&CA1, &CA2, Family::V4, PORTS, SYN));
    passes(&mut rig, "the answer", two, &tcp(&CA2, &CA1, Family::V4, BACK, SYN_ACK));
    passes(&mut rig, "and on", one, &tcp(&CA1, &CA2, Family::V4, PORTS, ACK));
    let [answered, new] = rig.flows();
    assert_eq!((answered.len(), new.len()), (1, 0));
    let flow = answered.values().next().expect("one");
    assert_eq!((flow.egress_rule, flow.ingress_rule), (2, 6));
    denied(&mut rig, "the other way round", two, &tcp(&CA2, &CA1, Family::V4, PORTS, SYN), 4);
    denied(&mut rig, "a new question by the answering side", two, &tcp(&CA2, &CA1, Family::V4, BACK, SYN), 4);
    passes(&mut rig, "which ends nothing", two, &tcp(&CA2, &CA1, Family::V4, BACK, ACK));
}

#[test]
fn ports_are_ranges_in_tables_of_tables() {
    let mut rig = rig();
    let from = rig.port(&CA1);
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, table(1), &[]);
    rig.say(P, INGRESS, allow(1), &[]);
    let key = |port| port_key(UDP, port);
    let leaf =
        ranges(&[(0, deny(20)), (key(1000), allow(21)), (key(2000), deny(22)), (key(2500), allow(23))]);
    rig.set_table(3, leaf);
    rig.set_table(2, ranges(&[(0, deny(10)), (key(1000), table(3)), (key(3000), allow(11))]));
    rig.set_table(
        1,
        ranges(&[(0, deny(1)), (key(0), table(2)), (key(4000), deny(2)), (port_key(18, 0), deny(3))]),
    );
    let mut udp = |port| {
        let ran = rig.run(from, &udp(&CA1, &CB1, Family::V4, (9, port)));
        (ran.verdict == Verdict::Sent, ran.changes.events.first().map(|event| event.rule))
    };
    let (no, yes) = (|rule| (false, Some(rule)), (true, None));
    for (port, wanted) in [
        (0, no(10)),
        (999, no(10)),
        (1000, yes),
        (1999, yes),
        (2000, no(22)),
        (2499, no(22)),
        (2500, yes),
        (2999, yes),
        (3000, yes),
        (3999, yes),
        (4000, no(2)),
        (65535, no(2)),
    ] {
        assert_eq!(udp(port), wanted, "port {port}");
    }
    denied(&mut rig, "TCP", from, &tcp(&CA1, &CB1, Family::V4, (9, 1500), SYN), 1);
    let full: Vec<_> =
        (0..16).map(|n| (n * 4, if n % 2 == 0 { allow(n + 1) } else { deny(n + 1) })).collect();
    rig.set_table(
        1,
        ranges(&full.iter().map(|(at, word)| (port_key(TCP, *at as u16), *word)).collect::<Vec<_>>()),
    );
    for port in 0..64_u16 {
        let ran = rig.run(from, &tcp(&CA1, &CB1, Family::V4, (9, port), SYN));
        assert_eq!(ran.verdict == Verdict::Sent, port / 4 % 2 == 0, "port {port} in a full table");
    }
}

#[test]
fn what_is_unknown_is_dropped() {
    let mut rig = rig();
    let from = rig.port(&CA1);
    rig.police(&CA1, ONE, P);
    let frame = udp(&CA1, &CB1, Family::V4, PORTS);
    stops(&mut rig, "no row at all", from, &frame, DropReason::PolicyUnknown, 0);
    rig.say(P, EGRESS, allow(1), &[]);
    passes(&mut rig, "a row", from, &frame);
    rig.say(P, EGRESS, table(77), &[]);
    let other = udp(&CA1, &CB1, Family::V4, (1, 2));
    stops(&mut rig, "no table", from, &other, DropReason::PolicyUnknown, 0);
    rig.set_table(77, ranges(&[(0, table(77))]));
    stops(&mut rig, "tables without end", from, &other, DropReason::PolicyUnknown, 0);
}

#[test]
fn a_permission_that_is_revoked_ends_its_flows_at_the_next_packet() {
    let mut rig = rig();
    let (from, uplink) = (rig.port(&CA1), rig.uplink());
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(2), &[]);
    let (question, answer) =
        (udp(&CA1, &CB1, Family::V4, PORTS), tunnelled(&udp(&CB1, &CA1, Family::V4, BACK)));
    passes(&mut rig, "the question", from, &question);
    passes(&mut rig, "the answer", uplink, &answer);
    // Another policy: a change of rules is one, since what is behind a number never changes.
    rig.say(Q, EGRESS, deny(3), &[]);
    rig.say(Q, INGRESS, deny(4), &[]);
    rig.police(&CA1, ONE, Q);
    denied(&mut rig, "the answer under the new policy", uplink, &answer, 3);
    denied(&mut rig, "and once more", uplink, &answer, 3);
    denied(&mut rig, "the question", from, &question, 3);
    assert_eq!(rig.count_flows(), (1, 0), "the row stays, and admits nothing");
    // The other side becomes somebody else.
    rig.police(&CA1, ONE, P);
    passes(&mut rig, "the question", from, &question);
    rig.say(P, EGRESS, allow(1), &[(104, deny(5))]);
    rig.police(&CB1, 104, 0);
    denied(&mut rig, "to who the receiver is now", from, &question, 5);
    rig.police(&CB1, FAR, 0);
    passes(&mut rig, "the question", from, &question);
    passes(&mut rig, "the answer", uplink, &answer);
    rig.police(&CB1, 105, 0);
    passes(&mut rig, "somebody who is admitted as well", from, &question);
    assert_eq!(rig.count_flows(), (1, 0), "the flow goes on");
}

#[test]
fn flows_end_by_their_own_clock() {
    let mut rig = rig();
    let (from, uplink) = (rig.port(&CA1), rig.uplink());
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(2), &[]);
    let second = Duration::from_secs(1);
    let (question, answer) =
        (udp(&CA1, &CB1, Family::V4, PORTS), tunnelled(&udp(&CB1, &CA1, Family::V4, BACK)));
    let lives = |nanoseconds| Duration::from_nanos(nanoseconds);
    passes(&mut rig, "the question", from, &question);
    rig.age(lives(timeout::NEW) + second);
    denied(&mut rig, "too late", uplink, &answer, 2);
    passes(&mut rig, "the question", from, &question);
    rig.age(lives(timeout::NEW) - second);
    passes(&mut rig, "in time", uplink, &answer);
    rig.age(lives(timeout::OTHER) - second);
    passes(&mut rig, "still there", uplink, &answer);
    rig.age(lives(timeout::OTHER) + second);
    denied(&mut rig, "gone", uplink, &answer, 2);
    // TCP, from the first packet to the last.
    let out = |flags| tcp(&CA1, &CB1, Family::V4, PORTS, flags);
    let back = |flags| tunnelled(&tcp(&CB1, &CA1, Family::V4, BACK, flags));
    passes(&mut rig, "SYN", from, &out(SYN));
    passes(&mut rig, "SYN and ACK", uplink, &back(SYN_ACK));
    rig.age(lives(timeout::TCP) - second);
    passes(&mut rig, "days later", uplink, &back(ACK));
    passes(&mut rig, "FIN", from, &out(FIN_ACK));
    rig.age(lives(timeout::CLOSED) + second);
    passes(&mut rig, "half closed", uplink, &back(ACK));
    passes(&mut rig, "FIN of the other side", uplink, &back(FIN_ACK));
    passes(&mut rig, "the last ACK", from, &out(ACK));
    rig.age(lives(timeout::CLOSED) + second);
    denied(&mut rig, "closed", uplink, &back(ACK), 2);
    passes(&mut rig, "the port is used again", from, &out(SYN));
    passes(&mut rig, "SYN and ACK", uplink, &back(SYN_ACK));
    passes(&mut rig, "RST", uplink, &back(RST));
    rig.age(lives(timeout::CLOSED) + second);
    denied(&mut rig, "reset", uplink, &back(ACK), 2);
}

#[test]
fn whoever_begins_many_flows_pushes_out_no_other() {
    let mut rig = rig();
    let (from, uplink) = (rig.port(&CA1), rig.uplink());
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, allow(2), &[(FAR, allow(3))]);
    passes(&mut rig, "SYN", from, &tcp(&CA1, &CB1, Family::V4, PORTS, SYN));
    let answer = tunnelled(&tcp(&CB1, &CA1, Family::V4, BACK, SYN_ACK));
    passes(&mut rig, "SYN and ACK", uplink, &answer);
    for port in 1000..u16::MAX {
        rig.run_uncounted(
            uplink,
            &tunnelled(&tcp(&CB1, &CA1, Family::V4, (port, 22), SYN)),
            Default::default(),
        );
    }
    let (answered, new) = rig.count_flows();
    assert_eq!(answered, 1, "the flow is there still");
    assert!(new > 1000, "{new} of the others are");
}

#[test]
fn fragments_are_what_their_first_one_is() {
    let mut rig = rig();
    let from = rig.port(&CA1);
    rig.police(&CA1, ONE, P);
    rig.say(P, INGRESS, allow(1), &[]);
    rig.say(P, EGRESS, table(1), &[]);
    rig.set_table(1, ranges(&[(0, deny(2)), (port_key(UDP, 80), allow(3)), (port_key(UDP, 81), deny(4))]));
    let part = |port: u16, id: u16, offset: u16, more: bool| {
        let mut frame = Path::between(&CA1, &CB1, Family::V4).udp((4000, port), &[0; 64]);
        frame[ETH + 4..ETH + 6].copy_from_slice(&id.to_be_bytes());
        let field = offset | if more { 0x2000 } else { 0 };
        frame[ETH + 6..ETH + 8].copy_from_slice(&field.to_be_bytes());
        frame
    };
    let lost = DropReason::PolicyNoPorts;
    stops(&mut rig, "without a first", from, &part(80, 1, 9, false), lost, 0);
    passes(&mut rig, "the first", from, &part(80, 1, 0, true));
    // What looks like ports in a later one are none.
    passes(&mut rig, "the last", from, &part(99, 1, 9, false));
    stops(&mut rig, "of another packet", from, &part(80, 2, 9, false), lost, 0);
    denied(&mut rig, "a first that may not", from, &part(81, 3, 0, true), 4);
    stops(&mut rig, "and what follows", from, &part(80, 3, 9, false), lost, 0);
    for (what, offset, id) in [("a first", 0, 4_u32), ("the last", 9, 4), ("of another packet", 9, 5)] {
        let frame = with_fragment_header(&udp(&CA1, &CB1, Family::V6, PORTS), offset, true, id);
        if id == 4 {
            passes(&mut rig, what, from, &frame);
        } else {
            stops(&mut rig, what, from, &frame, lost, 0);
        }
    }
    let whole = with_fragment_header(&udp(&CA1, &CB1, Family::V6, (4000, 81)), 0, false, 6);
    denied(&mut rig, "a whole packet behind a fragment header", from, &whole, 4);
}

#[test]
fn a_later_fragment_never_lies_over_the_flags() {
    let mut rig = rig();
    let from = rig.port(&CA1);
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    let mut frame = tcp(&CA1, &CB1, Family::V4, PORTS, ACK);
    frame[ETH + 6] = 0x20;
    passes(&mut rig, "the first", from, &frame);
    frame[ETH + 7] = 1;
    stops(&mut rig, "over it", from, &frame, DropReason::PolicyNoPorts, 0);
    frame[ETH + 7] = 3;
    passes(&mut rig, "behind it", from, &frame);
}

/// An IPv6 packet with a fragment header in front of its message.
fn with_fragment_header(frame: &[u8], offset: u16, more: bool, id: u32) -> Vec<u8> {
    let mut header = vec![frame[ETH + 6], 0];
    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
    header.extend(id.to_be_bytes());
    insert(frame, 44, &header)
}

/// An IPv6 packet with an extension header in front of its message.
fn insert(frame: &[u8], kind: u8, header: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[ETH + 6] = kind;
    let length = u16::from_be_bytes([frame[ETH + 4], frame[ETH + 5]]) + header.len() as u16;
    frame[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    frame.splice(ETH + IPV6..ETH + IPV6, header.iter().copied());
    frame
}

#[test]
fn extension_headers_and_options_hide_no_port() {
    let mut rig = rig();
    let from = rig.port(&CA1);
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, table(1), &[]);
    rig.set_table(1, ranges(&[(0, deny(2)), (port_key(UDP, 80), allow(3)), (port_key(UDP, 81), deny(4))]));
    for (kind, header) in
        [(0, [17, 0, 1, 4, 0, 0, 0, 0]), (60, [17, 0, 1, 4, 0, 0, 0, 0]), (43, [17, 0, 4, 0, 0, 0, 0, 0])]
    {
        let frame = |port| insert(&udp(&CA1, &CB1, Family::V6, (4000, port)), kind, &header);
        passes(&mut rig, "to the port that it may", from, &frame(80));
        denied(&mut rig, "to another", from, &frame(81), 4);
    }
    let mut many = udp(&CA1, &CB1, Family::V6, PORTS);
    for _ in 0..8 {
        let next = many[ETH + 6];
        many = insert(&many, 60, &[next, 0, 1, 4, 0, 0, 0, 0]);
    }
    let ran = rig.run(from, &many);
    assert_eq!(ran.verdict, Verdict::Taken, "more headers than are looked through");
    let options = |port: u16| {
        let mut frame = udp(&CA1, &CB1, Family::V4, (4000, port));
        frame.splice(ETH + IPV4..ETH + IPV4, [1, 1, 1, 0]);
        frame[ETH] = 0x46;
        let total = (frame.len() - ETH) as u16;
        frame[ETH + 2..ETH + 4].copy_from_slice(&total.to_be_bytes());
        frame
    };
    passes(&mut rig, "behind IPv4 options", from, &options(80));
    denied(&mut rig, "behind IPv4 options", from, &options(81), 4);
    let mut cut = udp(&CA1, &CB1, Family::V4, PORTS);
    cut.truncate(ETH + IPV4 + 2);
    cut[ETH + 2..ETH + 4].copy_from_slice(&22_u16.to_be_bytes());
    stops(&mut rig, "a header that is cut off", from, &cut, DropReason::PolicyNoPorts, 0);
}

#[test]
fn icmp_errors_pass_with_the_flow_that_they_are_about() {
    let mut rig = rig();
    let (from, uplink) = (rig.port(&CA1), rig.uplink());
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(2), &[]);
    let kind = Kind { v4: (3, 4), v6: (2, 0), mtu: 1400 };
    for family in FAMILIES {
        let question = udp(&CA1, &CB1, family, PORTS);
        let error = |about: &[u8]| {
            let error = icmp::error_by((CB1.v4, CB1.v6), &CA1, about, kind);
            tunnelled(&from_mac(error, &CB1))
        };
        denied(&mut rig, "about a flow that is none", uplink, &error(&question), 2);
        passes(&mut rig, "the question", from, &question);
        passes(&mut rig, "the error", uplink, &error(&question));
        denied(&mut rig, "about another port", uplink, &error(&udp(&CA1, &CB1, family, (4000, 81))), 2);
        denied(&mut rig, "about the answer", uplink, &error(&udp(&CB1, &CA1, family, BACK)), 2);
        let ping = Path::between(&CA1, &CB1, family).ping(b"");
        denied(&mut rig, "about a ping that was not sent", uplink, &error(&ping), 2);
        passes(&mut rig, "a ping", from, &ping);
        passes(&mut rig, "the error about it", uplink, &error(&ping));
    }
    // Somebody who has no part in the flow.
    let question = udp(&CA1, &CA2, Family::V4, PORTS);
    passes(&mut rig, "to the neighbour", from, &question);
    let error = from_mac(icmp::error_by((CB1.v4, CB1.v6), &CA1, &question, kind), &CB1);
    denied(&mut rig, "an error by a third party", uplink, &tunnelled(&error), 2);
    rig.police(&CB1, IDENTITY_NODE | 9, 0);
    passes(&mut rig, "an error by a node", uplink, &tunnelled(&error));
}

fn from_mac(mut frame: Vec<u8>, by: &Container) -> Vec<u8> {
    frame[6..12].copy_from_slice(&by.mac.bytes);
    frame
}

#[test]
fn pings_are_flows_by_their_identifier() {
    let mut rig = rig();
    let (from, uplink) = (rig.port(&CA1), rig.uplink());
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(2), &[]);
    for family in FAMILIES {
        let (there, back) = (Path::between(&CA1, &CB1, family), Path::between(&CB1, &CA1, family));
        denied(&mut rig, "a reply to nothing", uplink, &tunnelled(&back.pong(b"")), 2);
        passes(&mut rig, "the request", from, &there.ping(b""));
        passes(&mut rig, "the reply", uplink, &tunnelled(&back.pong(b"")));
        denied(&mut rig, "a request of the other side", uplink, &tunnelled(&back.ping(b"")), 2);
        let mut other = back.pong(b"");
        let ip = if family == Family::V4 { IPV4 } else { IPV6 };
        other[ETH + ip + 5] ^= 1;
        denied(&mut rig, "a reply to another request", uplink, &tunnelled(&other), 2);
    }
}

#[test]
fn strangers_are_who_their_address_says() {
    let mut rig = rig();
    let from = rig.port(&CA1);
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, deny(1), &[(TWO, allow(2)), (500, allow(3)), (501, deny(4))]);
    // What endpoints have is theirs, however a rule names the prefix around it.
    let v4 = |a, b, c, d| Addr::v4(Ipv4Addr::new(a, b, c, d).octets());
    rig.set_cidr(v4(192, 168, 0, 0), 96 + 16, 500);
    rig.set_cidr(v4(192, 168, 10, 1), 96 + 32, 501);
    denied(&mut rig, "an endpoint in the prefix", from, &udp(&CA1, &CB1, Family::V4, PORTS), 1);
    passes(&mut rig, "an endpoint by its identity", from, &udp(&CA1, &CA2, Family::V4, PORTS));
    // The gateway has a row of its own among the endpoints.
    let gateway = Path::between(&CA1, &CB1, Family::V4).with_dst(GATEWAY_V4).with_dst_mac(BLUE.gateway_mac);
    denied(&mut rig, "a ping to the gateway", from, &gateway.ping(b""), 1);
    rig.say(P, EGRESS, allow(1), &[]);
    let ran = rig.run(from, &gateway.ping(b""));
    assert_eq!(ran.changes.events, [], "the gateway answers: {:#?}", ran.changes.lines());
}

#[test]
fn copies_go_to_those_who_may_have_them() {
    let mut objects = cast::objects(&HOST_A);
    for object in &mut objects {
        if let fabric_api::Object::Network(network) = object {
            network.spec.multicast = network.metadata.name == BLUE.name;
        }
    }
    let mut rig = Stage::enter().rig_with(&HOST_A, &objects, Default::default());
    rig.police(&CA1, ONE, P);
    rig.police(&CA2, TWO, Q);
    let from = rig.port(&CA1);
    // Nobody has to join it.
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let path = Path::between(&CA1, &CA2, Family::V4);
    let frame = path.with_dst(group).with_dst_mac(Mac::new([0x01, 0, 0x5e, 0, 0, 251])).udp(PORTS, b"to all");
    rig.say(P, EGRESS, deny(1), &[]);
    denied(&mut rig, "a sender that may not", from, &frame, 1);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(Q, INGRESS, deny(3), &[(ONE, allow(4))]);
    let copies = |rig: &mut Rig| {
        let ran = rig.run(from, &frame);
        let line = format!("actions {} {} packets", Hook::FromContainer, Action::CopyLocal);
        let rules: Vec<_> = ran.changes.events.iter().map(|event| event.rule).collect();
        (ran.changes.lines().get(&line).copied().unwrap_or(0), rules)
    };
    let all = copies(&mut rig).0;
    assert!(all > 0, "the neighbour gets one");
    rig.say(Q, INGRESS, deny(3), &[(ONE, deny(5))]);
    assert_eq!(copies(&mut rig), (all - 1, vec![5]), "not any more");
}

#[test]
fn a_network_that_keeps_flows_lets_answered_ones_go_on() {
    let mut rig = rig();
    let (one, uplink) = (rig.port(&CA1), rig.uplink());
    rig.keep(BLUE.vni);
    rig.police(&CA1, ONE, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(2), &[]);
    rig.say(Q, EGRESS, deny(3), &[]);
    rig.say(Q, INGRESS, deny(3), &[]);
    for family in FAMILIES {
        let syn = tcp(&CA1, &CB1, family, PORTS, SYN);
        let answer = tunnelled(&tcp(&CB1, &CA1, family, BACK, SYN_ACK));
        let unanswered = tcp(&CA1, &CB1, family, (4001, 80), SYN);
        rig.police(&CA1, ONE, P);
        passes(&mut rig, "the question", one, &syn);
        passes(&mut rig, "the answer", uplink, &answer);
        passes(&mut rig, "another question", one, &unanswered);
        rig.police(&CA1, ONE, Q);
        rig.count_rules(&[1, 3]);
        let on = tcp(&CA1, &CB1, family, PORTS, ACK);
        passes(&mut rig, "what was answered", one, &on);
        passes(&mut rig, "its answers", uplink, &answer);
        assert_eq!(rig.counted().get(&1).map(|counted| counted.0), Some(2), "counted as it was admitted");
        denied(&mut rig, "what was not", one, &tcp(&CA1, &CB1, family, (4001, 80), ACK), 3);
        denied(&mut rig, "what begins anew", one, &tcp(&CA1, &CB1, family, (4002, 80), SYN), 3);
        denied(
            &mut rig,
            "a new question of the other side",
            uplink,
            &tunnelled(&tcp(&CB1, &CA1, family, BACK, SYN)),
            3,
        );
        passes(&mut rig, "which ends nothing", one, &on);
        passes(&mut rig, "its end", one, &tcp(&CA1, &CB1, family, PORTS, RST));
        denied(&mut rig, "one of the same ports", one, &syn, 3);
    }
}
