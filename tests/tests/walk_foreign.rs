//! What comes from behind a foreign VTEP and from nobody else: ARP and neighbour discovery. Frames come in at the uplink of
//! HOST_B for real; answers are caught behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_common::{
    addr::Mac,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{
        BLUE, CA1, CB1, CB2, Container, GATEWAY_V4, GATEWAY_V6, GREEN, HOST_A, HOST_B, Host, NOBODY_MAC,
        NOBODY_V4, NOBODY_V6, Network, STATION, SWITCH,
    },
    frame::{
        self, Arp, BROADCAST, ETH, INNER, IPV4, IPV6, Outer, Path, UDP, assert_same, multicast_mac,
        solicited_node,
    },
    ledger::{Entry, action, dropped},
    walk::{Rig, Stage, Verdict, ip},
    wire::{Tap, Wire},
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

struct Scene {
    rig: Rig,
    wire: Wire,
    tap: Tap,
}

/// HOST_B with its stack and its programs.
fn scene() -> Scene {
    let mut rig = Stage::enter().rig_with_stack(&HOST_B);
    rig.attach(rig.vxlan_device());
    rig.attach(rig.uplink());
    let wire = Wire::into_uplink(&rig);
    ip(&[format!("neigh add {} lladdr {} dev up-{} nud permanent", SWITCH.vtep, SWITCH.mac, HOST_B.name)]);
    Scene { rig, wire, tap: Tap::behind_uplink(&HOST_B) }
}

impl Scene {
    /// Gives a frame to the uplink, from a host and in a network; returns the inner frames that came back to that host.
    #[track_caller]
    fn give(&mut self, what: &str, frame: &[u8], expected: &[Entry]) -> Vec<Vec<u8>> {
        let packet = Outer::between(&SWITCH, &HOST_B, BLUE.vni).around(frame);
        let xdp = self.rig.run(self.rig.uplink_xdp(), &packet);
        xdp.assert(what, Verdict::ToStack, &[action(Hook::FromUplinkXdp, Action::Checked, packet.len())]);
        self.wire.inject(&packet);
        let mut all = vec![action(Hook::FromUplink, Action::Foreign, packet.len())];
        all.extend_from_slice(expected);
        self.rig.changes().assert(what, &all);
        let back = |packet: Vec<u8>| {
            let address = |at: usize| {
                <[u8; 4]>::try_from(&packet[ETH + at..ETH + at + 4]).map(Ipv4Addr::from).expect("four bytes")
            };
            assert_eq!((address(12), address(16)), (HOST_B.vtep, SWITCH.vtep), "{what}");
            assert_eq!(&packet[ETH + IPV4 + UDP..INNER], [8, 0, 0, 0, 0, 0, 100, 0], "{what}");
            packet[INNER..].to_vec()
        };
        self.tap.tunnelled().into_iter().map(back).collect()
    }

    #[track_caller]
    fn answer(&mut self, what: &str, frame: &[u8]) -> Vec<u8> {
        let back = self.give(what, frame, &[action(Hook::FromVxlan, Action::Answered, frame.len())]);
        assert_eq!(back.len(), 1, "{what}: one answer");
        back.into_iter().next().expect("one answer")
    }

    #[track_caller]
    fn absorbed(&mut self, what: &str, frame: &[u8]) {
        let back = self.give(what, frame, &[action(Hook::FromVxlan, Action::Absorbed, frame.len())]);
        assert!(back.is_empty(), "{what}: {back:?}");
    }

    #[track_caller]
    fn refused_late(&mut self, what: &str, frame: &[u8], reason: DropReason) {
        let back = self.give(what, frame, &[dropped(Hook::FromVxlan, reason, frame.len())]);
        assert!(back.is_empty(), "{what}: {back:?}");
    }

    /// Refused before the stack sees it.
    #[track_caller]
    fn refused(&mut self, what: &str, from: &Host, network: &Network, frame: &[u8], reason: DropReason) {
        let packet = Outer::between(from, &HOST_B, network.vni).around(frame);
        for (hook, place) in
            [(Hook::FromUplink, self.rig.uplink()), (Hook::FromUplinkXdp, self.rig.uplink_xdp())]
        {
            let ran = self.rig.run(place, &packet);
            ran.assert(what, Verdict::Taken, &[dropped(hook, reason, packet.len())]);
        }
    }
}

fn ask(target: Ipv4Addr) -> Arp {
    Arp::who_has(&STATION, target)
}

#[test]
fn arp_is_answered_for_who_is_here() {
    let mut scene = scene();
    for (name, target, mac) in
        [("a container", CB1.v4, CB1.mac), ("the gateway", GATEWAY_V4, BLUE.gateway_mac)]
    {
        for sender in [STATION.v4, Ipv4Addr::UNSPECIFIED] {
            for eth_dst in [BROADCAST, mac] {
                let answer = scene.answer(name, &Arp { sender, eth_dst, ..ask(target) }.frame());
                let want = Arp {
                    eth_src: mac,
                    eth_dst: STATION.mac,
                    sender_mac: mac,
                    sender: target,
                    target_mac: STATION.mac,
                    target: sender,
                    reply: true,
                };
                assert_same(name, &answer, &want.frame());
            }
        }
    }
}

#[test]
fn other_honest_arp_is_absorbed() {
    let mut scene = scene();
    scene.absorbed("another host's container, whose host answers", &ask(CA1.v4).frame());
    scene.absorbed("an address of nobody", &ask(NOBODY_V4).frame());
    scene.absorbed("an announcement", &ask(STATION.v4).frame());
    let reply = Arp { reply: true, target_mac: CB1.mac, eth_dst: CB1.mac, ..ask(CB1.v4) };
    scene.absorbed("a reply", &reply.frame());
}

#[test]
fn arp_lies_are_refused() {
    let mut scene = scene();
    for (sender, reason) in [
        (CA1.v4, DropReason::SpoofSource),
        (NOBODY_V4, DropReason::SpoofSource),
        (GATEWAY_V4, DropReason::SpoofSource),
        (CB2.v4, DropReason::Loop),
    ] {
        let lie = Arp { sender, ..ask(CB1.v4) };
        scene.refused(&format!("sender {sender}"), &SWITCH, &BLUE, &lie.frame(), reason);
    }
    let probe = Arp { sender: Ipv4Addr::UNSPECIFIED, ..ask(CB1.v4) };
    scene.refused("a probe in another network", &SWITCH, &GREEN, &probe.frame(), DropReason::VtepNotInVni);
    let ours = Arp::who_has(&CA1, CB1.v4).frame();
    scene.refused("a node of ours", &HOST_A, &BLUE, &ours, DropReason::InnerEthertype);
    scene.refused("cut before the sender", &SWITCH, &BLUE, &ask(CB1.v4).frame()[..30], DropReason::Malformed);
    let other = Arp { sender_mac: NOBODY_MAC, ..ask(CB1.v4) };
    scene.refused_late("another MAC than the frame's", &other.frame(), DropReason::SpoofArp);
    let mut long = ask(CB1.v4).frame();
    long[ETH + 4] = 8;
    scene.refused_late("addresses of another length", &long, DropReason::Malformed);
    scene.refused_late("cut behind the sender", &ask(CB1.v4).frame()[..40], DropReason::Malformed);
}

fn path(src: Ipv6Addr, dst: Ipv6Addr, dst_mac: Mac) -> Path {
    Path { src_mac: STATION.mac, dst_mac, src: IpAddr::V6(src), dst: IpAddr::V6(dst) }
}

fn solicit(src: Ipv6Addr, target: Ipv6Addr, option: bool) -> Solicitation {
    let group = solicited_node(target);
    let lladdr = [&[1, 1], &STATION.mac.bytes[..]].concat();
    let rest = [&target.octets()[..], if option { &lladdr } else { &[] }].concat();
    Solicitation { path: path(src, group, multicast_mac(group)), rest }
}

/// A solicitation that can still be bent.
struct Solicitation {
    path: Path,
    rest: Vec<u8>,
}

impl Solicitation {
    fn frame(&self) -> Vec<u8> {
        self.path.icmpv6(SOLICITATION, 0, [0; 4], &self.rest, 255)
    }
}

fn advertisement(target: Ipv6Addr, mac: Mac, to: Ipv6Addr, to_mac: Mac, flags: u8) -> Vec<u8> {
    let rest = [&target.octets()[..], &[2, 1], &mac.bytes].concat();
    let path = Path { src_mac: mac, dst_mac: to_mac, src: target.into(), dst: to.into() };
    path.icmpv6(ADVERTISEMENT, 0, [flags, 0, 0, 0], &rest, 255)
}

#[test]
fn solicitations_are_answered_for_who_is_here() {
    let mut scene = scene();
    let who = [
        ("a container", CB1.v6, CB1.mac, 0),
        ("a container's link-local address", CB1.link_local(), CB1.mac, 0),
        ("the gateway", GATEWAY_V6, BLUE.gateway_mac, 0x80),
    ];
    for (name, target, mac, router) in who {
        let answer = scene.answer(name, &solicit(STATION.v6, target, true).frame());
        assert_same(name, &answer, &advertisement(target, mac, STATION.v6, STATION.mac, router | 0x60));
        let unicast = path(STATION.v6, target, mac).icmpv6(SOLICITATION, 0, [0; 4], &target.octets(), 255);
        let answer = scene.answer(name, &unicast);
        assert_same(name, &answer, &advertisement(target, mac, STATION.v6, STATION.mac, router | 0x60));
        let probe = solicit(Ipv6Addr::UNSPECIFIED, target, false).frame();
        let answer = scene.answer(name, &probe);
        let all = (ALL_NODES, multicast_mac(ALL_NODES));
        assert_same(name, &answer, &advertisement(target, mac, all.0, all.1, router | 0x20));
        assert_eq!(frame::fault(&answer), None, "{name}");
    }
}

#[test]
fn other_honest_discovery_is_absorbed() {
    let mut scene = scene();
    for target in [CA1.v6, NOBODY_V6, STATION.v6] {
        scene.absorbed(&format!("asked for {target}"), &solicit(STATION.v6, target, true).frame());
        let probe = solicit(Ipv6Addr::UNSPECIFIED, target, false).frame();
        scene.absorbed(&format!("a probe for {target}"), &probe);
    }
    let own = advertisement(STATION.v6, STATION.mac, ALL_NODES, multicast_mac(ALL_NODES), 0x20);
    scene.absorbed("an announcement", &own);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let early = path(Ipv6Addr::UNSPECIFIED, routers, multicast_mac(routers)).icmpv6(133, 0, [0; 4], &[], 255);
    scene.absorbed("a router solicitation", &early);
}

#[test]
fn discovery_lies_are_refused() {
    let mut scene = scene();
    for (src, reason) in [
        (CA1.v6, DropReason::SpoofSource),
        (NOBODY_V6, DropReason::SpoofSource),
        (GATEWAY_V6, DropReason::SpoofSource),
        (CB2.v6, DropReason::Loop),
    ] {
        let lie = solicit(src, CB1.v6, true).frame();
        scene.refused(&format!("asked as {src}"), &SWITCH, &BLUE, &lie, reason);
    }
    let probe = solicit(Ipv6Addr::UNSPECIFIED, CB1.v6, false);
    scene.refused("a probe in another network", &SWITCH, &GREEN, &probe.frame(), DropReason::VtepNotInVni);
    let udp = path(Ipv6Addr::UNSPECIFIED, CB1.v6, CB1.mac).udp((1, 2), b"from nobody");
    scene.refused("another packet without a source", &SWITCH, &BLUE, &udp, DropReason::SpoofSource);
    let honest = solicit(STATION.v6, CB1.v6, true);
    let near = honest.path.icmpv6(SOLICITATION, 0, [0; 4], &honest.rest, 254);
    scene.refused_late("a hop limit of 254", &near, DropReason::InnerNd);
    let code = honest.path.icmpv6(SOLICITATION, 1, [0; 4], &honest.rest, 255);
    scene.refused_late("a code of 1", &code, DropReason::InnerNd);
    let named = solicit(Ipv6Addr::UNSPECIFIED, CB1.v6, true).frame();
    scene.refused_late("a probe that names a MAC", &named, DropReason::InnerNd);
    let all = path(STATION.v6, ALL_NODES, multicast_mac(ALL_NODES));
    scene.refused_late(
        "a router advertisement",
        &all.icmpv6(134, 0, [64, 0, 7, 8], &[0; 8], 255),
        DropReason::InnerNd,
    );
    scene.refused_late("a redirect", &all.icmpv6(137, 0, [0; 4], &[0; 32], 255), DropReason::InnerNd);
    let mut hidden = honest.frame();
    hidden.splice(ETH + IPV6..ETH + IPV6, [58, 0, 1, 4, 0, 0, 0, 0]);
    hidden[ETH + 6] = 60;
    let length = (hidden.len() - ETH - IPV6) as u16;
    hidden[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    scene.refused("behind a header", &SWITCH, &BLUE, &hidden, DropReason::InnerNd);
}

/// A station that claims a container's address is not heard.
#[test]
fn nothing_is_learned() {
    let mut scene = scene();
    let claim: &Container = &CB1;
    let reply = Arp { sender: claim.v4, reply: true, ..ask(CB2.v4) };
    scene.refused("a container's address", &SWITCH, &BLUE, &reply.frame(), DropReason::Loop);
    let na = advertisement(claim.v6, STATION.mac, ALL_NODES, multicast_mac(ALL_NODES), 0x20);
    scene.refused("a container's address, IPv6", &SWITCH, &BLUE, &na, DropReason::Loop);
}
