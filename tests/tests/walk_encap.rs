//! What leaves for another host: the tunnel packet, its source port, its size.

use std::collections::BTreeSet;

use fabric_common::{
    node::FLAG_VIA_DEVICE,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{self, BLUE, CA1, CB1, FAMILIES, Family, HOST_A, HOST_B, HOST_C, OVERLAY_MTU},
    frame::{self, ETH, INNER, IPV4, IPV6, Outer, Path, UDP, assert_same, on_the_wire},
    icmp,
    ledger::{Entry, action, actions, dropped, sender_dropped, sent, sent_segments},
    walk::{Gso, Rig, Stage, Verdict},
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

/// CA1 sends a frame that is too big: it is dropped, and an answer goes back.
#[track_caller]
fn too_big(rig: &mut Rig, what: &str, frame: &[u8]) {
    let ran = rig.run(rig.port(&CA1), frame);
    let answer = action(HOOK, Action::IcmpError, icmp::too_big(&CA1, frame, 0).len());
    let drop = dropped(HOOK, DropReason::TooBig, frame.len());
    ran.assert(what, Verdict::Sent, &[drop, sender_dropped(&CA1), answer]);
}

/// Sends toward CB1; the packet as it leaves, on the wire.
fn encapsulated(rig: &mut Rig, frame: &[u8]) -> Vec<u8> {
    let ran = rig.run(rig.port(&CA1), frame);
    let expected = [action(HOOK, Action::Remote, frame.len()), sent(&CA1, frame.len())];
    ran.assert("into the tunnel", Verdict::Sent, &expected);
    on_the_wire(ran.bytes, &HOST_A, &HOST_B)
}

fn source_port(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[ETH + IPV4], packet[ETH + IPV4 + 1]])
}

#[test]
fn the_tunnel_packet_is_right_in_every_byte() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        for frame in [
            path(family).udp(PORTS, PAYLOAD),
            path(family).tcp(PORTS, &[]),
            path(family).ping(PAYLOAD),
            path(family).of_length(ETH + OVERLAY_MTU),
        ] {
            let packet = encapsulated(&mut rig, &frame);
            // The library's outer header: TTL 64, DF, right lengths and checksum, UDP checksum 0. Only the source port is open.
            let outer =
                Outer { src_port: source_port(&packet), ..Outer::between(&HOST_A, &HOST_B, BLUE.vni) };
            assert_same("the tunnel packet", &packet, &outer.around(&frame));
            assert_eq!(frame::fault(&packet), None);
            assert_eq!(frame::fault(&packet[INNER..]), None, "inside");
            assert!(source_port(&packet) >= 49152, "source port {}", source_port(&packet));
        }
    }
}

/// Recipe R10.
#[test]
fn source_ports_spread_over_flows_and_stay_with_a_flow() {
    const FLOWS: u16 = 1000;
    let mut rig = Stage::enter().rig(&HOST_A);
    let mut port = |frame: &[u8]| {
        let (verdict, bytes) = rig.run_uncounted(rig.port(&CA1), frame, Gso::default());
        assert_eq!(verdict, Verdict::Sent);
        let port = source_port(&bytes);
        assert!(port >= 49152, "source port {port}");
        port
    };
    for family in FAMILIES {
        let mut distinct = BTreeSet::new();
        for flow in 0..FLOWS {
            let first = port(&path(family).udp((10_000 + flow, 5000), PAYLOAD));
            assert_eq!(
                first,
                port(&path(family).udp((10_000 + flow, 5000), b"another packet")),
                "a flow changed its port"
            );
            distinct.insert(first);
        }
        assert!(distinct.len() >= 900, "{family:?}: {FLOWS} flows have only {} source ports", distinct.len());
        let pings: Vec<u16> = (0..3).map(|n| port(&path(family).ping(&[n; 20]))).collect();
        assert!(pings.windows(2).all(|pair| pair[0] == pair[1]), "pings have ports {pings:?}");
    }
}

/// Recipe R10: the fragments of a datagram stay together.
#[test]
fn fragments_of_a_datagram_have_one_source_port() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let whole = path(Family::V4).udp(PORTS, &[7; 1000]);
    let (header, payload) = whole[ETH..].split_at(IPV4);
    let fragment = |offset: usize, data: &[u8], more: bool| {
        let mut packet = [&whole[..ETH], header, data].concat();
        let flags = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        packet[ETH + 2..ETH + 4].copy_from_slice(&((IPV4 + data.len()) as u16).to_be_bytes());
        packet[ETH + 6..ETH + 8].copy_from_slice(&flags.to_be_bytes());
        frame::fix_ip_checksum(&mut packet, ETH);
        packet
    };
    let v4 = [fragment(0, &payload[..504], true), fragment(504, &payload[504..], false)];
    let ports = v4.map(|frame| source_port(&encapsulated(&mut rig, &frame)));
    assert_eq!(ports[0], ports[1], "IPv4");
    let v6 = [(0_u16, 1_u16), (504, 0)].map(|(offset, more)| {
        let mut data = vec![17, 0];
        data.extend((offset | more).to_be_bytes());
        data.extend([0, 0, 0, 1]);
        data.extend(if more == 1 { &payload[..504] } else { &payload[504..] });
        let mut frame = path(Family::V6).udp(PORTS, &vec![0; data.len() - UDP]);
        frame[ETH + 6] = 44;
        frame[ETH + IPV6..].copy_from_slice(&data);
        frame
    });
    let ports = v6.map(|frame| source_port(&encapsulated(&mut rig, &frame)));
    assert_eq!(ports[0], ports[1], "IPv6");
}

/// An IPv4 header with 20 bytes of options is as long as an IPv6 header.
#[test]
fn options_of_any_length_leave_a_flow_its_source_port() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let whole = path(Family::V4).udp(PORTS, PAYLOAD);
    for options in (4..=40).step_by(4) {
        let ports = [1_u16, 2, 3].map(|id| {
            let mut frame = [&whole[..ETH + IPV4], &vec![1; options], &whole[ETH + IPV4..]].concat();
            frame[ETH] = 0x45 + (options / 4) as u8;
            let length = (frame.len() - ETH) as u16;
            frame[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
            frame[ETH + 4..ETH + 6].copy_from_slice(&id.to_be_bytes());
            frame::fix_ip_checksum(&mut frame, ETH);
            source_port(&encapsulated(&mut rig, &frame))
        });
        assert!(ports.iter().all(|port| *port == ports[0]), "{options} bytes of options: {ports:?}");
    }
}

/// Recipe R6 and R7: nothing that is too big leaves the host. `walk_too_big.rs` has the answers.
#[test]
fn the_largest_packet_fits_and_one_byte_more_does_not() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        encapsulated(&mut rig, &path(family).of_length(ETH + OVERLAY_MTU));
        for more in [1, 2, 50, 500] {
            too_big(
                &mut rig,
                &format!("{more} bytes too big"),
                &path(family).of_length(ETH + OVERLAY_MTU + more),
            );
        }
    }
}

/// Of a packet that is to be segmented, a segment must fit. A test run can't say what kind of segmentation it is, which
/// makes the kernel refuse to make room and the program take its other way, the `vxlan` device.
#[test]
fn segments_must_fit_too() {
    const SEGMENTS: u32 = 3;
    const TCP: usize = 20;
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        let ip = if family == Family::V4 { IPV4 } else { IPV6 };
        for (transport, frame) in
            [(TCP, path(family).tcp(PORTS, &[1; 2000])), (UDP, path(family).udp(PORTS, &[1; 2000]))]
        {
            let fits = Gso { size: (OVERLAY_MTU - ip - transport) as u32, segments: SEGMENTS };
            let ran = rig.run_gso(rig.port(&CA1), &frame, fits);
            let packets = u64::from(SEGMENTS);
            let expected: [Entry; 2] = [
                actions(HOOK, Action::ViaDevice, packets, frame.len()),
                sent_segments(&CA1, packets, frame.len()),
            ];
            ran.assert("segments that fit", Verdict::Sent, &expected);
            let ran = rig.run_gso(rig.port(&CA1), &frame, Gso { size: fits.size + 1, segments: SEGMENTS });
            let answer = icmp::too_big(&CA1, &frame, 0).len();
            let drops = vec![
                (format!("drops {HOOK} {} packets", DropReason::TooBig), packets),
                (format!("drops {HOOK} {} bytes", DropReason::TooBig), frame.len() as u64),
                (format!("events {HOOK} {}", DropReason::TooBig), 1),
                (format!("port slot {} egress drops", CA1.slot), packets),
            ];
            let answer = action(HOOK, Action::IcmpError, answer);
            ran.assert("segments of one byte more", Verdict::Sent, &[drops, answer]);
        }
    }
}

#[test]
fn a_host_without_an_outer_header_gets_nothing() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let frame = Path::between(&cast::GA1, &cast::GC1, Family::V4).udp(PORTS, PAYLOAD);
    let number = rig.tables.vteps[&HOST_C.vtep.into()].node;
    rig.forget_node(number);
    let ran = rig.run(rig.port(&cast::GA1), &frame);
    let drop = dropped(HOOK, DropReason::NoNode, frame.len());
    ran.assert("an unreachable host", Verdict::Taken, &[drop, sender_dropped(&cast::GA1)]);
}

/// The program's other way out: outer headers that it does not build itself.
#[test]
fn a_node_may_want_the_vxlan_device() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let mut tables = rig.tables.clone();
    tables.nodes.values_mut().for_each(|node| node.flags |= FLAG_VIA_DEVICE);
    rig.write(tables);
    for family in FAMILIES {
        let frame = path(family).udp(PORTS, PAYLOAD);
        let ran = rig.run(rig.port(&CA1), &frame);
        let expected = [action(HOOK, Action::ViaDevice, frame.len()), sent(&CA1, frame.len())];
        ran.assert("by way of the device", Verdict::Sent, &expected);
        assert_same("the device gets the frame as it is", &ran.bytes, &frame);
        too_big(&mut rig, "too big for either way", &path(family).of_length(ETH + OVERLAY_MTU + 1));
    }
    rig.change_settings(|settings| settings.vxlan_ifindex = 0);
    refused(&mut rig, "no device", &path(Family::V4).udp(PORTS, PAYLOAD), DropReason::NoVxlanDevice);
}
