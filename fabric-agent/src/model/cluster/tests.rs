use proptest::prelude::*;

use super::*;

pub(crate) fn object(json: &str) -> Object {
    serde_json::from_str(json).expect("a valid object")
}

fn network(name: &str, vni: u32, subnets: &str) -> Object {
    object(&format!(
        r#"{{"kind":"Network","metadata":{{"name":"{name}"}},"spec":{{"vni":{vni},"subnets":[{subnets}]}}}}"#
    ))
}

fn endpoint(name: &str, network: &str, address: &str, more: &str) -> Object {
    object(&format!(
        r#"{{"kind":"Endpoint","metadata":{{"name":"{name}"}},"spec":{{"network":"{network}","node":"n2","addresses":["{address}"]{more}}}}}"#
    ))
}

fn problem<'a>(cluster: &'a Cluster, kind: &'static str, name: &str) -> &'a str {
    cluster.problems.get(&(kind, name.to_owned())).map_or("", String::as_str)
}

#[test]
fn networks_may_overlap_each_other_but_not_share_a_vni() {
    let objects = [
        network("a", 1, r#""10.0.0.0/24""#),
        network("b", 2, r#""10.0.0.0/24""#),
        network("c", 1, r#""10.9.0.0/24""#),
    ];
    let cluster = Cluster::from_objects(&objects);
    assert_eq!(cluster.networks.len(), 2);
    assert!(problem(&cluster, "Network", "c").contains("belongs to network a"));
}

#[test]
fn the_higher_generation_wins_an_address_else_the_first_name() {
    let net = network("a", 1, r#""10.0.0.0/24""#);
    let cluster = Cluster::from_objects(&[
        net.clone(),
        endpoint("e1", "a", "10.0.0.5", ""),
        endpoint("e2", "a", "10.0.0.5", r#","generation":2"#),
    ]);
    assert!(cluster.endpoints.contains_key("e2"));
    assert!(problem(&cluster, "Endpoint", "e1").contains("endpoint e2"));
    let cluster = Cluster::from_objects(&[
        net,
        endpoint("e2", "a", "10.0.0.5", ""),
        endpoint("e1", "a", "10.0.0.5", ""),
    ]);
    assert!(cluster.endpoints.contains_key("e1"));
}

#[test]
fn macs_are_unique_in_a_network() {
    let mac = r#","mac":"02:00:00:00:00:01""#;
    let cluster = Cluster::from_objects(&[
        network("a", 1, r#""10.0.0.0/24""#),
        network("b", 2, r#""10.0.0.0/24""#),
        endpoint("e1", "a", "10.0.0.5", mac),
        endpoint("e2", "a", "10.0.0.6", mac),
        endpoint("e3", "b", "10.0.0.6", mac),
        endpoint("e4", "b", "10.0.0.7", r#","mac":"02:fa:00:00:00:02""#),
    ]);
    assert!(problem(&cluster, "Endpoint", "e2").contains("MAC"));
    assert!(cluster.endpoints.contains_key("e3"));
    assert!(problem(&cluster, "Endpoint", "e4").contains("gateway"));
}

#[test]
fn endpoints_need_their_network_and_a_place_in_it() {
    let cluster = Cluster::from_objects(&[
        network("a", 1, r#""10.0.0.0/24""#),
        endpoint("e1", "x", "10.0.0.5", ""),
        endpoint("e2", "a", "10.0.1.5", ""),
        endpoint("e3", "a", "10.0.0.1", ""),
        endpoint("e4", "a", "10.0.0.255", ""),
    ]);
    assert!(cluster.endpoints.is_empty());
    for (name, word) in
        [("e1", "does not exist"), ("e2", "no subnet"), ("e3", "gateway"), ("e4", "broadcast")]
    {
        assert!(problem(&cluster, "Endpoint", name).contains(word), "{name}");
    }
}

#[test]
fn nodes_do_not_share_vteps() {
    let node = |name: &str| {
        object(&format!(
            r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"vteps":["192.0.2.1"]}}}}"#
        ))
    };
    let cluster = Cluster::from_objects(&[node("b"), node("a")]);
    assert_eq!(cluster.nodes.keys().collect::<Vec<_>>(), ["a"]);
    assert!(problem(&cluster, "Node", "b").contains("node a"));
}

#[test]
fn a_declared_node_address_goes_before_the_derived_one() {
    let node = r#"{"kind":"Node","metadata":{"name":"n1"},"spec":{"vteps":["192.0.2.1"],"networks":[{"network":"a","addresses":["10.0.0.77"]}]}}"#;
    let cluster = Cluster::from_objects(&[network("a", 1, r#""10.0.0.0/24","fd00::/64""#), object(node)]);
    let addresses = cluster.node_addresses(&cluster.networks["a"], "n1", true);
    assert_eq!(addresses.len(), 2);
    assert_eq!(addresses[0].to_string(), "10.0.0.77");
    assert!(addresses[1].is_ipv6());
    assert_eq!(cluster.node_addresses(&cluster.networks["a"], "n1", false).len(), 1);
}

/// Few names, addresses and MACs, so that conflicts are frequent.
fn objects() -> impl Strategy<Value = Vec<Object>> {
    let networks = prop::collection::vec((0..3u8, 1..3u32), 0..4).prop_map(|v| {
        v.into_iter().map(|(i, vni)| network(&format!("net{i}"), vni, r#""10.0.0.0/24""#)).collect::<Vec<_>>()
    });
    let endpoints =
        prop::collection::vec((0..12u8, 0..4u8, 0..8u8, 1..4u64, prop::option::of(0..4u8)), 0..24).prop_map(
            |v| {
                let make = |(i, net, host, generation, mac): (u8, u8, u8, u64, Option<u8>)| {
                    let mac = mac.map_or(String::new(), |m| format!(r#","mac":"02:00:00:00:00:{m:02x}""#));
                    let more = format!(r#","generation":{generation}{mac}"#);
                    endpoint(&format!("e{i}"), &format!("net{net}"), &format!("10.0.0.{host}"), &more)
                };
                v.into_iter().map(make).collect::<Vec<_>>()
            },
        );
    (networks, endpoints).prop_map(|(mut n, e)| {
        n.extend(e);
        // A store has one object of a kind and name.
        let mut seen = BTreeSet::new();
        n.retain(|o| seen.insert((o.kind(), o.metadata().name.clone())));
        n
    })
}

proptest! {
    #[test]
    fn the_order_of_objects_does_not_matter(objects in objects(), seed in any::<u64>()) {
        let mut shuffled = objects.clone();
        let len = shuffled.len().max(1) as u64;
        for i in 0..shuffled.len() {
            shuffled.swap(i, ((seed >> (i % 32)) % len) as usize);
        }
        prop_assert_eq!(Cluster::from_objects(&objects), Cluster::from_objects(&shuffled));
    }

    #[test]
    fn what_stands_does_not_conflict_and_the_rest_is_explained(objects in objects()) {
        let cluster = Cluster::from_objects(&objects);
        let mut taken = BTreeSet::new();
        let mut macs = BTreeSet::new();
        for e in cluster.endpoints.values() {
            let network = &cluster.networks[&e.network];
            prop_assert!(macs.insert((network.vni, e.mac)));
            for a in &e.addresses {
                prop_assert!(network.check_host_address(*a).is_ok());
                prop_assert!(taken.insert((network.vni, *a)));
            }
        }
        for o in &objects {
            let name = &o.metadata().name;
            let stands = match o {
                Object::Network(_) => cluster.networks.contains_key(name),
                Object::Node(_) => cluster.nodes.contains_key(name),
                Object::Endpoint(_) => cluster.endpoints.contains_key(name),
                Object::Namespace(_) => cluster.namespaces.contains_key(name),
                Object::NetworkPolicy(_) => {
                    cluster.network_policies.contains_key(&("default".to_owned(), name.clone()))
                }
                Object::ClusterNetworkPolicy(_) => cluster.cluster_policies.contains_key(name),
                Object::DenySet(_) => cluster.deny_sets.contains_key(name),
            };
            prop_assert_eq!(stands, !cluster.problems.contains_key(&(o.kind(), name.clone())));
        }
    }
}

#[test]
fn of_overlapping_networks_one_has_the_host_in_it() {
    let with_host = |name: &str, vni, subnets: &str| {
        object(&format!(
            r#"{{"kind":"Network","metadata":{{"name":"{name}"}},"spec":{{"vni":{vni},"subnets":[{subnets}],"hostAccess":true}}}}"#
        ))
    };
    let cluster = Cluster::from_objects(&[
        with_host("c", 3, r#""fd00::/64","10.0.0.128/25""#),
        with_host("a", 1, r#""10.0.0.0/24""#),
        network("b", 2, r#""10.0.0.0/24""#),
        with_host("d", 4, r#""10.0.1.0/24""#),
    ]);
    let hosts: Vec<_> = cluster.networks.values().map(|n| n.host_access).collect();
    assert_eq!(hosts, [true, false, false, true], "all stay as networks");
    assert_eq!(cluster.problems.len(), 1);
    assert_eq!(
        problem(&cluster, "Network", "c"),
        "subnet 10.0.0.128/25 overlaps 10.0.0.0/24 of network a, and both have host access: choose another subnet, or leave out hostAccess"
    );
}
