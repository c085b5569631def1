//! `ports`, and the endpoints' rows in `endpoints` and `fdb`.

use fabric_common::{
    addr::Addr,
    endpoint::{EndpointKey, EndpointValue},
    fdb::{FdbKey, FdbValue},
    port::PortValue,
};

use super::{Context, desired::Desired};
use crate::model::{Endpoint, Network, ids};

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
        rows(context, endpoint, network, &place, desired);
    }
}

/// Where an endpoint lives, in the maps' terms.
struct Place {
    ifindex: u32,
    node: u32,
    slot: u32,
}

/// Rows exist for a local endpoint once its port does.
fn place(context: &Context<'_>, endpoint: &Endpoint) -> Option<Place> {
    if endpoint.node != context.facts.node {
        return Some(Place { ifindex: 0, node: context.ids[&endpoint.node], slot: 0 });
    }
    let ifindex = *context.facts.ports.get(&endpoint.name)?;
    Some(Place { ifindex, node: context.local, slot: endpoint.slot? })
}

/// Conflicts that only this node can see: with its own address and MAC, and with what it can't reach.
fn check(
    context: &Context<'_>,
    endpoint: &Endpoint,
    desired: &Desired,
    network: &Network,
) -> Result<(), String> {
    if endpoint.node == context.facts.node {
        if endpoint.attachment.is_none() {
            return Err(
                "it lives on this node but has no attachment: attach it with `fabric endpoint attach`"
                    .to_owned(),
            );
        }
        if endpoint.slot.is_none() {
            return Err("it has no counter slot: detach it and attach it again".to_owned());
        }
    } else if !context.cluster.nodes.contains_key(&endpoint.node) {
        return Err(format!("node {} is not declared: apply a Node object for it", endpoint.node));
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

fn rows(context: &Context<'_>, endpoint: &Endpoint, network: &Network, place: &Place, desired: &mut Desired) {
    let identity = context.policies.identity(&endpoint.name);
    let policy = context.policies.policy(&endpoint.name);
    let vni = network.vni.get();
    let Place { ifindex, node, slot } = *place;
    let generation = endpoint.generation;
    let value = EndpointValue { mac: endpoint.mac, flags: 0, ifindex, node, identity, slot, generation };
    for addr in addresses(endpoint, network) {
        desired.tables.endpoints.insert(EndpointKey { vni, addr }, value);
    }
    let value = FdbValue { ifindex, node, slot, flags: 0, generation, identity, policy };
    desired.tables.fdb.insert(FdbKey::new(vni, endpoint.mac), value);
}

/// Every address that an endpoint answers for: its own and, with IPv6, the link-local one that its kernel makes.
fn addresses(endpoint: &Endpoint, network: &Network) -> Vec<Addr> {
    let own = endpoint.addresses.iter().map(|a| Addr::from(*a));
    own.chain(network.has_v6().then(|| endpoint.mac.link_local())).collect()
}
