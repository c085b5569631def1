//! What a policy rejects is dropped once, and its sender is told: by a reset (RFC 9293 section 3.10.7.1) or an ICMP error.

use std::time::Instant;

use etherparse::{Ipv4Header, TcpHeader};
use fabric_common::{
    policy::{EGRESS, INGRESS, REJECT_MARK},
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{BLUE, CA1, CA2, CB1, Container, FAMILIES, Family, HOST_A, HOST_B},
    frame::{self, ETH, INNER, IPV4, IPV6, Outer, Path, assert_same},
    icmp::{self, Kind, TTL},
    ledger::{Entry, action, dropped, sender_dropped, sent},
    policed::{allow, deny, reject},
    walk::{Gso, Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 80);
const PROHIBITED: Kind = Kind { v4: (3, 13), v6: (1, 1), mtu: 0 };
const RULE: u32 = 7;
const P: u32 = 1;
const Q: u32 = 2;

/// HOST_A, where nobody may talk to CA1 and CA1 may talk to nobody; both is rejected.
fn rig() -> Rig {
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.stay_on_this_cpu();
    for (container, identity, policy) in [(&CA1, 101, P), (&CA2, 102, 0), (&CB1, 103, 0)] {
        rig.police(container, identity, policy);
    }
    rig.say(P, EGRESS, reject(RULE), &[]);
    rig.say(P, INGRESS, reject(RULE), &[]);
    rig
}

fn header(flags: &str) -> TcpHeader {
    let mut header = TcpHeader::new(PORTS.0, PORTS.1, 1_000_000_000, 4096);
    for flag in flags.chars() {
        match flag {
            'S' => header.syn = true,
            'F' => header.fin = true,
            'R' => header.rst = true,
            'A' => (header.ack, header.acknowledgment_number) = (true, 4_294_967_290),
            other => panic!("no flag {other}"),
        }
    }
    header
}

/// The reset that a path's receiver sends back.
fn reset(path: &Path, seq: u32, ack: Option<u32>) -> Vec<u8> {
    let back = Path { src_mac: path.dst_mac, dst_mac: path.src_mac, src: path.dst, dst: path.src };
    let mut header = TcpHeader::new(PORTS.1, PORTS.0, seq, 0);
    header.rst = true;
    (header.ack, header.acknowledgment_number) = (ack.is_some(), ack.unwrap_or(0));
    with_dont_fragment(back.segment(header, b"", TTL))
}

fn with_dont_fragment(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..ETH] == [8, 0] {
        let (mut ip, rest) = Ipv4Header::from_slice(&frame[ETH..]).expect("an IPv4 header");
        ip.dont_fragment = true;
        ip.header_checksum = ip.calc_header_checksum();
        let mut whole = frame[..ETH].to_vec();
        ip.write(&mut whole).expect("a vector takes all");
        whole.extend_from_slice(rest);
        frame = whole;
    }
    frame
}

/// Panics unless the frame is dropped once, by the rule, and this answer goes back.
#[track_caller]
fn rejected(rig: &mut Rig, what: &str, frame: &[u8], kind: Action, answer: &[u8]) {
    rejected_gso(rig, what, frame, Gso { size: 0, segments: 1 }, kind, answer);
}

#[track_caller]
fn rejected_gso(rig: &mut Rig, what: &str, frame: &[u8], gso: Gso, kind: Action, answer: &[u8]) {
    let (reason, packets) = (DropReason::PolicyDenied, u64::from(gso.segments));
    let ran = rig.run_gso(rig.port(&CA1), frame, gso);
    let drops: Entry = vec![
        (format!("drops from_container {reason} packets"), packets),
        (format!("drops from_container {reason} bytes"), frame.len() as u64),
        (format!("events from_container {reason}"), 1),
        (format!("port slot {} egress drops", CA1.slot), packets),
    ];
    ran.assert(what, Verdict::Sent, &[drops, action(Hook::FromContainer, kind, answer.len())]);
    assert_same(what, &ran.bytes, answer);
    assert_eq!(frame::fault(&ran.bytes), None, "{what}");
    assert_eq!(ran.changes.events[0].rule, RULE, "{what}");
    assert_eq!(rig.count_flows(), (0, 0), "{what}");
}

/// Panics unless the frame is dropped and nothing is said.
#[track_caller]
fn silent(rig: &mut Rig, what: &str, frame: &[u8]) {
    let ran = rig.run(rig.port(&CA1), frame);
    let drops = dropped(Hook::FromContainer, DropReason::PolicyDenied, frame.len());
    ran.assert(what, Verdict::Taken, &[drops, sender_dropped(&CA1)]);
}

#[test]
fn a_segment_gets_the_reset_that_its_sender_believes() {
    let mut rig = rig();
    for family in FAMILIES {
        let path = Path::between(&CA1, &CB1, family);
        for (flags, payload, seq, ack) in [
            ("S", &b""[..], 0, Some(1_000_000_001)),
            ("S", b"fast open", 0, Some(1_000_000_010)),
            ("SF", b"", 0, Some(1_000_000_002)),
            ("", b"data", 0, Some(1_000_000_004)),
            ("A", b"data", 4_294_967_290, None),
            ("SA", b"", 4_294_967_290, None),
            ("FA", b"data", 4_294_967_290, None),
        ] {
            let segment = path.segment(header(flags), payload, 64);
            let what = format!("{flags:?} with {} bytes, {family:?}", payload.len());
            rejected(&mut rig, &what, &segment, Action::Reset, &reset(&path, seq, ack));
            // Padding is no part of the segment.
            let padded = [&segment[..], &[0; 9]].concat();
            rejected(&mut rig, &what, &padded, Action::Reset, &reset(&path, seq, ack));
        }
        let mut options = header("S");
        options.set_options_raw(&[2, 4, 5, 180, 1, 3, 3, 7]).expect("options");
        let answer = reset(&path, 0, Some(1_000_000_001));
        rejected(&mut rig, "options", &path.segment(options, b"", 64), Action::Reset, &answer);
        let large = path.segment(header("A"), &[1; 3000], 64);
        let gso = Gso { size: 1400, segments: 3 };
        let answer = reset(&path, 4_294_967_290, None);
        rejected_gso(&mut rig, "segments", &large, gso, Action::Reset, &answer);
        silent(&mut rig, "a reset", &path.segment(header("R"), b"", 64));
        silent(&mut rig, "a reset", &path.segment(header("RA"), b"", 64));
    }
}

#[test]
fn everything_else_gets_an_error_from_the_gateway() {
    let mut rig = rig();
    for family in FAMILIES {
        let path = Path::between(&CA1, &CB1, family);
        for (what, frame) in [
            ("a datagram", path.udp(PORTS, b"may I?")),
            ("a large one", path.udp(PORTS, &[7; 1200])),
            ("an empty one", path.udp(PORTS, b"")),
            ("an echo request", path.ping(b"ping")),
        ] {
            let answer = icmp::error(&CA1, &frame, PROHIBITED);
            rejected(&mut rig, what, &frame, Action::IcmpError, &answer);
        }
        let unassigned = with_protocol(path.udp(PORTS, b"what is it?"), 253);
        let answer = icmp::error(&CA1, &unassigned, PROHIBITED);
        rejected(&mut rig, "another protocol", &unassigned, Action::IcmpError, &answer);
    }
}

fn with_protocol(mut frame: Vec<u8>, protocol: u8) -> Vec<u8> {
    let v4 = frame[12..ETH] == [8, 0];
    frame[if v4 { ETH + 9 } else { ETH + 6 }] = protocol;
    if v4 {
        frame::fix_ip_checksum(&mut frame, ETH);
    }
    frame
}

fn with_fragment_field(mut frame: Vec<u8>, field: u16) -> Vec<u8> {
    frame[ETH + 6..ETH + 8].copy_from_slice(&field.to_be_bytes());
    frame::fix_ip_checksum(&mut frame, ETH);
    frame
}

/// RFC 1122 section 3.2.2, RFC 4443 section 2.4(e).
#[test]
fn what_must_not_be_answered_is_dropped_in_silence() {
    let mut rig = rig();
    let (v4, v6) = (Path::between(&CA1, &CB1, Family::V4), Path::between(&CA1, &CB1, Family::V6));
    for kind in [3, 4, 5, 11, 12, 200] {
        let mut error = v4.ping(&[4; 100]);
        error[ETH + IPV4] = kind;
        silent(&mut rig, &format!("ICMP type {kind}"), &error);
    }
    for kind in [1, 2, 3, 4, 100, 127] {
        let error = v6.icmpv6(kind, 0, [0; 4], &[4; 100], 64);
        silent(&mut rig, &format!("ICMPv6 type {kind}"), &error);
    }
    let first = with_fragment_field(v4.udp(PORTS, &[7; 1200]), 0x2000);
    let answer = icmp::error(&CA1, &first, PROHIBITED);
    rejected(&mut rig, "a first fragment", &first, Action::IcmpError, &answer);
    let later = with_fragment_field(v4.udp(PORTS, &[7; 1200]), 100);
    let ran = rig.run(rig.port(&CA1), &later);
    let drops = dropped(Hook::FromContainer, DropReason::PolicyNoPorts, later.len());
    ran.assert("a later fragment", Verdict::Taken, &[drops, sender_dropped(&CA1)]);
}

#[test]
fn a_plain_deny_says_nothing() {
    let mut rig = rig();
    rig.say(P, EGRESS, deny(RULE), &[]);
    for family in FAMILIES {
        let path = Path::between(&CA1, &CB1, family);
        silent(&mut rig, "a segment", &path.segment(header("S"), b"", 64));
        silent(&mut rig, "a datagram", &path.udp(PORTS, b"may I?"));
    }
}

#[test]
fn what_was_routed_comes_back_from_the_gateway() {
    let mut rig = rig();
    for family in FAMILIES {
        let path = Path::between(&CA1, &CB1, family).with_dst_mac(BLUE.gateway_mac);
        let segment = path.segment(header("S"), b"", 64);
        let answer = reset(&path, 0, Some(1_000_000_001));
        rejected(&mut rig, "routed", &segment, Action::Reset, &answer);
    }
}

#[test]
fn a_neighbour_is_told_what_the_receivers_policy_says() {
    let mut rig = rig();
    for family in FAMILIES {
        let path = Path::between(&CA2, &CA1, family);
        let segment = path.segment(header("S"), b"", 64);
        let ran = rig.run(rig.port(&CA2), &segment);
        let answer = reset(&path, 0, Some(1_000_000_001));
        let drops = dropped(Hook::FromContainer, DropReason::PolicyDenied, segment.len());
        let told = action(Hook::FromContainer, Action::Reset, answer.len());
        ran.assert("a neighbour's segment", Verdict::Sent, &[drops, sender_dropped(&CA2), told]);
        assert_same("the reset", &ran.bytes, &answer);
    }
}

/// Gives a tunnel packet of CB1 to the uplink, which leaves it to the `vxlan` device, and what that answers to the port of CA1.
/// Returns the packet that leaves.
#[track_caller]
fn through(rig: &mut Rig, packet: &[u8], answer: &[u8]) -> Vec<u8> {
    let ran = rig.run(rig.uplink(), packet);
    let left = action(Hook::FromUplink, Action::RejectStack, packet.len());
    ran.assert("from the tunnel", Verdict::ToStack, &[left]);
    let ran = rig.run_marked(rig.port(&CA1), answer, REJECT_MARK);
    let out = [action(Hook::FromContainer, Action::Remote, answer.len()), sent(&CA1, answer.len())];
    ran.assert("on its way back", Verdict::Sent, &out);
    assert_same("inside the tunnel", &ran.bytes[INNER..], answer);
    assert_eq!(ran.bytes[ETH + 16..ETH + 20], HOST_B.vtep.octets(), "to the sender's node");
    assert_eq!(rig.count_flows(), (0, 0), "an answer begins no flow");
    ran.bytes
}

fn prohibited(path: &Path, frame: &[u8]) -> Vec<u8> {
    // As the gateway would, but from the receiver.
    let from = Container { v4: path_v4(path.src), ..CB1 };
    let mut answer = icmp::error(&from, frame, PROHIBITED);
    let back = Path { src_mac: path.dst_mac, dst_mac: path.src_mac, src: path.dst, dst: path.src };
    if path.src.is_ipv6() {
        return back.icmpv6(1, 1, [0; 4], &answer[ETH + IPV6 + 8..], TTL);
    }
    answer[..6].copy_from_slice(&back.dst_mac.bytes);
    answer[6..12].copy_from_slice(&back.src_mac.bytes);
    answer[ETH + 12..ETH + 16].copy_from_slice(&path_v4(back.src).octets());
    frame::fix_ip_checksum(&mut answer, ETH);
    answer
}

fn path_v4(address: std::net::IpAddr) -> std::net::Ipv4Addr {
    match address {
        std::net::IpAddr::V4(v4) => v4,
        std::net::IpAddr::V6(_) => CB1.v4,
    }
}

#[test]
fn who_is_on_another_host_is_told_through_the_tunnel() {
    let mut rig = rig();
    let uplink = rig.uplink();
    let outer = Outer::between(&HOST_B, &HOST_A, BLUE.vni);
    for family in FAMILIES {
        let path = Path::between(&CB1, &CA1, family);
        let segment = path.segment(header("S"), b"", 64);
        let answer = reset(&path, 0, Some(1_000_000_001));
        through(&mut rig, &outer.around(&segment), &answer);
        let datagram = path.udp(PORTS, &[7; 300]);
        let answer = prohibited(&path, &datagram);
        through(&mut rig, &outer.around(&datagram), &answer);
        // XDP leaves it to TC, and counts no drop.
        let packet = outer.around(&segment);
        let ran = rig.run(rig.uplink_xdp(), &packet);
        let passed = action(Hook::FromUplinkXdp, Action::Checked, packet.len());
        ran.assert("XDP", Verdict::ToStack, &[passed]);
    }
    rig.say(P, INGRESS, deny(RULE), &[]);
    let packet = outer.around(&Path::between(&CB1, &CA1, Family::V4).udp(PORTS, b"may I?"));
    assert_eq!(rig.run(uplink, &packet).verdict, Verdict::Taken);
    assert_eq!(rig.run(rig.uplink_xdp(), &packet).verdict, Verdict::Taken, "XDP drops a plain deny");
}

#[test]
fn the_whole_way_of_a_reset_to_a_sender_with_a_policy() {
    let stage = Stage::enter();
    let (mut here, mut there) = (stage.rig(&HOST_A), stage.rig(&HOST_B));
    for rig in [&mut here, &mut there] {
        rig.stay_on_this_cpu();
        rig.police(&CA1, 101, P);
        rig.police(&CB1, 103, Q);
        rig.say(P, EGRESS, reject(RULE), &[]);
        rig.say(P, INGRESS, reject(RULE), &[]);
        rig.say(Q, EGRESS, allow(1), &[]);
        rig.say(Q, INGRESS, deny(2), &[]);
    }
    for family in FAMILIES {
        let path = Path::between(&CB1, &CA1, family);
        let segment = path.segment(header("S"), b"", 64);
        let out = there.run(there.port(&CB1), &segment);
        assert_eq!(out.verdict, Verdict::Sent);
        let packet = frame::on_the_wire(out.bytes, &HOST_B, &HOST_A);
        let answer = reset(&path, 0, Some(1_000_000_001));
        let back = through(&mut here, &packet, &answer);
        let arrived = there.run(there.uplink(), &frame::on_the_wire(back, &HOST_A, &HOST_B));
        assert_eq!(arrived.verdict, Verdict::Sent, "{:#?}", arrived.changes.lines());
        assert_same("what CB1 gets", &arrived.bytes, &answer);
    }
}

/// The mark is no way past a policy.
#[test]
fn only_answers_pass_by_the_mark() {
    let mut rig = rig();
    rig.say(P, EGRESS, deny(RULE), &[]);
    for family in FAMILIES {
        let path = Path::between(&CA1, &CB1, family);
        for frame in [
            path.udp(PORTS, b"x"),
            path.ping(b"x"),
            path.segment(header("S"), b"", 64),
            path.segment(header("A"), b"", 64),
        ] {
            let ran = rig.run_marked(rig.port(&CA1), &frame, REJECT_MARK);
            assert_eq!(ran.verdict, Verdict::Taken, "{:#?}", ran.changes.lines());
        }
        let ran = rig.run_marked(rig.port(&CA1), &path.segment(header("R"), b"", 64), REJECT_MARK + 1);
        assert_eq!(ran.verdict, Verdict::Taken, "another mark");
    }
}

/// The limit is on answers; drops are exact.
#[test]
fn answers_are_limited() {
    const BURST: u64 = 50;
    const TRIES: u64 = 1000;
    let mut rig = rig();
    rig.change_settings(|settings| settings.events_per_second = 0);
    rig.changes();
    let frame = Path::between(&CA1, &CB1, Family::V4).segment(header("S"), b"", 64);
    let start = Instant::now();
    let mut told = 0;
    for _ in 0..TRIES {
        let (verdict, _) = rig.run_uncounted(rig.port(&CA1), &frame, Gso::default());
        told += u64::from(verdict == Verdict::Sent);
    }
    let most = BURST + start.elapsed().as_millis() as u64 + 1;
    assert!((BURST..=most).contains(&told), "{told} answers, between {BURST} and {most} allowed");
    let moved = rig.changes();
    let count = |name: &str| moved.lines().get(name).copied().unwrap_or(0);
    assert_eq!(count("drops from_container policy_denied packets"), TRIES);
    assert_eq!(count("actions from_container reset packets"), told);
}
