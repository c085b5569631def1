//! Broadcast and multicast in networks that replicate it: who gets a copy, who gets none, and what is counted.
//!
//! Copies really leave while a program runs; taps at the interfaces see them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_agent::model::Dscp;
use fabric_api::Object;
use fabric_common::{
    addr::Mac,
    reason::{Action, DropReason, Hook},
    stage::{Mark, Stage as Passed},
};
use fabric_tests::{
    cast::{
        self, BLUE, CA1, CA2, CB1, CB2, Container, FAMILIES, Family, GA1, GB1, HOST_A, HOST_B, HOST_C, Host,
        SWITCH,
    },
    frame::{BROADCAST, ETH, INNER, Outer, Path, assert_same, multicast_mac},
    ledger::{Entry, action, dropped, received, sender_dropped, sent},
    load::Globals,
    tap::Tap,
    walk::{Gso, Rig, Stage, Verdict},
    wire::Wire,
};

const PORTS: (u16, u16) = (5353, 5353);
const PAYLOAD: &[u8] = b"who is there";
const FROM: Hook = Hook::FromContainer;

/// What a host with multicast in BLUE, and not in GREEN, has declared.
fn declared(mut objects: Vec<Object>, host_access: bool) -> Vec<Object> {
    for object in &mut objects {
        if let Object::Network(network) = object {
            network.spec.multicast = network.metadata.name == BLUE.name;
            network.spec.host_access = host_access && network.spec.multicast;
        }
    }
    objects
}

/// A host with a tap at every interface that a copy could leave by.
struct Scene {
    rig: Rig,
    taps: Vec<(&'static str, Tap)>,
}

fn scene(host: &'static Host) -> Scene {
    scene_of(host, declared(cast::objects(host), false))
}

fn scene_of(host: &'static Host, objects: Vec<Object>) -> Scene {
    tapped(Stage::enter().rig_with(host, &objects, Globals::default()))
}

fn tapped(rig: Rig) -> Scene {
    let local: Vec<&Container> =
        cast::CONTAINERS.iter().copied().filter(|container| container.host == rig.host).collect();
    let mut taps: Vec<_> = local.into_iter().map(|c| (c.name, Tap::at(rig.port(c).ifindex()))).collect();
    taps.push(("device", Tap::at(rig.vxlan_device().ifindex())));
    taps.push(("uplink", Tap::at(rig.uplink().ifindex())));
    Scene { rig, taps }
}

impl Scene {
    /// Panics unless copies of `frame` left by exactly these interfaces, and nothing else did.
    #[track_caller]
    fn expect_copies(&self, what: &str, frame: &[u8], expected: &[&str]) {
        let mut left = Vec::new();
        for (name, tap) in &self.taps {
            for copy in tap.frames() {
                assert_same(&format!("{what}: the copy at {name}"), &copy, frame);
                left.push(*name);
            }
        }
        assert_eq!(left, expected, "{what}: who got a copy");
    }

    #[track_caller]
    fn refused(&mut self, what: &str, frame: &[u8], reason: DropReason) {
        let ran = self.rig.run(self.rig.port(&CA1), frame);
        let expected = [dropped(FROM, reason, frame.len()), sender_dropped(&CA1)];
        ran.assert(what, Verdict::Taken, &expected);
        self.expect_copies(what, frame, &[]);
    }
}

fn to(from: &Container, mac: Mac, dst: impl Into<IpAddr>) -> Path {
    let dst = dst.into();
    let family = if dst.is_ipv4() { Family::V4 } else { Family::V6 };
    Path { dst_mac: mac, ..Path::between(from, from, family) }.with_dst(dst)
}

fn to_v4_group(from: &Container, group: Ipv4Addr) -> Path {
    let [_, b, c, d] = group.octets();
    to(from, Mac::new([0x01, 0, 0x5e, b & 0x7f, c, d]), group)
}

fn to_v6_group(from: &Container, group: Ipv6Addr) -> Path {
    to(from, multicast_mac(group), group)
}

/// To everybody, in every way that there is.
fn to_all(from: &Container) -> [(&'static str, Path); 6] {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    [
        ("limited broadcast", to(from, BROADCAST, Ipv4Addr::BROADCAST)),
        ("the subnet's broadcast", to(from, BROADCAST, Ipv4Addr::new(192, 168, 10, 255))),
        ("mDNS", to_v4_group(from, Ipv4Addr::new(224, 0, 0, 251))),
        ("all hosts", to_v4_group(from, Ipv4Addr::new(224, 0, 0, 1))),
        ("all nodes", to_v6_group(from, all_nodes)),
        ("all nodes from a link-local address", to_v6_group(from, all_nodes).with_src(from.link_local())),
    ]
}

/// What is counted when CA1's frame reaches CA2, HOST_B and SWITCH.
fn replicated(length: usize) -> Vec<Entry> {
    vec![
        action(FROM, Action::Replicated, length),
        action(FROM, Action::CopyLocal, length),
        action(FROM, Action::CopyRemote, length),
        action(FROM, Action::CopyRemote, length),
        sent(&CA1, length),
        received(&CA2, length),
    ]
}

#[test]
fn a_container_reaches_everybody_in_its_network_but_itself() {
    let mut scene = scene(&HOST_A);
    for (what, path) in to_all(&CA1) {
        let frame = path.udp(PORTS, PAYLOAD);
        let ran = scene.rig.run(scene.rig.port(&CA1), &frame);
        ran.assert(what, Verdict::Taken, &replicated(frame.len()));
        scene.expect_copies(what, &frame, &["ca2", "device", "device"]);
    }
}

/// Both ways in, over both families; XDP lets the frames through.
#[test]
fn what_comes_through_the_tunnel_goes_to_ports_only() {
    for underlay in FAMILIES {
        let objects = match underlay {
            Family::V4 => cast::objects(&HOST_B),
            Family::V6 => cast::objects_over_v6(&HOST_B),
        };
        let mut scene = scene_of(&HOST_B, declared(objects, false));
        for (what, path) in to_all(&CA1) {
            let inner = path.udp(PORTS, PAYLOAD);
            let packet = Outer::over(underlay, &HOST_A, &HOST_B, BLUE.vni).around(&inner);
            let checked = action(Hook::FromUplinkXdp, Action::Checked, packet.len());
            scene.rig.run(scene.rig.uplink_xdp(), &packet).assert(what, Verdict::ToStack, &[checked]);
            let ran = scene.rig.run(scene.rig.uplink(), &packet);
            let hook = Hook::FromUplink;
            let mut expected = vec![action(hook, Action::Replicated, packet.len())];
            for container in [&CB1, &CB2] {
                expected.push(action(hook, Action::CopyLocal, inner.len()));
                expected.push(received(container, inner.len()));
            }
            ran.assert(what, Verdict::Taken, &expected);
            assert_same(what, &ran.bytes, &inner);
            scene.expect_copies(what, &inner, &["cb1", "cb2"]);
        }
    }
}

#[test]
fn the_slow_path_replicates_too() {
    let rig =
        Stage::enter().rig_with_stack_and(&HOST_B, &declared(cast::objects(&HOST_B), false), Dscp::default());
    let mut scene = tapped(rig);
    let device = scene.rig.vxlan_device();
    scene.rig.attach(device);
    let mut wire = Wire::into_uplink(&scene.rig);
    let inner = to(&CA1, BROADCAST, Ipv4Addr::BROADCAST).udp(PORTS, PAYLOAD);
    wire.inject(&Outer::between(&HOST_A, &HOST_B, BLUE.vni).around_with_checksum(&inner));
    let hook = Hook::FromVxlan;
    let mut expected = vec![action(hook, Action::Replicated, inner.len())];
    for container in [&CB1, &CB2] {
        expected.push(action(hook, Action::CopyLocal, inner.len()));
        expected.push(received(container, inner.len()));
    }
    scene.rig.changes().assert("through the device", &expected);
    scene.expect_copies("through the device", &inner, &["cb1", "cb2"]);
}

/// The outer packets that the real device makes of the copies: one for each node, from our VTEP, in the right network.
#[test]
fn every_node_gets_a_tunnel_packet_of_its_own() {
    let rig =
        Stage::enter().rig_with_stack_and(&HOST_A, &declared(cast::objects(&HOST_A), false), Dscp::default());
    for host in [&HOST_B, &SWITCH] {
        let neighbour =
            format!("neigh replace {} lladdr {} dev up-host-a nud permanent", host.vtep, host.mac);
        fabric_tests::walk::ip(&[neighbour]);
    }
    let tap = Tap::at(rig.uplink().ifindex());
    let mut rig = rig;
    let inner = to_v4_group(&CA1, Ipv4Addr::new(224, 0, 0, 251)).udp(PORTS, PAYLOAD);
    rig.run(rig.port(&CA1), &inner).assert("mDNS", Verdict::Taken, &replicated(inner.len()));
    let mut packets = tap.frames();
    packets.sort_by_key(|packet| packet[ETH + 16..ETH + 20].to_vec());
    assert_eq!(packets.len(), 2, "one for each node that is a member");
    for (packet, host) in packets.iter().zip([&HOST_B, &SWITCH]) {
        assert_eq!(packet[..6], host.mac.bytes);
        assert_eq!(packet[ETH + 12..ETH + 16], HOST_A.vtep.octets());
        assert_eq!(packet[ETH + 16..ETH + 20], host.vtep.octets());
        assert_eq!(packet[INNER - 4..INNER - 1], BLUE.vni.to_be_bytes()[1..]);
        assert_same("the inner frame", &packet[INNER..], &inner);
    }
}

#[test]
fn a_group_mac_is_for_its_group_alone() {
    let mut scene = scene(&HOST_A);
    let mdns = to_v4_group(&CA1, Ipv4Addr::new(224, 0, 0, 251));
    let mdns_v6 = to_v6_group(&CA1, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb));
    let wrong = [
        ("somebody's address to everybody", to(&CA1, BROADCAST, CA2.v4)),
        ("somebody's address to a group", mdns.with_dst(CB1.v4)),
        ("somebody's IPv6 address to a group", mdns_v6.with_dst(CA2.v6)),
        ("another group", mdns.with_dst(Ipv4Addr::new(224, 0, 0, 252))),
        ("another IPv6 group", mdns_v6.with_dst(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfc))),
        ("a group to everybody", to(&CA1, BROADCAST, Ipv4Addr::new(224, 0, 0, 251))),
        ("broadcast to a group", mdns.with_dst(Ipv4Addr::BROADCAST)),
        ("loopback to everybody", to(&CA1, BROADCAST, Ipv4Addr::new(127, 0, 0, 1))),
        ("no address to everybody", to(&CA1, BROADCAST, Ipv4Addr::UNSPECIFIED)),
        ("IPv6 to everybody", to(&CA1, BROADCAST, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1))),
        ("IPv4 to an IPv6 group", mdns.with_dst_mac(mdns_v6.dst_mac)),
        ("a group MAC of nobody's", mdns.with_dst_mac(Mac::new([0x01, 0x80, 0xc2, 0, 0, 0]))),
    ];
    let mut far = self::scene(&HOST_B);
    for (what, path) in wrong {
        let frame = path.udp(PORTS, PAYLOAD);
        scene.refused(what, &frame, DropReason::BadGroup);
        let packet = Outer::between(&HOST_A, &HOST_B, BLUE.vni).around(&frame);
        let ran = far.rig.run(far.rig.uplink(), &packet);
        let expected = [dropped(Hook::FromUplink, DropReason::BadGroup, packet.len())];
        ran.assert(what, Verdict::Taken, &expected);
        let ran = far.rig.run(far.rig.uplink_xdp(), &packet);
        let expected = [dropped(Hook::FromUplinkXdp, DropReason::BadGroup, packet.len())];
        ran.assert(what, Verdict::Taken, &expected);
        far.expect_copies(what, &frame, &[]);
    }
}

#[test]
fn senders_are_checked_as_of_any_packet() {
    let mut scene = scene(&HOST_A);
    let honest = to(&CA1, BROADCAST, Ipv4Addr::BROADCAST);
    scene.refused("another's address", &honest.with_src(CA2.v4).udp(PORTS, PAYLOAD), DropReason::SpoofIp);
    scene.refused("another's MAC", &honest.with_src_mac(CA2.mac).udp(PORTS, PAYLOAD), DropReason::SpoofMac);
    let nobody =
        to_v6_group(&CA1, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)).with_src(Ipv6Addr::UNSPECIFIED);
    scene.refused("no source", &nobody.udp(PORTS, PAYLOAD), DropReason::SpoofIp);

    let mut far = self::scene(&HOST_B);
    for (what, vtep, path, reason) in [
        ("another VTEP's container", &SWITCH, honest, DropReason::SpoofSource),
        ("a node that has no part", &HOST_C, honest, DropReason::VtepNotInVni),
        ("our own container", &HOST_A, to(&CB1, BROADCAST, Ipv4Addr::BROADCAST), DropReason::Loop),
    ] {
        let packet = Outer::between(vtep, &HOST_B, BLUE.vni).around(&path.udp(PORTS, PAYLOAD));
        let expected = [dropped(Hook::FromUplink, reason, packet.len())];
        far.rig.run(far.rig.uplink(), &packet).assert(what, Verdict::Taken, &expected);
        far.expect_copies(what, &packet, &[]);
    }
}

/// GREEN was made without multicast.
#[test]
fn other_networks_stay_as_they_are() {
    let mut near = scene(&HOST_A);
    let frame = to(&GA1, BROADCAST, Ipv4Addr::BROADCAST).udp(PORTS, PAYLOAD);
    let expected = [dropped(FROM, DropReason::MulticastOff, frame.len()), sender_dropped(&GA1)];
    near.rig.run(near.rig.port(&GA1), &frame).assert("GREEN", Verdict::Taken, &expected);
    near.expect_copies("GREEN", &frame, &[]);
    let mut far = scene(&HOST_B);
    let packet = Outer::between(&HOST_A, &HOST_B, GB1.network.vni).around(&frame);
    let expected = [dropped(Hook::FromUplink, DropReason::MulticastOff, packet.len())];
    far.rig.run(far.rig.uplink(), &packet).assert("GREEN", Verdict::Taken, &expected);
    far.expect_copies("GREEN", &frame, &[]);
}

#[test]
fn an_endpoint_has_a_thousand_a_second() {
    let mut scene = scene(&HOST_A);
    let frame = to(&CA1, BROADCAST, Ipv4Addr::BROADCAST).udp(PORTS, PAYLOAD);
    let port = scene.rig.port(&CA1);
    let many = Gso { size: 8, segments: 60 };
    let mut refused = 0;
    for _ in 0..100 {
        scene.rig.run_uncounted(port, &frame, many);
        let lines = scene.rig.changes();
        if lines.lines().contains_key("drops from_container flood_limit packets") {
            refused += 1;
        }
    }
    assert!(
        refused > 50,
        "6000 packets at once are more than a burst, and {refused} of 100 frames were refused"
    );
    let other = to(&CA2, BROADCAST, Ipv4Addr::BROADCAST).udp(PORTS, PAYLOAD);
    let ran = scene.rig.run(scene.rig.port(&CA2), &other);
    let expected = [
        action(FROM, Action::Replicated, other.len()),
        action(FROM, Action::CopyLocal, other.len()),
        action(FROM, Action::CopyRemote, other.len()),
        action(FROM, Action::CopyRemote, other.len()),
        sent(&CA2, other.len()),
        received(&CA1, other.len()),
    ];
    ran.assert("another endpoint has its own", Verdict::Taken, &expected);
    let unicast = Path::between(&CA1, &CA2, Family::V4).udp(PORTS, PAYLOAD);
    let expected = [
        action(FROM, Action::Local, unicast.len()),
        sent(&CA1, unicast.len()),
        received(&CA2, unicast.len()),
    ];
    scene.rig.run(port, &unicast).assert("what is for one", Verdict::Sent, &expected);
}

/// A copy that can't be made is a drop of its own; the others are made.
#[test]
fn a_lost_copy_is_a_drop_and_harms_no_other() {
    let mut scene = scene(&HOST_A);
    let frame = to(&CA1, BROADCAST, Ipv4Addr::BROADCAST).of_length(1200);
    let length = frame.len();
    let port = scene.rig.port(&CA1);
    let (b, switch) = (node_of(&scene.rig, &HOST_B), node_of(&scene.rig, &SWITCH));
    let usual = [
        action(FROM, Action::Replicated, length),
        sent(&CA1, length),
        action(FROM, Action::CopyRemote, length),
        sender_dropped(&CA1),
    ];
    let local = [action(FROM, Action::CopyLocal, length), received(&CA2, length)];

    let mut tables = scene.rig.tables.clone();
    tables.nodes.get_mut(&b).expect("it has a row").mtu = 1000;
    scene.rig.write(tables);
    let expected = [&usual[..], &local, &[dropped(FROM, DropReason::TooBig, length)]].concat();
    scene.rig.run(port, &frame).assert("too big for one", Verdict::Taken, &expected);
    scene.expect_copies("too big for one", &frame, &["ca2", "device"]);

    scene.rig.forget_node(b);
    let expected = [&usual[..], &local, &[dropped(FROM, DropReason::NoNode, length)]].concat();
    scene.rig.run(port, &frame).assert("no way to one", Verdict::Taken, &expected);
    scene.expect_copies("no way to one", &frame, &["ca2", "device"]);

    fabric_tests::walk::ip(&["link set p-ca2 down".to_owned()]);
    let lost = |reason| [dropped(FROM, reason, length), sender_dropped(&CA1)].concat();
    scene.rig.forget_node(switch);
    let expected = [
        action(FROM, Action::Absorbed, length),
        sent(&CA1, length),
        lost(DropReason::CopyFailed),
        lost(DropReason::NoNode),
        lost(DropReason::NoNode),
    ];
    scene.rig.run(port, &frame).assert("nobody at all", Verdict::Taken, &expected);
    scene.expect_copies("nobody at all", &frame, &[]);
}

fn node_of(rig: &Rig, host: &Host) -> u32 {
    rig.tables.vteps[&IpAddr::V4(host.vtep).into()].node
}

#[test]
fn the_host_is_one_more_member_where_it_has_access() {
    let objects = declared(cast::objects(&HOST_A), true);
    let mut scene = scene_of(&HOST_A, objects);
    let access = scene.rig.access(&BLUE);
    scene.taps.push(("host", Tap::at(access.ifindex())));
    let frame = to_v4_group(&CA1, Ipv4Addr::new(224, 0, 0, 251)).udp(PORTS, PAYLOAD);
    let mut expected = replicated(frame.len());
    expected.push(action(FROM, Action::CopyLocal, frame.len()));
    scene.rig.run(scene.rig.port(&CA1), &frame).assert("to the host", Verdict::Taken, &expected);
    scene.expect_copies("to the host", &frame, &["ca2", "device", "device", "host"]);

    let address = HOST_A.blue_address.expect("it has one");
    let mac = scene.rig.tables.ports[&access.ifindex()].mac;
    let frame = Path { src_mac: mac, ..to(&CA1, BROADCAST, Ipv4Addr::BROADCAST) }
        .with_src(address)
        .udp(PORTS, PAYLOAD);
    let length = frame.len();
    let expected = [
        action(FROM, Action::Replicated, length),
        action(FROM, Action::CopyLocal, length),
        action(FROM, Action::CopyLocal, length),
        action(FROM, Action::CopyRemote, length),
        action(FROM, Action::CopyRemote, length),
        received(&CA1, length),
        received(&CA2, length),
    ];
    scene.rig.run(access, &frame).assert("from the host", Verdict::Taken, &expected);
    scene.expect_copies("from the host", &frame, &["ca1", "ca2", "device", "device"]);
}

/// `fabric trace` must send nothing: clones would really leave.
#[test]
fn the_traced_build_tells_of_copies_and_makes_none() {
    let mut scene = scene(&HOST_A);
    scene.rig = scene.rig.traced();
    let frame = to(&CA1, BROADCAST, Ipv4Addr::BROADCAST).udp(PORTS, PAYLOAD);
    let (verdict, _) = scene.rig.run_uncounted(scene.rig.port(&CA1), &frame, Gso::default());
    assert_eq!(verdict, Verdict::Taken);
    scene.expect_copies("traced", &frame, &[]);
    let marks = scene.rig.marks();
    let told = [Passed::Group, Passed::CopyLocal, Passed::CopyRemote, Passed::CopyRemote].map(Mark::Passed);
    let end = [&told[..], &[Mark::Done(Action::Replicated)]].concat();
    assert!(marks.ends_with(&end), "{marks:?}");
}
