//! Lists of who gets copies of broadcast and multicast.

use fabric_common::flood::{FloodKey, FloodValue, NODES, PORTS};

use super::*;

fn replicating(objects: Vec<Object>) -> Vec<Object> {
    let mut objects = objects;
    for object in &mut objects {
        if let Object::Network(network) = object {
            network.spec.multicast = network.metadata.name == "blue";
        }
    }
    objects
}

fn row(list: u32, place: u32, ifindex: u32, node: u32, slot: u32) -> (FloodKey, FloodValue) {
    (FloodKey { vni: 5000, list, place }, FloodValue { ifindex, node, slot, policy: 0 })
}

#[test]
fn ports_and_nodes_of_the_network_are_listed_without_gaps() {
    let mut objects = replicating(scene());
    objects.push(local("web2", "blue", r#""10.1.0.7""#, 4));
    objects.push(local("other", "red", r#""10.1.0.8""#, 5));
    objects.push(node("n3", "192.0.2.3"));
    objects.push(remote("far", "red", "n3", r#""10.1.0.9""#));
    let desired = compile(&objects, &facts(&[("web", 17), ("web2", 12), ("other", 13)]));
    let member = desired.tables.members.keys().find(|key| key.vni == 5000).expect("n2 has a part").node;
    let expected = [row(PORTS, 0, 12, 0, 4), row(PORTS, 1, 17, 0, 0), row(NODES, 0, 0, member, 0)];
    assert_eq!(desired.tables.flood, expected.into_iter().collect());
    assert_eq!(desired.tables.networks[&5000].flags, fabric_common::network::FLAG_MULTICAST);
    assert_eq!(desired.tables.networks[&5001].flags, 0);
}

#[test]
fn other_networks_have_no_lists() {
    let desired = compile(&scene(), &facts(&[("web", 17)]));
    assert!(desired.tables.flood.is_empty());
}

#[test]
fn a_network_that_is_too_large_to_replicate_says_so() {
    let mut objects = replicating(networks());
    if let Object::Network(blue) = &mut objects[0] {
        blue.spec.subnets = vec!["10.0.0.0/16".parse().expect("a subnet")];
    }
    let names: Vec<String> = (0..4097).map(|n| format!("c{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        objects.push(local(name, "blue", &format!("\"10.0.{}.{}\"", 1 + n / 200, 10 + n % 200), n as u32));
    }
    let ports: Vec<_> = names.iter().zip(100..).map(|(name, index)| (name.as_str(), index)).collect();
    let desired = compile(&objects, &facts(&ports));
    assert_eq!(desired.tables.flood.len(), 4096);
    let problem = &desired.problems[&("Network", "blue".to_owned())];
    assert!(problem.starts_with("it has 4097 ports of this node"), "{problem}");
}
