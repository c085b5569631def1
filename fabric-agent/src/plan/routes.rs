//! `routes`: where a packet to the gateway's MAC goes, from each network into its own subnets and those of the networks that
//! it is opened to, by its static routes to endpoints of its own, and to the world if it is masqueraded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_common::{
    addr::{Addr, Mac},
    route::{FLAG_NEXT_HOP, FLAG_WORLD, NOT_WORLD, RouteValue},
};
use ipnet::IpNet;

use super::{
    Context,
    desired::{Desired, PrefixKey},
};
use crate::model::{Cluster, Network, ids};

pub(super) fn compile(context: &Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    if has_world(cluster) {
        not_world(context, desired);
    }
    for network in cluster.networks.values() {
        // A static route may lead to the world as well, and is preferred.
        if network.masquerade {
            world(context, network, desired);
        }
        for to in cluster.opened(network).chain([network]) {
            let value = into(context, to);
            for subnet in &to.subnets {
                desired.tables.routes.insert(PrefixKey::new(network.vni.get(), subnet.net), value);
            }
        }
        for route in &network.routes {
            let key = PrefixKey::new(network.vni.get(), route.prefix);
            let value = RouteValue {
                flags: FLAG_NEXT_HOP,
                next_hop: route.next_hop.into(),
                ..into(context, network)
            };
            desired.tables.routes.insert(key, value);
        }
    }
}

fn into(context: &Context<'_>, to: &Network) -> RouteValue {
    RouteValue {
        vni: to.vni.get(),
        mtu: context.mtus[&to.name],
        flags: 0,
        gateway_mac: ids::gateway_mac(to.vni),
        zero: [0; 2],
        next_hop: Addr::UNSPECIFIED,
    }
}

/// Whether any network is masqueraded.
pub(super) fn has_world(cluster: &Cluster) -> bool {
    cluster.networks.values().any(|network| network.masquerade)
}

/// A masqueraded network's routes to all that is not the fabric's own: one for each family in which an uplink has an address,
/// which is the first one of the uplinks in the order of the settings.
fn world(context: &Context<'_>, network: &Network, desired: &mut Desired) {
    let anywhere = [
        IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    ];
    for prefix in anywhere {
        let is_same = |vtep: &&IpAddr| vtep.is_ipv4() == prefix.addr().is_ipv4();
        let found = context
            .facts
            .uplinks
            .iter()
            .find_map(|uplink| Some((uplink, *uplink.vteps.iter().find(is_same)?)));
        let Some((uplink, address)) = found else { continue };
        let value = RouteValue {
            flags: FLAG_WORLD,
            mtu: u16::try_from(uplink.mtu).unwrap_or(u16::MAX),
            next_hop: address.into(),
            ..into(context, network)
        };
        desired.tables.routes.insert(PrefixKey::new(network.vni.get(), prefix), value);
    }
}

/// What is never masqueraded, whether a network is opened or not: the subnets of all networks, and VTEPs, toward which a packet
/// with this host's address would be taken for one of this host.
fn not_world(context: &Context<'_>, desired: &mut Desired) {
    let own = context.facts.uplinks.iter().flat_map(|uplink| &uplink.vteps);
    let others = context.cluster.nodes.values().flat_map(|node| &node.vteps);
    let vteps = own.chain(others).map(|vtep| IpNet::from(*vtep));
    let subnets = context.cluster.networks.values().flat_map(|n| n.subnets.iter().map(|subnet| subnet.net));
    for prefix in vteps.chain(subnets) {
        let value = RouteValue {
            vni: NOT_WORLD,
            mtu: 0,
            flags: 0,
            gateway_mac: Mac::ZERO,
            zero: [0; 2],
            next_hop: Addr::UNSPECIFIED,
        };
        desired.tables.routes.insert(PrefixKey::new(NOT_WORLD, prefix), value);
    }
}
