//! Routes of masqueraded networks to the world, and what is no part of it.

use fabric_common::route::{FLAG_WORLD, NOT_WORLD};

use super::*;
use crate::plan::desired::PrefixKey;

/// Blue, masqueraded if so, red, and another node.
fn objects(masquerade: bool) -> Vec<Object> {
    let mut objects = networks();
    objects.push(node("n2", "192.0.2.2"));
    if let Object::Network(blue) = &mut objects[0] {
        blue.spec.masquerade = masquerade;
    }
    objects
}

#[test]
fn a_masqueraded_network_has_a_route_in_each_family_of_the_uplinks() {
    let mut facts = facts(&[]);
    let of = |facts: &NodeFacts, vni: u32, prefix: &str| {
        let desired = compile(&objects(true), facts);
        let key = PrefixKey::new(vni, prefix.parse().expect("a prefix"));
        desired.tables.routes.get(&key).map(|row| (row.vni, row.flags, row.mtu, row.next_hop))
    };
    let by = |address: &str, mtu: u16| Some((5000, FLAG_WORLD, mtu, addr(address)));
    assert_eq!(of(&facts, 5000, "0.0.0.0/0"), by("192.0.2.1", 1500));
    assert_eq!(of(&facts, 5000, "::/0"), None, "the uplink has no such address");
    assert_eq!(of(&facts, 5001, "0.0.0.0/0"), None, "red is not masqueraded");
    let mut second = facts.uplinks[0].clone();
    second.mtu = 9000;
    second.vteps = vec![ip("192.0.2.9"), ip("2001:db8::9")];
    facts.uplinks.push(second);
    assert_eq!(of(&facts, 5000, "0.0.0.0/0"), by("192.0.2.1", 1500));
    assert_eq!(of(&facts, 5000, "::/0"), by("2001:db8::9", 9000));
}

#[test]
fn subnets_and_vteps_are_no_part_of_the_world() {
    let desired = compile(&objects(true), &facts(&[]));
    for prefix in ["10.1.0.0/24", "fd00:1::/64", "192.0.2.1/32", "192.0.2.2/32"] {
        let key = PrefixKey::new(NOT_WORLD, prefix.parse().expect("a prefix"));
        assert!(desired.tables.routes.contains_key(&key), "{prefix}");
    }
    let row = desired.tables.settings[&0];
    assert_eq!((row.nat_first, row.nat_last), (61000_u16.to_be_bytes(), 65535_u16.to_be_bytes()));
}

#[test]
fn where_nothing_is_masqueraded_nothing_is_said_of_the_world() {
    let desired = compile(&objects(false), &facts(&[]));
    let is_own = |key: &PrefixKey| key.prefix.vni == NOT_WORLD.to_be_bytes();
    assert!(!desired.tables.routes.keys().any(is_own));
    assert!(desired.tables.routes.values().all(|row| row.flags & FLAG_WORLD == 0));
    assert_eq!(desired.tables.settings[&0].nat_first, [0; 2]);
}

#[test]
fn a_static_route_to_everywhere_is_preferred() {
    let mut objects = objects(true);
    objects.push(local("vpn", "blue", r#""10.1.0.9""#, 0));
    if let Object::Network(blue) = &mut objects[0] {
        let (prefix, next_hop) = ("0.0.0.0/0".parse().expect("a prefix"), ip("10.1.0.9"));
        blue.spec.routes = vec![fabric_api::object::Route { prefix, next_hop }];
    }
    let desired = compile(&objects, &facts(&[("vpn", 17)]));
    let key = PrefixKey::new(5000, "0.0.0.0/0".parse().expect("a prefix"));
    assert_eq!(desired.tables.routes[&key].next_hop, addr("10.1.0.9"));
    assert_eq!(desired.tables.routes[&key].flags & FLAG_WORLD, 0);
}
