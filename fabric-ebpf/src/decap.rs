//! Taking the outer headers off, in place.

use aya_ebpf::{
    bindings::{
        BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_RECOMPUTE_CSUM,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_csum_level, bpf_l3_csum_replace, bpf_skb_adjust_room, bpf_skb_store_bytes},
    programs::TcContext,
};
use fabric_common::reason::DropReason;
use fabric_ebpf::ecn;

use crate::{
    inner::{self, ETH_LEN, IPV6},
    packet::{header, skb},
};

/// Turns a VXLAN packet whose inner frame is at `inner`, over IPv6 if `over_v6`, into that frame. FIXED_GSO as in
/// encapsulation. The checksum verdict is not thrown away but lowered by one level: it then covers the inner packet if it
/// reached that far, and is dropped by the kernel if it covered only the outer one (`bpf_csum_level`; NO_CSUM_RESET alone
/// would vouch for an unchecked packet).
#[inline(always)]
pub fn outer(ctx: &TcContext, inner: usize, over_v6: bool) -> Result<(), DropReason> {
    let eth: &[u8; ETH_LEN] = header(ctx, inner, DropReason::Short)?;
    let eth = *eth;
    let mut flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
    // Needed, and known to the kernel, only where the families differ: the caller asked `settings::cross_family`.
    match (u16::from_ne_bytes([eth[12], eth[13]]) == IPV6, over_v6) {
        (true, false) => flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        (false, true) => flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        (true, true) | (false, false) => {}
    }
    let flags = u64::from(flags);
    // SAFETY: plain helper calls; packet pointers are not used after `bpf_skb_adjust_room`.
    unsafe {
        if bpf_skb_adjust_room(skb(ctx), -(inner as i32), BPF_ADJ_ROOM_MAC, flags) != 0 {
            return Err(DropReason::DecapFailed);
        }
        bpf_csum_level(skb(ctx), BPF_CSUM_LEVEL_DEC as u64);
        if bpf_skb_store_bytes(skb(ctx), 0, eth.as_ptr().cast(), ETH_LEN as u32, 0) != 0 {
            return Err(DropReason::DecapFailed);
        }
    }
    Ok(())
}

/// Combines the outer ECN field with that of the packet, whose outer headers are off (RFC 6040 section 4.2).
#[inline(always)]
pub fn ecn(ctx: &TcContext, outer: u8) -> Result<(), DropReason> {
    if !ecn::matters(outer) || combine_ecn(ctx, outer) == 0 { Ok(()) } else { Err(DropReason::DecapFailed) }
}

/// Out of line, since congestion is rare. Returns 0, or something else if a helper failed.
#[inline(never)]
fn combine_ecn(ctx: &TcContext, outer: u8) -> i64 {
    let Ok([first, second]) = ctx.load::<[u8; 2]>(ETH_LEN) else { return -1 };
    let v6 = first >> 4 == 6;
    let before = inner::ecn(second, v6);
    let Some(after) = ecn::combine(outer, before) else { return -1 };
    let changed = second ^ (if v6 { (before ^ after) << 4 } else { before ^ after });
    if changed == second {
        return 0;
    }
    let (from, to) = ([first, second], [first, changed]);
    // What the hardware summed up (CHECKSUM_COMPLETE) stays right in IPv4, whose header checksum takes the change back.
    let flags = if v6 { u64::from(BPF_F_RECOMPUTE_CSUM) } else { 0 };
    // SAFETY: plain helper calls; no packet pointer lives across them.
    unsafe {
        if !v6 {
            let (from, to) = (u64::from(u16::from_ne_bytes(from)), u64::from(u16::from_ne_bytes(to)));
            let failed = bpf_l3_csum_replace(skb(ctx), (ETH_LEN + 10) as u32, from, to, 2);
            if failed != 0 {
                return failed;
            }
        }
        bpf_skb_store_bytes(skb(ctx), ETH_LEN as u32, to.as_ptr().cast(), 2, flags)
    }
}
