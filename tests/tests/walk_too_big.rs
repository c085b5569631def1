//! What does not fit the underlay (recipes R6 and R7): dropped once, and answered where the sender can do something about
//! it.

use std::time::{Duration, Instant};

use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{CA1, CB1, FAMILIES, Family, HOST_A, OVERLAY_MTU},
    frame::{self, ETH, IPV4, IPV6, Path, assert_same},
    icmp,
    ledger::{Entry, action, dropped, sender_dropped},
    walk::{Gso, Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 5000);
const HOOK: Hook = Hook::FromContainer;
/// Ethernet frame of the largest packet.
const LARGEST: usize = ETH + OVERLAY_MTU;

fn path(family: Family) -> Path {
    Path::between(&CA1, &CB1, family)
}

/// A frame that is too big, and its answer.
#[track_caller]
fn answered(rig: &mut Rig, what: &str, frame: &[u8]) {
    answered_gso(rig, what, frame, Gso { size: 0, segments: 1 });
}

#[track_caller]
fn answered_gso(rig: &mut Rig, what: &str, frame: &[u8], gso: Gso) {
    let ran = rig.run_gso(rig.port(&CA1), frame, gso);
    let answer = icmp::too_big(&CA1, frame, OVERLAY_MTU as u16);
    let packets = u64::from(gso.segments);
    let drops: Entry = vec![
        (format!("drops {HOOK} {} packets", DropReason::TooBig), packets),
        (format!("drops {HOOK} {} bytes", DropReason::TooBig), frame.len() as u64),
        (format!("events {HOOK} {}", DropReason::TooBig), 1),
        (format!("port slot {} egress drops", CA1.slot), packets),
    ];
    ran.assert(what, Verdict::Sent, &[drops, action(HOOK, Action::IcmpError, answer.len())]);
    assert_same(what, &ran.bytes, &answer);
    assert_eq!(frame::fault(&ran.bytes), None, "{what}");
}

/// A frame that is too big and gets no answer.
#[track_caller]
fn unanswered(rig: &mut Rig, what: &str, frame: &[u8]) {
    let ran = rig.run(rig.port(&CA1), frame);
    ran.assert(what, Verdict::Taken, &[dropped(HOOK, DropReason::TooBig, frame.len()), sender_dropped(&CA1)]);
}

/// Bends the fragment field of an IPv4 frame.
fn with_fragment_field(mut frame: Vec<u8>, field: u16) -> Vec<u8> {
    frame[ETH + 6..ETH + 8].copy_from_slice(&field.to_be_bytes());
    frame::fix_ip_checksum(&mut frame, ETH);
    frame
}

/// Puts one extension header behind the IPv6 header; its first byte is written here.
fn behind(frame: &[u8], kind: u8, mut header: Vec<u8>) -> Vec<u8> {
    header[0] = frame[ETH + 6];
    let mut frame = [&frame[..ETH + IPV6], &header, &frame[ETH + IPV6..]].concat();
    frame[ETH + 6] = kind;
    let length = (frame.len() - ETH - IPV6) as u16;
    frame[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

#[test]
fn the_sender_learns_the_mtu() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        let path = path(family);
        for more in [1, 2, 50, 500, 1800] {
            answered(&mut rig, &format!("{more} bytes too big"), &path.of_length(LARGEST + more));
        }
        answered(&mut rig, "a TCP segment", &path.tcp(PORTS, &[3; 1500]));
        answered(&mut rig, "an echo request", &path.ping(&[4; 1500]));
    }
    let from_link_local = path(Family::V6).with_src(CA1.link_local()).of_length(LARGEST + 1);
    answered(&mut rig, "from a link-local address", &from_link_local);
    let first = with_fragment_field(path(Family::V4).of_length(LARGEST + 7), 0x6000);
    answered(&mut rig, "a first fragment that may not be fragmented again", &first);
    let v6 = path(Family::V6).of_length(LARGEST + 7);
    answered(&mut rig, "a first fragment, IPv6", &behind(&v6, 44, vec![0, 0, 0, 1, 0, 0, 0, 9]));
    answered(&mut rig, "IPv6 with destination options", &behind(&v6, 60, vec![0, 0, 1, 4, 0, 0, 0, 0]));
    let options = v4_with_options(path(Family::V4).of_length(LARGEST + 7));
    answered(&mut rig, "IPv4 with the longest options", &options);
}

/// Forty bytes of options that do nothing.
fn v4_with_options(frame: Vec<u8>) -> Vec<u8> {
    let mut frame = [&frame[..ETH + IPV4], &[1; 40], &frame[ETH + IPV4..]].concat();
    frame[ETH] = 0x4f;
    let length = (frame.len() - ETH) as u16;
    frame[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
    frame::fix_ip_checksum(&mut frame, ETH);
    frame
}

#[test]
fn a_packet_whose_segments_are_too_big_is_answered() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        let frame = path(family).tcp(PORTS, &[1; 3000]);
        answered_gso(&mut rig, "TCP segments of 1500 bytes", &frame, Gso { size: 1460, segments: 3 });
    }
}

/// RFC 1122 section 3.2.2, RFC 4443 section 2.4(e).
#[test]
fn what_must_not_be_answered_is_dropped_in_silence() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let (v4, v6) = (path(Family::V4), path(Family::V6));
    let later = with_fragment_field(v4.of_length(LARGEST + 1), 0x4000 | 100);
    unanswered(&mut rig, "a later fragment", &later);
    let later = behind(&v6.of_length(LARGEST + 1), 44, vec![0, 0, 4, 1, 0, 0, 0, 9]);
    unanswered(&mut rig, "a later fragment, IPv6", &later);
    for kind in [3, 4, 5, 11, 12, 200] {
        let mut error = v4.ping(&[4; 1500]);
        error[ETH + IPV4] = kind;
        unanswered(&mut rig, &format!("ICMP type {kind}"), &error);
    }
    for kind in [1, 2, 3, 4, 100, 127] {
        let error = v6.icmpv6(kind, 0, [0; 4], &[4; 1500], 64);
        unanswered(&mut rig, &format!("ICMPv6 type {kind}"), &error);
        let hidden = behind(&error, 60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
        unanswered(&mut rig, &format!("ICMPv6 type {kind} behind options"), &hidden);
    }
    for group in [[224, 0, 0, 1], [239, 1, 1, 1], [255, 255, 255, 255]] {
        unanswered(&mut rig, "a group's address", &v4.with_dst(group).of_length(LARGEST + 1));
    }
    let group: std::net::Ipv6Addr = "ff05::1:3".parse().expect("an address");
    unanswered(&mut rig, "an IPv6 group's address", &v6.with_dst(group).of_length(LARGEST + 1));
    for family in FAMILIES {
        let mut padded = path(family).of_length(LARGEST);
        padded.extend([0; 10]);
        unanswered(&mut rig, "padding behind a packet that fits", &padded);
    }
}

/// The limit is on answers; drops are exact.
#[test]
fn answers_are_limited() {
    const BURST: u64 = 50;
    const TRIES: u64 = 1000;
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.stay_on_this_cpu();
    let frame = path(Family::V4).of_length(LARGEST + 1);
    rig.change_settings(|settings| settings.events_per_second = 0);
    let start = Instant::now();
    let mut sent = 0;
    for _ in 0..TRIES {
        let (verdict, _) = rig.run_uncounted(rig.port(&CA1), &frame, Gso::default());
        sent += u64::from(verdict == Verdict::Sent);
    }
    let most = BURST + start.elapsed().as_millis() as u64 + 1;
    assert!((BURST..=most).contains(&sent), "{sent} answers, between {BURST} and {most} allowed");
    let moved = rig.changes();
    let count = |name: &str| moved.lines().get(name).copied().unwrap_or(0);
    assert_eq!(count("drops from_container too_big packets"), TRIES);
    assert_eq!(count("actions from_container icmp_error packets"), sent);
    std::thread::sleep(Duration::from_millis(20));
    answered(&mut rig_with_events(rig), "later", &frame);
}

fn rig_with_events(mut rig: Rig) -> Rig {
    rig.change_settings(|settings| settings.events_per_second = 1_000_000);
    rig.changes();
    rig
}
