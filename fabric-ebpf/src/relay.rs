//! What still arrives for somebody who has moved from this node: sent on to where that is now, in the tunnel header that it came
//! in, with other addresses. So it stays a tunnel packet with all that the kernel knows of it (segments, offloads), and its
//! outer TTL counts on: two nodes that take each other for the new home can't keep a packet for ever.

use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM,
    helpers::{bpf_redirect_neigh, bpf_skb_store_bytes},
    programs::TcContext,
};
use fabric_common::{
    node::{FLAG_V6, FLAG_VIA_DEVICE, NodeValue},
    reason::{Action, DropReason},
    stage::{Mark, Stage},
};
use fabric_ebpf::checksum;

use crate::{
    encap,
    inner::ETH_LEN,
    node,
    outcome::{Outcome, Verdict, pack, unpack},
    packet::{Frame, header, skb, word},
    settings, stage,
};

/// IPv4 without options.
const V4_LEN: usize = 20;
/// Hop limit and both addresses of an IPv6 header, at its eighth byte.
const V6_AT: usize = 7;
const V6_LEN: usize = 33;

/// Relays the tunnel packet, whose inner frame is at `inner`, to the node with the number `to`.
#[inline(always)]
pub fn send(ctx: &TcContext, to: u32, inner: usize, over_v6: bool) -> Outcome {
    unpack(send_packed(ctx, to, inner as u32, u32::from(over_v6)))
}

/// Out of line: rare, and the header has a place on the stack of its own.
#[inline(never)]
fn send_packed(ctx: &TcContext, to: u32, inner: u32, over_v6: u32) -> i64 {
    pack(relay(ctx, to, inner, over_v6 != 0))
}

#[inline(always)]
fn relay(ctx: &TcContext, to: u32, inner: u32, over_v6: bool) -> Outcome {
    let node = node::get(to)?;
    stage::mark(Mark::Passed(Stage::Node));
    if node.flags & FLAG_VIA_DEVICE != 0 || (node.flags & FLAG_V6 != 0) != over_v6 {
        // It comes back without its outer header.
        return Ok(Verdict::pass(Action::RelayStack));
    }
    // Outer packets are never fragmented. Segments of a GSO packet are as large as the sender's way allowed; the device looks.
    if ctx.gso_size() == 0 && ctx.len().wrapping_sub(inner + ETH_LEN as u32) > u32::from(node.mtu) {
        return Err(DropReason::TooBig);
    }
    if over_v6 { rewrite_v6(ctx, node)? } else { rewrite_v4(ctx, node)? }
    stage::mark(Mark::Passed(Stage::Encapsulated));
    // SAFETY: a plain helper call.
    let code = unsafe { bpf_redirect_neigh(node.ifindex, core::ptr::null_mut(), 0, 0) };
    Ok(Verdict::redirect(Action::Relayed, code))
}

/// One hop less, and the addresses of the new way.
#[inline(always)]
fn rewrite_v4(ctx: &TcContext, node: &NodeValue) -> Result<(), DropReason> {
    let old: &[u8; V4_LEN] = header(ctx, ETH_LEN, DropReason::Malformed)?;
    let mut ip = *old;
    if ip[8] <= 1 {
        return Err(DropReason::Loop);
    }
    ip[8] -= 1;
    ip[10] = 0;
    ip[11] = 0;
    ip[12..V4_LEN].copy_from_slice(&node.outer[12..V4_LEN]);
    let sum = checksum::add(0, word(&ip));
    let sum = checksum::add(sum, word(&ip[4..]));
    let sum = checksum::add(sum, word(&ip[8..]));
    let sum = checksum::add(sum, word(&ip[12..]));
    let sum = checksum::finish(checksum::add(sum, word(&ip[16..])));
    [ip[10], ip[11]] = sum.to_ne_bytes();
    overwrite(ctx, ETH_LEN, &ip)
}

/// The same over IPv6. The UDP checksum is zero.
#[inline(always)]
fn rewrite_v6(ctx: &TcContext, node: &NodeValue) -> Result<(), DropReason> {
    let [hops]: [u8; 1] = *header(ctx, ETH_LEN + V6_AT, DropReason::Malformed)?;
    if hops <= 1 {
        return Err(DropReason::Loop);
    }
    let mut part = [0u8; V6_LEN];
    part[0] = hops - 1;
    part[1..].copy_from_slice(&node.outer[V6_AT + 1..V6_AT + V6_LEN]);
    overwrite(ctx, ETH_LEN + V6_AT, &part)
}

#[inline(always)]
fn overwrite<const N: usize>(ctx: &TcContext, at: usize, bytes: &[u8; N]) -> Result<(), DropReason> {
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    // SAFETY: the helper reads `N` bytes.
    let failed = unsafe { bpf_skb_store_bytes(skb(ctx), at as u32, bytes.as_ptr().cast(), N as u32, flags) };
    if failed == 0 { Ok(()) } else { Err(DropReason::EncapFailed) }
}

/// Relays what the stack has decapsulated, by the `vxlan` device.
#[inline(always)]
pub fn via_device(ctx: &TcContext, vni: u32, to: u32) -> Outcome {
    let verdict = encap::via_device(ctx, settings::get()?, node::get(to)?, vni)?;
    Ok(Verdict { action: Action::Relayed, ..verdict })
}
