//! `settings`, `uplinks`, `local_vteps`, `nodes` and `vteps`: this node, the others, and the outer header toward each.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use fabric_common::{
    addr::Addr,
    node::{self, NodeValue, OUTER_MAX, OUTER_V4_LEN, OVERHEAD_V4, VtepValue},
    settings::Settings,
    uplink::{LocalVtepValue, UplinkValue},
};

use super::{
    Context,
    desired::{Desired, NodeFacts, PlanSettings, UplinkFacts},
};
use crate::model::{Cluster, Node, ids};

/// Time to live of outer packets.
const OUTER_TTL: u8 = 64;
/// IP protocol number of UDP.
const UDP: u8 = 17;

/// The number of every node, `local` included: keys of `nodes`.
pub fn node_ids(cluster: &Cluster, local: &str) -> BTreeMap<String, u32> {
    ids::number(cluster.nodes.keys().map(String::as_str).chain([local]))
}

pub(super) fn compile(context: &mut Context<'_>, settings: &PlanSettings, desired: &mut Desired) {
    let facts = context.facts;
    let row = Settings {
        node: context.local,
        vxlan_ifindex: facts.vxlan_ifindex.unwrap_or(0),
        events_per_second: settings.events_per_second,
        vxlan_port: settings.vxlan_port.to_be_bytes(),
        zero: [0; 2],
        node_mac: ids::node_mac(&facts.node),
        reserved: [0; 2],
    };
    desired.tables.settings.insert(0, row);
    for uplink in &facts.uplinks {
        let mtu = u16::try_from(uplink.mtu).unwrap_or(u16::MAX);
        desired
            .tables
            .uplinks
            .insert(uplink.ifindex, UplinkValue { mac: uplink.mac, mtu, flags: 0, reserved: 0 });
        for vtep in &uplink.vteps {
            let value = LocalVtepValue { ifindex: uplink.ifindex, flags: 0 };
            desired.tables.local_vteps.insert(Addr::from(*vtep), value);
        }
    }
    let cluster = context.cluster;
    for node in cluster.nodes.values().filter(|n| n.name != facts.node) {
        remote(context, node, settings, desired);
    }
}

fn remote(context: &mut Context<'_>, node: &Node, settings: &PlanSettings, desired: &mut Desired) {
    if let Some(own) = node.vteps.iter().find(|v| context.facts.uplinks.iter().any(|u| u.vteps.contains(v))) {
        let text = format!("VTEP address {own} is this node's own: correct the Node object's vteps");
        context.problem("Node", &node.name, text);
        return;
    }
    let number = context.ids[&node.name];
    let flags = if node.foreign { node::FLAG_FOREIGN } else { 0 };
    for vtep in &node.vteps {
        desired.tables.vteps.insert(Addr::from(*vtep), VtepValue { node: number, flags: flags.into() });
    }
    match toward(&node.vteps, context.facts) {
        Ok((uplink, local, remote)) => {
            desired.tables.nodes.insert(number, value(uplink, local, remote, flags, settings.vxlan_port));
        }
        Err(text) => context.problem("Node", &node.name, text),
    }
}

/// The uplink that leads to a node with these VTEP addresses, if the node can be reached.
pub fn uplink_toward<'a>(vteps: &[IpAddr], facts: &'a NodeFacts) -> Option<&'a UplinkFacts> {
    toward(vteps, facts).ok().map(|(uplink, ..)| uplink)
}

/// The uplink and the two outer addresses: of the first VTEP address that can be used.
fn toward<'a>(
    vteps: &[IpAddr],
    facts: &'a NodeFacts,
) -> Result<(&'a UplinkFacts, Ipv4Addr, Ipv4Addr), String> {
    let mut reason = None;
    for remote in vteps.iter().filter_map(v4) {
        match via(remote, facts) {
            Ok((uplink, local)) => return Ok((uplink, local, remote)),
            Err(text) => {
                reason.get_or_insert(text);
            }
        }
    }
    let no_v4 = "an IPv6 underlay is not available in this version: give the node an IPv4 VTEP address";
    Err(reason.unwrap_or_else(|| no_v4.to_owned()))
}

/// The uplink that the kernel's routes choose, and our address on it.
fn via(remote: Ipv4Addr, facts: &NodeFacts) -> Result<(&UplinkFacts, Ipv4Addr), String> {
    let Some(ifindex) = facts.routes.get(&IpAddr::V4(remote)) else {
        return Err(format!("no route leads to its VTEP address {remote}: check the underlay's routes"));
    };
    let Some(uplink) = facts.uplinks.iter().find(|u| u.ifindex == *ifindex) else {
        return Err(format!(
            "the route to its VTEP address {remote} leaves through no uplink: name that interface with --underlay"
        ));
    };
    match uplink.vteps.iter().find_map(v4) {
        Some(local) => Ok((uplink, local)),
        None => Err(format!("uplink {} has no IPv4 VTEP address: give it one", uplink.name)),
    }
}

fn v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}

fn value(uplink: &UplinkFacts, local: Ipv4Addr, remote: Ipv4Addr, flags: u16, port: u16) -> NodeValue {
    let outer = outer_v4(local, remote, port);
    NodeValue {
        local: local.into(),
        remote: remote.into(),
        ifindex: uplink.ifindex,
        ip_sum: ip_sum(&outer),
        mtu: u16::try_from(uplink.mtu.saturating_sub(OVERHEAD_V4 as u32)).unwrap_or(u16::MAX),
        flags,
        outer_len: OUTER_V4_LEN as u16,
        reserved: 0,
        outer,
    }
}

/// IPv4 (RFC 791), UDP (RFC 768, checksum 0: none) and VXLAN (RFC 7348 section 5) headers; what differs by packet is 0.
fn outer_v4(local: Ipv4Addr, remote: Ipv4Addr, port: u16) -> [u8; OUTER_MAX] {
    let mut outer = [0; OUTER_MAX];
    outer[0] = 0x45;
    // Don't fragment.
    outer[6] = 0x40;
    outer[8] = OUTER_TTL;
    outer[9] = UDP;
    outer[12..16].copy_from_slice(&local.octets());
    outer[16..20].copy_from_slice(&remote.octets());
    outer[22..24].copy_from_slice(&port.to_be_bytes());
    // The I flag: the VNI is valid.
    outer[28] = 0x08;
    outer
}

fn ip_sum(outer: &[u8; OUTER_MAX]) -> u32 {
    outer[..20].chunks_exact(2).map(|word| u32::from(u16::from_le_bytes([word[0], word[1]]))).sum()
}
