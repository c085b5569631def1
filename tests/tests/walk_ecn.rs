//! The traffic class across the tunnel: the DSCP of the settings outside (RFC 2983); congestion marks of the underlay reach the
//! container, or the packet ends (RFC 6040).

use fabric_agent::model::Dscp;
use fabric_api::Object;
use fabric_common::{
    node::FLAG_VIA_DEVICE,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{self, CA1, CB1, FAMILIES, Family, HOST_A, HOST_B},
    frame::{self, ETH, INNER, INNER_OVER_V6, Path, assert_same, on_the_wire},
    ledger::{Entry, action, dropped, received, sent},
    tunnel_table::{PAYLOAD, PORTS, outer},
    walk::{Stage, Verdict, ip},
    wire::{Tap, Wire},
};

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;
const FIELDS: [u8; 4] = [NOT_ECT, ECT_1, ECT_0, CE];
/// Differentiated services code points: none, expedited forwarding, all bits.
const DSCPS: [u8; 3] = [0, 46, 63];

/// A frame with this traffic class: the byte of DSCP and ECN.
fn frame_with(family: Family, class: u8) -> Vec<u8> {
    with_class(Path::between(&CA1, &CB1, family).udp(PORTS, PAYLOAD), class)
}

fn with_class(mut frame: Vec<u8>, class: u8) -> Vec<u8> {
    if frame[12..ETH] == [8, 0] {
        frame[ETH + 1] = class;
        frame::fix_ip_checksum(&mut frame, ETH);
    } else {
        frame[ETH] = 0x60 | class >> 4;
        frame[ETH + 1] = class << 4 | frame[ETH + 1] & 0xf;
    }
    frame
}

/// The traffic class of the outer header.
fn class_of(packet: &[u8]) -> u8 {
    if packet[ETH] >> 4 == 4 { packet[ETH + 1] } else { packet[ETH] << 4 | packet[ETH + 1] >> 4 }
}

/// RFC 2983: fixed, or taken over from inside; ECN as RFC 6040 has it either way.
#[test]
fn the_outer_dscp_is_the_one_of_the_settings() {
    for (setting, underlay) in [Dscp::Fixed(0), Dscp::Fixed(46), Dscp::Fixed(63), Dscp::Copy]
        .into_iter()
        .flat_map(|setting| FAMILIES.map(|underlay| (setting, underlay)))
    {
        let (objects, overhead): (Vec<Object>, usize) = match underlay {
            Family::V4 => (cast::objects(&HOST_A), INNER),
            Family::V6 => (cast::objects_over_v6(&HOST_A), INNER_OVER_V6),
        };
        let mut rig = Stage::enter().rig_with_dscp(&HOST_A, &objects, setting);
        for (family, dscp) in FAMILIES.into_iter().flat_map(|f| DSCPS.map(|dscp| (f, dscp))) {
            for ecn in FIELDS {
                let frame = frame_with(family, dscp << 2 | ecn);
                let what = format!("{setting:?} over {underlay:?}: {family:?}, DSCP {dscp}, ECN {ecn}");
                let ran = rig.run(rig.port(&CA1), &frame);
                let length = frame.len();
                let expected = [action(Hook::FromContainer, Action::Remote, length), sent(&CA1, length)];
                ran.assert(&what, Verdict::Sent, &expected);
                let packet = on_the_wire(ran.bytes, &HOST_A, &HOST_B);
                let outside = if let Dscp::Fixed(fixed) = setting { fixed } else { dscp };
                assert_eq!(class_of(&packet), outside << 2 | ecn, "{what}");
                assert_eq!(frame::fault(&packet), None, "{what}");
                assert_same(&what, &packet[overhead..], &frame);
            }
        }
    }
}

/// The `vxlan` device is told the same, and takes over ECN by itself, except that congestion that was met inside is nothing
/// that the underlay has to know (`INET_ECN_encapsulate`).
#[test]
fn the_vxlan_device_sends_the_dscp_of_the_settings() {
    for (setting, underlay) in
        [Dscp::Fixed(46), Dscp::Copy].into_iter().flat_map(|s| FAMILIES.map(|underlay| (s, underlay)))
    {
        let stage = Stage::enter();
        let objects = match underlay {
            Family::V4 => cast::objects(&HOST_A),
            Family::V6 => cast::objects_over_v6(&HOST_A),
        };
        let mut rig = stage.rig_with_stack_and(&HOST_A, &objects, setting);
        let uplink = format!("up-{}", HOST_A.name);
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{uplink}/disable_ipv6"), "0").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/v-host-a/disable_ipv6", "0").unwrap();
        let (own, peer) = (HOST_A.underlay(Family::V6), HOST_B.underlay(underlay));
        ip(&[
            format!("address add {own}/16 dev {uplink} nodad"),
            format!("neighbour replace {peer} lladdr {} dev {uplink}", HOST_B.mac),
        ]);
        let mut tables = rig.tables.clone();
        tables.nodes.values_mut().for_each(|node| node.flags |= FLAG_VIA_DEVICE);
        rig.write(tables);
        rig.attach(rig.port(&CA1));
        let mut wire = Wire::into_port(&rig, &CA1);
        let mut tap = Tap::behind_uplink(&HOST_A);
        for (family, dscp) in FAMILIES.into_iter().flat_map(|f| DSCPS.map(|dscp| (f, dscp))) {
            for (ecn, ecn_outside) in [(NOT_ECT, NOT_ECT), (ECT_0, ECT_0), (ECT_1, ECT_1), (CE, ECT_0)] {
                let frame = frame_with(family, dscp << 2 | ecn);
                let what = format!("{setting:?} over {underlay:?}: {family:?}, DSCP {dscp}, ECN {ecn}");
                wire.inject(&frame);
                let length = frame.len();
                let expected = [action(Hook::FromContainer, Action::ViaDevice, length), sent(&CA1, length)];
                rig.changes().assert(&what, &expected);
                let packets: Vec<_> = tap.tunnelled().into_iter().filter(|f| f.ends_with(&frame)).collect();
                let [packet] = &packets[..] else { panic!("{what}: {} packets left", packets.len()) };
                let outside = if let Dscp::Fixed(fixed) = setting { fixed } else { dscp };
                assert_eq!(class_of(packet), outside << 2 | ecn_outside, "{what}");
                assert_eq!(packet[ETH] >> 4, if underlay == Family::V4 { 4 } else { 6 }, "{what}");
            }
        }
    }
}

#[test]
fn the_inner_field_is_copied_to_the_outer_header_and_nothing_else_is() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        for dscp in DSCPS {
            for ecn in FIELDS {
                let frame = frame_with(family, dscp << 2 | ecn);
                let what = format!("{family:?}, DSCP {dscp}, ECN {ecn}");
                let ran = rig.run(rig.port(&CA1), &frame);
                let length = frame.len();
                let expected = [action(Hook::FromContainer, Action::Remote, length), sent(&CA1, length)];
                ran.assert(&what, Verdict::Sent, &expected);
                let packet = on_the_wire(ran.bytes, &HOST_A, &HOST_B);
                assert_eq!(packet[ETH + 1], ecn, "{what}: the outer TOS byte");
                assert_eq!(frame::fault(&packet), None, "{what}");
                assert_same(&what, &packet[INNER..], &frame);
            }
        }
    }
}

/// RFC 6040 section 4.2, figure 4: what arrives, or nothing.
fn arriving(outer: u8, inner: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (ECT_0, ECT_1) => Some(ECT_1),
        (ECT_0 | ECT_1, CE) => Some(CE),
        (inner, _) => Some(inner),
    }
}

#[test]
fn the_outer_field_is_combined_with_the_inner_one() {
    let mut rig = Stage::enter().rig(&HOST_B);
    for family in FAMILIES {
        for dscp in DSCPS {
            for (outside, inside) in FIELDS.iter().flat_map(|o| FIELDS.map(|i| (*o, i))) {
                let frame = frame_with(family, dscp << 2 | inside);
                // The underlay may have changed the outer DSCP; that is its own business.
                let packet = with_class(outer().around(&frame), 8 << 2 | outside);
                let what = format!("{family:?}, DSCP {dscp}, outer {outside}, inner {inside}");
                let length = packet.len();
                let early = rig.run(rig.uplink_xdp(), &packet);
                let late = rig.run(rig.uplink(), &packet);
                let drop = |hook| -> Vec<Entry> {
                    let port = vec![(format!("port slot {} ingress drops", CB1.slot), 1)];
                    let at_port = if hook == Hook::FromUplink { vec![port] } else { vec![] };
                    [vec![dropped(hook, DropReason::Ecn, length)], at_port].concat()
                };
                let Some(ecn) = arriving(outside, inside) else {
                    early.assert(&what, Verdict::Taken, &drop(Hook::FromUplinkXdp));
                    late.assert(&what, Verdict::Taken, &drop(Hook::FromUplink));
                    continue;
                };
                early.assert(
                    &what,
                    Verdict::ToStack,
                    &[action(Hook::FromUplinkXdp, Action::Checked, length)],
                );
                assert_same(&what, &early.bytes, &packet);
                let expected =
                    [action(Hook::FromUplink, Action::Local, length), received(&CB1, length - INNER)];
                late.assert(&what, Verdict::Sent, &expected);
                assert_same(&what, &late.bytes, &with_class(frame, dscp << 2 | ecn));
                assert_eq!(frame::fault(&late.bytes), None, "{what}");
            }
        }
    }
}
