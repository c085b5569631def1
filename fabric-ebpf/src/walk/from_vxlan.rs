//! TC ingress of the agent's `vxlan` device: tunnel packets that the stack has put right first (outer fragments, options,
//! checksums) or that ask for an answer (ARP and neighbour discovery of foreign VTEPs), and decapsulated. The same checks as at the uplink; nothing ever goes on to the host's stack.

use aya_ebpf::{
    bindings::{BPF_F_TUNINFO_IPV6, bpf_tunnel_key},
    helpers::{bpf_redirect_peer, bpf_skb_change_type, bpf_skb_get_tunnel_key},
    programs::TcContext,
};
use fabric_common::{
    addr::Addr,
    reason::{Action, DropReason},
};

use crate::{
    foreign, group, host, names,
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    packet::{self, skb},
    port, relay, settings,
    tunnel::{self, Arrival, Tunnel},
};

/// For this host (`include/uapi/linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
/// Ethernet (14) and IPv6 (40).
const LINEAR: u32 = 54;

/// Runs the walk.
#[inline(always)]
pub fn walk(ctx: &TcContext, trace: &mut Trace) -> Outcome {
    let packed = stages_packed(ctx, trace);
    if packed == COPIES_NEXT {
        return Ok(group::deliver(ctx, trace));
    }
    match packed & !NODE {
        ARP_NEXT => foreign::arp(ctx, trace.vni, packed as u32),
        ND_NEXT => foreign::nd(ctx, trace.vni, packed as u32),
        ROUTER_NEXT => foreign::route(ctx, trace, packed as u32),
        MOVED_NEXT => relay::via_device(ctx, trace.vni, packed as u32),
        _ => unpack(packed),
    }
}

/// Beside what `pack` gives, with the number of a foreign VTEP in [`NODE`]'s bits.
const ARP_NEXT: i64 = 1 << 48;
const ND_NEXT: i64 = 2 << 48;
const ROUTER_NEXT: i64 = 3 << 48;
/// Every port that wants a copy gets one.
const COPIES_NEXT: i64 = 4 << 48;
/// With the number of the node where the receiver is now in [`NODE`]'s bits.
const MOVED_NEXT: i64 = 5 << 48;
const NODE: i64 = 0xffff_ffff;

/// Out of line, as in `from_container`: the stages have given their stack back when an answer is put together.
#[inline(never)]
fn stages_packed(ctx: &TcContext, trace: &mut Trace) -> i64 {
    match stages(ctx, trace) {
        Ok(Arrival::Receiver(receiver)) if receiver.group => COPIES_NEXT,
        Ok(Arrival::Receiver(receiver)) => {
            port::count_ingress(receiver.slot, trace.segments, trace.length);
            pack(Ok(if receiver.host {
                host::deliver(receiver.ifindex)
            } else if names::answer(ctx, receiver.policy, receiver.ifindex) {
                Verdict::consume(Action::Held)
            } else {
                deliver(ctx, receiver.ifindex)
            }))
        }
        Ok(Arrival::Arp(node)) => ARP_NEXT | i64::from(node),
        Ok(Arrival::Nd(node)) => ND_NEXT | i64::from(node),
        Ok(Arrival::Router(node)) => ROUTER_NEXT | i64::from(node),
        Ok(Arrival::Moved(node)) => MOVED_NEXT | i64::from(node),
        Err(reason) => pack(Err(reason)),
    }
}

#[inline(always)]
fn stages(ctx: &TcContext, trace: &mut Trace) -> Result<Arrival, DropReason> {
    settings::get()?;
    let tunnel = tunnel_key(ctx)?;
    // The kernel took a tag out of the inner frame before this hook; the uplink's hook finds it in the frame.
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
    if unsafe { (*skb(ctx)).vlan_present } != 0 {
        return Err(DropReason::InnerEthertype);
    }
    packet::linear(ctx, LINEAR);
    tunnel::admit(ctx, trace, &tunnel, 0)
}

/// Puts the packet into the namespace behind a port.
#[inline(always)]
pub fn deliver(ctx: &TcContext, ifindex: u32) -> Verdict {
    // SAFETY: plain helper calls; the port is a veth whose peer is in another namespace. The device took the inner
    // destination for somebody else's, and before Linux 6.15 `bpf_redirect_peer` leaves that mark, for which the
    // container's stack would drop the packet. Nothing to do if it was right already.
    unsafe {
        bpf_skb_change_type(skb(ctx), PACKET_HOST);
        Verdict::redirect(Action::Local, bpf_redirect_peer(ifindex, 0))
    }
}

/// VNI and outer source from the metadata that the device left with the packet.
#[inline(always)]
pub fn tunnel_key(ctx: &TcContext) -> Result<Tunnel, DropReason> {
    // SAFETY: an all-zero key is valid; the helper fills it or fails. The union field read is the one that it wrote.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        let size = size_of::<bpf_tunnel_key>() as u32;
        let vtep = if bpf_skb_get_tunnel_key(skb(ctx), &raw mut key, size, 0) == 0 {
            // Tunnel keys hold IPv4 addresses in host byte order.
            Addr::v4(key.__bindgen_anon_1.remote_ipv4.to_be_bytes())
        } else if bpf_skb_get_tunnel_key(skb(ctx), &raw mut key, size, BPF_F_TUNINFO_IPV6 as u64) == 0 {
            // An IPv4-mapped source does not get here: the stack drops it (`ip6_rcv_core`).
            Addr::v6(core::mem::transmute::<[u32; 4], [u8; 16]>(key.__bindgen_anon_1.remote_ipv6))
        } else {
            return Err(DropReason::BadOuter);
        };
        // The device has combined the ECN fields (`vxlan_ecn_decapsulate`).
        Ok(Tunnel { vni: key.tunnel_id, vtep, ecn: 0 })
    }
}
