use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fabric_api::Object;
use fabric_common::{
    addr::{Addr, Mac},
    endpoint::{self, EndpointKey},
    fdb::{self, FdbKey},
    node,
};
use proptest::prelude::*;

use super::{
    desired::{NodeFacts, PeerFacts, RouteFacts, UplinkFacts},
    *,
};
use crate::model::Dscp;

mod advertisement;
mod flood;
mod names;
mod underlay;
mod world;

const SETTINGS: PlanSettings = PlanSettings {
    vxlan_port: 4789,
    events_per_second: 100,
    dscp: Dscp::Fixed(0),
    nat_ports: (61000, 65535),
};

/// Through the only uplink.
const ROUTE: RouteFacts = RouteFacts { ifindex: 2, mtu: None };

fn object(json: &str) -> Object {
    serde_json::from_str(json).expect("a valid object")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn addr(text: &str) -> Addr {
    ip(text).into()
}

/// Blue with both families, red with IPv4 alone.
fn networks() -> Vec<Object> {
    vec![
        object(
            r#"{"kind":"Network","metadata":{"name":"blue"},"spec":{"vni":5000,"subnets":["10.1.0.0/24","fd00:1::/64"]}}"#,
        ),
        object(
            r#"{"kind":"Network","metadata":{"name":"red"},"spec":{"vni":5001,"subnets":["10.1.0.0/24"],"mtu":1300}}"#,
        ),
    ]
}

fn node(name: &str, vtep: &str) -> Object {
    object(&format!(r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"vteps":["{vtep}"]}}}}"#))
}

fn local(name: &str, network: &str, addresses: &str, slot: u32) -> Object {
    object(&format!(
        r#"{{"kind":"Endpoint","metadata":{{"name":"{name}"}},"spec":{{"network":"{network}","node":"n1","addresses":[{addresses}],
        "attachment":{{"netns":"/run/netns/{name}","netnsInode":9,"ifname":"eth0"}}}},"status":{{"local":true,"slot":{slot},"state":"pending"}}}}"#
    ))
}

fn remote(name: &str, network: &str, node: &str, addresses: &str) -> Object {
    object(&format!(
        r#"{{"kind":"Endpoint","metadata":{{"name":"{name}"}},"spec":{{"network":"{network}","node":"{node}","addresses":[{addresses}],"generation":3}}}}"#
    ))
}

fn facts(ports: &[(&str, u32)]) -> NodeFacts {
    NodeFacts {
        numbers: Default::default(),
        guard: Default::default(),
        names: Default::default(),
        node: "n1".to_owned(),
        uplinks: vec![UplinkFacts {
            name: "up0".to_owned(),
            ifindex: 2,
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            vteps: vec![ip("192.0.2.1")],
        }],
        vxlan_ifindex: Some(3),
        frag: Some((4, 5)),
        ports: ports.iter().map(|(name, index)| ((*name).to_owned(), *index)).collect(),
        routes: BTreeMap::from([(ip("192.0.2.2"), ROUTE), (ip("192.0.2.3"), ROUTE)]),
        peers: BTreeMap::new(),
        xdp: BTreeSet::new(),
        plugged: BTreeSet::new(),
        access: BTreeMap::new(),
    }
}

fn compile(objects: &[Object], facts: &NodeFacts) -> Desired {
    plan(&Cluster::from_objects(objects), facts, &SETTINGS)
}

fn scene() -> Vec<Object> {
    let mut objects = networks();
    objects.push(node("n2", "192.0.2.2"));
    objects.push(local("web", "blue", r#""10.1.0.5","fd00:1::5""#, 0));
    objects.push(remote("db", "blue", "n2", r#""10.1.0.6","fd00:1::6""#));
    objects
}

#[test]
fn a_local_endpoint_has_rows_once_its_port_exists() {
    let without = compile(&scene(), &facts(&[]));
    let key = EndpointKey { vni: 5000, addr: addr("10.1.0.5") };
    assert!(!without.tables.endpoints.contains_key(&key));
    assert!(!without.tables.sources.contains_key(&key));
    assert!(without.tables.ports.is_empty());
    assert!(without.ports.contains_key("web"), "the veth is wanted all the same");

    let with = compile(&scene(), &facts(&[("web", 17)]));
    let value = with.tables.endpoints[&key];
    assert_eq!((value.ifindex, value.slot, value.node), (17, 0, node_ids(&Cluster::default(), "n1")["n1"]));
    assert_eq!(value.mac.to_string(), "02:fc:0a:01:00:05");
    assert_eq!(with.tables.fdb[&FdbKey::new(5000, value.mac)].ifindex, 17);
    assert_eq!(with.tables.sources[&key].nodes, [value.node, 0, 0, 0]);
    assert_eq!(with.tables.ports[&17].vni, 5000);
    assert!(with.tables.endpoints.contains_key(&EndpointKey { vni: 5000, addr: value.mac.link_local() }));
    assert!(with.problems.is_empty(), "{:?}", with.problems);
    let link = &with.ports["web"];
    assert_eq!(link.mtu, 1450);
    assert_eq!(
        link.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.5/24", "fd00:1::5/64"]
    );
    assert_eq!(link.gateways, [ip("10.1.0.1"), ip("fd00:1::1")]);
}

#[test]
fn a_remote_endpoint_points_at_its_node() {
    let desired = compile(&scene(), &facts(&[]));
    let value = desired.tables.endpoints[&EndpointKey { vni: 5000, addr: addr("fd00:1::6") }];
    assert_eq!((value.ifindex, value.generation), (0, 3));
    let node = desired.tables.nodes[&value.node];
    assert_eq!(node.remote, addr("192.0.2.2"));
    assert_eq!(desired.tables.fdb[&FdbKey::new(5000, value.mac)].node, value.node);
    assert_eq!(desired.tables.vteps[&addr("192.0.2.2")].node, value.node);
    assert_eq!(desired.tables.members.len(), 1);
}

#[test]
fn the_outer_header_is_as_documented() {
    let desired = compile(&scene(), &facts(&[]));
    let value = desired.tables.nodes.values().next().unwrap();
    let expected = [
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
        0, 0, 0x12, 0xb5, 0, 0, 0, 0, // UDP, port 4789
        0x08, 0, 0, 0, 0, 0, 0, 0, // VXLAN
    ];
    assert_eq!(value.outer[..node::OUTER_V4_LEN], expected);
    assert_eq!(usize::from(value.outer_len), expected.len());
    assert_eq!(value.mtu, 1450);
    // RFC 1071: byte order does not matter once folded and swapped.
    let big: u32 = expected[..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let fold = |mut s: u32| {
        while s >> 16 != 0 {
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    };
    assert_eq!(fold(value.ip_sum), fold(big).swap_bytes());
}

#[test]
fn gateways_and_node_addresses_route() {
    let desired = compile(&scene(), &facts(&[]));
    let gateway = desired.tables.endpoints[&EndpointKey { vni: 5000, addr: addr("fd00:1::1") }];
    assert_eq!(gateway.flags, endpoint::FLAG_GATEWAY);
    assert_eq!(gateway.mac.to_string(), "02:fa:00:00:13:88");
    assert_eq!(desired.tables.fdb[&FdbKey::new(5000, gateway.mac)].flags, fdb::FLAG_ROUTER);
    assert!(!desired.tables.sources.contains_key(&EndpointKey { vni: 5000, addr: addr("10.1.0.1") }));
    let networks = [5000, 5001].map(|vni| desired.tables.networks[&vni]);
    assert_eq!(networks.map(|n| n.gateway_v4), [addr("10.1.0.1"); 2]);
    assert_eq!(networks.map(|n| n.gateway_v6), [addr("fd00:1::1"), Addr::UNSPECIFIED]);
    let own: Vec<_> =
        desired.tables.endpoints.iter().filter(|(_, v)| v.flags == endpoint::FLAG_NODE).collect();
    assert_eq!(own.len(), 3, "two in blue, one in red");
    for (key, value) in own {
        assert_eq!(desired.tables.settings[&0].node_mac, value.mac);
        assert_eq!(desired.tables.sources[key].nodes[0], value.node);
    }
}

#[test]
fn mtu_comes_from_the_smallest_uplink_or_the_network() {
    let mut facts = facts(&[]);
    let mut second = facts.uplinks[0].clone();
    (second.ifindex, second.mtu, second.vteps) = (9, 1400, vec![]);
    facts.uplinks.push(second);
    let desired = compile(&networks(), &facts);
    assert_eq!(desired.tables.networks[&5000].mtu, 1350);
    assert_eq!(desired.tables.networks[&5001].mtu, 1300);
    facts.uplinks[1].mtu = 1300;
    let desired = compile(&networks(), &facts);
    assert_eq!(desired.tables.networks[&5001].mtu, 1250);
    assert!(desired.problems[&("Network", "red".to_owned())].contains("1250"));
}

#[test]
fn unreachable_nodes_are_problems_and_harm_no_other() {
    let mut objects = scene();
    objects.push(node("n3", "198.51.100.1"));
    objects.push(node("n4", "2001:db8::4"));
    objects.push(node("n5", "192.0.2.1"));
    let mut facts = facts(&[]);
    facts.routes.insert(ip("2001:db8::4"), ROUTE);
    let desired = compile(&objects, &facts);
    assert_eq!(desired.tables.nodes.len(), 1);
    let problem = |name: &str| desired.problems[&("Node", name.to_owned())].clone();
    assert!(problem("n3").contains("no route"));
    assert!(problem("n4").contains("no IPv6 VTEP address"));
    assert!(problem("n5").contains("this node's own"));
    assert_eq!(desired.tables.vteps.len(), 3, "packets from n3 and n4 are theirs");
}

#[test]
fn endpoints_of_unknown_nodes_and_on_our_own_address_are_problems() {
    let mut objects = scene();
    objects.push(remote("x", "blue", "nowhere", r#""10.1.0.9""#));
    objects.push(local("y", "blue", r#""10.1.0.10""#, 1));
    if let Some(Object::Endpoint(e)) = objects.last_mut() {
        e.spec.attachment = None;
    }
    let desired = compile(&objects, &facts(&[("y", 44)]));
    assert!(desired.problems[&("Endpoint", "x".to_owned())].contains("not declared"));
    assert!(desired.problems[&("Endpoint", "y".to_owned())].contains("no attachment"));
    assert!(!desired.tables.ports.contains_key(&44));
}

#[test]
fn foreign_prefixes_become_records() {
    let foreign = |name: &str, vtep: &str| {
        object(&format!(
            r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"vteps":["{vtep}"],"foreign":true,"networks":[{{"network":"blue","prefixes":["10.1.0.128/25","fd00:1::/64"]}}]}}}}"#
        ))
    };
    let mut objects = networks();
    objects.extend([foreign("sw1", "192.0.2.2"), foreign("sw2", "192.0.2.3")]);
    let desired = compile(&objects, &facts(&[]));
    let records: Vec<_> = desired.tables.source_prefixes.iter().collect();
    let bits: Vec<u32> = records.iter().map(|(k, _)| k.bits).collect();
    assert_eq!(bits, [32 + 64, 32 + 96 + 25]);
    for (key, value) in records {
        assert_eq!(key.prefix.vni, 5000u32.to_be_bytes());
        assert_eq!(value.nodes.iter().filter(|n| **n != 0).count(), 2);
    }
    assert!(desired.tables.nodes.values().all(|n| n.flags == node::FLAG_FOREIGN));
    assert_eq!(desired.tables.members.len(), 2);
}

#[test]
fn checksums_are_for_who_wants_them() {
    let flags = |more: &str| {
        let json = format!(
            r#"{{"kind":"Node","metadata":{{"name":"sw"}},"spec":{{"vteps":["192.0.2.2"],"foreign":true{more}}}}}"#
        );
        compile(&[object(&json)], &facts(&[])).tables.nodes.values().next().unwrap().flags
    };
    assert_eq!(flags(""), node::FLAG_FOREIGN);
    let wanted = node::FLAG_FOREIGN | node::FLAG_UDP_CHECKSUM | node::FLAG_VIA_DEVICE;
    assert_eq!(flags(r#","udpChecksum":true"#), wanted);
}

#[test]
fn programs_sit_where_they_belong() {
    let mut facts = facts(&[("web", 17)]);
    facts.xdp.insert(2);
    let desired = compile(&scene(), &facts);
    let at: Vec<_> = desired.attachments.iter().map(|a| (a.ifindex, a.program)).collect();
    assert_eq!(
        at,
        [
            (2, "from_uplink"),
            (2, "from_uplink_xdp"),
            (3, "from_vxlan"),
            (5, "from_frag"),
            (17, "from_container")
        ]
    );
}

/// Hosts 2 to 9, names and nodes from a few, so that conflicts and dangling references are frequent.
fn worlds() -> impl Strategy<Value = (Vec<Object>, NodeFacts)> {
    let node_list = prop::collection::vec(2..5u8, 0..3);
    let endpoints = prop::collection::vec((0..8u8, any::<bool>(), 0..4u8, 2..10u8), 0..16);
    let ports = prop::collection::btree_set(0..8u8, 0..8);
    (node_list, endpoints, ports).prop_map(|(node_list, endpoints, ports)| {
        let mut objects = networks();
        objects.extend(node_list.iter().map(|n| node(&format!("n{n}"), &format!("192.0.2.{n}"))));
        for (i, blue, home, host) in endpoints {
            let network = if blue { "blue" } else { "red" };
            let address = format!(r#""10.1.0.{host}""#);
            let name = format!("e{i}");
            objects.push(match home {
                0 => local(&name, network, &address, i.into()),
                home => remote(&name, network, &format!("n{}", home + 1), &address),
            });
        }
        let mut seen = BTreeSet::new();
        objects.retain(|o| seen.insert((o.kind(), o.metadata().name.clone())));
        let names: Vec<String> = ports.iter().map(|i| format!("e{i}")).collect();
        let ports: Vec<(&str, u32)> = names.iter().zip(100..).map(|(n, i)| (n.as_str(), i)).collect();
        (objects, facts(&ports))
    })
}

/// Everything that a row refers to is there.
fn check_references(desired: &Desired, ids: &BTreeMap<String, u32>) -> Result<(), TestCaseError> {
    let t = &desired.tables;
    let known: BTreeSet<u32> = ids.values().copied().collect();
    for (key, value) in &t.endpoints {
        prop_assert!(t.networks.contains_key(&key.vni));
        prop_assert!(known.contains(&value.node));
        prop_assert!(t.fdb.contains_key(&FdbKey::new(key.vni, value.mac)), "an answered MAC leads somewhere");
        prop_assert!(value.ifindex == 0 || t.ports.contains_key(&value.ifindex));
    }
    for (key, value) in &t.fdb {
        prop_assert!(t.networks.contains_key(&key.vni) && known.contains(&value.node));
        prop_assert!(value.ifindex == 0 || t.ports[&value.ifindex].vni == key.vni);
    }
    for (key, value) in &t.sources {
        prop_assert!(t.endpoints.contains_key(key));
        prop_assert!(value.nodes.iter().all(|n| *n == 0 || known.contains(n)));
    }
    prop_assert!(t.members.keys().all(|k| t.networks.contains_key(&k.vni) && known.contains(&k.node)));
    prop_assert!(t.vteps.values().all(|v| known.contains(&v.node)));
    prop_assert!(
        t.nodes.iter().all(|(k, v)| t.uplinks.contains_key(&v.ifindex) && t.vteps[&v.remote].node == *k)
    );
    prop_assert!(t.ports.keys().all(|i| desired.attachments.iter().any(|a| a.ifindex == *i)));
    Ok(())
}

/// Keys of the rows that two plans differ in.
fn changed<K: Ord + Clone, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> Vec<K> {
    let keys: BTreeSet<&K> = a.keys().chain(b.keys()).collect();
    keys.into_iter().filter(|k| a.get(*k) != b.get(*k)).cloned().collect()
}

proptest! {
    #[test]
    fn no_row_refers_to_what_is_absent((objects, facts) in worlds()) {
        let cluster = Cluster::from_objects(&objects);
        check_references(&plan(&cluster, &facts, &SETTINGS), &node_ids(&cluster, "n1"))?;
    }

    #[test]
    fn the_order_of_objects_does_not_matter((objects, facts) in worlds()) {
        let mut reversed = objects.clone();
        reversed.reverse();
        prop_assert_eq!(compile(&objects, &facts), compile(&reversed, &facts));
    }

    #[test]
    fn an_endpoints_coming_touches_only_its_own_rows((mut objects, mut facts) in worlds(), here in any::<bool>()) {
        // An address and a name that no other has.
        facts.ports.insert("new".to_owned(), 99);
        objects.push(node("n2", "192.0.2.2"));
        let mut seen = BTreeSet::new();
        objects.retain(|o| seen.insert((o.kind(), o.metadata().name.clone())));
        let before = compile(&objects, &facts);
        let mut more = objects.clone();
        more.push(if here { local("new", "blue", r#""10.1.0.200""#, 50) } else { remote("new", "blue", "n2", r#""10.1.0.200""#) });
        let after = compile(&more, &facts);
        let mac: Mac = "02:fc:0a:01:00:c8".parse().unwrap();
        let own = [EndpointKey { vni: 5000, addr: addr("10.1.0.200") }, EndpointKey { vni: 5000, addr: mac.link_local() }];
        let (b, a) = (&before.tables, &after.tables);
        let endpoints: BTreeSet<_> = changed(&b.endpoints, &a.endpoints).into_iter().collect();
        prop_assert_eq!(&endpoints, &own.into_iter().collect::<BTreeSet<_>>());
        prop_assert_eq!(changed(&b.sources, &a.sources).into_iter().collect::<BTreeSet<_>>(), endpoints);
        prop_assert_eq!(changed(&b.fdb, &a.fdb), vec![FdbKey::new(5000, mac)]);
        prop_assert_eq!(changed(&b.ports, &a.ports), if here { vec![99] } else { vec![] });
        prop_assert!(changed(&b.members, &a.members).len() <= 1);
        prop_assert_eq!((&b.settings, &b.uplinks, &b.local_vteps, &b.networks, &b.nodes, &b.vteps, &b.source_prefixes),
            (&a.settings, &a.uplinks, &a.local_vteps, &a.networks, &a.nodes, &a.vteps, &a.source_prefixes));
    }
}

mod openings;
