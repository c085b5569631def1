//! What comes from behind a foreign VTEP and no other node of ours sends: ARP and neighbour discovery. Answered through the
//! tunnel, for who is on this node and for the gateway; nothing is learned from it.

use aya_ebpf::programs::TcContext;
use fabric_common::{
    addr::{Addr, Mac},
    endpoint::{EndpointValue, FLAG_GATEWAY},
    reason::{Action, DropReason},
};
use network_types::{arp::ArpHdr, eth::EthHdr, ip::Ipv6Hdr};

use crate::{
    arp::{self, REPLY, REQUEST},
    encap, endpoint,
    inner::ETH_LEN,
    nd::{self, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, Neighbour, ROUTER_SOLICITATION, SOURCE_LINK_LAYER},
    node,
    outcome::{Outcome, Verdict, pack, unpack},
    packet::{Frame, header, linear, mac, same_addr, v4, v6},
    settings, source,
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
    unless_probe(source::check(vni, &sender, node), &sender).map_or_else(|reason| reason as u32, |()| 0)
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

/// Sends the answer to the VTEP that asked.
#[inline(always)]
fn send(ctx: &TcContext, vni: u32, node: u32) -> Outcome {
    let sent = encap::via_device(ctx, settings::get()?, node::get(node)?, vni)?;
    Ok(Verdict { action: Action::Answered, ..sent })
}
