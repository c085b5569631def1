//! `settings`, `uplinks`, `local_vteps`, `nodes` and `vteps`: this node, the others, and the outer header toward each.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fabric_common::{
    addr::Addr,
    node::{self, NodeValue, OUTER_MAX, OUTER_V4_LEN, OVERHEAD_V4, OVERHEAD_V6, VtepValue},
    settings::{FLAG_DENIED, Settings},
    uplink::{LocalVtepValue, UplinkValue},
};

use super::{
    Context,
    desired::{Desired, NodeFacts, PlanSettings, RouteFacts, UplinkFacts},
    networks::MTU_MIN_V6,
    routes,
};
use crate::model::{Cluster, Dscp, Network, Node, ids};

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
    let nat_ports = if routes::has_world(context.cluster) { settings.nat_ports } else { (0, 0) };
    let row = Settings {
        node: context.local,
        vxlan_ifindex: facts.vxlan_ifindex.unwrap_or(0),
        events_per_second: settings.events_per_second,
        vxlan_port: settings.vxlan_port.to_be_bytes(),
        nat_first: nat_ports.0.to_be_bytes(),
        frag_ifindex: facts.frag.map_or(0, |(enter, _)| enter),
        node_mac: ids::node_mac(&facts.node),
        nat_last: nat_ports.1.to_be_bytes(),
        flags: if context.policies.denied.is_empty() { 0 } else { FLAG_DENIED },
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
    let mut flags = if node.foreign { node::FLAG_FOREIGN } else { 0 };
    if node.udp_checksum {
        flags |= node::FLAG_UDP_CHECKSUM | node::FLAG_VIA_DEVICE;
    }
    for vtep in &node.vteps {
        desired.tables.vteps.insert(Addr::from(*vtep), VtepValue { node: number, flags: flags.into() });
    }
    match toward(&node.vteps, context.facts) {
        Ok(pair) => {
            report_path(context, node, &pair);
            desired.tables.nodes.insert(number, value(&pair, flags, settings));
        }
        Err(text) => context.problem("Node", &node.name, text),
    }
}

/// Says so if IPv6 no longer fits, since its packets of the size that every link must carry are lost.
fn report_path(context: &mut Context<'_>, node: &Node, pair: &Pair<'_>) {
    let Some(path) = pair.path_mtu.filter(|_| pair.mtu() < MTU_MIN_V6) else { return };
    if context.cluster.networks.values().any(Network::has_v6) {
        let text = format!(
            "the path to {} carries {path} bytes, so packets of {} bytes inside, and IPv6 needs {MTU_MIN_V6}: raise the MTU of \
             the links in between, or leave the IPv6 subnets out",
            pair.remote,
            pair.mtu()
        );
        context.problem("Node", &node.name, text);
    }
}

/// The way to a node: an uplink and the two outer addresses, which are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The uplink that leads there.
    pub uplink: &'a UplinkFacts,
    /// Our VTEP address.
    pub local: IpAddr,
    /// The node's.
    pub remote: IpAddr,
    /// MTU of the path, if it is smaller than the uplink's, bytes.
    pub path_mtu: Option<u32>,
    /// MTU of the other side's uplink, if it is known to differ from ours, bytes.
    pub peer_mtu: Option<u32>,
}

impl Pair<'_> {
    /// Largest inner IP packet that fits this uplink and the path on this way, bytes.
    pub fn mtu(&self) -> u16 {
        carries(self.path_mtu.unwrap_or(self.uplink.mtu), self.remote.is_ipv6())
    }
}

/// The least that is believed of a path, bytes: what every IPv6 link carries (RFC 8200 section 5), and what every IPv4 host
/// takes (RFC 1122 section 3.3.3). Whoever says less wants to do harm, or is a link on which nothing would work.
pub fn path_floor(over_v6: bool) -> u32 {
    if over_v6 { MTU_MIN_V6.into() } else { 576 }
}

/// The MTU of a path where it is smaller than the uplink's, bytes.
fn path_mtu(uplink: &UplinkFacts, route: &RouteFacts, probed: Option<u32>, over_v6: bool) -> Option<u32> {
    let smallest = route.mtu.into_iter().chain(probed).min();
    smallest.map(|mtu| mtu.max(path_floor(over_v6))).filter(|mtu| *mtu < uplink.mtu)
}

/// Largest inner IP packet that fits an underlay MTU over IPv6 or IPv4, bytes.
pub(super) fn carries(mtu: u32, over_v6: bool) -> u16 {
    let overhead = if over_v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
    u16::try_from(mtu.saturating_sub(overhead as u32)).unwrap_or(u16::MAX)
}

/// The way to a node with these VTEP addresses, which are in order of preference: that of the first one that can be used.
///
/// # Errors
/// What is wrong with the first address, if none can be used.
pub fn toward<'a>(vteps: &[IpAddr], facts: &'a NodeFacts) -> Result<Pair<'a>, String> {
    let mut reason = None;
    for remote in vteps {
        match via(*remote, facts) {
            Ok(pair) => return Ok(pair),
            Err(text) => {
                reason.get_or_insert(text);
            }
        }
    }
    Err(reason.unwrap_or_else(|| "it has no VTEP address: name one under vteps".to_owned()))
}

/// The uplink that the kernel's routes choose, and our address of the same family on it.
fn via(remote: IpAddr, facts: &NodeFacts) -> Result<Pair<'_>, String> {
    let Some(route) = facts.routes.get(&remote) else {
        return Err(format!("no route leads to its VTEP address {remote}: check the underlay's routes"));
    };
    let Some(uplink) = facts.uplinks.iter().find(|u| u.ifindex == route.ifindex) else {
        return Err(format!(
            "the route to its VTEP address {remote} leaves through no uplink: name that interface with --underlay"
        ));
    };
    match uplink.vteps.iter().find(|own| own.is_ipv6() == remote.is_ipv6()) {
        Some(local) => {
            let peer = facts.peers.get(&remote).copied().unwrap_or_default();
            let path_mtu = path_mtu(uplink, route, peer.path_mtu, remote.is_ipv6());
            let peer_mtu = peer.uplink_mtu.filter(|mtu| *mtu != uplink.mtu);
            Ok(Pair { uplink, local: *local, remote, path_mtu, peer_mtu })
        }
        None => {
            let family = if remote.is_ipv6() { "IPv6" } else { "IPv4" };
            Err(format!(
                "uplink {} has no {family} VTEP address to reach {remote} from: give it one",
                uplink.name
            ))
        }
    }
}

fn value(pair: &Pair<'_>, flags: u16, settings: &PlanSettings) -> NodeValue {
    let port = settings.vxlan_port;
    let (class, inherit) = class(settings.dscp);
    let value = NodeValue {
        local: pair.local.into(),
        remote: pair.remote.into(),
        ifindex: pair.uplink.ifindex,
        ip_sum: 0,
        mtu: pair.mtu(),
        flags,
        outer_len: 0,
        class,
        inherit,
        outer: [0; OUTER_MAX],
    };
    if let (IpAddr::V4(local), IpAddr::V4(remote)) = (pair.local, pair.remote) {
        let outer = outer_v4(local, remote, port, class);
        NodeValue { ip_sum: ip_sum(&outer), outer_len: OUTER_V4_LEN as u16, outer, ..value }
    } else if let (IpAddr::V6(local), IpAddr::V6(remote)) = (pair.local, pair.remote) {
        let outer = outer_v6(local, remote, port, class);
        NodeValue { flags: flags | node::FLAG_V6, outer_len: OUTER_MAX as u16, outer, ..value }
    } else {
        unreachable!("both addresses of a way are of one family")
    }
}

/// The fixed part of the outer traffic class, and which of its bits are those of the inner one.
fn class(dscp: Dscp) -> (u8, u8) {
    match dscp {
        Dscp::Fixed(dscp) => (dscp << 2, node::CLASS_ECN),
        Dscp::Copy => (0, 0xff),
    }
}

/// IPv4 (RFC 791), UDP (RFC 768, checksum 0: none) and VXLAN (RFC 7348 section 5) headers; what differs by packet is 0.
fn outer_v4(local: Ipv4Addr, remote: Ipv4Addr, port: u16, class: u8) -> [u8; OUTER_MAX] {
    let mut outer = [0; OUTER_MAX];
    outer[0] = 0x45;
    outer[1] = class;
    // Don't fragment.
    outer[6] = 0x40;
    outer[8] = OUTER_TTL;
    outer[9] = UDP;
    outer[12..16].copy_from_slice(&local.octets());
    outer[16..20].copy_from_slice(&remote.octets());
    udp_and_vxlan(&mut outer, 20, port);
    outer
}

/// IPv6 (RFC 8200), UDP (checksum 0: none, RFC 6935) and VXLAN headers.
fn outer_v6(local: Ipv6Addr, remote: Ipv6Addr, port: u16, class: u8) -> [u8; OUTER_MAX] {
    let mut outer = [0; OUTER_MAX];
    outer[0] = 0x60 | class >> 4;
    outer[1] = class << 4;
    outer[6] = UDP;
    outer[7] = OUTER_TTL;
    outer[8..24].copy_from_slice(&local.octets());
    outer[24..40].copy_from_slice(&remote.octets());
    udp_and_vxlan(&mut outer, 40, port);
    outer
}

fn udp_and_vxlan(outer: &mut [u8; OUTER_MAX], at: usize, port: u16) {
    outer[at + 2..at + 4].copy_from_slice(&port.to_be_bytes());
    // The I flag: the VNI is valid.
    outer[at + 8] = 0x08;
}

fn ip_sum(outer: &[u8; OUTER_MAX]) -> u32 {
    outer[..20].chunks_exact(2).map(|word| u32::from(u16::from_le_bytes([word[0], word[1]]))).sum()
}
