//! TC ingress of an uplink: tunnel packets for our containers; everything else goes on to the stack.
//!
//! outer headers → sender known → network known → inner frame right → source record → receiver → decapsulation →
//! delivery into the receiver's namespace.

use aya_ebpf::{helpers::bpf_redirect_peer, programs::TcContext};
use fabric_common::{reason::Action, stage::Stage};

use crate::{
    decap, host,
    inner::{IPV4, IPV6},
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    packet::{self, Frame, skb},
    port, settings,
    tunnel::{self, Arrival, INNER_V4, INNER_V6, Outer, Tunnel},
};

/// Inner Ethernet (14) and IPv6 (40) behind the outer headers.
const INNER_LINEAR: usize = 54;
/// `PACKET_OTHERHOST` (`include/uapi/linux/if_packet.h`): not for this host's MAC, seen because of promiscuous mode.
const OTHER_HOST: u32 = 3;
const TCP: u8 = 6;

/// Runs the walk.
#[inline(always)]
pub fn walk(ctx: &TcContext, trace: &mut Trace) -> Outcome {
    // A tag in the skb: the frame belongs to a VLAN device above the uplink.
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
    if unsafe { (*skb(ctx)).pkt_type == OTHER_HOST || (*skb(ctx)).vlan_present != 0 } {
        return Ok(Verdict::pass(Action::NotOurs));
    }
    // Outer headers over IPv4. The host's own TCP packets have more than this.
    packet::linear(ctx, INNER_V4 as u32);
    match tunnel::ether_type(ctx) {
        IPV4 => unpack(over_v4(ctx, trace)),
        IPV6 => unpack(over_v6(ctx, trace)),
        _ => Ok(Verdict::pass(Action::NotOurs)),
    }
}

/// Out of line, so that the stack and the registers of a family are its own: a call chain may have 512 bytes, and Linux 6.1
/// rounds every function's part up to 32.
#[inline(never)]
fn over_v4(ctx: &TcContext, trace: &mut Trace) -> i64 {
    pack(match tunnel::outer_v4(ctx, trace) {
        Err(reason) => Err(reason),
        Ok(Outer::Stack(action)) => Ok(Verdict::pass(action)),
        Ok(Outer::Tunnel(tunnel)) => arrive(ctx, trace, &tunnel, INNER_V4, false),
    })
}

/// As [`over_v4`].
#[inline(never)]
fn over_v6(ctx: &TcContext, trace: &mut Trace) -> i64 {
    // Less than the host's own TCP packets have in this family.
    packet::linear(ctx, INNER_V6 as u32);
    pack(match tunnel::outer_v6(ctx, trace) {
        Err(reason) => Err(reason),
        Ok(Outer::Stack(action)) => Ok(Verdict::pass(action)),
        Ok(Outer::Tunnel(tunnel)) => arrive(ctx, trace, &tunnel, INNER_V6, true),
    })
}

/// A tunnel packet to us, its inner frame at `inner`.
#[inline(always)]
fn arrive(ctx: &TcContext, trace: &mut Trace, tunnel: &Tunnel, inner: usize, over_v6: bool) -> Outcome {
    packet::linear(ctx, (inner + INNER_LINEAR) as u32);
    // What a foreign VTEP asks is answered at the `vxlan` device alone.
    let Arrival::Receiver(receiver) = tunnel::admit(ctx, trace, tunnel, inner)? else {
        return Ok(Verdict::pass(Action::Foreign));
    };
    if (receiver.ether_type == IPV6) != over_v6 && !settings::cross_family() {
        return Ok(Verdict::pass(Action::CrossFamily));
    }
    // Shrinking leaves SKB_GSO_UDP_TUNNEL and `encapsulation` set (`bpf_skb_net_shrink`). TCP's receiver never asks, but
    // a UDP socket without UDP_GRO cuts the packet first, looks for a tunnel header that is gone, and loses it all. The
    // `vxlan` device takes the marks off. Real NICs deliver such packets only where UDP GRO forwarding is switched on.
    if ctx.gso_size() != 0 && receiver.protocol != TCP {
        return Ok(Verdict::pass(Action::UdpGso));
    }
    // The way into the access port leads through a device's transmit path, which looks at the marks of any packet.
    if receiver.host && ctx.gso_size() != 0 {
        return Ok(Verdict::pass(Action::HostGso));
    }
    decap::outer(ctx, inner, over_v6)?;
    decap::ecn(ctx, tunnel.ecn)?;
    trace.mark(Stage::Decapsulated);
    port::count_ingress(receiver.slot, trace.segments, trace.length - inner as u32);
    if receiver.host {
        return Ok(host::deliver(receiver.ifindex));
    }
    // SAFETY: a plain helper call; the port is a veth whose peer is in another namespace.
    Ok(Verdict::redirect(Action::Local, unsafe { bpf_redirect_peer(receiver.ifindex, 0) }))
}
