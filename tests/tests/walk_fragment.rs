//! IPv4 packets that are too big for the underlay and may be fragmented (RFC 791 section 3.2).

use std::os::fd::AsRawFd;

use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{BLUE, CA1, CB1, Family, HOST_A, OVERLAY_MTU},
    frame::{self, ETH, INNER, IPV4, Path, assert_same},
    ledger::{action, dropped, received, sender_dropped, sent},
    load::Globals,
    routing::{self, RA1, RB1, RED, routed},
    walk::{Gso, Rig, Stage, Verdict},
    wire::Wire,
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

const PORTS: (u16, u16) = (4000, 5000);
const HOOK: Hook = Hook::FromFrag;
/// What marks a packet of BLUE on its way.
const MARK: u32 = 1 << 31 | BLUE.vni;
/// Beside it: the data of earlier fragments are in front.
const REST: u32 = 1 << 30;
/// Fragment field.
const DONT: u16 = 0x4000;
const MORE: u16 = 0x2000;

/// A UDP packet of `length` bytes with this fragment field, behind an Ethernet header.
fn packet(length: usize, field: u16) -> Vec<u8> {
    let payload: Vec<u8> = (0..length - IPV4 - 8).map(|i| (i * 7 % 251) as u8).collect();
    let mut frame = Path::between(&CA1, &CB1, Family::V4).udp(PORTS, &payload);
    set(&mut frame, 4, 0x1234);
    set(&mut frame, 6, field);
    frame::fix_ip_checksum(&mut frame, ETH);
    frame
}

fn set(frame: &mut [u8], at: usize, value: u16) {
    frame[ETH + at..ETH + at + 2].copy_from_slice(&value.to_be_bytes());
}

fn get(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[ETH + at], frame[ETH + at + 1]])
}

fn header_len(frame: &[u8]) -> usize {
    usize::from(frame[ETH] & 0xf) * 4
}

/// A fragment with that part of the data, as a naive fragmenter makes it. Options must be those that every fragment has.
fn part(frame: &[u8], data: std::ops::Range<usize>) -> Vec<u8> {
    let header = ETH + header_len(frame);
    let last = header + data.end == frame.len();
    let mut part = [&frame[..header], &frame[header + data.start..header + data.end]].concat();
    let length = (part.len() - ETH) as u16;
    set(&mut part, 2, length);
    let field = get(frame, 6) + (data.start / 8) as u16;
    set(&mut part, 6, if last { field } else { field | MORE });
    frame::fix_ip_checksum(&mut part, ETH);
    part
}

/// The copy that goes round: the header of the rest, the data of the whole.
fn copy(frame: &[u8], rest: &[u8]) -> Vec<u8> {
    let header = ETH + header_len(frame);
    [&rest[..header], &frame[header..]].concat()
}

/// Fragments of a packet.
fn count(frame: &[u8], mtu: usize) -> u64 {
    let data = (mtu - header_len(frame)) / 8 * 8;
    ((frame.len() - ETH - header_len(frame)).div_ceil(data)) as u64
}

/// Follows a packet until all of it is sent.
#[track_caller]
fn cut(rig: &mut Rig, what: &str, frame: &[u8], mtu: usize) {
    let (mut left, mut input, mut mark) = (frame.to_vec(), frame.to_vec(), MARK);
    loop {
        let header = header_len(frame);
        let (all, most) = (left.len() - ETH - header, (mtu - header) / 8 * 8);
        let whole = left.len() - ETH <= mtu;
        let first = if whole { left.clone() } else { part(&left, 0..most) };
        let ran = rig.run_marked(rig.frag(), &input, mark);
        let mut expected = vec![action(HOOK, Action::Remote, first.len())];
        if !whole {
            expected.push(action(HOOK, Action::Fragment, input.len()));
        }
        ran.assert(what, Verdict::Sent, &expected);
        assert_same(what, &ran.bytes[INNER..], &first);
        if whole {
            return;
        }
        let rest = part(&left, most..all);
        (input, mark) = (copy(&left, &rest), MARK | REST);
        left = rest;
    }
}

#[test]
fn fragments_have_the_right_bytes() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for length in [OVERLAY_MTU, OVERLAY_MTU + 1, OVERLAY_MTU + 20, 2 * OVERLAY_MTU, 3500] {
        cut(&mut rig, &format!("{length} bytes"), &packet(length, 0), OVERLAY_MTU);
    }
    // Pieces of a packet that was cut before, the last one and one that is not.
    cut(&mut rig, "a last fragment", &packet(2000, 185), OVERLAY_MTU);
    cut(&mut rig, "a fragment in the middle", &packet(2000, MORE | 185), OVERLAY_MTU);
    for mtu in [28, 35, 68, 576, 1279, 1280] {
        rig.change_node_mtu(mtu as u16);
        cut(&mut rig, &format!("an MTU of {mtu}"), &packet(1500, 0), mtu);
    }
    rig.change_node_mtu(68);
    let mut longest = packet(1400, 0);
    longest.splice(ETH + IPV4..ETH + IPV4, [1; 40]);
    longest[ETH] = 0x4f;
    set(&mut longest, 2, 1440);
    frame::fix_ip_checksum(&mut longest, ETH);
    cut(&mut rig, "the longest options", &longest, 68);
}

/// Options without the copied flag are only in the first fragment.
#[test]
fn options_are_copied_as_they_ask() {
    const ROUTE: [u8; 7] = [7, 7, 4, 9, 9, 9, 9];
    const SECURITY: [u8; 4] = [0x82, 4, 8, 8];
    let mut rig = Stage::enter().rig(&HOST_A);
    let with = |options: &[u8; 12]| {
        let mut frame = packet(2000, 0);
        frame.splice(ETH + IPV4..ETH + IPV4, *options);
        frame[ETH] = 0x48;
        set(&mut frame, 2, 2012);
        frame::fix_ip_checksum(&mut frame, ETH);
        frame
    };
    let mut options = [1; 12];
    options[..7].copy_from_slice(&ROUTE);
    options[7..11].copy_from_slice(&SECURITY);
    let frame = with(&options);
    // Every frame of the namespace: the copy is seen where it enters the pair.
    let seen = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
    let seen = seen.expect("root may have one");
    rig.run_marked(rig.frag(), &frame, MARK);
    let mut bytes = vec![0; 4096];
    let length = recv(seen.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a copy went round");
    options[..7].copy_from_slice(&[1; 7]);
    let all = frame.len() - ETH - 32;
    let rest = part(&with(&options), 1416..all);
    assert_same("a recorded route and a security option", &bytes[..length], &copy(&frame, &rest));
    rig.changes();
    // Lists that end early, and lengths that lead nowhere, stay as they are.
    for odd in [[0, 7, 7, 4, 9, 9, 9, 9, 0, 0, 0, 0], [7, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]] {
        cut(&mut rig, "odd options", &with(&odd), OVERLAY_MTU);
    }
}

/// The whole way, with programs attached: a packet and what it becomes are counted.
#[test]
fn a_packet_that_may_be_fragmented_gets_out() {
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.attach(rig.port(&CA1));
    rig.attach(rig.frag());
    let mut wire = Wire::into_port(&rig, &CA1);
    for (mtu, length) in
        [(OVERLAY_MTU, 1451), (OVERLAY_MTU, 1470), (OVERLAY_MTU, 3000), (1230, 1500), (502, 3000)]
    {
        rig.change_node_mtu(mtu as u16);
        for field in [0, MORE, 185, MORE | 185] {
            let frame = packet(length, field);
            wire.inject(&frame);
            let moved = rig.changes();
            let (parts, lines) = (count(&frame, mtu), moved.lines());
            let what = format!("{length} bytes, MTU {mtu}, field {field:#x}: {lines:?}");
            let get = |name: &str| lines.get(name).copied().unwrap_or(0);
            assert_eq!(get("actions from_container fragment packets"), 1, "{what}");
            assert_eq!(get("actions from_frag fragment packets"), parts - 1, "{what}");
            assert_eq!(get("actions from_frag remote packets"), parts, "{what}");
            assert_eq!(get(&format!("port slot {} egress packets", CA1.slot)), 1, "{what}");
            assert!(!lines.keys().any(|name| name.starts_with("drops")), "{what}");
        }
    }
}

#[test]
fn only_what_may_be_fragmented_is() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let place = rig.port(&CA1);
    let frame = packet(1500, 0);
    let diverted = [action(Hook::FromContainer, Action::Fragment, frame.len()), sent(&CA1, frame.len())];
    rig.run(place, &frame).assert("too big", Verdict::Sent, &diverted);
    let ran = rig.run_gso(place, &frame, Gso { size: 1460, segments: 2 });
    let name = "actions from_container fragment packets";
    assert_eq!(
        ran.changes.lines().get(name),
        Some(&2),
        "segments that are too big: {:?}",
        ran.changes.lines()
    );
    // Padding goes, and what fits then is sent in one piece.
    let mut padded = packet(OVERLAY_MTU, 0);
    padded.extend([0; 6]);
    let ran = rig.run_marked(rig.frag(), &padded, MARK);
    ran.assert("padded", Verdict::Sent, &[action(HOOK, Action::Remote, padded.len() - 6)]);
    assert_same("padded", &ran.bytes[INNER..], &packet(OVERLAY_MTU, 0));
    // Without the pair of veths it is dropped, and there is no answer.
    rig.change_settings(|settings| settings.frag_ifindex = 0);
    let drop = [dropped(Hook::FromContainer, DropReason::TooBig, frame.len()), sender_dropped(&CA1)];
    rig.run(place, &frame).assert("no way", Verdict::Taken, &drop);
}

/// Routed into a network that carries less, on this node and on another one.
#[test]
fn a_routed_packet_is_cut_for_the_network_it_goes_to() {
    const SMALL: usize = 1300;
    let objects = routing::objects(&HOST_A, &[&BLUE], SMALL as u16);
    let mut rig = Stage::enter().rig_with(&HOST_A, &objects, Globals::default());
    for (to, end) in [(&RA1, Action::Local), (&RB1, Action::Remote)] {
        let path = Path::between(&CA1, to, Family::V4).with_dst_mac(BLUE.gateway_mac);
        let mut frame = path.udp(PORTS, &[7; 1392]);
        set(&mut frame, 6, DONT);
        frame::fix_ip_checksum(&mut frame, ETH);
        let ran = rig.run(rig.port(&CA1), &frame);
        assert!(ran.changes.lines().contains_key("drops from_container too_big packets"), "with DF");
        set(&mut frame, 6, 0);
        frame::fix_ip_checksum(&mut frame, ETH);
        let ran = rig.run(rig.port(&CA1), &frame);
        let length = frame.len();
        let diverted = [
            action(Hook::FromContainer, Action::Fragment, length),
            action(Hook::FromContainer, Action::Routed, length),
            sent(&CA1, length),
        ];
        ran.assert(to.name, Verdict::Sent, &diverted);
        let frame = routed(&frame, to);
        assert_same("one hop less", &ran.bytes, &frame);
        let first = part(&frame, 0..(SMALL - IPV4) / 8 * 8);
        let ran = rig.run_marked(rig.frag(), &frame, 1 << 31 | RED.vni);
        let mut expected = vec![action(HOOK, end, first.len()), action(HOOK, Action::Fragment, length)];
        if end == Action::Local {
            expected.push(received(to, first.len()));
        }
        ran.assert(to.name, Verdict::Sent, &expected);
        let bytes = if end == Action::Local { &ran.bytes[..] } else { &ran.bytes[INNER..] };
        assert_same("the first fragment", bytes, &first);
    }
    // Without the pair of veths it stays as it was, and is dropped in silence.
    rig.change_settings(|settings| settings.frag_ifindex = 0);
    let path = Path::between(&CA1, &RA1, Family::V4).with_dst_mac(BLUE.gateway_mac);
    let mut frame = path.udp(PORTS, &[7; 1392]);
    set(&mut frame, 6, 0);
    frame::fix_ip_checksum(&mut frame, ETH);
    let drop = [dropped(Hook::FromContainer, DropReason::TooBig, frame.len()), sender_dropped(&CA1)];
    let ran = rig.run(rig.port(&CA1), &frame);
    ran.assert("no way", Verdict::Taken, &drop);
    assert_same("no way", &ran.bytes, &frame);
}

/// Nothing gets out through the pair that `from_container` did not send there.
#[test]
fn whatever_else_comes_through_the_pair_is_dropped() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let place = rig.frag();
    let frame = packet(1500, 0);
    let mut expect = |what: &str, mark: u32, frame: &[u8], reason: DropReason| {
        let ran = rig.run_marked(place, frame, mark);
        ran.assert(what, Verdict::Taken, &[dropped(HOOK, reason, frame.len())]);
    };
    expect("no mark", 0, &frame, DropReason::UnknownVni);
    expect("somebody's mark", 100, &frame, DropReason::UnknownVni);
    expect("no such network", 1 << 31 | 77, &frame, DropReason::UnknownDestination);
    expect("not to be fragmented", MARK, &packet(1500, DONT), DropReason::TooBig);
    let v6 = Path::between(&CA1, &CB1, Family::V6).udp(PORTS, &[1; 1500]);
    expect("IPv6", MARK, &v6, DropReason::UnsupportedEthertype);
    let mut short = frame.clone();
    set(&mut short, 2, 19);
    expect("a length below the header's", MARK, &short, DropReason::Malformed);
    rig.change_node_mtu(27);
    let ran = rig.run_marked(place, &frame, MARK);
    ran.assert("no room for data", Verdict::Taken, &[dropped(HOOK, DropReason::TooBig, frame.len())]);
}
