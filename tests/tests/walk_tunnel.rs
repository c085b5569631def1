//! A tunnel packet's life: from one host's container to another host's, and everything that must not get there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_agent::plan::desired::PrefixKey;
use fabric_common::{
    endpoint::EndpointKey,
    prefix::VniPrefix,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{
        self, BLUE, CA1, CB1, Container, FAMILIES, Family, GA1, GB1, GREEN, HA1, HB1, HOST_A, HOST_B, HOST_C,
        LA1, LB1, STATION_V4, SWITCH,
    },
    frame::{self, ETH, INNER, Outer, Path, VXLAN, assert_same, on_the_wire},
    ledger::{Entry, action, actions, dropped, received, sender_dropped, sent},
    load::Globals,
    tunnel_table::{
        Case, Fate, PAYLOAD, PORTS, case, from, header_table, honest, inner, outer, sender_table,
    },
    walk::{Gso, Rig, Stage, Verdict, can_run},
};

fn at_uplink_tc(rig: &mut Rig, case: &Case) {
    if !can_run(&case.packet) {
        // `walk_device.rs` gives these to the kernel for real.
        return;
    }
    let length = case.packet.len();
    let ran = rig.run(rig.uplink(), &case.packet);
    let hook = Hook::FromUplink;
    let local = vec![action(hook, Action::Local, length), received(&CB1, length.saturating_sub(INNER))];
    match case.fate {
        Fate::Delivered => ran.assert(&case.name, Verdict::Sent, &local),
        Fate::DeliveredReserved => {
            let noted = action(hook, Action::ReservedBits, length);
            ran.assert(&case.name, Verdict::Sent, &[local, vec![noted]].concat());
        }
        Fate::Dropped(reason) => ran.assert(&case.name, Verdict::Taken, &[dropped(hook, reason, length)]),
        Fate::Stack(what) => ran.assert(&case.name, Verdict::ToStack, &[action(hook, what, length)]),
    }
    let left = if ran.verdict == Verdict::Sent { &case.packet[INNER..] } else { &case.packet };
    assert_same(&case.name, &ran.bytes, left);
}

fn at_uplink_xdp(rig: &mut Rig, case: &Case) {
    let length = case.packet.len();
    let ran = rig.run(rig.uplink_xdp(), &case.packet);
    let hook = Hook::FromUplinkXdp;
    let checked = action(hook, Action::Checked, length);
    let expected: (Verdict, Vec<Entry>) = match case.fate {
        Fate::Delivered => (Verdict::ToStack, vec![checked]),
        Fate::DeliveredReserved => {
            (Verdict::ToStack, vec![checked, action(hook, Action::ReservedBits, length)])
        }
        Fate::Dropped(reason) => (Verdict::Taken, vec![dropped(hook, reason, length)]),
        Fate::Stack(what) => (Verdict::ToStack, vec![action(hook, what, length)]),
    };
    ran.assert(&case.name, expected.0, &expected.1);
    assert_same(&case.name, &ran.bytes, &case.packet);
}

#[test]
fn headers_at_the_uplink() {
    let mut rig = Stage::enter().rig(&HOST_B);
    header_table().iter().for_each(|case| at_uplink_tc(&mut rig, case));
}

#[test]
fn headers_at_the_uplink_with_xdp() {
    let mut rig = Stage::enter().rig(&HOST_B);
    header_table().iter().for_each(|case| at_uplink_xdp(&mut rig, case));
}

#[test]
fn senders_at_the_uplink() {
    let mut rig = Stage::enter().rig(&HOST_B);
    sender_table().iter().for_each(|case| at_uplink_tc(&mut rig, case));
}

#[test]
fn senders_at_the_uplink_with_xdp() {
    let mut rig = Stage::enter().rig(&HOST_B);
    sender_table().iter().for_each(|case| at_uplink_xdp(&mut rig, case));
}

/// Encapsulates on one host and decapsulates on the other; returns the packet on the wire.
fn through(a: &mut Rig, b: &mut Rig, from: &Container, to: &Container, frame: &[u8]) -> Vec<u8> {
    let length = frame.len();
    let ran = a.run(a.port(from), frame);
    ran.assert(
        "a container sends",
        Verdict::Sent,
        &[action(Hook::FromContainer, Action::Remote, length), sent(from, length)],
    );
    let packet = on_the_wire(ran.bytes, a.host, b.host);
    assert_eq!(frame::fault(&packet), None, "on the wire:\n{}", frame::explain(&packet));
    let first = b.run(b.uplink_xdp(), &packet);
    first.assert(
        "XDP looks at it",
        Verdict::ToStack,
        &[action(Hook::FromUplinkXdp, Action::Checked, packet.len())],
    );
    let ran = b.run(b.uplink(), &packet);
    let expected = [action(Hook::FromUplink, Action::Local, packet.len()), received(to, length)];
    ran.assert("the other host delivers", Verdict::Sent, &expected);
    assert_same("what was sent is what arrives", &ran.bytes, frame);
    packet
}

#[test]
fn an_inner_frame_arrives_as_it_was_sent() {
    let stage = Stage::enter();
    let (mut a, mut b) = (stage.rig(&HOST_A), stage.rig(&HOST_B));
    for family in FAMILIES {
        let path = Path::between(&CA1, &CB1, family);
        let mut frames = vec![
            path.udp(PORTS, PAYLOAD),
            path.tcp(PORTS, PAYLOAD),
            path.ping(PAYLOAD),
            path.udp(PORTS, &[]),
        ];
        frames.extend([100, 101, 576, 1279, ETH + cast::OVERLAY_MTU].map(|length| path.of_length(length)));
        for frame in frames {
            through(&mut a, &mut b, &CA1, &CB1, &frame);
            let back = Path::between(&CB1, &CA1, family).udp(PORTS, PAYLOAD);
            through(&mut b, &mut a, &CB1, &CA1, &back);
        }
    }
}

/// Recipe R4: the same addresses in two networks reach different containers.
#[test]
fn networks_are_apart() {
    let stage = Stage::enter();
    let (mut a, mut b) = (stage.rig(&HOST_A), stage.rig(&HOST_B));
    for family in FAMILIES {
        let blue =
            through(&mut a, &mut b, &CA1, &CB1, &Path::between(&CA1, &CB1, family).udp(PORTS, PAYLOAD));
        let green =
            through(&mut a, &mut b, &GA1, &GB1, &Path::between(&GA1, &GB1, family).udp(PORTS, PAYLOAD));
        assert_eq!(Outer::between(&HOST_A, &HOST_B, BLUE.vni).vxlan, blue[INNER - VXLAN..INNER]);
        assert_eq!(Outer::between(&HOST_A, &HOST_B, GREEN.vni).vxlan, green[INNER - VXLAN..INNER]);
    }
    let strayed = Path::between(&CA1, &GB1, Family::V4).udp(PORTS, PAYLOAD);
    let ran = a.run(a.port(&CA1), &strayed);
    let reason = dropped(Hook::FromContainer, DropReason::UnknownDestination, strayed.len());
    ran.assert("a MAC of the other network", Verdict::Taken, &[reason, sender_dropped(&CA1)]);
}

/// Recipe R4: both ends of the VNI range work where they are configured.
#[test]
fn the_lowest_and_the_highest_vni_work() {
    let stage = Stage::enter();
    let rig = |host| stage.rig_with(host, &cast::objects_with_extremes(host), Globals::default());
    let (mut a, mut b) = (rig(&HOST_A), rig(&HOST_B));
    for (from, to) in [(&LA1, &LB1), (&HA1, &HB1)] {
        let packet =
            through(&mut a, &mut b, from, to, &Path::between(from, to, Family::V4).udp(PORTS, PAYLOAD));
        assert_eq!(Outer::between(&HOST_A, &HOST_B, from.network.vni).vxlan, packet[INNER - VXLAN..INNER]);
    }
}

/// A record may name several nodes: the home and a relay during a move.
#[test]
fn a_relay_may_send_what_the_record_allows() {
    let stage = Stage::enter();
    let mut rig = stage.rig(&HOST_B);
    let packet = from(&SWITCH).around(&inner());
    let key = EndpointKey { vni: BLUE.vni, addr: CA1.v4.into() };
    let vtep = rig.tables.vteps[&SWITCH.vtep.into()].node;
    for place in 1..4 {
        let mut tables = rig.tables.clone();
        let record = tables.sources.get_mut(&key).expect("CA1 has a record");
        record.nodes = [record.nodes[0], 0, 0, 0];
        record.nodes[place] = vtep;
        rig.write(tables);
        at_uplink_tc(&mut rig, &case(format!("a relay in place {place}"), packet.clone(), Fate::Delivered));
        at_uplink_tc(&mut rig, &case("the home beside it", outer().around(&inner()), Fate::Delivered));
    }
}

#[test]
fn an_exact_record_is_stronger_than_a_prefix() {
    let stage = Stage::enter();
    let mut rig = stage.rig(&HOST_B);
    let mut tables = rig.tables.clone();
    let home = tables.sources[&EndpointKey { vni: BLUE.vni, addr: CA1.v4.into() }];
    tables.sources.insert(EndpointKey { vni: BLUE.vni, addr: STATION_V4.into() }, home);
    rig.write(tables);
    let packet = from(&SWITCH).around(&honest().with_src(STATION_V4).udp(PORTS, PAYLOAD));
    at_uplink_tc(
        &mut rig,
        &case("a station that moved to a host", packet, Fate::Dropped(DropReason::SpoofSource)),
    );
}

#[test]
fn ipv6_inside_goes_to_the_stack_where_the_kernel_can_not_take_it_out() {
    let stage = Stage::enter();
    let globals = Globals { cross_family: false, debug: false };
    let mut rig = stage.rig_with(&HOST_B, &cast::objects(&HOST_B), globals);
    let v6 = outer().around(&Path::between(&CA1, &CB1, Family::V6).udp(PORTS, PAYLOAD));
    at_uplink_tc(&mut rig, &case("IPv6 inside", v6, Fate::Stack(Action::CrossFamily)));
    at_uplink_tc(&mut rig, &case("IPv4 inside", outer().around(&inner()), Fate::Delivered));
}

#[test]
fn another_hosts_frame_is_not_ours() {
    let stage = Stage::enter();
    let mut rig = stage.rig(&HOST_B);
    let packet = Outer { dst_mac: HOST_C.mac, ..outer() }.around(&inner());
    at_uplink_tc(&mut rig, &case("seen in promiscuous mode", packet, Fate::Stack(Action::NotOurs)));
}

/// Test runs can't give a packet the metadata of a tunnel; without it nothing is believed. `walk_device.rs` has the rest.
#[test]
fn the_vxlan_device_believes_nothing_without_metadata() {
    let mut rig = Stage::enter().rig(&HOST_B);
    let frame = inner();
    let ran = rig.run(rig.vxlan_device(), &frame);
    let drop = dropped(Hook::FromVxlan, DropReason::BadOuter, frame.len());
    ran.assert("no tunnel key", Verdict::Taken, &[drop]);
}

/// A test run can't say what kind of segmentation a packet wants, for which the kernel refuses to take headers off. By
/// then the receiver is known, and its own counter tells as well.
#[test]
fn a_refused_decapsulation_is_counted_at_the_receiver() {
    const SEGMENTS: u64 = 2;
    let mut rig = Stage::enter().rig(&HOST_B);
    let packet = outer().around(&honest().tcp(PORTS, &[1; 1000]));
    let ran = rig.run_gso(rig.uplink(), &packet, Gso { size: 500, segments: SEGMENTS as u32 });
    let (hook, reason) = (Hook::FromUplink, DropReason::DecapFailed);
    let expected = vec![
        (format!("drops {hook} {reason} packets"), SEGMENTS),
        (format!("drops {hook} {reason} bytes"), packet.len() as u64),
        (format!("events {hook} {reason}"), 1),
        (format!("port slot {} ingress drops", CB1.slot), SEGMENTS),
    ];
    ran.assert("unknown segmentation", Verdict::Taken, &[expected]);
}

#[test]
fn udp_gso_goes_to_the_stack_which_takes_its_tunnel_marks_off() {
    const SEGMENTS: u64 = 2;
    let mut rig = Stage::enter().rig(&HOST_B);
    let packet = outer().around(&honest().udp(PORTS, &[1; 1000]));
    let ran = rig.run_gso(rig.uplink(), &packet, Gso { size: 500, segments: SEGMENTS as u32 });
    let passed = actions(Hook::FromUplink, Action::UdpGso, SEGMENTS, packet.len());
    ran.assert("UDP_SEGMENT", Verdict::ToStack, &[passed]);
}

#[test]
fn nothing_is_ours_before_the_node_is_configured() {
    let mut rig = Stage::enter().rig(&HOST_B);
    rig.change_settings(|settings| settings.node = 0);
    let packet = outer().around(&inner());
    at_uplink_tc(&mut rig, &case("no settings", packet.clone(), Fate::Stack(Action::NotOurs)));
    at_uplink_xdp(&mut rig, &case("no settings", packet, Fate::Stack(Action::NotOurs)));
}

#[test]
fn a_drop_event_tells_who_and_why() {
    let mut rig = Stage::enter().rig(&HOST_B);
    let packet = from(&SWITCH).around(&inner());
    let ran = rig.run(rig.uplink(), &packet);
    let [event] = ran.changes.events[..] else { panic!("one event, not {:?}", ran.changes.events) };
    assert_eq!(DropReason::from_number(event.reason), Some(DropReason::SpoofSource));
    assert_eq!(Hook::from_number(event.hook), Some(Hook::FromUplink));
    assert_eq!((event.src, event.dst), (CA1.v4.into(), CB1.v4.into()));
    assert_eq!((event.src_mac, event.dst_mac), (CA1.mac, CB1.mac));
    assert_eq!((u16::from_be_bytes(event.src_port), u16::from_be_bytes(event.dst_port)), PORTS);
    assert_eq!((event.protocol, event.vni, event.vtep), (17, BLUE.vni, SWITCH.vtep.into()));
    assert_eq!((event.length as usize, event.suppressed), (packet.len(), 0));
}

/// A foreign VTEP may send everything there is, but nobody may have these addresses.
#[test]
fn no_prefix_covers_a_martian() {
    let mut rig = Stage::enter().rig(&HOST_B);
    let mut tables = rig.tables.clone();
    let record = *tables.source_prefixes.values().next().expect("the switch has one");
    for (bits, all) in [(96, IpAddr::from(Ipv4Addr::UNSPECIFIED)), (0, IpAddr::from(Ipv6Addr::UNSPECIFIED))] {
        let prefix = VniPrefix::new(BLUE.vni, all.into());
        tables.source_prefixes.insert(PrefixKey { bits: 32 + bits, prefix }, record);
    }
    rig.write(tables);
    let mut expect = |source: &str, fate: Fate| {
        let source: IpAddr = source.parse().expect("an address");
        let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
        let path = Path::between(&CA1, &CB1, family).with_src(source);
        let case = case(source.to_string(), from(&SWITCH).around(&path.udp(PORTS, PAYLOAD)), fate);
        at_uplink_tc(&mut rig, &case);
        at_uplink_xdp(&mut rig, &case);
    };
    for source in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
    ] {
        expect(source, Fate::Dropped(DropReason::SpoofSource));
    }
    for source in ["1.0.0.1", "198.51.100.7", "223.255.255.254", "2001:db8::7"] {
        expect(source, Fate::Delivered);
    }
}
