//! What comes from behind a foreign VTEP and no node of ours sends. ARP and neighbour discovery are answered through the
//! tunnel, for who is on this node and for the gateway; nothing is learned from them. Packets to the gateway's MAC are routed
//! as those of a container are, and told what stopped them.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use fabric_common::{
    addr::{Addr, Mac},
    endpoint::{EndpointValue, FLAG_GATEWAY},
    fdb::FLAG_ROUTER,
    node::FLAG_FOREIGN,
    policy::NO_POLICY,
    reason::{Action, DropReason, Hook},
    stage::Stage,
};
use network_types::{arp::ArpHdr, eth::EthHdr, ip::Ipv6Hdr};

use crate::{
    arp::{self, REPLY, REQUEST},
    conntrack::{self, Sides},
    counters, echo, encap, endpoint, fdb, fragment,
    icmp_error::{self, Error},
    inner::ETH_LEN,
    nd::{self, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, Neighbour, ROUTER_SOLICITATION, SOURCE_LINK_LAYER},
    node,
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    packet::{Frame, header, linear, mac, same_addr, v4, v6},
    port, route, settings, source, too_big,
    walk::from_vxlan,
};

/// Refuses ARP, whose Ethernet header is at `offset`, with a sender's address that its VTEP may not send.
#[inline(always)]
pub fn check_arp(frame: &impl Frame, offset: u32, vni: u32, node: u32) -> Result<(), DropReason> {
    match arp_record(frame, offset, vni, node) {
        0 => Ok(()),
        // SAFETY: the number of a reason.
        reason => Err(unsafe { core::mem::transmute::<u8, DropReason>(reason as u8) }),
    }
}

/// Out of line, since most packets are not ARP. Returns the number of a drop reason, or 0.
#[inline(never)]
fn arp_record(frame: &impl Frame, offset: u32, vni: u32, node: u32) -> u32 {
    // The sender's protocol address (RFC 826).
    let Some(sender) = frame.load::<4>(offset + ETH_LEN as u32 + 14) else { return DropReason::Malformed as u32 };
    let sender = Addr::v4(sender);
    let source = source::check(vni, &sender, node, &Mac::new([0; 6]), || 0);
    unless_probe(source.map(|_| ()), &sender).map_or_else(|reason| reason as u32, |()| 0)
}

/// Lets a probe pass that has no source yet (RFC 5227, RFC 4862 section 5.4.2), if its VTEP serves the network. `source` is
/// what the records said.
#[inline(always)]
pub fn unless_probe(source: Result<(), DropReason>, addr: &Addr) -> Result<(), DropReason> {
    match source {
        // Of an unspecified address only this says that network and member are known.
        Err(DropReason::SpoofSource) if is_unspecified(addr) => Ok(()),
        other => other,
    }
}

#[inline(always)]
fn is_unspecified(addr: &Addr) -> bool {
    same_addr(addr, &Addr::UNSPECIFIED) || same_addr(addr, &Addr::v4([0; 4]))
}

/// Whether this node answers for an address. For a container elsewhere its own node does: the answer also tells the foreign
/// VTEP where to send.
#[inline(always)]
fn answers(owner: &EndpointValue) -> bool {
    owner.ifindex != 0 || owner.flags & FLAG_GATEWAY != 0
}

/// ARP out of the tunnel from `node`, whose sender's address was checked.
#[inline(always)]
pub fn arp(ctx: &TcContext, vni: u32, node: u32) -> Outcome {
    unpack(arp_packed(ctx, vni, node))
}

#[inline(never)]
fn arp_packed(ctx: &TcContext, vni: u32, node: u32) -> i64 {
    pack(arp_inner(ctx, vni, node))
}

#[inline(always)]
fn arp_inner(ctx: &TcContext, vni: u32, node: u32) -> Outcome {
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let arp: &ArpHdr = header(ctx, ETH_LEN, DropReason::Malformed)?;
    if !arp::is_ethernet_and_ipv4(arp) {
        return Err(DropReason::Malformed);
    }
    if arp.sha != eth.src_addr {
        return Err(DropReason::SpoofArp);
    }
    if arp.oper == REPLY {
        return Ok(Verdict::consume(Action::Absorbed));
    }
    if arp.oper != REQUEST {
        return Err(DropReason::Malformed);
    }
    let (sender, target) = (arp.spa, v4(&arp.tpa));
    match endpoint::get(vni, &target) {
        Some(owner) if answers(owner) => {
            arp::answer(ctx, mac(&arp.sha), owner.mac, sender, target.v4_bytes())?;
            send(ctx, vni, node)
        }
        _ => Ok(Verdict::consume(Action::Absorbed)),
    }
}

/// Neighbour discovery out of the tunnel from `node`, right behind an IPv6 header whose source was checked.
#[inline(always)]
pub fn nd(ctx: &TcContext, vni: u32, node: u32) -> Outcome {
    unpack(nd_packed(ctx, vni, node))
}

#[inline(never)]
fn nd_packed(ctx: &TcContext, vni: u32, node: u32) -> i64 {
    pack(nd_inner(ctx, vni, node))
}

#[inline(always)]
fn nd_inner(ctx: &TcContext, vni: u32, node: u32) -> Outcome {
    linear(ctx, nd::LINEAR);
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let asker_mac: Mac = mac(&eth.src_addr);
    let ip: &Ipv6Hdr = header(ctx, ETH_LEN, DropReason::Malformed)?;
    let asker = v6(&ip.src_addr);
    if ip.hop_limit != 255 {
        return Err(DropReason::InnerNd);
    }
    // A router solicitation has no target and may be as short as this.
    let [kind, code, ..]: &[u8; 8] = header(ctx, ETH_LEN + 40, DropReason::Malformed)?;
    match (*kind, *code) {
        (ROUTER_SOLICITATION | NEIGHBOUR_ADVERTISEMENT, _) => return Ok(Verdict::consume(Action::Absorbed)),
        (NEIGHBOUR_SOLICITATION, 0) => {}
        _ => return Err(DropReason::InnerNd),
    }
    let message: &Neighbour = header(ctx, ETH_LEN + 40, DropReason::Malformed)?;
    let target = v6(&message.target);
    if let Some([SOURCE_LINK_LAYER, 1, lladdr @ ..]) = Frame::load::<8>(ctx, nd::LINEAR)
        && (same_addr(&asker, &Addr::UNSPECIFIED) || Mac::new(lladdr) != asker_mac)
    {
        return Err(DropReason::InnerNd);
    }
    match endpoint::get(vni, &target) {
        // The maps hold IPv4 addresses as mapped ones, which nobody has on the wire.
        Some(owner) if answers(owner) && !target.is_v4() => {
            nd::advertise(ctx, &target, owner, &asker, asker_mac)?;
            send(ctx, vni, node)
        }
        _ => Ok(Verdict::consume(Action::Absorbed)),
    }
}

/// A packet to a router's MAC from `node`, whose source was checked.
#[inline(always)]
pub fn route(ctx: &TcContext, trace: &Trace, node: u32) -> Outcome {
    match route::step(ctx, trace.vni) {
        route::TO_GATEWAY => unpack(echo_packed(ctx, trace.vni, node)),
        // The world answers to this host, which has no containers of other VTEPs.
        route::TO_WORLD => Err(DropReason::NoRoute),
        reason if reason < 0 => unpack(reason),
        next => {
            let verdict = unpack(routed_packed(ctx, trace, next))?;
            counters::action_beside(trace.hook, Action::Routed, trace.segments, trace.length);
            Ok(verdict)
        }
    }
}

#[inline(never)]
fn echo_packed(ctx: &TcContext, vni: u32, node: u32) -> i64 {
    pack(match echo::answer(ctx) {
        Ok(()) => send(ctx, vni, node),
        Err(reason) => Err(reason),
    })
}

#[inline(never)]
fn routed_packed(ctx: &TcContext, trace: &Trace, next: i64) -> i64 {
    pack(routed(ctx, trace, next))
}

/// What was routed into another network, `next` being what [`route::step`] returned: to a port of this node, or to the node where the destination lives, which believes
/// this one that the source was checked ([`source::check`]).
#[inline(always)]
fn routed(ctx: &TcContext, trace: &Trace, next: i64) -> Outcome {
    trace.mark(Stage::Routed);
    let vni = next as u32;
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let entry = fdb::get(vni, mac(&eth.dst_addr)).ok_or(DropReason::UnknownDestination)?;
    let sides = Sides {
        vni,
        offset: 0,
        src_identity: trace.identity,
        src_policy: NO_POLICY,
        dst_identity: entry.identity,
        dst_policy: if entry.is_local() { entry.policy } else { NO_POLICY },
        to_host: false,
    };
    conntrack::judge(ctx, trace, sides)?;
    if next & route::TO_FRAGMENT != 0 {
        return unpack(fragment::divert(ctx, settings::get()?.frag_ifindex, vni));
    }
    if !entry.is_local() {
        let node = node::get(entry.node)?;
        trace.mark(Stage::Node);
        return encap::via_device(ctx, settings::get()?, node, vni);
    }
    trace.mark(Stage::LocalPort);
    port::count_ingress(entry.slot, trace.segments, trace.length);
    Ok(from_vxlan::deliver(ctx, entry.ifindex))
}

/// Tells the sender of a packet that was dropped on its way through the gateway. Returns the TC code.
#[inline(never)]
pub fn tell(ctx: &TcContext, vni: u32, reason: u32) -> i32 {
    let Some((node, error)) = error(ctx, vni, reason) else { return TC_ACT_SHOT };
    let Ok(eth) = header::<EthHdr>(ctx, 0, DropReason::Malformed) else { return TC_ACT_SHOT };
    let asker = mac(&eth.src_addr);
    let length = icmp_error::write(ctx, vni, &asker, error);
    if length == 0 {
        return TC_ACT_SHOT;
    }
    counters::action_beside(Hook::FromVxlan, Action::IcmpError, 1, length);
    send(ctx, vni, node).map_or(TC_ACT_SHOT, |verdict| verdict.code)
}

/// The foreign VTEP, and what to tell it, if that is right: only what came to a router's MAC got so far.
#[inline(always)]
fn error(ctx: &TcContext, vni: u32, reason: u32) -> Option<(u32, Error)> {
    let vtep = node::of_vtep(&from_vxlan::tunnel_key(ctx).ok()?.vtep).ok()?;
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed).ok()?;
    let entry = fdb::get(vni, mac(&eth.dst_addr))?;
    if vtep.flags & u32::from(FLAG_FOREIGN) == 0 || entry.flags & FLAG_ROUTER == 0 {
        return None;
    }
    let error = if reason == DropReason::TtlExceeded as u32 {
        Error::TTL_EXCEEDED
    } else if reason == DropReason::TooBig as u32 {
        let mtu = route::mtu(ctx, vni);
        if mtu == 0 || !too_big::helps(ctx, mtu) {
            return None;
        }
        Error::too_big(mtu as u16)
    } else {
        route::error(ctx, vni)?
    };
    Some((vtep.node, error))
}

/// Sends the answer to the VTEP that asked.
#[inline(always)]
fn send(ctx: &TcContext, vni: u32, node: u32) -> Outcome {
    let sent = encap::via_device(ctx, settings::get()?, node::get(node)?, vni)?;
    Ok(Verdict { action: Action::Answered, ..sent })
}
