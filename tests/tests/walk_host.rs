//! The host as an endpoint of a network that was made with host access: what reaches it, what it may send, and that its access
//! port is no way to anything else.

use std::net::{IpAddr, Ipv4Addr};

use fabric_api::Object;
use fabric_common::{
    addr::Mac,
    endpoint::{EndpointKey, FLAG_NODE},
    fdb::FdbKey,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{
        self, BLUE, CA1, CB1, Container, FAMILIES, Family, GREEN, HOST_A, HOST_B, Host, NOBODY_V4, SWITCH,
    },
    frame::{self, Arp, INNER, Outer, Path, assert_same},
    ledger::{action, actions, dropped, received, sender_dropped, sent},
    load::Globals,
    walk::{Gso, Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 9000);
const PAYLOAD: [u8; 64] = [7; 64];

/// BLUE has host access, GREEN has not.
fn rig(host: &'static Host) -> Rig {
    let mut objects = cast::objects(host);
    for object in &mut objects {
        if let Object::Network(network) = object {
            network.spec.host_access = network.metadata.name == BLUE.name;
        }
    }
    Stage::enter().rig_with(host, &objects, Globals::default())
}

fn mac_of(rig: &Rig, host: &Host) -> Mac {
    let address = host.blue_address.expect("it has one");
    rig.tables.endpoints[&EndpointKey { vni: BLUE.vni, addr: address.into() }].mac
}

/// The host's own address, of IPv6 the one that it took for itself.
fn own(rig: &Rig, family: Family) -> IpAddr {
    let port = rig.access(&BLUE).ifindex();
    let mine = rig.tables.endpoints.iter().filter(|(_, row)| row.ifindex == port && row.flags == FLAG_NODE);
    let addresses = mine.map(|(key, _)| key.addr.to_ip());
    let global = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => family == Family::V4,
        IpAddr::V6(ip) => family == Family::V6 && !ip.is_unicast_link_local(),
    };
    addresses.into_iter().find(global).expect("one of each family")
}

fn to_host(rig: &Rig, from: &Container, family: Family) -> Path {
    let (dst_mac, dst) = (mac_of(rig, &HOST_A), own(rig, family));
    Path { src_mac: from.mac, dst_mac, src: from.address(family), dst }
}

fn from_host(rig: &Rig, to: &Container, family: Family) -> Path {
    Path { src_mac: mac_of(rig, &HOST_A), dst_mac: to.mac, src: own(rig, family), dst: to.address(family) }
}

#[test]
fn containers_reach_the_host_at_its_own_addresses_only() {
    let mut rig = rig(&HOST_A);
    let hook = Hook::FromContainer;
    let link_local = mac_of(&rig, &HOST_A).link_local().to_ip();
    for family in FAMILIES {
        let path = to_host(&rig, &CA1, family);
        let mut right = vec![path.ping(&PAYLOAD), path.udp(PORTS, &PAYLOAD), path.tcp(PORTS, &PAYLOAD)];
        if family == Family::V6 {
            right.push(path.with_src(CA1.link_local()).with_dst(link_local).ping(&PAYLOAD));
        }
        for packet in right {
            let ran = rig.run(rig.port(&CA1), &packet);
            let expected = [action(hook, Action::Local, packet.len()), sent(&CA1, packet.len())];
            ran.assert("to the host", Verdict::Sent, &expected);
            assert_same("to the host", &ran.bytes, &packet);
        }
    }
    let v4 = to_host(&rig, &CA1, Family::V4);
    let others: [IpAddr; 5] = [
        HOST_A.vtep.into(),
        Ipv4Addr::LOCALHOST.into(),
        NOBODY_V4.into(),
        CA1.v4.into(),
        HOST_B.blue_address.expect("it has one").into(),
    ];
    for dst in others {
        let packet = v4.with_dst(dst).udp(PORTS, &PAYLOAD);
        let expected = [dropped(hook, DropReason::NoRoute, packet.len()), sender_dropped(&CA1)];
        rig.run(rig.port(&CA1), &packet).assert(&format!("{dst}"), Verdict::Taken, &expected);
    }
    let packet = v4.with_src(own(&rig, Family::V4)).udp(PORTS, &PAYLOAD);
    let expected = [dropped(hook, DropReason::SpoofIp, packet.len()), sender_dropped(&CA1)];
    rig.run(rig.port(&CA1), &packet).assert("with the host's own address", Verdict::Taken, &expected);
}

#[test]
fn the_host_is_bound_to_its_addresses_like_a_container() {
    let mut rig = rig(&HOST_A);
    let hook = Hook::FromContainer;
    for family in FAMILIES {
        let near = from_host(&rig, &CA1, family).udp(PORTS, &PAYLOAD);
        let expected = [action(hook, Action::Local, near.len()), received(&CA1, near.len())];
        rig.run(rig.access(&BLUE), &near).assert("near", Verdict::Sent, &expected);
        let far = from_host(&rig, &CB1, family).udp(PORTS, &PAYLOAD);
        let expected = [action(hook, Action::Remote, far.len())];
        let ran = rig.run(rig.access(&BLUE), &far);
        ran.assert("far", Verdict::Sent, &expected);
        assert_same("far", &ran.bytes[INNER..], &far);
    }
    let honest = from_host(&rig, &CA1, Family::V4);
    for (packet, reason) in [
        (honest.with_src(HOST_A.vtep).udp(PORTS, &PAYLOAD), DropReason::SpoofIp),
        (honest.with_src(CB1.v4).udp(PORTS, &PAYLOAD), DropReason::SpoofIp),
        (honest.with_src_mac(CA1.mac).udp(PORTS, &PAYLOAD), DropReason::SpoofMac),
        (honest.with_dst_mac(honest.src_mac).udp(PORTS, &PAYLOAD), DropReason::NoRoute),
        (honest.with_dst_mac(honest.src_mac).with_dst(honest.src).udp(PORTS, &PAYLOAD), DropReason::Hairpin),
    ] {
        let expected = [dropped(hook, reason, packet.len())];
        rig.run(rig.access(&BLUE), &packet).assert(&format!("{reason}"), Verdict::Taken, &expected);
    }
    let IpAddr::V4(sender) = honest.src else { panic!("IPv4 was asked for") };
    let asks =
        Arp { eth_src: honest.src_mac, sender_mac: honest.src_mac, sender, ..Arp::who_has(&CA1, CB1.v4) };
    let frame = asks.frame();
    let ran = rig.run(rig.access(&BLUE), &frame);
    ran.assert("ARP", Verdict::Sent, &[action(hook, Action::Answered, frame.len())]);
}

#[test]
fn hosts_reach_each_other_and_each_others_containers() {
    let mut rig = rig(&HOST_A);
    let (here, there) = (mac_of(&rig, &HOST_A), mac_of(&rig, &HOST_B));
    let far_host = HOST_B.blue_address.expect("it has one");
    let hook = Hook::FromContainer;
    let out = Path { src_mac: CA1.mac, dst_mac: there, src: CA1.v4.into(), dst: far_host.into() };
    let packet = out.udp(PORTS, &PAYLOAD);
    let expected = [action(hook, Action::Remote, packet.len()), sent(&CA1, packet.len())];
    rig.run(rig.port(&CA1), &packet).assert("to the far host", Verdict::Sent, &expected);

    let outer = Outer::between(&HOST_B, &HOST_A, BLUE.vni);
    let hook = Hook::FromUplink;
    let near_host = HOST_A.blue_address.expect("it has one");
    let host_to_host = Path { src_mac: there, dst_mac: here, src: far_host.into(), dst: near_host.into() };
    for path in [host_to_host, host_to_host.with_src(CB1.v4).with_src_mac(CB1.mac)] {
        let packet = outer.around(&path.udp(PORTS, &PAYLOAD));
        let ran = rig.run(rig.uplink(), &packet);
        ran.assert("to this host", Verdict::Sent, &[action(hook, Action::Local, packet.len())]);
        assert_same("to this host", &ran.bytes, &packet[INNER..]);
    }
    let to_container = host_to_host.with_dst(CA1.v4).with_dst_mac(CA1.mac);
    let packet = outer.around(&to_container.udp(PORTS, &PAYLOAD));
    let expected = [action(hook, Action::Local, packet.len()), received(&CA1, packet.len() - INNER)];
    rig.run(rig.uplink(), &packet).assert("the far host to a container", Verdict::Sent, &expected);
    for (what, path, reason) in [
        ("another address of this host", host_to_host.with_dst(HOST_A.vtep), DropReason::NoRoute),
        ("somebody else's by way of this host", host_to_host.with_dst(CA1.v4), DropReason::NoRoute),
        ("this host's own source", host_to_host.with_src(near_host), DropReason::Loop),
    ] {
        let packet = outer.around(&path.udp(PORTS, &PAYLOAD));
        rig.run(rig.uplink(), &packet).assert(what, Verdict::Taken, &[dropped(hook, reason, packet.len())]);
        let expected = [dropped(Hook::FromUplinkXdp, reason, packet.len())];
        rig.run(rig.uplink_xdp(), &packet).assert(what, Verdict::Taken, &expected);
    }
    let forged = Outer::between(&SWITCH, &HOST_A, BLUE.vni).around(&host_to_host.udp(PORTS, &PAYLOAD));
    let expected = [dropped(hook, DropReason::SpoofSource, forged.len())];
    rig.run(rig.uplink(), &forged).assert("another VTEP as the far host", Verdict::Taken, &expected);
}

#[test]
fn what_stands_for_several_packets_takes_the_stack_to_the_host() {
    let mut rig = rig(&HOST_A);
    let path = Path { src_mac: CB1.mac, src: CB1.v4.into(), ..to_host(&rig, &CA1, Family::V4) };
    let packet = Outer::between(&HOST_B, &HOST_A, BLUE.vni).around(&path.tcp(PORTS, &[1; 1500]));
    let ran = rig.run_gso(rig.uplink(), &packet, Gso { size: 500, segments: 3 });
    let passed = [actions(Hook::FromUplink, Action::HostGso, 3, packet.len())];
    ran.assert("TCP segments", Verdict::ToStack, &passed);
    assert_same("TCP segments", &ran.bytes, &packet);
}

/// In GREEN nothing changed, and without an access port BLUE fails closed.
#[test]
fn without_an_access_port_the_host_is_not_reached() {
    let mut rig = rig(&HOST_A);
    let green_mac = mac_of(&rig, &HOST_A);
    assert!(!rig.tables.fdb[&FdbKey::new(GREEN.vni, green_mac)].flags.eq(&fabric_common::fdb::FLAG_HOST));
    let mut plain = Stage::enter().rig(&HOST_A);
    let path = Path {
        src_mac: CA1.mac,
        dst_mac: green_mac,
        src: CA1.v4.into(),
        dst: HOST_A.blue_address.expect("it has one").into(),
    };
    let packet = path.udp(PORTS, &PAYLOAD);
    let expected = [dropped(Hook::FromContainer, DropReason::NoRoute, packet.len()), sender_dropped(&CA1)];
    plain.run(plain.port(&CA1), &packet).assert("no host access", Verdict::Taken, &expected);
    let far = path.with_dst_mac(mac_of(&plain, &HOST_B)).with_dst(HOST_B.blue_address.expect("it has one"));
    let packet = far.udp(PORTS, &PAYLOAD);
    let expected = [dropped(Hook::FromContainer, DropReason::NoRoute, packet.len()), sender_dropped(&CA1)];
    plain.run(plain.port(&CA1), &packet).assert("no host access, far", Verdict::Taken, &expected);
    rig.changes();
    assert_eq!(frame::fault(&packet), None);
}
