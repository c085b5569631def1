//! The packets of an endpoint that moves: they arrive once, wherever each host believes it to be.

use fabric_api::Object;
use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{self, BLUE, CA1, CB1, FAMILIES, Family, HOST_A, HOST_B, HOST_C, Host},
    frame::{self, ETH, Outer, Path, assert_same, fix_ip_checksum, on_the_wire},
    ledger::{action, dropped, received, sent},
    load::Globals,
    walk::{Rig, Stage, Verdict},
};
use serde_json::json;

const PORTS: (u16, u16) = (40000, 80);

/// The phases of a move, and what is behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prepared,
    Armed,
    Activated,
    After,
}

/// The usual objects, as `viewer` has them while [`CB1`] moves from [`HOST_B`] to `to`.
fn objects(viewer: &Host, to: &Host, phase: Phase, underlay: Family) -> Vec<Object> {
    let mut objects = match underlay {
        Family::V4 => cast::objects(viewer),
        Family::V6 => cast::objects_over_v6(viewer),
    };
    let at = objects.iter().position(|o| o.kind() == "Endpoint" && o.metadata().name == CB1.name);
    let at = at.expect("CB1 is declared");
    let mut value = serde_json::to_value(&objects[at]).expect("JSON");
    let attachment = json!({"netns": "/run/netns/cb1", "ifname": "eth0"});
    let moved = matches!(phase, Phase::Activated | Phase::After);
    if moved {
        value["spec"]["node"] = json!(to.name);
        value["spec"]["generation"] = json!(2);
        value["spec"]["attachment"] = attachment.clone();
        value["status"] = json!({"local": false, "slot": CB1.slot, "state": "pending"});
    }
    let (name, other) = match phase {
        Phase::After => ("", ""),
        Phase::Prepared => ("prepared", to.name),
        Phase::Armed => ("armed", to.name),
        Phase::Activated => ("activated", HOST_B.name),
    };
    if !name.is_empty() {
        value["spec"]["movement"] = json!({"phase": name, "node": other});
        if !moved {
            value["spec"]["movement"]["attachment"] = attachment;
            value["spec"]["movement"]["slot"] = json!(CB1.slot);
        }
    }
    objects[at] = serde_json::from_value(value).expect("the cast is valid");
    objects
}

fn rig(stage: &Stage, host: &'static Host, to: &Host, phase: Phase) -> Rig {
    stage.rig_with(host, &objects(host, to, phase, Family::V4), Globals::default())
}

/// What CA1 sends to CB1, on the wire to CB1's first home.
fn on_its_way(family: Family, underlay: Family) -> (Vec<u8>, Vec<u8>) {
    let inner = Path::between(&CA1, &CB1, family).tcp(PORTS, b"late");
    (Outer::over(underlay, &HOST_A, &HOST_B, BLUE.vni).around(&inner), inner)
}

#[test]
fn the_former_home_relays_and_the_new_one_delivers() {
    let stage = Stage::enter();
    for family in FAMILIES {
        let (packet, inner) = on_its_way(family, Family::V4);
        for (old, new) in [
            (Phase::Armed, Phase::Prepared),
            (Phase::Armed, Phase::Armed),
            (Phase::Activated, Phase::Armed),
            (Phase::Activated, Phase::Activated),
        ] {
            {
                let (mut b, mut c) = (rig(&stage, &HOST_B, &HOST_C, old), rig(&stage, &HOST_C, &HOST_C, new));
                let first = b.run(b.uplink_xdp(), &packet);
                let checked = action(Hook::FromUplinkXdp, Action::Checked, packet.len());
                first.assert("XDP looks at it", Verdict::ToStack, &[checked]);
                let ran = b.run(b.uplink(), &packet);
                let relayed = action(Hook::FromUplink, Action::Relayed, packet.len());
                ran.assert("the former home", Verdict::Sent, &[relayed]);
                assert_same("its inside is untouched", &ran.bytes[packet.len() - inner.len()..], &inner);
                let relayed = on_the_wire(ran.bytes, &HOST_B, &HOST_C);
                assert_eq!(frame::fault(&relayed), None, "{}", frame::explain(&relayed));
                assert_eq!(relayed[ETH + 8], packet[ETH + 8] - 1, "the outer TTL counts on");
                assert_eq!(relayed[ETH + 12..ETH + 16], HOST_B.vtep.octets());
                assert_eq!(relayed[ETH + 16..ETH + 20], HOST_C.vtep.octets());
                let first = c.run(c.uplink_xdp(), &relayed);
                let checked = action(Hook::FromUplinkXdp, Action::Checked, relayed.len());
                first.assert("XDP at the new home", Verdict::ToStack, &[checked]);
                let ran = c.run(c.uplink(), &relayed);
                let local = action(Hook::FromUplink, Action::Local, relayed.len());
                ran.assert("the new home", Verdict::Sent, &[local, received(&CB1, inner.len())]);
                assert_same("what was sent is what arrives", &ran.bytes, &inner);
                drop((b, c));
                remove();
            }
        }
    }
}

/// The interfaces of the rigs, so that the next ones can be made.
fn remove() {
    let names =
        std::process::Command::new("ip").args(["-o", "link"]).output().expect("iproute2 is installed");
    let text = String::from_utf8(names.stdout).expect("UTF-8");
    let names = text.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    let veths: Vec<String> = names
        .filter(|name| *name != "lo" && !name.ends_with("-x") && !name.ends_with("-in"))
        .map(|name| format!("link del {name}"))
        .collect();
    fabric_tests::walk::ip(&veths);
}

#[test]
fn a_home_that_keeps_its_endpoint_and_one_that_has_released_it_relay_nothing() {
    let stage = Stage::enter();
    let (packet, inner) = on_its_way(Family::V4, Family::V4);
    let mut b = rig(&stage, &HOST_B, &HOST_C, Phase::Prepared);
    let ran = b.run(b.uplink(), &packet);
    let local = action(Hook::FromUplink, Action::Local, packet.len());
    ran.assert("prepared elsewhere, at home here", Verdict::Sent, &[local, received(&CB1, inner.len())]);
    drop(b);
    remove();
    let mut b = rig(&stage, &HOST_B, &HOST_C, Phase::After);
    let ran = b.run(b.uplink(), &packet);
    ran.assert("gone", Verdict::Taken, &[dropped(Hook::FromUplink, DropReason::NotLocal, packet.len())]);
}

#[test]
fn nobody_but_the_former_home_may_send_what_is_not_its_own() {
    let stage = Stage::enter();
    let (_, inner) = on_its_way(Family::V4, Family::V4);
    let relayed = Outer::between(&HOST_B, &HOST_C, BLUE.vni).around(&inner);
    let mut c = rig(&stage, &HOST_C, &HOST_C, Phase::After);
    let ran = c.run(c.uplink(), &relayed);
    let spoofed = dropped(Hook::FromUplink, DropReason::SpoofSource, relayed.len());
    ran.assert("released", Verdict::Taken, &[spoofed]);
    drop(c);
    remove();
    // A source that nobody has is nobody's, whoever relays it.
    let mut c = rig(&stage, &HOST_C, &HOST_C, Phase::Activated);
    let invented = Path::between(&CA1, &CB1, Family::V4).with_src(cast::NOBODY_V4).tcp(PORTS, b"late");
    let invented = Outer::between(&HOST_B, &HOST_C, BLUE.vni).around(&invented);
    let ran = c.run(c.uplink(), &invented);
    let spoofed = dropped(Hook::FromUplink, DropReason::SpoofSource, invented.len());
    ran.assert("an invented source", Verdict::Taken, &[spoofed]);
    // The right relay, from another node.
    let other = Outer::between(&cast::SWITCH, &HOST_C, BLUE.vni).around(&inner);
    let ran = c.run(c.uplink(), &other);
    let spoofed = dropped(Hook::FromUplink, DropReason::SpoofSource, other.len());
    ran.assert("another node", Verdict::Taken, &[spoofed]);
}

#[test]
fn who_is_where_it_arrives_sends_to_where_it_still_lives() {
    let stage = Stage::enter();
    let inner = Path::between(&CA1, &CB1, Family::V4).udp(PORTS, b"hello");
    let mut a = rig(&stage, &HOST_A, &HOST_A, Phase::Armed);
    let mut b = rig(&stage, &HOST_B, &HOST_A, Phase::Armed);
    let ran = a.run(a.port(&CA1), &inner);
    let remote = action(Hook::FromContainer, Action::Remote, inner.len());
    ran.assert("a neighbour at the destination", Verdict::Sent, &[remote, sent(&CA1, inner.len())]);
    let packet = on_the_wire(ran.bytes, &HOST_A, &HOST_B);
    let ran = b.run(b.uplink(), &packet);
    ran.assert(
        "the home sends it back",
        Verdict::Sent,
        &[action(Hook::FromUplink, Action::Relayed, packet.len())],
    );
    let relayed = on_the_wire(ran.bytes, &HOST_B, &HOST_A);
    let ran = a.run(a.uplink(), &relayed);
    let local = action(Hook::FromUplink, Action::Local, relayed.len());
    ran.assert("its own source comes back", Verdict::Sent, &[local, received(&CB1, inner.len())]);
    // What it sends itself is believed by everybody, before and behind the change.
    let reply = Path::between(&CB1, &CA1, Family::V4).udp(PORTS, b"hello");
    let ran = a.run(a.port(&CB1), &reply);
    let local = action(Hook::FromContainer, Action::Local, reply.len());
    ran.assert(
        "it sends from its new port",
        Verdict::Sent,
        &[local, sent(&CB1, reply.len()), received(&CA1, reply.len())],
    );
    drop((a, b));
    remove();
    let mut a = rig(&stage, &HOST_A, &HOST_A, Phase::Activated);
    let ran = a.run(a.port(&CA1), &inner);
    let local = action(Hook::FromContainer, Action::Local, inner.len());
    ran.assert(
        "a neighbour behind the change",
        Verdict::Sent,
        &[local, sent(&CA1, inner.len()), received(&CB1, inner.len())],
    );
}

#[test]
fn both_nodes_of_a_move_may_send_what_it_sends() {
    let stage = Stage::enter();
    let inner = Path::between(&CB1, &CA1, Family::V4).udp(PORTS, b"hello");
    for phase in [Phase::Prepared, Phase::Armed, Phase::Activated] {
        let mut a = rig(&stage, &HOST_A, &HOST_C, phase);
        for from in [&HOST_B, &HOST_C] {
            let packet = Outer::between(from, &HOST_A, BLUE.vni).around(&inner);
            let ran = a.run(a.uplink(), &packet);
            let local = action(Hook::FromUplink, Action::Local, packet.len());
            ran.assert(from.name, Verdict::Sent, &[local, received(&CA1, inner.len())]);
        }
        drop(a);
        remove();
    }
}

#[test]
fn a_relayed_packet_does_not_live_for_ever() {
    let stage = Stage::enter();
    let mut b = rig(&stage, &HOST_B, &HOST_C, Phase::Armed);
    let (mut packet, _) = on_its_way(Family::V4, Family::V4);
    packet[ETH + 8] = 1;
    fix_ip_checksum(&mut packet, ETH);
    let ran = b.run(b.uplink(), &packet);
    ran.assert("its last hop", Verdict::Taken, &[dropped(Hook::FromUplink, DropReason::Loop, packet.len())]);
    assert_same("untouched", &ran.bytes, &packet);
}

#[test]
fn relaying_over_ipv6_and_between_families() {
    let stage = Stage::enter();
    let (packet, inner) = on_its_way(Family::V6, Family::V6);
    let v6 = |host: &'static Host, phase| {
        stage.rig_with(host, &objects(host, &HOST_C, phase, Family::V6), Globals::default())
    };
    let (mut b, mut c) = (v6(&HOST_B, Phase::Armed), v6(&HOST_C, Phase::Prepared));
    let ran = b.run(b.uplink(), &packet);
    ran.assert("over IPv6", Verdict::Sent, &[action(Hook::FromUplink, Action::Relayed, packet.len())]);
    let relayed = on_the_wire(ran.bytes, &HOST_B, &HOST_C);
    assert_eq!(relayed[ETH + 7], packet[ETH + 7] - 1, "the outer hop limit counts on");
    let ran = c.run(c.uplink(), &relayed);
    let local = action(Hook::FromUplink, Action::Local, relayed.len());
    ran.assert("the new home", Verdict::Sent, &[local, received(&CB1, inner.len())]);
    // The way on is over IPv4.
    drop((b, c));
    remove();
    let mut b = rig(&stage, &HOST_B, &HOST_C, Phase::Armed);
    let mut tables = b.tables.clone();
    let peer = tables.vteps[&HOST_A.vtep.into()];
    tables.vteps.insert(HOST_A.vtep_v6().into(), peer);
    b.write(tables);
    let ran = b.run(b.uplink(), &packet);
    ran.assert(
        "to another family",
        Verdict::ToStack,
        &[action(Hook::FromUplink, Action::RelayStack, packet.len())],
    );
    assert_same("untouched", &ran.bytes, &packet);
}
