//! ARP from a container (RFC 826, probes and announcements of RFC 5227): checked, answered on the spot, never flooded.

use aya_ebpf::{
    helpers::{bpf_redirect, bpf_skb_store_bytes},
    programs::TcContext,
};
use fabric_common::{
    addr::Mac,
    reason::{Action, DropReason},
};
use network_types::{arp::ArpHdr, eth::EthHdr};

use crate::{
    endpoint,
    inner::{ARP, ETH_LEN},
    outcome::{Outcome, Verdict, pack, unpack},
    packet::{Frame, header, same_mac, skb, v4},
    port, route,
};

/// Operation of a request.
pub const REQUEST: [u8; 2] = [0, 1];
/// Operation of a reply.
pub const REPLY: [u8; 2] = [0, 2];

/// Answers a request for an address that somebody else in the network has; takes everything else that is honest off
/// the wire.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Outcome {
    unpack(handle_packed(ctx))
}

/// Out of line, since most packets are not ARP.
#[inline(never)]
fn handle_packed(ctx: &TcContext) -> i64 {
    pack(handle_inner(ctx))
}

#[inline(always)]
fn handle_inner(ctx: &TcContext) -> Outcome {
    let port = port::get(ctx.ifindex())?;
    let arp: &ArpHdr = header(ctx, ETH_LEN, DropReason::Malformed)?;
    if !is_ethernet_and_ipv4(arp) {
        return Err(DropReason::Malformed);
    }
    let (sender, target) = (v4(&arp.spa), v4(&arp.tpa));
    let probe = sender.v4_bytes() == [0; 4];
    // A router asks in the name of whoever the packet is from, if that is one of its own addresses behind the fabric.
    let own = |addr| endpoint::owns(port.vni, addr, ctx.ifindex()) || route::leads_to(port.vni, addr, ctx.ifindex());
    if !same_mac(&arp.sha, &port.mac) || !(probe || own(&sender)) {
        return Err(DropReason::SpoofArp);
    }
    if arp.oper == REPLY {
        return Ok(Verdict::consume(Action::Absorbed));
    }
    if arp.oper != REQUEST {
        return Err(DropReason::Malformed);
    }
    match endpoint::get(port.vni, &target) {
        // The container's own address: an announcement, or a probe that finds no duplicate.
        Some(owner) if owner.ifindex == ctx.ifindex() => Ok(Verdict::consume(Action::Absorbed)),
        Some(owner) => {
            answer(ctx, port.mac, owner.mac, sender.v4_bytes(), target.v4_bytes())?;
            back(ctx)
        }
        None => Ok(Verdict::consume(Action::Absorbed)),
    }
}

/// Whether it maps IPv4 addresses to MACs.
#[inline(always)]
pub fn is_ethernet_and_ipv4(arp: &ArpHdr) -> bool {
    arp.htype == [0, 1] && arp.ptype == [8, 0] && arp.hlen == 6 && arp.plen == 4
}

/// An answer as it is written over the request.
#[repr(C)]
struct Answer {
    eth: EthHdr,
    arp: ArpHdr,
}

/// Writes over a request of `asker`, who has the address `sender`, that `owner` has `target`.
#[inline(always)]
pub fn answer(
    ctx: &TcContext,
    asker: Mac,
    owner: Mac,
    sender: [u8; 4],
    target: [u8; 4],
) -> Result<(), DropReason> {
    let asker = asker.bytes;
    let answer = Answer {
        eth: EthHdr { dst_addr: asker, src_addr: owner.bytes, ether_type: ARP },
        arp: ArpHdr {
            htype: [0, 1],
            ptype: [8, 0],
            hlen: 6,
            plen: 4,
            oper: REPLY,
            sha: owner.bytes,
            spa: target,
            tha: asker,
            tpa: sender,
        },
    };
    overwrite(ctx, &answer)
}

/// Writes `bytes` over the start of the frame. By the helper: a single direct write anywhere in the program makes the
/// kernel put an unclone of every packet in front of it (`bpf_unclone_prologue`, `net/core/filter.c`).
#[inline(always)]
pub fn overwrite<T>(ctx: &TcContext, bytes: &T) -> Result<(), DropReason> {
    // SAFETY: the helper reads `size_of::<T>()` bytes of a plain value.
    let failed =
        unsafe { bpf_skb_store_bytes(skb(ctx), 0, core::ptr::from_ref(bytes).cast(), size_of::<T>() as u32, 0) };
    if failed == 0 { Ok(()) } else { Err(DropReason::Malformed) }
}

/// Sends the packet back through the port that it came from.
#[inline(always)]
pub fn back(ctx: &TcContext) -> Outcome {
    // SAFETY: a plain helper call.
    let code = unsafe { bpf_redirect(ctx.ifindex(), 0) };
    Ok(Verdict::redirect(Action::Answered, code))
}
