//! Taking the outer headers off, in place.

use aya_ebpf::{
    bindings::{
        BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_csum_level, bpf_skb_adjust_room, bpf_skb_store_bytes},
    programs::TcContext,
};
use fabric_common::{node::OVERHEAD_V4, reason::DropReason};

use crate::{
    inner::{ETH_LEN, IPV6},
    packet::{header, skb},
};

/// Turns an IPv4 VXLAN packet into its inner frame. FIXED_GSO as in encapsulation. The checksum verdict is not thrown
/// away but lowered by one level: it then covers the inner packet if it reached that far, and is dropped by the kernel
/// if it covered only the outer one (`bpf_csum_level`; NO_CSUM_RESET alone would vouch for an unchecked packet).
#[inline(always)]
pub fn outer_v4(ctx: &TcContext) -> Result<(), DropReason> {
    let eth: &[u8; ETH_LEN] = header(ctx, OVERHEAD_V4, DropReason::Short)?;
    let eth = *eth;
    let mut flags = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;
    if u16::from_ne_bytes([eth[12], eth[13]]) == IPV6 {
        // The caller asked `settings::cross_family`.
        flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6 as u64;
    }
    // SAFETY: plain helper calls; packet pointers are not used after `bpf_skb_adjust_room`.
    unsafe {
        if bpf_skb_adjust_room(skb(ctx), -(OVERHEAD_V4 as i32), BPF_ADJ_ROOM_MAC, flags) != 0 {
            return Err(DropReason::DecapFailed);
        }
        bpf_csum_level(skb(ctx), BPF_CSUM_LEVEL_DEC as u64);
        if bpf_skb_store_bytes(skb(ctx), 0, eth.as_ptr().cast(), ETH_LEN as u32, 0) != 0 {
            return Err(DropReason::DecapFailed);
        }
    }
    Ok(())
}
