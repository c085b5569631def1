//! `routes`: where a packet to the gateway's MAC goes, from each network into its own subnets and those of the networks that
//! it is opened to, and by its static routes to endpoints of its own.

use fabric_common::{
    addr::Addr,
    route::{FLAG_NEXT_HOP, RouteValue},
};

use super::{
    Context,
    desired::{Desired, PrefixKey},
};
use crate::model::{Network, ids};

pub(super) fn compile(context: &Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    for network in cluster.networks.values() {
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
