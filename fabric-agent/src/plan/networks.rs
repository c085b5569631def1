//! `networks` and `members`, and the rows of gateways and nodes' own addresses in `endpoints` and `fdb`.

use std::{collections::BTreeSet, net::IpAddr};

use fabric_common::{
    addr::{Addr, Mac},
    endpoint::{self, EndpointKey, EndpointValue},
    fdb::{self, FdbKey, FdbValue},
    network::{self, MemberKey, MemberValue, NetworkValue},
    policy::NO_POLICY,
    port::NO_SLOT,
};

use super::{
    Context,
    access::{self, access_conflict},
    desired::{Desired, NodeFacts},
    nodes::{carries, toward},
};
use crate::model::{Cluster, Network, ids};

/// MTU assumed of the underlay while no uplink is known, bytes.
const DEFAULT_UNDERLAY_MTU: u32 = 1500;

/// The least that a link of IPv6 must carry (RFC 8200 section 5), bytes.
pub(super) const MTU_MIN_V6: u16 = 1280;

/// Largest inner IP packet that fits every uplink on the way to every declared node that can be reached, bytes. A node
/// over IPv6 takes 20 bytes more; without any, the family of this node's own VTEP addresses decides.
pub fn underlay_mtu(cluster: &Cluster, facts: &NodeFacts) -> u16 {
    let smallest = facts.uplinks.iter().map(|u| u.mtu).min().unwrap_or(DEFAULT_UNDERLAY_MTU);
    let mut own = facts.uplinks.iter().flat_map(|u| &u.vteps).peekable();
    let only_v6 = own.peek().is_some() && own.all(IpAddr::is_ipv6);
    let remote = cluster.nodes.values().filter(|n| n.name != facts.node);
    let over_v6 =
        only_v6 || remote.filter_map(|n| toward(&n.vteps, facts).ok()).any(|pair| pair.remote.is_ipv6());
    carries(smallest, over_v6)
}

/// Largest IP packet of a network, bytes: the chosen one, or what the underlay allows ([`underlay_mtu`]); never more than
/// that.
pub fn network_mtu(network: &Network, limit: u16) -> u16 {
    network.mtu.map_or(limit, |mtu| mtu.min(limit))
}

/// Why a network can't be on an underlay that carries packets of up to `limit` bytes, as one sentence.
///
/// # Errors
/// The sentence.
pub fn check_mtu(network: &Network, limit: u16) -> Result<(), String> {
    if limit < MTU_MIN_V6 && network.subnets.iter().any(|subnet| subnet.net.addr().is_ipv6()) {
        return Err(format!(
            "the underlay carries packets of {limit} bytes and IPv6 needs {MTU_MIN_V6}: raise the uplinks' MTU to 1330, \
             or 1350 where VTEPs have IPv6 addresses, or leave the IPv6 subnets out"
        ));
    }
    Ok(())
}

/// The number of a network in events.
pub fn network_id(name: &str) -> u32 {
    ids::hash32(name).max(1)
}

pub(super) fn compile(context: &mut Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    let homes: BTreeSet<(&str, &str)> =
        cluster.endpoints.values().flat_map(|e| e.senders().map(|node| (e.network.as_str(), node))).collect();
    for network in cluster.networks.values() {
        report_mtu(context, network);
        let addresses = cluster.node_addresses(network, &context.facts.node, true);
        let gateway_mac = ids::gateway_mac(network.vni);
        let node_mac = ids::node_mac(&context.facts.node);
        let value = NetworkValue {
            gateway_mac,
            mtu: context.mtus[&network.name],
            flags: if network.multicast { network::FLAG_MULTICAST } else { 0 }
                | if network.keep { network::FLAG_KEEP } else { 0 },
            zero: [0; 2],
            id: network_id(&network.name),
            gateway_v4: gateway(network, true),
            gateway_v6: gateway(network, false),
        };
        desired.tables.networks.insert(network.vni.get(), value);
        let rows = Rows { context, network };
        for subnet in &network.subnets {
            rows.add(desired, subnet.gateway, gateway_mac, endpoint::FLAG_GATEWAY, (context.local, 0));
        }
        rows.router(desired, gateway_mac, context.local);
        rows.local_node(desired, addresses, node_mac);
        rows.remote_nodes(desired, &homes);
    }
}

/// The row of one more address of the gateway.
pub(super) fn add_gateway(context: &Context<'_>, network: &Network, address: IpAddr, desired: &mut Desired) {
    let mac = ids::gateway_mac(network.vni);
    Rows { context, network }.add(desired, address, mac, endpoint::FLAG_GATEWAY, (context.local, 0));
}

/// Gateway of the first subnet of a family; unspecified if there is none.
fn gateway(network: &Network, v4: bool) -> Addr {
    let subnet = network.subnets.iter().find(|subnet| subnet.gateway.is_ipv4() == v4);
    subnet.map_or(Addr::UNSPECIFIED, |subnet| subnet.gateway.into())
}

fn report_mtu(context: &mut Context<'_>, network: &Network) {
    let limit = context.limit;
    if let Some(mtu) = network.mtu.filter(|mtu| *mtu > limit) {
        let text = format!(
            "mtu {mtu} is more than the underlay carries; {limit} is used: lower it, or raise the uplinks' MTU"
        );
        context.problem("Network", &network.name, text);
    }
    if let Err(text) = check_mtu(network, limit) {
        context.problem("Network", &network.name, text);
    }
}

/// Writes rows of one network.
struct Rows<'a> {
    context: &'a Context<'a>,
    network: &'a Network,
}

impl Rows<'_> {
    /// This node's own addresses: behind its access port where it has one.
    fn local_node(&self, desired: &mut Desired, addresses: Vec<IpAddr>, mac: Mac) {
        let node = self.context.local;
        let access = self.access_port();
        if addresses.is_empty() {
            return;
        }
        let link_local = access.and_then(|_| access::link_local(self.network, mac));
        for address in addresses.into_iter().chain(link_local) {
            self.add(desired, address, mac, endpoint::FLAG_NODE, (node, access.unwrap_or(0)));
        }
        match access {
            Some(ifindex) => {
                let value = FdbValue {
                    ifindex,
                    node,
                    slot: NO_SLOT,
                    flags: fdb::FLAG_HOST,
                    generation: 0,
                    identity: self.context.node_identity(node),
                    policy: NO_POLICY,
                };
                desired.tables.fdb.insert(FdbKey::new(self.network.vni.get(), mac), value);
            }
            None => self.router(desired, mac, node),
        }
    }

    fn access_port(&self) -> Option<u32> {
        let context = self.context;
        let index = *context.facts.access.get(&self.network.name).filter(|_| self.network.host_access)?;
        access_conflict(self.network, context.cluster, context.facts).is_none().then_some(index)
    }

    /// The row of an address that is not an endpoint's. `place`: its node, and its port there if it is local.
    fn add(&self, desired: &mut Desired, address: IpAddr, mac: Mac, flags: u16, place: (u32, u32)) {
        let key = EndpointKey { vni: self.network.vni.get(), addr: Addr::from(address) };
        let (node, ifindex) = place;
        let identity = self.context.node_identity(node);
        let value = EndpointValue { mac, flags, ifindex, node, identity, slot: 0, generation: 0 };
        desired.tables.endpoints.insert(key, value);
    }

    /// The row of a MAC that routes.
    fn router(&self, desired: &mut Desired, mac: Mac, node: u32) {
        let value = FdbValue {
            ifindex: 0,
            node,
            slot: 0,
            flags: fdb::FLAG_ROUTER,
            generation: 0,
            identity: self.context.node_identity(node),
            policy: NO_POLICY,
        };
        desired.tables.fdb.insert(FdbKey::new(self.network.vni.get(), mac), value);
    }

    /// Other nodes: their membership and their own addresses. `homes`: networks and nodes of all endpoints.
    fn remote_nodes(&self, desired: &mut Desired, homes: &BTreeSet<(&str, &str)>) {
        let cluster = self.context.cluster;
        let vni = self.network.vni.get();
        for node in cluster.nodes.values().filter(|n| n.name != self.context.facts.node) {
            let number = self.context.ids[&node.name];
            let part = node.networks.get(&self.network.name);
            if part.is_some() || homes.contains(&(self.network.name.as_str(), node.name.as_str())) {
                desired.tables.members.insert(MemberKey { vni, node: number }, MemberValue { flags: 0 });
            }
            let addresses = part.map(|p| p.addresses.as_slice()).unwrap_or_default();
            if addresses.is_empty() {
                continue;
            }
            let mac = ids::node_mac(&node.name);
            let link_local = access::link_local(self.network, mac).filter(|_| !node.foreign);
            for address in addresses.iter().copied().chain(link_local) {
                self.add(desired, address, mac, endpoint::FLAG_NODE, (number, 0));
            }
            // A host that has access is reached like an endpoint there; that node says which packets it takes.
            if self.network.host_access {
                let value = FdbValue {
                    ifindex: 0,
                    node: number,
                    slot: 0,
                    flags: 0,
                    generation: 0,
                    identity: self.context.node_identity(number),
                    policy: NO_POLICY,
                };
                desired.tables.fdb.insert(FdbKey::new(vni, mac), value);
            } else {
                self.router(desired, mac, number);
            }
        }
    }
}
