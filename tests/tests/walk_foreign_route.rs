//! Packets to the gateway's MAC from behind a foreign VTEP: into a network that is opened, on this host or another one, or
//! nowhere. Frames come in at the uplink of HOST_B for real; what leaves is caught behind it.

use fabric_agent::model::Dscp;
use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{
        BLUE, CA1, CB1, Container, FAMILIES, Family, GATEWAY_V4, GATEWAY_V6, HOST_A, HOST_B, Host, NOBODY_V4,
        Network, OVERLAY_MTU, STATION, SWITCH,
    },
    frame::{self, ETH, INNER, Outer, Path, assert_same, on_the_wire},
    icmp::{self, Kind},
    ledger::{Entry, action, dropped, received},
    load::Globals,
    routing::{self, RA1, RA2, RB1, RB2, RED, RED_NOBODY, routed, with_ttl},
    walk::{Rig, Stage, Verdict, ip},
    wire::{Tap, Wire},
};

const PORTS: (u16, u16) = (4000, 5000);
const PAYLOAD: &[u8] = b"through the gateway";

struct Scene {
    rig: Rig,
    wire: Wire,
    tap: Tap,
}

/// HOST_B, where RED lets `from` in and has packets of at most `mtu` bytes.
fn scene(from: &[&Network], mtu: u16) -> Scene {
    let objects = routing::objects(&HOST_B, from, mtu);
    let mut rig = Stage::enter().rig_with_stack_and(&HOST_B, &objects, Dscp::default());
    rig.attach(rig.vxlan_device());
    rig.attach(rig.uplink());
    let uplink = format!("up-{}", HOST_B.name);
    for host in [&SWITCH, &HOST_A] {
        ip(&[format!("neigh add {} lladdr {} dev {uplink} nud permanent", host.vtep, host.mac)]);
    }
    let wire = Wire::into_uplink(&rig);
    Scene { rig, wire, tap: Tap::behind_uplink(&HOST_B) }
}

impl Scene {
    /// Gives a frame of the switch to the uplink; returns what left through it.
    #[track_caller]
    fn give(&mut self, what: &str, frame: &[u8], expected: &[Entry]) -> Vec<Vec<u8>> {
        let packet = Outer::between(&SWITCH, &HOST_B, BLUE.vni).around(frame);
        self.wire.inject(&packet);
        let mut all = vec![action(Hook::FromUplink, Action::Foreign, packet.len())];
        all.extend_from_slice(expected);
        self.rig.changes().assert(what, &all);
        self.tap.tunnelled()
    }

    /// The one packet that left: to `host` in `network` with `inner` inside.
    #[track_caller]
    fn sent(what: &str, packets: &[Vec<u8>], host: &Host, network: &Network, inner: &[u8]) {
        let [packet] = packets else { panic!("{what}: {} packets left", packets.len()) };
        assert_eq!(packet[ETH + 16..ETH + 20], host.vtep.octets(), "{what}: outer destination");
        assert_eq!(packet[INNER - 4..INNER - 1], network.vni.to_be_bytes()[1..], "{what}: VNI");
        assert_same(what, &packet[INNER..], inner);
        assert_eq!(frame::fault(&packet[INNER..]), None, "{what}");
    }

    #[track_caller]
    fn delivered(&mut self, what: &str, frame: &[u8], to: &Container) {
        let length = frame.len();
        let expected = [
            action(Hook::FromVxlan, Action::Local, length),
            action(Hook::FromVxlan, Action::Routed, length),
            received(to, length),
        ];
        assert!(self.give(what, frame, &expected).is_empty(), "{what}: nothing leaves");
    }

    #[track_caller]
    fn passed_on(&mut self, what: &str, frame: &[u8], to: &Container) -> Vec<u8> {
        let length = frame.len();
        let expected = [
            action(Hook::FromVxlan, Action::ViaDevice, length),
            action(Hook::FromVxlan, Action::Routed, length),
        ];
        let mut packets = self.give(what, frame, &expected);
        Self::sent(what, &packets, to.host, to.network, &routed(frame, to));
        packets.remove(0)
    }

    #[track_caller]
    fn told(&mut self, what: &str, frame: &[u8], reason: DropReason, kind: Kind) {
        let answer = icmp::error_by((GATEWAY_V4, GATEWAY_V6), &STATION, frame, kind);
        let expected = [
            dropped(Hook::FromVxlan, reason, frame.len()),
            action(Hook::FromVxlan, Action::IcmpError, answer.len()),
        ];
        let packets = self.give(what, frame, &expected);
        Self::sent(what, &packets, &SWITCH, &BLUE, &answer);
    }
}

/// By way of the gateway of BLUE.
fn path(to: &Container, family: Family) -> Path {
    Path::between(&STATION, to, family).with_dst_mac(BLUE.gateway_mac)
}

#[test]
fn stations_reach_opened_networks() {
    let mut scene = scene(&[&BLUE], OVERLAY_MTU as u16);
    for family in FAMILIES {
        for length in [0, 1, 1000] {
            let payload = vec![3; length];
            for to in [&RB1, &RB2] {
                let what = format!("{length} bytes, {family:?}, to {}", to.name);
                scene.delivered(&what, &path(to, family).udp(PORTS, &payload), to);
            }
            for to in [&RA1, &RA2] {
                let what = format!("{length} bytes, {family:?}, to {}", to.name);
                scene.passed_on(&what, &path(to, family).tcp(PORTS, &payload), to);
            }
        }
        let what = format!("in the same subnet, {family:?}");
        scene.delivered(&what, &path(&CB1, family).ping(PAYLOAD), &CB1);
        let largest = path(&RA1, family).of_length(ETH + OVERLAY_MTU);
        scene.passed_on("the largest packet", &largest, &RA1);
    }
}

/// The host that gets it has no other word for it than that of a node of ours.
#[test]
fn the_other_host_takes_what_is_passed_on() {
    let mut scene = scene(&[&BLUE], OVERLAY_MTU as u16);
    let packets = FAMILIES.map(|family| {
        let packet = scene.passed_on("to RA1", &path(&RA1, family).udp(PORTS, PAYLOAD), &RA1);
        on_the_wire(packet, &HOST_B, &HOST_A)
    });
    let objects = routing::objects(&HOST_A, &[&BLUE], OVERLAY_MTU as u16);
    let mut far = Stage::enter().rig_with(&HOST_A, &objects, Globals::default());
    for (family, packet) in FAMILIES.into_iter().zip(packets) {
        let length = packet.len() - INNER;
        let ran = far.run(far.uplink(), &packet);
        let taken = [action(Hook::FromUplink, Action::Local, packet.len()), received(&RA1, length)];
        ran.assert("at the other host", Verdict::Sent, &taken);
        let inner = &packet[INNER..];
        let mut other_mac = inner.to_vec();
        other_mac[6..12].copy_from_slice(&CB1.mac.bytes);
        let reds = Outer::between(&HOST_B, &HOST_A, RED.vni);
        let path = |from: &Container| {
            Path::between(from, &RA1, family).with_src_mac(RED.gateway_mac).udp(PORTS, PAYLOAD)
        };
        let nobody = Path::between(&STATION, &RA1, Family::V4)
            .with_src(NOBODY_V4)
            .with_src_mac(RED.gateway_mac)
            .udp(PORTS, PAYLOAD);
        let cases = [
            ("not from the gateway's MAC", reds.around(&other_mac), DropReason::SpoofSource),
            ("beside the switch's prefix", reds.around(&nobody), DropReason::SpoofSource),
            ("another host's container", reds.around(&path(&CA1)), DropReason::Loop),
            (
                "the switch itself, in a network that it does not serve",
                Outer::between(&SWITCH, &HOST_A, RED.vni).around(inner),
                DropReason::VtepNotInVni,
            ),
        ];
        for (what, packet, reason) in cases {
            let ran = far.run(far.uplink(), &packet);
            ran.assert(what, Verdict::Taken, &[dropped(Hook::FromUplink, reason, packet.len())]);
        }
    }
}

#[test]
fn networks_that_are_not_opened_stay_closed() {
    let mut scene = scene(&[], OVERLAY_MTU as u16);
    for family in FAMILIES {
        for to in [&RB1, &RA1] {
            let frame = path(to, family).udp(PORTS, PAYLOAD);
            let kind = Kind { v4: (3, 0), v6: (1, 0), mtu: 0 };
            scene.told(to.name, &frame, DropReason::NoRoute, kind);
        }
    }
}

#[test]
fn senders_are_told_what_is_wrong() {
    let mut scene = scene(&[&BLUE], 1300);
    for family in FAMILIES {
        for to in [&RB1, &RA1] {
            let frame = with_ttl(path(to, family).udp(PORTS, PAYLOAD), 1);
            let kind = Kind { v4: (11, 0), v6: (3, 0), mtu: 0 };
            scene.told("one hop too many", &frame, DropReason::TtlExceeded, kind);
            let frame = path(to, family).of_length(ETH + 1301);
            let kind = Kind { v4: (3, 4), v6: (2, 0), mtu: 1300 };
            scene.told("a byte too many", &frame, DropReason::TooBig, kind);
        }
        let nobody = match family {
            Family::V4 => path(&RB1, family).with_dst(RED_NOBODY.0),
            Family::V6 => path(&RB1, family).with_dst(RED_NOBODY.1),
        };
        let kind = Kind { v4: (3, 1), v6: (1, 3), mtu: 0 };
        scene.told("nobody has the address", &nobody.udp(PORTS, PAYLOAD), DropReason::NoRoute, kind);
        let gateway = match family {
            Family::V4 => path(&RB1, family).with_dst(GATEWAY_V4),
            Family::V6 => path(&RB1, family).with_dst(GATEWAY_V6),
        };
        let kind = Kind { v4: (3, 3), v6: (1, 4), mtu: 0 };
        scene.told("a port of the gateway", &gateway.udp(PORTS, PAYLOAD), DropReason::NoRoute, kind);
    }
}

/// As a container's: cut inside, behind `fabric_frag`.
#[test]
fn what_may_be_fragmented_is() {
    let mut scene = scene(&[&BLUE], 1300);
    for to in [&RB1, &RA1] {
        let mut frame = path(to, Family::V4).of_length(ETH + 1301);
        frame[ETH + 6] = 0;
        frame::fix_ip_checksum(&mut frame, ETH);
        let length = frame.len();
        let expected = [
            action(Hook::FromVxlan, Action::Fragment, length),
            action(Hook::FromVxlan, Action::Routed, length),
        ];
        assert!(scene.give(to.name, &frame, &expected).is_empty(), "{}: not yet", to.name);
    }
}

#[test]
fn the_gateway_answers_echo_requests() {
    let mut scene = scene(&[], OVERLAY_MTU as u16);
    for family in FAMILIES {
        let path = match family {
            Family::V4 => path(&CB1, family).with_dst(GATEWAY_V4),
            Family::V6 => path(&CB1, family).with_dst(GATEWAY_V6),
        };
        let ask = path.ping(PAYLOAD);
        let expected = [action(Hook::FromVxlan, Action::Answered, ask.len())];
        let packets = scene.give("an echo request", &ask, &expected);
        let back = Path { src_mac: path.dst_mac, dst_mac: path.src_mac, src: path.dst, dst: path.src };
        Scene::sent("an echo request", &packets, &SWITCH, &BLUE, &back.pong(PAYLOAD));
    }
}

/// What is to a router's MAC from a source that its VTEP may not send gets nowhere near the routes.
#[test]
fn sources_are_checked_before_routing() {
    let scene = scene(&[&BLUE], OVERLAY_MTU as u16);
    let mut rig = scene.rig;
    for family in FAMILIES {
        let lie = Path::between(&CA1, &RB1, family).with_dst_mac(BLUE.gateway_mac).udp(PORTS, PAYLOAD);
        let cases = [(&SWITCH, DropReason::SpoofSource), (&HOST_A, DropReason::NoRoute)];
        for (host, reason) in cases {
            let packet = Outer::between(host, &HOST_B, BLUE.vni).around(&lie);
            let ran = rig.run(rig.uplink(), &packet);
            ran.assert(host.name, Verdict::Taken, &[dropped(Hook::FromUplink, reason, packet.len())]);
        }
    }
}
