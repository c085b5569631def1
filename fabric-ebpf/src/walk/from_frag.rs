//! TC ingress of the far side of the agent's `fabric_frag`: inner IPv4 packets that are too big for their path and may be
//! fragmented. `from_container` checked them; here they are only cut and sent.
//!
//! mark → data of earlier fragments and padding off → where to → too big: a copy goes round for the rest → encapsulation, or
//! local delivery.

use aya_ebpf::programs::TcContext;
use fabric_common::{
    node::NodeValue,
    reason::{Action, DropReason},
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::{
    counters, encap, fdb, fragment,
    inner::{self, ETH_LEN, IPV4},
    network, node,
    outcome::{Outcome, Trace, unpack},
    packet::{self, Frame, header},
    port, settings,
    walk::from_container,
};

/// Ethernet (14) and IPv4 (20).
const LINEAR: u32 = 34;

/// Runs the walk.
#[inline(always)]
pub fn walk(ctx: &TcContext, trace: &mut Trace) -> Outcome {
    let settings = settings::get()?;
    let vni = fragment::vni(ctx)?;
    trace.vni = vni;
    let caught_up = fragment::catch_up(ctx);
    if caught_up != 0 {
        return unpack(caught_up);
    }
    packet::linear(ctx, LINEAR);
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    if eth.ether_type != IPV4 {
        return Err(DropReason::UnsupportedEthertype);
    }
    let dst = packet::mac(&eth.dst_addr);
    let ip = inner::ip(ctx, 0, IPV4)?;
    let v4: &Ipv4Hdr = header(ctx, ETH_LEN, DropReason::Malformed)?;
    let total = u32::from(u16::from_be_bytes(v4.tot_len));
    // The host itself and routers get nothing by this way.
    let entry = fdb::get(vni, dst).filter(|entry| entry.flags == 0).ok_or(DropReason::UnknownDestination)?;
    let node = if entry.ifindex == 0 { Some(node::get(entry.node)?) } else { None };
    fragment::trim(ctx, total)?;
    let mtu = u32::from(mtu(vni, node));
    if total > mtu {
        fragment::split(ctx, settings, vni, mtu)?;
        counters::action_beside(trace.hook, Action::Fragment, 1, trace.length);
    }
    trace.length = Frame::len(ctx);
    fragment::unmark(ctx);
    if let Some(node) = node {
        return encap::send(ctx, settings, node, vni, &ip);
    }
    // Routed into a network that carries less, on this node.
    port::count_ingress(entry.slot, 1, trace.length);
    Ok(from_container::deliver(ctx, entry.ifindex))
}

/// Largest packet that fits the network and the way to a node, if it is another one.
#[inline(always)]
fn mtu(vni: u32, node: Option<&NodeValue>) -> u16 {
    let inside = network::get(vni).map_or(u16::MAX, |network| network.mtu);
    match node {
        Some(node) if node.mtu < inside => node.mtu,
        _ => inside,
    }
}
