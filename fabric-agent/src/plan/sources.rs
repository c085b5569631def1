//! `sources` and `source_prefixes`: which node may send a tunnel packet with a given inner source. Local addresses have
//! records too: a tunnel packet with one of them is recognised as a loop because the record names this node.

use std::collections::BTreeMap;

use fabric_common::{
    addr::Addr,
    endpoint::FLAG_GATEWAY,
    source::{SOURCE_NODES, SourcePrefix, SourceValue},
};
use ipnet::IpNet;

use super::{
    Context,
    desired::{Desired, PrefixKey},
};

pub(super) fn compile(context: &mut Context<'_>, desired: &mut Desired) {
    for (key, value) in &desired.tables.endpoints {
        // Gateways are on every node and send nothing through the tunnel.
        if value.flags & FLAG_GATEWAY == 0 {
            desired.tables.sources.insert(*key, record([value.node, 0, 0, 0], value.generation));
        }
    }
    let mut prefixes: BTreeMap<PrefixKey, Vec<u32>> = BTreeMap::new();
    let cluster = context.cluster;
    for node in cluster.nodes.values().filter(|n| n.name != context.facts.node) {
        for (name, part) in &node.networks {
            let vni = cluster.networks[name].vni.get();
            for prefix in &part.prefixes {
                let nodes = prefixes.entry(key(vni, *prefix)).or_default();
                if nodes.len() == SOURCE_NODES {
                    let text = format!(
                        "prefix {prefix} in network {name} has {SOURCE_NODES} nodes already: take it out of one"
                    );
                    context.problem("Node", &node.name, text);
                    continue;
                }
                nodes.push(context.ids[&node.name]);
            }
        }
    }
    for (key, nodes) in prefixes {
        let mut all = [0; SOURCE_NODES];
        all[..nodes.len()].copy_from_slice(&nodes);
        desired.tables.source_prefixes.insert(key, record(all, 0));
    }
}

fn record(nodes: [u32; SOURCE_NODES], generation: u64) -> SourceValue {
    SourceValue { nodes, identity: 0, flags: 0, generation }
}

/// VNI first, so that a prefix never reaches into another network; IPv4 behind its 96 mapped bits.
fn key(vni: u32, prefix: IpNet) -> PrefixKey {
    let mapped = if prefix.addr().is_ipv4() { 96 } else { 0 };
    PrefixKey {
        bits: 32 + mapped + u32::from(prefix.prefix_len()),
        prefix: SourcePrefix::new(vni, Addr::from(prefix.network())),
    }
}
