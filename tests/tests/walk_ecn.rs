//! Congestion marks of the underlay reach the container, or the packet ends (RFC 6040).

use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{CA1, CB1, FAMILIES, Family, HOST_A, HOST_B},
    frame::{self, ETH, INNER, Path, assert_same, on_the_wire},
    ledger::{Entry, action, dropped, received, sent},
    tunnel_table::{PAYLOAD, PORTS, outer},
    walk::{Stage, Verdict},
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
