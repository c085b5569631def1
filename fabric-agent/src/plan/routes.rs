//! `routes`: where a packet to the gateway's MAC goes, from each network into its own subnets and those of the networks that
//! it is opened to.

use fabric_common::route::RouteValue;

use super::{
    Context,
    desired::{Desired, PrefixKey},
};
use crate::model::ids;

pub(super) fn compile(context: &Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    for network in cluster.networks.values() {
        for to in cluster.opened(network).chain([network]) {
            let value = RouteValue {
                vni: to.vni.get(),
                mtu: context.mtus[&to.name],
                flags: 0,
                gateway_mac: ids::gateway_mac(to.vni),
                zero: [0; 2],
            };
            for subnet in &to.subnets {
                desired.tables.routes.insert(PrefixKey::new(network.vni.get(), subnet.net), value);
            }
        }
    }
}
