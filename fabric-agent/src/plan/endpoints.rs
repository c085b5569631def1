//! `ports`, and the endpoints' rows in `endpoints` and `fdb`.

use fabric_common::{
    addr::Addr,
    endpoint::{EndpointKey, EndpointValue},
    fdb::{self, FdbKey, FdbValue},
    port::PortValue,
};

use super::{Context, desired::Desired};
use crate::model::{Endpoint, Network, Presence, ids};

pub(super) fn compile(context: &mut Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    for endpoint in cluster.endpoints.values() {
        let network = &cluster.networks[&endpoint.network];
        if let Err(text) = check(context, endpoint, desired, network) {
            context.problem("Endpoint", &endpoint.name, text);
            continue;
        }
        let Some(place) = place(context, endpoint) else { continue };
        if place.ifindex != 0 {
            let value = PortValue {
                vni: network.vni.get(),
                slot: place.slot,
                mac: endpoint.mac,
                flags: 0,
                identity: context.policies.identity(&endpoint.name),
                policy: context.policies.policy(&endpoint.name),
                mtu: context.mtus[&network.name].into(),
                addr: endpoint.addresses.first().map_or(Addr::UNSPECIFIED, |a| Addr::from(*a)),
            };
            desired.tables.ports.insert(place.ifindex, value);
        }
        if place.flags & fdb::FLAG_ARRIVING != 0 {
            context.arriving.insert(place.ifindex);
        }
        rows(context, endpoint, network, &place, desired);
    }
}

/// Where an endpoint lives, in the maps' terms.
struct Place {
    ifindex: u32,
    node: u32,
    slot: u32,
    /// Of the FDB's row.
    flags: u32,
    /// The node in the FDB's row.
    via: u32,
}

impl Place {
    /// On another node.
    fn remote(node: u32, flags: u32) -> Self {
        Self { ifindex: 0, node, slot: 0, flags, via: node }
    }
}

/// Rows exist for a local endpoint once its port does. A node that is not known is a problem of its own, unless it is only the
/// other node of a move.
fn place(context: &Context<'_>, endpoint: &Endpoint) -> Option<Place> {
    let node = &context.facts.node;
    let number = |name: &str| context.ids.get(name).copied();
    let port = || {
        let (_, slot) = endpoint.seat(node)?;
        Some((*context.facts.ports.get(&endpoint.name)?, slot?))
    };
    let local = context.local;
    match endpoint.presence(node) {
        Presence::Home => {
            let (ifindex, slot) = port()?;
            Some(Place { ifindex, node: local, slot, flags: 0, via: local })
        }
        Presence::Arrived(from) => {
            let (ifindex, slot) = port()?;
            let (flags, via) = number(from).map_or((0, local), |from| (fdb::FLAG_ARRIVED, from));
            Some(Place { ifindex, node: local, slot, flags, via })
        }
        Presence::Arriving => {
            let home = number(&endpoint.node)?;
            let Some((ifindex, slot)) = port() else { return Some(Place::remote(home, 0)) };
            Some(Place { ifindex, node: home, slot, flags: fdb::FLAG_ARRIVING, via: home })
        }
        Presence::Left(to) => Some(Place::remote(number(to)?, fdb::FLAG_LEFT)),
        Presence::Away => Some(Place::remote(number(&endpoint.node)?, 0)),
    }
}

/// Conflicts that only this node can see: with its own address and MAC, and with what it can't reach.
fn check(
    context: &Context<'_>,
    endpoint: &Endpoint,
    desired: &Desired,
    network: &Network,
) -> Result<(), String> {
    let presence = endpoint.presence(&context.facts.node);
    if matches!(presence, Presence::Home | Presence::Arrived(_)) {
        if endpoint.attachment.is_none() {
            return Err(
                "it lives on this node but has no attachment: attach it with `fabric endpoint attach`"
                    .to_owned(),
            );
        }
        if endpoint.slot.is_none() {
            return Err("it has no counter slot: detach it and attach it again".to_owned());
        }
    } else {
        let node = if let Presence::Left(to) = presence { to } else { &endpoint.node };
        if !context.cluster.nodes.contains_key(node) {
            return Err(format!("node {node} is not declared: apply a Node object for it"));
        }
    }
    let vni = network.vni.get();
    let key = |addr| EndpointKey { vni, addr };
    let mut addresses = endpoint.addresses.iter();
    if let Some(address) = addresses.find(|a| desired.tables.endpoints.contains_key(&key(Addr::from(**a)))) {
        return Err(format!(
            "address {address} belongs to a node or gateway in network {}: choose another one",
            network.name
        ));
    }
    if endpoint.mac == ids::node_mac(&context.facts.node) {
        return Err(format!("MAC {} is this node's own: choose another one", endpoint.mac));
    }
    Ok(())
}

fn rows(
    context: &mut Context<'_>,
    endpoint: &Endpoint,
    network: &Network,
    place: &Place,
    desired: &mut Desired,
) {
    let identity = context.policies.identity(&endpoint.name);
    let policy = context.policies.policy(&endpoint.name);
    let vni = network.vni.get();
    let Place { ifindex, node, slot, flags, via } = *place;
    let generation = endpoint.generation;
    let second = endpoint.senders().filter_map(|name| context.ids.get(name)).find(|id| **id != node).copied();
    let value = EndpointValue { mac: endpoint.mac, flags: 0, ifindex, node, identity, slot, generation };
    for addr in addresses(endpoint, network) {
        let key = EndpointKey { vni, addr };
        desired.tables.endpoints.insert(key, value);
        context.seconds.extend(second.map(|second| (key, second)));
    }
    let value = FdbValue { ifindex, node: via, slot, flags, generation, identity, policy };
    desired.tables.fdb.insert(FdbKey::new(vni, endpoint.mac), value);
}

/// Every address that an endpoint answers for: its own and, with IPv6, the link-local one that its kernel makes.
fn addresses(endpoint: &Endpoint, network: &Network) -> Vec<Addr> {
    let own = endpoint.addresses.iter().map(|a| Addr::from(*a));
    own.chain(network.has_v6().then(|| endpoint.mac.link_local())).collect()
}
