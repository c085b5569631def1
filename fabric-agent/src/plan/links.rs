//! The `vxlan` device, the local endpoints' veths, and which program sits where.

use std::net::IpAddr;

use fabric_common::abi::program;
use ipnet::IpNet;

use super::{
    Context,
    desired::{Attachment, Desired, PlanSettings, PortLink, VxlanDevice},
};
use crate::model::{Endpoint, Network, ids};

/// Name of the agent's `vxlan` device.
pub(super) const VXLAN_DEVICE: &str = "fabric_vxlan";

pub(super) fn compile(context: &mut Context<'_>, settings: &PlanSettings, desired: &mut Desired) {
    let facts = context.facts;
    desired.vxlan = Some(VxlanDevice {
        name: VXLAN_DEVICE.to_owned(),
        port: settings.vxlan_port,
        mtu: context.limit.into(),
    });
    let mut attach = |ifindex, program| {
        desired.attachments.insert(Attachment { ifindex, program });
    };
    for uplink in &facts.uplinks {
        attach(uplink.ifindex, program::FROM_UPLINK);
        if facts.xdp.contains(&uplink.ifindex) {
            attach(uplink.ifindex, program::FROM_UPLINK_XDP);
        }
    }
    if let Some(ifindex) = facts.vxlan_ifindex {
        attach(ifindex, program::FROM_VXLAN);
    }
    if let Some((_, leave)) = facts.frag {
        attach(leave, program::FROM_FRAG);
    }
    for ifindex in desired.tables.ports.keys() {
        attach(*ifindex, program::FROM_CONTAINER);
    }
    let cluster = context.cluster;
    for endpoint in cluster.endpoints.values() {
        let network = &cluster.networks[&endpoint.network];
        let refused = context.problems.contains_key(&("Endpoint", endpoint.name.clone()));
        if let Some(link) = port_link(context, endpoint, network).filter(|_| !refused) {
            desired.ports.insert(endpoint.name.clone(), link);
        }
    }
}

fn port_link(context: &Context<'_>, endpoint: &Endpoint, network: &Network) -> Option<PortLink> {
    let (attachment, _) = endpoint.seat(&context.facts.node)?;
    let mut addresses = Vec::new();
    let mut gateways: Vec<IpAddr> = Vec::new();
    for address in &endpoint.addresses {
        let subnet = network.subnet_of(*address)?;
        addresses.push(IpNet::new(*address, subnet.net.prefix_len()).ok()?);
        if !gateways.iter().any(|g| g.is_ipv4() == address.is_ipv4()) {
            gateways.push(subnet.gateway);
        }
    }
    Some(PortLink {
        endpoint: endpoint.name.clone(),
        host_ifname: ids::host_ifname(&endpoint.name),
        engine: attachment.engine.is_some(),
        netns: attachment.netns.clone(),
        netns_inode: attachment.netns_inode,
        ifname: attachment.ifname.clone(),
        mac: endpoint.mac,
        mtu: context.mtus[&network.name],
        addresses,
        gateways,
        router_advertisement: network.router_advertisement,
    })
}
