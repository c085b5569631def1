//! The tunnel over an IPv6 underlay: what leaves, what arrives, and what must not.

use fabric_common::{
    node::FLAG_VIA_DEVICE,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{
        self, BLUE, CA1, CB1, FAMILIES, Family, HOST_A, HOST_B, HOST_C, HOSTS, Host, OVERLAY_MTU_OVER_V6,
        STRANGER, SWITCH,
    },
    frame::{self, ETH, INNER, INNER_OVER_V6, IPV6, Outer, Path, UDP, assert_same, on_the_wire},
    icmp,
    ledger::{Entry, action, dropped, received, sender_dropped, sent},
    load::Globals,
    tunnel_table::{Case, Fate, PAYLOAD, PORTS, case, inner, sender_table, tagged},
    walk::{Rig, Stage, Verdict, can_run},
};

/// The next header's number in an IPv6 header, and where UDP begins.
const NEXT: usize = ETH + 6;
const L4: usize = ETH + IPV6;

fn rig(stage: &Stage, host: &'static Host) -> Rig {
    stage.rig_with(host, &cast::objects_over_v6(host), Globals::default())
}

fn path(family: Family) -> Path {
    Path::between(&CA1, &CB1, family)
}

fn from(host: &Host) -> Outer {
    Outer::over(Family::V6, host, &HOST_B, BLUE.vni)
}

/// CA1 sends toward CB1; the packet as it leaves, on the wire.
fn encapsulated(rig: &mut Rig, frame: &[u8]) -> Vec<u8> {
    let ran = rig.run(rig.port(&CA1), frame);
    let expected = [action(Hook::FromContainer, Action::Remote, frame.len()), sent(&CA1, frame.len())];
    ran.assert("into the tunnel", Verdict::Sent, &expected);
    on_the_wire(ran.bytes, &HOST_A, &HOST_B)
}

fn flow_label(packet: &[u8]) -> u32 {
    u32::from_be_bytes([0, packet[ETH + 1] & 0xf, packet[ETH + 2], packet[ETH + 3]])
}

#[test]
fn the_tunnel_packet_is_right_in_every_byte() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    for family in FAMILIES {
        for frame in [
            path(family).udp(PORTS, PAYLOAD),
            path(family).tcp(PORTS, &[]),
            path(family).ping(PAYLOAD),
            path(family).of_length(ETH + OVERLAY_MTU_OVER_V6),
        ] {
            let packet = encapsulated(&mut rig, &frame);
            // Hop limit 64, right lengths, UDP checksum 0. Only the flow's hash is open, in source port and flow label.
            let src_port = u16::from_be_bytes([packet[L4], packet[L4 + 1]]);
            let outer = Outer { src_port, flow_label: flow_label(&packet), ..from(&HOST_A) };
            assert_same("the tunnel packet", &packet, &outer.around(&frame));
            assert_eq!(frame::fault(&packet), None);
            assert!(src_port >= 49152 && outer.flow_label != 0, "{outer:?}");
            assert_same("the same flow", &encapsulated(&mut rig, &frame), &packet);
        }
        let labels: std::collections::BTreeSet<_> = (0..100)
            .map(|n| flow_label(&encapsulated(&mut rig, &path(family).udp((10_000 + n, 5000), PAYLOAD))))
            .collect();
        assert!(labels.len() >= 99, "{family:?}: 100 flows have only {} labels", labels.len());
    }
}

#[test]
fn the_largest_packet_fits_and_one_byte_more_does_not() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    for family in FAMILIES {
        encapsulated(&mut rig, &path(family).of_length(ETH + OVERLAY_MTU_OVER_V6));
        let frame = path(family).of_length(ETH + OVERLAY_MTU_OVER_V6 + 1);
        let ran = rig.run(rig.port(&CA1), &frame);
        let answer = action(Hook::FromContainer, Action::IcmpError, icmp::too_big(&CA1, &frame, 0).len());
        let drop = dropped(Hook::FromContainer, DropReason::TooBig, frame.len());
        ran.assert("one byte more", Verdict::Sent, &[drop, sender_dropped(&CA1), answer]);
    }
}

#[test]
fn a_node_may_want_the_vxlan_device() {
    let mut rig = rig(&Stage::enter(), &HOST_A);
    let mut tables = rig.tables.clone();
    tables.nodes.values_mut().for_each(|node| node.flags |= FLAG_VIA_DEVICE);
    rig.write(tables);
    for family in FAMILIES {
        let frame = path(family).udp(PORTS, PAYLOAD);
        let ran = rig.run(rig.port(&CA1), &frame);
        let expected = [action(Hook::FromContainer, Action::ViaDevice, frame.len()), sent(&CA1, frame.len())];
        ran.assert("by way of the device", Verdict::Sent, &expected);
        assert_same("the device gets the frame as it is", &ran.bytes, &frame);
    }
}

#[test]
fn an_inner_frame_arrives_as_it_was_sent() {
    let stage = Stage::enter();
    let (mut a, mut b) = (rig(&stage, &HOST_A), rig(&stage, &HOST_B));
    for family in FAMILIES {
        let mut frames = vec![
            path(family).udp(PORTS, PAYLOAD),
            path(family).tcp(PORTS, PAYLOAD),
            path(family).ping(PAYLOAD),
            // An IPv4 packet shorter than an IPv6 header.
            path(family).udp(PORTS, &[]),
        ];
        frames
            .extend([100, 101, 576, 1279, ETH + OVERLAY_MTU_OVER_V6].map(|len| path(family).of_length(len)));
        for frame in frames {
            let packet = encapsulated(&mut a, &frame);
            let early = b.run(b.uplink_xdp(), &packet);
            let checked = action(Hook::FromUplinkXdp, Action::Checked, packet.len());
            early.assert("XDP looks at it", Verdict::ToStack, &[checked]);
            let ran = b.run(b.uplink(), &packet);
            let local = action(Hook::FromUplink, Action::Local, packet.len());
            ran.assert("delivered", Verdict::Sent, &[local, received(&CB1, frame.len())]);
            assert_same("what was sent is what arrives", &ran.bytes, &frame);
        }
    }
}

/// Below Linux 6.3 only an inner packet of the outer header's family can be taken out; the other takes the device.
#[test]
fn a_kernel_that_can_not_cross_families_leaves_ipv4_to_the_stack() {
    let globals = Globals { cross_family: false, ..Globals::default() };
    let mut rig = Stage::enter().rig_with(&HOST_B, &cast::objects_over_v6(&HOST_B), globals);
    let packet = from(&HOST_A).around(&path(Family::V4).udp(PORTS, PAYLOAD));
    let ran = rig.run(rig.uplink(), &packet);
    let noted = action(Hook::FromUplink, Action::CrossFamily, packet.len());
    ran.assert("IPv4 inside", Verdict::ToStack, &[noted]);
    let frame = path(Family::V6).udp(PORTS, PAYLOAD);
    let packet = from(&HOST_A).around(&frame);
    let ran = rig.run(rig.uplink(), &packet);
    let local = action(Hook::FromUplink, Action::Local, packet.len());
    ran.assert("IPv6 inside", Verdict::Sent, &[local, received(&CB1, frame.len())]);
    assert_same("the inner frame", &ran.bytes, &frame);
}

/// Both programs of the uplink.
fn at_uplink(rig: &mut Rig, case: &Case) {
    let length = case.packet.len();
    let (tc, xdp) = (Hook::FromUplink, Hook::FromUplinkXdp);
    let [late, early]: [(Verdict, Vec<Entry>); 2] = match case.fate {
        Fate::Delivered | Fate::DeliveredReserved => {
            let inner = length - INNER_OVER_V6;
            let mut late = vec![action(tc, Action::Local, length), received(&CB1, inner)];
            let mut early = vec![action(xdp, Action::Checked, length)];
            if case.fate == Fate::DeliveredReserved {
                late.push(action(tc, Action::ReservedBits, length));
                early.push(action(xdp, Action::ReservedBits, length));
            }
            [(Verdict::Sent, late), (Verdict::ToStack, early)]
        }
        Fate::Dropped(reason) => [tc, xdp].map(|hook| (Verdict::Taken, vec![dropped(hook, reason, length)])),
        Fate::Stack(what) => [tc, xdp].map(|hook| (Verdict::ToStack, vec![action(hook, what, length)])),
    };
    let ran = rig.run(rig.uplink_xdp(), &case.packet);
    ran.assert(&case.name, early.0, &early.1);
    assert_same(&case.name, &ran.bytes, &case.packet);
    if can_run(&case.packet) {
        let ran = rig.run(rig.uplink(), &case.packet);
        ran.assert(&case.name, late.0, &late.1);
        let left = if late.0 == Verdict::Sent { &case.packet[INNER_OVER_V6..] } else { &case.packet };
        assert_same(&case.name, &ran.bytes, left);
    }
}

/// An extension header of eight bytes between IPv6 and UDP.
fn with_extension(packet: &[u8], number: u8, header: [u8; 8]) -> Vec<u8> {
    let mut packet = [&packet[..L4], &header, &packet[L4..]].concat();
    let length = u16::from_be_bytes([packet[ETH + 4], packet[ETH + 5]]) + 8;
    packet[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    packet[NEXT] = number;
    packet
}

fn bent(packet: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + value.len()].copy_from_slice(value);
    packet
}

/// Recipe R2 over IPv6.
#[test]
fn headers_at_the_uplink() {
    use DropReason as D;
    use Fate::{Delivered, DeliveredReserved, Dropped, Stack};
    let right = from(&HOST_A).around(&inner());
    let not_ours = || Stack(Action::NotOurs);
    let mapped = |host: &Host| host.vtep.to_ipv6_mapped().octets();
    let mut checksum_wrong = from(&HOST_A).around_with_checksum(&inner());
    checksum_wrong[L4 + 6] ^= 0x55;
    let elsewhere = Outer { dst: HOST_C.vtep_v6().into(), ..from(&HOST_A) }.around(&inner());
    let length = right.len() - ETH - IPV6;
    let lengths = |ip: usize, udp: usize| {
        bent(&bent(&right, ETH + 4, &(ip as u16).to_be_bytes()), L4 + 4, &(udp as u16).to_be_bytes())
    };
    let mut table = vec![
        case("a right packet, checksum 0", right.clone(), Delivered),
        case("a right checksum", from(&HOST_A).around_with_checksum(&inner()), Stack(Action::OuterChecksum)),
        case("a wrong checksum", checksum_wrong, Stack(Action::OuterChecksum)),
        case("a flow label", Outer { flow_label: 0xf_ffff, ..from(&HOST_A) }.around(&inner()), Delivered),
        case("no I flag", bent(&right, L4 + UDP, &[0]), Dropped(D::BadHeader)),
        case("a reserved bit", bent(&right, L4 + UDP, &[0x88]), DeliveredReserved),
        case("another port", bent(&right, L4 + 2, &8472_u16.to_be_bytes()), not_ours()),
        case("another address", elsewhere.clone(), not_ours()),
        case("our IPv4 address in the IPv6 header", bent(&right, ETH + 24, &mapped(&HOST_B)), not_ours()),
        case(
            "a VTEP's IPv4 address as IPv6 source",
            bent(&right, ETH + 8, &mapped(&HOST_A)),
            Dropped(D::BadOuter),
        ),
        case("a version of 4", bent(&right, ETH, &[0x40]), not_ours()),
        case("TCP to the port of VXLAN", bent(&right, NEXT, &[6]), not_ours()),
        case("ICMPv6", bent(&right, NEXT, &[58]), not_ours()),
        case("lengths beyond the frame", lengths(length + 1, length + 1), Dropped(D::BadOuter)),
        case("a UDP length of another packet", lengths(length, length - 1), Dropped(D::BadOuter)),
        case("an IP length of 0", lengths(0, length), Dropped(D::BadOuter)),
        case("lengths of 0", lengths(0, 0), Dropped(D::Short)),
        case("no inner Ethernet header", lengths(29, 29), Dropped(D::Short)),
        case("an inner frame of 13 bytes", from(&HOST_A).around(&inner()[..13]), Dropped(D::Short)),
        case(
            "an inner frame without a payload",
            from(&HOST_A).around(&inner()[..ETH]),
            Dropped(D::Malformed),
        ),
        case("no VXLAN header", from(&HOST_A).udp(&[]), Dropped(D::Short)),
        case("a VLAN tag outside", tagged(&right), not_ours()),
        case("a cut IPv6 header", right[..ETH + 39].to_vec(), not_ours()),
        case("a cut UDP header", right[..L4 + 4].to_vec(), not_ours()),
        case("cut in the VXLAN header", right[..INNER_OVER_V6 - 2].to_vec(), Dropped(D::BadOuter)),
    ];
    for (name, number, header, what) in [
        ("a first fragment", 44, [17, 0, 0, 1, 0, 0, 0, 9], Action::OuterFragment),
        ("a later fragment", 44, [17, 0, 0, 8, 0, 0, 0, 9], Action::OuterFragment),
        ("hop-by-hop options", 0, [17, 0, 1, 4, 0, 0, 0, 0], Action::OuterOptions),
        ("destination options", 60, [17, 0, 1, 4, 0, 0, 0, 0], Action::OuterOptions),
        ("a routing header", 43, [17, 0, 0, 0, 0, 0, 0, 0], Action::OuterOptions),
    ] {
        table.push(case(name, with_extension(&right, number, header), Stack(what)));
        table.push(case(
            format!("{name} for somebody else"),
            with_extension(&elsewhere, number, header),
            not_ours(),
        ));
    }
    let mut rig = rig(&Stage::enter(), &HOST_B);
    table.iter().for_each(|case| at_uplink(&mut rig, case));
}

/// A packet of the table of senders, with its outer headers in IPv6.
fn over_v6(packet: &[u8]) -> Vec<u8> {
    let source: [u8; 4] = packet[ETH + 12..ETH + 16].try_into().expect("four bytes");
    let sender = HOSTS.into_iter().chain([&STRANGER]).find(|host| host.vtep.octets() == source);
    let vxlan = packet[INNER - frame::VXLAN..INNER].try_into().expect("eight bytes");
    Outer { vxlan, ..from(sender.expect("it is of the cast")) }.around(&packet[INNER..])
}

#[test]
fn senders_at_the_uplink() {
    let mut rig = rig(&Stage::enter(), &HOST_B);
    for case in sender_table() {
        at_uplink(&mut rig, &Case { packet: over_v6(&case.packet), ..case });
    }
}

/// A host that is declared with an address of one family is a stranger in the other.
#[test]
fn an_address_that_is_not_declared_is_unknown() {
    let mut rig = Stage::enter().rig(&HOST_B);
    at_uplink(
        &mut rig,
        &case("IPv6", from(&HOST_A).around(&inner()), Fate::Dropped(DropReason::UnknownVtep)),
    );
}

#[test]
fn a_drop_event_tells_the_outer_source() {
    let mut rig = rig(&Stage::enter(), &HOST_B);
    let packet = from(&SWITCH).around(&inner());
    for place in [rig.uplink(), rig.uplink_xdp()] {
        let ran = rig.run(place, &packet);
        let [event] = ran.changes.events[..] else { panic!("one event, not {:?}", ran.changes.events) };
        assert_eq!(DropReason::from_number(event.reason), Some(DropReason::SpoofSource));
        assert_eq!((event.vtep, event.src), (SWITCH.vtep_v6().into(), CA1.v4.into()));
    }
}

/// RFC 6040 in the traffic class: copied outward, combined inward.
#[test]
fn congestion_marks_cross_the_tunnel() {
    const CE: u8 = 3;
    let stage = Stage::enter();
    let (mut a, mut b) = (rig(&stage, &HOST_A), rig(&stage, &HOST_B));
    let marked = |family: Family, ecn: u8| {
        let mut frame = path(family).udp(PORTS, PAYLOAD);
        if family == Family::V4 {
            frame[ETH + 1] |= ecn;
            frame::fix_ip_checksum(&mut frame, ETH);
        } else {
            frame[ETH + 1] |= ecn << 4;
        }
        frame
    };
    for family in FAMILIES {
        for inside in 0..=CE {
            let frame = marked(family, inside);
            let mut packet = encapsulated(&mut a, &frame);
            assert_eq!((packet[ETH], packet[ETH + 1] >> 4), (0x60, inside), "{family:?} {inside}");
            packet[ETH + 1] |= CE << 4;
            let ran = b.run(b.uplink(), &packet);
            if inside == 0 {
                let drop = dropped(Hook::FromUplink, DropReason::Ecn, packet.len());
                let receiver = vec![(format!("port slot {} ingress drops", CB1.slot), 1)];
                ran.assert("a mark that nobody inside understands", Verdict::Taken, &[drop, receiver]);
            } else {
                let local = action(Hook::FromUplink, Action::Local, packet.len());
                ran.assert("a mark", Verdict::Sent, &[local, received(&CB1, frame.len())]);
                assert_same("the mark is inside", &ran.bytes, &marked(family, CE));
            }
        }
    }
}
