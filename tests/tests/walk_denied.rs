//! Denied prefixes at an uplink: dropped before anything else, in both programs and families, and nothing beside them.

use std::net::IpAddr;

use fabric_agent::plan::desired::AddrPrefix;
use fabric_api::Object;
use fabric_common::{
    denied::{DeniedValue, EXEMPT},
    reason::{Action, DropReason, Hook},
    settings::FLAG_DENIED,
};
use fabric_tests::{
    cast::{self, CA1, CB1, FAMILIES, Family, HOST_A, HOST_B, STRANGER},
    frame::{Outer, Path},
    ledger::{action, dropped, received},
    load::Globals,
    walk::{Place, Rig, Stage, Verdict},
};
use serde_json::json;

const PORTS: (u16, u16) = (40000, 22);
const INNER: (u16, u16) = (4000, 80);

/// Somebody outside to the host itself.
fn to_host(family: Family, from: IpAddr) -> Vec<u8> {
    let path = Path { src_mac: STRANGER.mac, dst_mac: HOST_B.mac, src: from, dst: HOST_B.underlay(family) };
    path.tcp(PORTS, b"hello")
}

fn outside(family: Family, last: u16) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([203, 0, 113, last as u8]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, last]),
    }
}

fn denied(name: &str, prefixes: &[&str], forced: &[&str]) -> Object {
    let spec = json!({"prefixes": prefixes, "forced": forced});
    serde_json::from_value(json!({"kind": "DenySet", "metadata": {"name": name}, "spec": spec}))
        .expect("a deny set")
}

fn rig(sets: &[(&str, &[&str], &[&str])]) -> Rig {
    let mut objects = cast::objects(&HOST_B);
    objects.extend(sets.iter().map(|(name, prefixes, forced)| denied(name, prefixes, forced)));
    Stage::enter().rig_with(&HOST_B, &objects, Globals::default())
}

fn places(rig: &Rig) -> [(Place, Hook); 2] {
    [(rig.uplink(), Hook::FromUplink), (rig.uplink_xdp(), Hook::FromUplinkXdp)]
}

#[test]
fn a_denied_source_ends_at_the_uplink() {
    let mut rig = rig(&[("bad", &["203.0.113.0/25", "2001:db8:bad::/48"], &[])]);
    let rule = rig.tables.denied.values().next().expect("a row").rule;
    rig.count_rules(&[rule]);
    let mut bytes = 0;
    for family in FAMILIES {
        let packet = to_host(family, outside(family, 7));
        for (place, hook) in places(&rig) {
            let ran = rig.run(place, &packet);
            ran.assert(
                "a denied source",
                Verdict::Taken,
                &[dropped(hook, DropReason::DeniedPrefix, packet.len())],
            );
            assert_eq!(ran.changes.events[0].rule, rule, "the event names the set");
            assert_eq!(ran.changes.events[0].src, outside(family, 7).into());
            bytes += packet.len() as u64;
        }
    }
    assert_eq!(rig.counted(), [(rule, (4, bytes))].into(), "exact, at both programs");
}

#[test]
fn others_pass_untouched() {
    let mut rig = rig(&[("bad", &["203.0.113.0/25", "2001:db8:bad::/48"], &[])]);
    let others = [
        to_host(Family::V4, outside(Family::V4, 200)),
        to_host(Family::V6, "2001:db8:900d::1".parse().expect("an address")),
    ];
    for packet in &others {
        for (place, hook) in places(&rig) {
            let ran = rig.run(place, packet);
            ran.assert("another source", Verdict::ToStack, &[action(hook, Action::NotOurs, packet.len())]);
            assert_eq!(ran.bytes, *packet);
        }
    }
}

#[test]
fn a_tunnel_packet_is_judged_by_its_outer_source() {
    let inner = Path::between(&CA1, &CB1, Family::V4).udp(INNER, b"inside");
    let packet = Outer::between(&HOST_A, &HOST_B, CB1.network.vni).around(&inner);
    let local = [action(Hook::FromUplink, Action::Local, packet.len()), received(&CB1, inner.len())];
    // That the inner source is denied is none of the uplink's business.
    let mut inside = rig(&[("inner", &["192.168.10.0/24"], &[])]);
    inside.run(inside.uplink(), &packet).assert("from a known VTEP", Verdict::Sent, &local);
    let mut rig = rig(&[("forced", &[], &["10.0.0.0/8"])]);
    for (place, hook) in places(&rig) {
        let expected = [dropped(hook, DropReason::DeniedPrefix, packet.len())];
        rig.run(place, &packet).assert("a VTEP that is denied by force", Verdict::Taken, &expected);
    }
    let mut tables = rig.tables.clone();
    let vtep = AddrPrefix::new(IpAddr::from(HOST_A.vtep).into());
    tables.denied.insert(vtep, DeniedValue { rule: EXEMPT });
    rig.write(tables);
    rig.run(rig.uplink(), &packet).assert("a VTEP that is spared", Verdict::Sent, &local);
}

#[test]
fn a_wide_prefix_of_one_family_spares_the_other() {
    let mut rig = rig(&[("six", &["2000::/3"], &[]), ("forced", &[], &["::/0"])]);
    let packet = to_host(Family::V4, outside(Family::V4, 7));
    for (place, hook) in places(&rig) {
        let passed = [action(hook, Action::NotOurs, packet.len())];
        rig.run(place, &packet).assert("IPv4 under ::/0", Verdict::ToStack, &passed);
    }
    let packet = to_host(Family::V6, outside(Family::V6, 7));
    for (place, hook) in places(&rig) {
        let expected = [dropped(hook, DropReason::DeniedPrefix, packet.len())];
        rig.run(place, &packet).assert("IPv6 under ::/0", Verdict::Taken, &expected);
    }
}

#[test]
fn the_rows_are_looked_at_only_while_there_are_some() {
    let mut rig = rig(&[("bad", &["203.0.113.0/25"], &[])]);
    rig.change_settings(|settings| settings.flags &= !FLAG_DENIED);
    let packet = to_host(Family::V4, outside(Family::V4, 7));
    for (place, hook) in places(&rig) {
        let passed = [action(hook, Action::NotOurs, packet.len())];
        rig.run(place, &packet).assert("the flag is off", Verdict::ToStack, &passed);
    }
    assert_eq!(
        Stage::enter().rig(&HOST_B).tables.settings[&0].flags & FLAG_DENIED,
        0,
        "without a set it is off"
    );
}

#[test]
fn what_has_no_source_passes() {
    let mut rig = rig(&[("all", &[], &["0.0.0.0/0", "::/0"])]);
    let arp = fabric_tests::frame::ethernet(STRANGER.mac, HOST_B.mac, 0x0806, &[0; 28]);
    for (place, hook) in places(&rig) {
        let passed = [action(hook, Action::NotOurs, arp.len())];
        rig.run(place, &arp).assert("ARP", Verdict::ToStack, &passed);
    }
    let short = fabric_tests::frame::ethernet(STRANGER.mac, HOST_B.mac, 0x0800, &[0x45, 0]);
    let passed = [action(Hook::FromUplinkXdp, Action::NotOurs, short.len())];
    rig.run(rig.uplink_xdp(), &short).assert("a header that is cut off", Verdict::ToStack, &passed);
}
