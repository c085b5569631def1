//! The host's own place in networks with host access: its access port, and what keeps a network from having one.

use fabric_common::{
    addr::{Addr, Mac},
    policy::NO_POLICY,
    port::{NO_SLOT, PortValue},
};
use ipnet::IpNet;

use super::{
    Context,
    desired::{AccessLink, Desired, NodeFacts},
};
use crate::model::{Cluster, Network, ids};

/// Why the host can't be in a network: its route to the subnet would take underlay traffic away.
pub fn access_conflict(network: &Network, cluster: &Cluster, facts: &NodeFacts) -> Option<String> {
    let own = facts.uplinks.iter().flat_map(|uplink| &uplink.vteps);
    let others = cluster.nodes.values().flat_map(|node| &node.vteps);
    let vtep = own.chain(others).find(|vtep| network.subnet_of(**vtep).is_some())?;
    let subnet = network.subnet_of(*vtep)?.net;
    Some(format!(
        "subnet {subnet} holds VTEP address {vtep}, so the host can't have access: choose another subnet, or leave out \
         hostAccess"
    ))
}

/// The access ports' veths and their rows in `ports`.
pub(super) fn compile(context: &mut Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    for network in cluster.networks.values().filter(|network| network.host_access) {
        if let Some(text) = access_conflict(network, cluster, context.facts) {
            context.problem("Network", &network.name, text);
            continue;
        }
        let link = link(context, network);
        if let Some(ifindex) = context.facts.access.get(&network.name) {
            desired.tables.ports.insert(*ifindex, port(context, network, &link));
        }
        desired.access.insert(network.name.clone(), link);
    }
}

fn link(context: &Context<'_>, network: &Network) -> AccessLink {
    let addresses = context.cluster.node_addresses(network, &context.facts.node, true);
    let with_prefix = |address| IpNet::new(address, network.subnet_of(address)?.net.prefix_len()).ok();
    AccessLink {
        network: network.name.clone(),
        port_ifname: ids::access_port_ifname(&network.name),
        ifname: ids::access_ifname(&network.name),
        mac: ids::node_mac(&context.facts.node),
        mtu: context.mtus[&network.name],
        addresses: addresses.into_iter().filter_map(with_prefix).collect(),
    }
}

fn port(context: &Context<'_>, network: &Network, link: &AccessLink) -> PortValue {
    PortValue {
        vni: network.vni.get(),
        slot: NO_SLOT,
        mac: link.mac,
        flags: 0,
        identity: context.policies.node(&context.facts.node),
        policy: NO_POLICY,
        mtu: link.mtu.into(),
        addr: link.addresses.first().map_or(Addr::UNSPECIFIED, |net| Addr::from(net.addr())),
    }
}

/// The addresses that a node answers for beside the declared ones: with IPv6, the link-local one that its kernel makes.
pub(super) fn link_local(network: &Network, mac: Mac) -> Option<std::net::IpAddr> {
    (network.host_access && network.has_v6()).then(|| mac.link_local().to_ip())
}
