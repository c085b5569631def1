//! What the programs read from the rows that the agent plans, done by hand.

use std::net::IpAddr;

use fabric_agent::{
    model::{Cluster, Dscp},
    plan::{
        self,
        desired::{NodeFacts, PlanSettings, Tables},
    },
};
use fabric_common::{
    addr::Addr,
    endpoint::EndpointKey,
    fdb::FdbKey,
    policy::{EGRESS, IDENTITY_ANYONE, INGRESS, NO_POLICY, PORT_DEPTH, PolicyKey, port_key, verdict},
};

use super::{
    generate::{HERE, Packet, VNI, World},
    reference::{Opinion, Said},
};

/// Interface indices of the ports of this node's endpoints.
pub const PORTS: std::ops::Range<u32> = 1000..1016;

/// The rows of node [`HERE`], all of whose endpoints have their ports.
pub fn plan(cluster: &Cluster) -> Tables {
    plan_on(cluster, NodeFacts::default())
}

/// The same on a host of which something is known.
pub fn plan_on(cluster: &Cluster, facts: NodeFacts) -> Tables {
    let local = cluster.endpoints.values().filter(|endpoint| endpoint.node == HERE);
    let ports = PORTS.zip(local).map(|(ifindex, endpoint)| (endpoint.name.clone(), ifindex)).collect();
    let facts = NodeFacts { node: HERE.to_owned(), ports, ..facts };
    let settings = PlanSettings {
        vxlan_port: 4789,
        events_per_second: 0,
        dscp: Dscp::default(),
        nat_ports: (61000, 65535),
    };
    plan::plan(cluster, &facts, &settings).tables
}

/// The verdicts of the sides that live on this node; a policy whose rows are missing drops.
pub fn judge(world: &World, tables: &Tables, packet: &Packet) -> Opinion {
    let key = port_key(packet.protocol, packet.port);
    let local = |address| world.endpoint(address).filter(|endpoint| endpoint.node == HERE);
    let egress = local(packet.from).map(|endpoint| {
        let policy = tables.fdb[&FdbKey::new(VNI, endpoint.mac)];
        let port = tables.ports[&policy.ifindex];
        assert_eq!((port.policy, port.identity), (policy.policy, policy.identity), "both rows say the same");
        ask(tables, port.policy, EGRESS, identity(tables, packet.to), key)
    });
    let ingress = local(packet.to).map(|endpoint| {
        let policy = tables.fdb[&FdbKey::new(VNI, endpoint.mac)].policy;
        ask(tables, policy, INGRESS, source(world, tables, packet.from), key)
    });
    Opinion { egress, ingress }
}

/// From the tunnel: the source's record, or by prefix where it has none.
fn source(world: &World, tables: &Tables, address: IpAddr) -> u32 {
    let key = EndpointKey { vni: VNI, addr: address.into() };
    match tables.sources.get(&key) {
        Some(record) if world.endpoint(address).is_none_or(|endpoint| endpoint.node != HERE) => {
            record.identity
        }
        _ => identity(tables, address),
    }
}

fn identity(tables: &Tables, address: IpAddr) -> u32 {
    let addr = Addr::from(address);
    if let Some(row) = tables.endpoints.get(&EndpointKey { vni: VNI, addr }) {
        return row.identity;
    }
    let bits = u128::from_be_bytes(addr.bytes);
    let matches = tables.cidrs.iter().filter(|(prefix, _)| {
        let differ = u128::from_be_bytes(prefix.addr.bytes) ^ bits;
        differ.checked_shr(128 - prefix.bits).unwrap_or(0) == 0
    });
    matches.max_by_key(|(prefix, _)| prefix.bits).map_or(IDENTITY_ANYONE, |(_, identity)| *identity)
}

fn ask(tables: &Tables, policy: u32, direction: u32, identity: u32, key: u32) -> Said {
    if policy == NO_POLICY {
        return Said::Accept;
    }
    let row = |identity| tables.policies.get(&PolicyKey { policy, direction, identity });
    let Some(row) = row(identity).or_else(|| row(IDENTITY_ANYONE)) else { return Said::Deny };
    let mut word = row.verdict;
    for _ in 0..PORT_DEPTH {
        if word & verdict::KIND != verdict::TABLE {
            break;
        }
        let ports = &tables.policy_ports[&(word & verdict::NUMBER)];
        assert_eq!(ports.starts[0], 0, "a row begins at 0");
        assert!(ports.starts.is_sorted(), "a row ascends");
        let at = ports.starts.iter().rposition(|start| *start <= key).expect("the first start is 0");
        word = ports.verdicts[at];
    }
    assert_ne!(word & verdict::KIND, verdict::TABLE, "tables are not deeper than the programs look");
    match (word & verdict::KIND, word & (verdict::REJECT | verdict::AUDIT)) {
        (verdict::ALLOW, 0) => Said::Accept,
        (verdict::ALLOW, verdict::AUDIT) => Said::WouldDeny,
        (verdict::DENY, 0) => Said::Deny,
        (verdict::DENY, verdict::REJECT) => Said::Reject,
        (_, _) => panic!("{word:#x} is no verdict"),
    }
}
