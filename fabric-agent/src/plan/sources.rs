//! `sources` and `source_prefixes`: which node may send a tunnel packet with a given inner source. Local addresses have
//! records too: a tunnel packet with one of them is recognised as a loop because the record names this node.
//!
//! Routing happens on the sender's host and a routed packet carries the destination network's VNI, so the sources of a
//! network are records of those that it is opened to as well. Who is behind a foreign VTEP may use the gateway of any node of
//! ours, which then sends in its stead: the records say so, and in the other networks those by prefix name no VTEP.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context,
    desired::{Desired, PrefixKey},
};
use fabric_common::{
    addr::Addr,
    endpoint::{EndpointKey, FLAG_GATEWAY},
    source::{FLAG_RELAYED, SOURCE_NODES, SourceValue},
};

pub(super) fn compile(context: &mut Context<'_>, desired: &mut Desired) {
    let networks = &context.cluster.networks;
    let opened: BTreeMap<u32, Vec<u32>> = networks
        .values()
        .map(|n| (n.vni.get(), context.cluster.opened(n).map(|other| other.vni.get()).collect()))
        .collect();
    let nodes = context.cluster.nodes.values().filter(|node| node.foreign);
    let foreign: BTreeSet<u32> = nodes.map(|node| context.ids[&node.name]).collect();
    for (key, value) in &desired.tables.endpoints {
        // Gateways are on every node and send nothing through the tunnel.
        if value.flags & FLAG_GATEWAY != 0 {
            continue;
        }
        let relayed = foreign.contains(&value.node) && !is_link_local(&key.addr);
        let flags = if relayed { FLAG_RELAYED } else { 0 };
        let record = record([value.node, 0, 0, 0], flags, value.generation);
        desired.tables.sources.insert(*key, record);
        if is_link_local(&key.addr) {
            continue;
        }
        for vni in opened.get(&key.vni).into_iter().flatten() {
            desired.tables.sources.insert(EndpointKey { vni: *vni, addr: key.addr }, record);
        }
    }
    let mut prefixes: BTreeMap<PrefixKey, Vec<u32>> = BTreeMap::new();
    let cluster = context.cluster;
    for node in cluster.nodes.values().filter(|n| n.name != context.facts.node) {
        for (name, part) in &node.networks {
            let vni = cluster.networks[name].vni.get();
            for prefix in &part.prefixes {
                let nodes = prefixes.entry(PrefixKey::new(vni, *prefix)).or_default();
                if nodes.len() == SOURCE_NODES {
                    let text = format!(
                        "prefix {prefix} in network {name} has {SOURCE_NODES} nodes already: take it out of one"
                    );
                    context.problem("Node", &node.name, text);
                    continue;
                }
                nodes.push(context.ids[&node.name]);
                // What comes by way of a gateway of ours arrives in the networks that this one is opened to.
                for vni in opened.get(&vni).into_iter().flatten() {
                    prefixes.entry(PrefixKey::new(*vni, *prefix)).or_default();
                }
            }
        }
    }
    for (key, nodes) in prefixes {
        let mut all = [0; SOURCE_NODES];
        all[..nodes.len()].copy_from_slice(&nodes);
        desired.tables.source_prefixes.insert(key, record(all, FLAG_RELAYED, 0));
    }
}

/// Link-local addresses are never routed (RFC 4291 section 2.5.6).
fn is_link_local(addr: &Addr) -> bool {
    addr.bytes[0] == 0xfe && addr.bytes[1] & 0xc0 == 0x80
}

fn record(nodes: [u32; SOURCE_NODES], flags: u32, generation: u64) -> SourceValue {
    SourceValue { nodes, identity: 0, flags, generation }
}
