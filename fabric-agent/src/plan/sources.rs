//! `sources` and `source_prefixes`: which node may send a tunnel packet with a given inner source. Local addresses have
//! records too: a tunnel packet with one of them is recognised as a loop because the record names this node.
//!
//! An endpoint that moves has two nodes in its records, from the request on until its former home is released: whichever of them
//! a packet comes from, nobody has to know of the move in time.
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
        let second = context.seconds.get(key).copied().unwrap_or(0);
        let record = SourceValue {
            identity: value.identity,
            ..record([value.node, second, 0, 0], flags, value.generation)
        };
        desired.tables.sources.insert(*key, record);
        if is_link_local(&key.addr) {
            continue;
        }
        for vni in opened.get(&key.vni).into_iter().flatten() {
            desired.tables.sources.insert(EndpointKey { vni: *vni, addr: key.addr }, record);
        }
    }
    let mut prefixes = Prefixes::new();
    let cluster = context.cluster;
    for node in cluster.nodes.values().filter(|n| n.name != context.facts.node) {
        for (name, part) in &node.networks {
            let vni = cluster.networks[name].vni.get();
            for prefix in &part.prefixes {
                let Senders { nodes, flags } = prefixes.entry(PrefixKey::new(vni, *prefix)).or_default();
                if nodes.len() == SOURCE_NODES {
                    let text = format!(
                        "prefix {prefix} in network {name} has {SOURCE_NODES} nodes already: take it out of one"
                    );
                    context.problem("Node", &node.name, text);
                    continue;
                }
                nodes.push(context.ids[&node.name]);
                *flags |= FLAG_RELAYED;
                // What comes by way of a gateway of ours arrives in the networks that this one is opened to.
                for vni in opened.get(&vni).into_iter().flatten() {
                    prefixes.entry(PrefixKey::new(*vni, *prefix)).or_default().flags |= FLAG_RELAYED;
                }
            }
        }
    }
    behind_next_hops(context, &foreign, &mut prefixes);
    for (key, Senders { nodes, flags }) in prefixes {
        let mut all = [0; SOURCE_NODES];
        all[..nodes.len()].copy_from_slice(&nodes);
        desired.tables.source_prefixes.insert(key, record(all, flags, 0));
    }
}

/// Records by prefix, while they are gathered.
type Prefixes = BTreeMap<PrefixKey, Senders>;

#[derive(Default)]
struct Senders {
    nodes: Vec<u32>,
    flags: u32,
}

/// What is behind the next hop of a static route comes from the node where the next hop lives. A wide prefix gives nobody
/// addresses of subnets: those have records one by one, and a record of their own here that names no node.
fn behind_next_hops(context: &mut Context<'_>, foreign: &BTreeSet<u32>, prefixes: &mut Prefixes) {
    let cluster = context.cluster;
    for network in cluster.networks.values() {
        let vni = network.vni.get();
        for route in &network.routes {
            let covered = cluster.opened(network).chain([network]).flat_map(|n| &n.subnets);
            for subnet in covered.filter(|subnet| route.prefix.contains(&subnet.net)) {
                prefixes.entry(PrefixKey::new(vni, subnet.net)).or_default();
            }
            let Some(endpoint) = cluster.endpoint_at(&network.name, route.next_hop) else { continue };
            let Some(number) = context.ids.get(&endpoint.node).copied() else { continue };
            let Senders { nodes, flags } = prefixes.entry(PrefixKey::new(vni, route.prefix)).or_default();
            if foreign.contains(&number) {
                *flags |= FLAG_RELAYED;
            }
            if nodes.contains(&number) {
                continue;
            }
            if nodes.len() == SOURCE_NODES {
                let text = format!(
                    "route {} and foreign VTEPs have {SOURCE_NODES} nodes for one prefix already: take it out of one",
                    route.prefix
                );
                context.problem("Network", &network.name, text);
                continue;
            }
            nodes.push(number);
        }
    }
}

/// Link-local addresses are never routed (RFC 4291 section 2.5.6).
fn is_link_local(addr: &Addr) -> bool {
    addr.bytes[0] == 0xfe && addr.bytes[1] & 0xc0 == 0x80
}

fn record(nodes: [u32; SOURCE_NODES], flags: u32, generation: u64) -> SourceValue {
    SourceValue { nodes, identity: 0, flags, generation }
}
