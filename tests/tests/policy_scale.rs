//! However many rules there are, a verdict takes as many lookups: counted in the rows that the planner makes of them. What that
//! costs is for a benchmark to say.

#![expect(clippy::print_stdout, reason = "counts are for the report")]

use std::collections::BTreeMap;

use fabric_agent::{
    model::{Cluster, Dscp},
    plan::{
        desired::{NodeFacts, PlanSettings, Tables},
        plan,
    },
};
use fabric_api::{Object, parse};
use fabric_common::{
    endpoint::EndpointKey,
    policy::{EGRESS, IDENTITY_ANYONE, PolicyKey, port_key, verdict},
};
use fabric_lab::scale;
use fabric_tests::walk::NAT_PORTS;
use serde_json::{Value, json};

const VNI: u32 = 200;
const UDP: u8 = 17;

/// What the planner makes of this many rules, each about an identity of its own; and the subject's policy.
fn planned(rules: u32) -> (Tables, u32) {
    let mut objects: Vec<Value> = vec![
        json!({"kind": "Network", "metadata": {"name": scale::NETWORK}, "spec": {"subnets": [scale::SUBNET], "vni": VNI}}),
        json!({"kind": "Node", "metadata": {"name": "far"},
            "spec": {"vteps": ["192.0.2.2"], "networks": [{"network": scale::NETWORK}]}}),
        json!({"kind": "Endpoint", "metadata": {"name": scale::SUBJECT, "labels": {"app": scale::SUBJECT}},
            "spec": {"network": scale::NETWORK, "node": "near", "addresses": [scale::SUBJECT_ADDRESS],
                "attachment": {"netns": "/run/netns/x", "ifname": "eth0"}},
            "status": {"local": true, "slot": 1, "state": "ready"}}),
    ];
    objects.extend((0..rules).map(|number| scale::peer(number, "far")));
    objects.extend(scale::policies(rules as usize));
    let objects: Vec<Object> =
        objects.into_iter().map(|object| parse::object(object).expect("an object")).collect();
    let cluster = Cluster::from_objects(&objects);
    assert!(cluster.problems.is_empty(), "{:?}", cluster.problems);
    let ports = BTreeMap::from([(scale::SUBJECT.to_owned(), 7)]);
    let facts = NodeFacts { node: "near".to_owned(), ports, ..NodeFacts::default() };
    let settings =
        PlanSettings { vxlan_port: 4789, events_per_second: 1, dscp: Dscp::default(), nat_ports: NAT_PORTS };
    let tables = plan(&cluster, &facts, &settings).tables;
    let policy = tables.ports.get(&7).expect("the subject has a port").policy;
    (tables, policy)
}

/// The verdict on a packet of the subject, and how many rows were read for it, as `policy_ask` reads them.
fn ask(tables: &Tables, policy: u32, peer: u32, port: u16) -> (bool, u32) {
    let addr = std::net::IpAddr::V4(scale::peer_address(peer)).into();
    let identity = tables.endpoints.get(&EndpointKey { vni: VNI, addr }).expect("a peer").identity;
    let key = |identity| PolicyKey { policy, direction: EGRESS, identity };
    let mut reads = 1;
    let row = tables.policies.get(&key(identity)).or_else(|| {
        reads += 1;
        tables.policies.get(&key(IDENTITY_ANYONE))
    });
    let mut word = row.expect("a policy has a row for everybody").verdict;
    while word & verdict::KIND == verdict::TABLE {
        reads += 1;
        let table = &tables.policy_ports[&(word & verdict::NUMBER)];
        let asked = port_key(UDP, port);
        let at = table.starts.iter().rposition(|start| *start <= asked).expect("the first is 0");
        // A row that is not full repeats its last range.
        word = table.verdicts[at];
    }
    (word & verdict::KIND == verdict::ALLOW, reads)
}

#[test]
fn a_verdict_takes_as_many_lookups_with_100000_rules_as_with_10() {
    let mut seen = Vec::new();
    for rules in [10, 100_000] {
        let (tables, policy) = planned(rules);
        let mut most = BTreeMap::new();
        for peer in 0..rules {
            for port in [scale::OPEN_PORT, scale::SHUT_PORT] {
                let (admitted, reads) = ask(&tables, policy, peer, port);
                assert_eq!(admitted, port == scale::OPEN_PORT, "peer {peer}, port {port}");
                let count: &mut u32 = most.entry(port).or_default();
                *count = reads.max(*count);
            }
        }
        println!("\ncounted {} verdicts with {rules} rules", 2 * rules);
        seen.push(most);
    }
    assert_eq!(seen[0], seen[1], "the lookups of a verdict by port, with few rules and with many");
}
