//! Outer UDP checksums: zero, but for a foreign VTEP that wants them. Frames come out of a container's port for real and are
//! caught behind the uplink.

use std::process::Command;

use fabric_agent::model::Dscp;
use fabric_common::reason::{Action, Hook};
use fabric_tests::{
    cast::{self, BLUE, CA1, CB1, FAMILIES, HOST_A, HOST_B, Host, STATION, SWITCH},
    frame::{self, Arp, ETH, INNER, IPV4, Outer, Path, assert_same},
    ledger::{action, sent},
    walk::{Rig, Stage, ip},
    wire::{Tap, Wire},
};

const PORTS: (u16, u16) = (4000, 5000);

struct Scene {
    rig: Rig,
    tap: Tap,
}

/// HOST_B with its stack, an uplink that computes all checksums itself, and programs everywhere.
fn scene(udp_checksum: bool) -> Scene {
    let objects = cast::objects_with_station(&HOST_B, udp_checksum);
    let mut rig = Stage::enter().rig_with_stack_and(&HOST_B, &objects, Dscp::default());
    for place in [rig.vxlan_device(), rig.uplink(), rig.port(&CB1)] {
        rig.attach(place);
    }
    let uplink = format!("up-{}", HOST_B.name);
    let status = Command::new("ethtool").args(["-K", &uplink, "tx", "off"]).output().expect("ethtool runs");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    for host in [&SWITCH, &HOST_A] {
        ip(&[format!("neigh add {} lladdr {} dev {uplink} nud permanent", host.vtep, host.mac)]);
    }
    Scene { rig, tap: Tap::behind_uplink(&HOST_B) }
}

impl Scene {
    /// The one tunnel packet that left, which is to `host`; its UDP checksum.
    #[track_caller]
    fn caught(&mut self, what: &str, host: &Host, inner: &[u8]) -> u16 {
        let mut packets = self.tap.tunnelled();
        let packet = packets.pop().unwrap_or_else(|| panic!("{what}: nothing left"));
        assert!(packets.is_empty(), "{what}: one packet");
        assert_eq!(packet[ETH + 16..ETH + 20], host.vtep.octets(), "{what}");
        assert_same(what, &packet[INNER..], inner);
        assert_eq!(frame::fault(&packet), None, "{what}: the outer packet");
        u16::from_be_bytes([packet[ETH + IPV4 + 6], packet[ETH + IPV4 + 7]])
    }
}

#[test]
fn checksums_are_computed_for_who_wants_them() {
    for wanted in [false, true] {
        let mut scene = scene(wanted);
        let mut wire = Wire::into_port(&scene.rig, &CB1);
        for family in FAMILIES {
            for length in [0, 1, 2, 700, 1401] {
                let what = format!("{length} bytes, {family:?}, wanted {wanted}");
                let inner = Path::between(&CB1, &STATION, family).udp(PORTS, &vec![7; length]);
                wire.inject(&inner);
                let way = if wanted { Action::ViaDevice } else { Action::Remote };
                let entries = [action(Hook::FromContainer, way, inner.len()), sent(&CB1, inner.len())];
                scene.rig.changes().assert(&what, &entries);
                assert_eq!(scene.caught(&what, &SWITCH, &inner) != 0, wanted, "{what}");
            }
            let what = format!("to a host of the fabric, {family:?}");
            let inner = Path::between(&CB1, &CA1, family).tcp(PORTS, b"ours");
            wire.inject(&inner);
            let entries = [action(Hook::FromContainer, Action::Remote, inner.len()), sent(&CB1, inner.len())];
            scene.rig.changes().assert(&what, &entries);
            assert_eq!(scene.caught(&what, &HOST_A, &inner), 0, "{what}");
        }
    }
}

#[test]
fn answers_through_the_tunnel_have_them_too() {
    for wanted in [false, true] {
        let mut scene = scene(wanted);
        let ask = Arp::who_has(&STATION, CB1.v4);
        Wire::into_uplink(&scene.rig)
            .inject(&Outer::between(&SWITCH, &HOST_B, BLUE.vni).around(&ask.frame()));
        let reply = Arp {
            eth_src: CB1.mac,
            eth_dst: STATION.mac,
            sender_mac: CB1.mac,
            sender: CB1.v4,
            target_mac: STATION.mac,
            target: STATION.v4,
            reply: true,
        };
        assert_eq!(scene.caught("the answer", &SWITCH, &reply.frame()) != 0, wanted);
    }
}
