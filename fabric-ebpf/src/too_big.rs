//! The answer to a packet that is too big: its sender learns what fits.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use fabric_common::{fdb::FLAG_ROUTER, reason::DropReason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    fdb,
    icmp_error::{self, Error},
    inner::{ETH_LEN, IPV4},
    node,
    packet::{Frame, header, mac},
    port, route,
};

/// Answers the packet, which was counted as dropped, if that helps its sender. Returns the TC code. Out of line, and finds
/// all that it needs itself: nothing of it costs the packets that fit.
#[inline(never)]
pub fn answer(ctx: &TcContext) -> i32 {
    match mtu(ctx) {
        Some(mtu) if mtu != 0 && helps(ctx, u32::from(mtu)) => icmp_error::answer(ctx, Error::too_big(mtu)),
        _ => TC_ACT_SHOT,
    }
}

/// Largest packet that fits on the way to the packet's destination.
#[inline(always)]
fn mtu(ctx: &TcContext) -> Option<u16> {
    let port = port::get(Frame::ifindex(ctx)).ok()?;
    let eth = header::<EthHdr>(ctx, 0, DropReason::Malformed).ok()?;
    let entry = fdb::get(port.vni, mac(&eth.dst_addr))?;
    if entry.flags & FLAG_ROUTER != 0 {
        let mtu = route::mtu(ctx, port.vni);
        return Some(if mtu == 0 { route::world_mtu(ctx, port.vni) } else { mtu } as u16);
    }
    Some(node::get(entry.node).ok()?.mtu)
}

/// Whether the sender can do something: IPv4 without DF is not its business, nor is padding behind a packet that fits.
#[inline(always)]
pub fn helps(ctx: &TcContext, mtu: u32) -> bool {
    let Ok(eth) = header::<EthHdr>(ctx, 0, DropReason::Malformed) else { return false };
    let (length, fixed) = if eth.ether_type == IPV4 {
        let Ok(ip) = header::<Ipv4Hdr>(ctx, ETH_LEN, DropReason::Malformed) else { return false };
        (u32::from(u16::from_be_bytes(ip.tot_len)), ip.frags[0] & 0x40 != 0)
    } else {
        let Ok(ip) = header::<Ipv6Hdr>(ctx, ETH_LEN, DropReason::Malformed) else { return false };
        (u32::from(u16::from_be_bytes(ip.payload_len)) + 40, true)
    };
    fixed && (Frame::gso_size(ctx) != 0 || length > mtu)
}
