//! The other way in: tunnel packets that the kernel's own stack takes through the `vxlan` device. Frames come in at the
//! uplink for real here, so the stack's own checks and what it does to a packet before any program are part of it.
//!
//! The receiver's veth has both ends in one namespace, where the kernel delivers nothing; counters tell the decision.

use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{BLUE, CA1, CB1, Family, HOST_A, HOST_B},
    frame::{self, ETH, INNER, IPV4, Outer, Path},
    ledger::{action, dropped, received},
    tunnel_table::{
        CUT_BY_UDP, Case, Fate, PAYLOAD, PORTS, bent, header_table, inner, outer, sender_table, tagged,
    },
    walk::{Rig, Stage, can_run},
    wire::Wire,
};

const HOOK: Hook = Hook::FromVxlan;

struct Scene {
    rig: Rig,
    wire: Wire,
}

/// HOST_B with its stack; programs at the `vxlan` device and, if wanted, at the uplink.
fn scene(with_uplink: bool) -> Scene {
    let mut rig = Stage::enter().rig_with_stack(&HOST_B);
    rig.attach(rig.vxlan_device());
    if with_uplink {
        rig.attach(rig.uplink());
    }
    let wire = Wire::into_uplink(&rig);
    Scene { rig, wire }
}

impl Scene {
    #[track_caller]
    fn expect(&mut self, what: &str, packet: &[u8], expected: &[fabric_tests::ledger::Entry]) {
        self.wire.inject(packet);
        self.rig.changes().assert(what, expected);
    }

    #[track_caller]
    fn expect_delivered(&mut self, what: &str, packet: &[u8], inner: usize) {
        self.expect(what, packet, &[action(HOOK, Action::Local, inner), received(&CB1, inner)]);
    }
}

/// What the stack refuses by itself, before the device: nothing of ours moves.
fn stack_refuses(case: &Case) -> bool {
    let by_kernel = ["our own VTEP", "a wrong checksum", "an inner frame without a payload"];
    // The kernel's device drops packets with reserved bits instead of ignoring them.
    by_kernel.contains(&case.name.as_str()) || case.fate == Fate::DeliveredReserved
}

#[test]
fn senders_at_the_vxlan_device() {
    let mut scene = scene(false);
    for case in sender_table() {
        let length = case.packet.len() - INNER;
        match case.fate {
            _ if stack_refuses(&case) => scene.expect(&case.name, &case.packet, &[]),
            Fate::Delivered => scene.expect_delivered(&case.name, &case.packet, length),
            Fate::Dropped(reason) => {
                // The stack takes a VLAN tag out of the frame before any program sees it.
                let length = if case.name == "a VLAN tag inside" { length - 4 } else { length };
                scene.expect(&case.name, &case.packet, &[dropped(HOOK, reason, length)]);
            }
            Fate::DeliveredReserved | Fate::Stack(_) => panic!("no such case is among the senders"),
        }
    }
}

#[test]
fn headers_at_the_vxlan_device() {
    let mut scene = scene(false);
    let length = inner().len();
    for case in header_table() {
        match case.fate {
            _ if stack_refuses(&case) => scene.expect(&case.name, &case.packet, &[]),
            _ if case.name == CUT_BY_UDP => {
                // The stack cuts the packet as the UDP header says, and the inner one is too short then.
                let left = usize::from(u16::from_be_bytes([
                    case.packet[ETH + IPV4 + 4],
                    case.packet[ETH + IPV4 + 5],
                ]));
                let drop = dropped(HOOK, DropReason::Malformed, left - frame::UDP - frame::VXLAN);
                scene.expect(&case.name, &case.packet, &[drop]);
            }
            Fate::Delivered
            | Fate::Stack(Action::OuterChecksum | Action::OuterOptions | Action::OuterPadding) => {
                scene.expect_delivered(&case.name, &case.packet, length);
            }
            Fate::Dropped(reason @ (DropReason::UnknownVni | DropReason::Malformed)) => {
                let inner = case.packet.len() - INNER;
                scene.expect(&case.name, &case.packet, &[dropped(HOOK, reason, inner)]);
            }
            Fate::Dropped(_) | Fate::DeliveredReserved | Fate::Stack(_) => {
                scene.expect(&case.name, &case.packet, &[])
            }
        }
    }
}

/// The uplink's program leaves fragments to the stack, which puts them together for the device.
#[test]
fn fragments_of_a_tunnel_packet_are_put_together() {
    let mut scene = scene(true);
    let whole = outer().around(&inner());
    let (header, data) = whole.split_at(ETH + IPV4);
    let cut = 24;
    let first = fragment(header, &data[..cut], 0x2000);
    let second = fragment(header, &data[cut..], (cut / 8) as u16);
    let noted = |packet: &[u8]| action(Hook::FromUplink, Action::OuterFragment, packet.len());
    scene.expect("the first fragment", &first, &[noted(&first)]);
    let length = inner().len();
    let all = [noted(&second), action(HOOK, Action::Local, length), received(&CB1, length)];
    scene.expect("the second fragment", &second, &all);
}

fn fragment(header: &[u8], data: &[u8], flags: u16) -> Vec<u8> {
    let mut packet = [header, data].concat();
    packet[ETH + 2..ETH + 4].copy_from_slice(&((IPV4 + data.len()) as u16).to_be_bytes());
    bent(packet, ETH + 6, &flags.to_be_bytes())
}

/// The two ways in agree: a packet with a right checksum passes the uplink's program and is delivered by the device's.
#[test]
fn a_checksummed_packet_takes_the_stack() {
    let mut scene = scene(true);
    for family in [Family::V4, Family::V6] {
        let inner = Path::between(&CA1, &CB1, family).udp(PORTS, PAYLOAD);
        let packet = outer().around_with_checksum(&inner);
        let expected = [
            action(Hook::FromUplink, Action::OuterChecksum, packet.len()),
            action(HOOK, Action::Local, inner.len()),
            received(&CB1, inner.len()),
        ];
        scene.expect("a right checksum", &packet, &expected);
        let mut wrong = packet.clone();
        wrong[ETH + IPV4 + 6] ^= 0x55;
        let noted = action(Hook::FromUplink, Action::OuterChecksum, wrong.len());
        scene.expect("a wrong checksum", &wrong, &[noted]);
    }
}

/// The device combines the ECN fields itself: a mark that the sender inside would not understand ends there.
#[test]
fn the_device_drops_a_mark_that_nobody_inside_understands() {
    const CE: u8 = 3;
    let mut scene = scene(true);
    for inside in [0, 1, 2, CE] {
        let mut inner = inner();
        inner[ETH + 1] = inside;
        frame::fix_ip_checksum(&mut inner, ETH);
        let mut packet = outer().around_with_checksum(&inner);
        packet[ETH + 1] = CE;
        frame::fix_ip_checksum(&mut packet, ETH);
        let mut expected = vec![action(Hook::FromUplink, Action::OuterChecksum, packet.len())];
        if inside != 0 {
            expected.extend([action(HOOK, Action::Local, inner.len()), received(&CB1, inner.len())]);
        }
        scene.expect(&format!("CE around {inside}"), &packet, &expected);
    }
}

/// Frames too short for a test run, at the uplink for real.
#[test]
fn runts_at_the_uplink_are_not_ours() {
    let mut scene = scene(true);
    for case in header_table().iter().filter(|case| !can_run(&case.packet)) {
        let noted = action(Hook::FromUplink, Action::NotOurs, case.packet.len());
        scene.expect(&case.name, &case.packet, &[noted]);
    }
}

/// A packet that came in another VLAN than the uplink's own belongs to another interface. The kernel takes the tag out of
/// the frame before TC sees it.
#[test]
fn a_packet_of_another_vlan_is_not_ours() {
    let mut scene = scene(true);
    let packet = tagged(&Outer::between(&HOST_A, &HOST_B, BLUE.vni).around(&inner()));
    let noted = action(Hook::FromUplink, Action::NotOurs, packet.len() - 4);
    scene.expect("a VLAN tag outside", &packet, &[noted]);
    assert_eq!(frame::fault(&inner()), None);
}
