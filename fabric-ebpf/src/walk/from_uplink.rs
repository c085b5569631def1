//! TC ingress of an uplink: tunnel packets for our containers; everything else goes on to the stack.
//!
//! outer headers → sender known → network known → inner frame right → source record → receiver → decapsulation →
//! delivery into the receiver's namespace.

use aya_ebpf::{helpers::bpf_redirect_peer, programs::TcContext};
use fabric_common::reason::Action;

use crate::{
    decap,
    inner::IPV6,
    outcome::{Outcome, Trace, Verdict},
    packet::{self, Frame, skb},
    port, settings,
    tunnel::{self, INNER_V4, Outer},
};

/// Outer headers over IPv4. The host's own TCP packets have more than this.
const LINEAR_OUTER: u32 = INNER_V4 as u32;
/// Outer headers over IPv4 (50), inner Ethernet (14) and IPv6 (40).
const LINEAR: u32 = LINEAR_OUTER + 54;
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
    packet::linear(ctx, LINEAR_OUTER);
    let tunnel = match tunnel::outer(ctx, trace)? {
        Outer::Stack(action) => return Ok(Verdict::pass(action)),
        Outer::Tunnel(tunnel) => tunnel,
    };
    packet::linear(ctx, LINEAR);
    let receiver = tunnel::admit(ctx, trace, &tunnel, INNER_V4)?;
    if receiver.ether_type == IPV6 && !settings::cross_family() {
        return Ok(Verdict::pass(Action::CrossFamily));
    }
    // Shrinking leaves SKB_GSO_UDP_TUNNEL and `encapsulation` set (`bpf_skb_net_shrink`). TCP's receiver never asks, but
    // a UDP socket without UDP_GRO cuts the packet first, looks for a tunnel header that is gone, and loses it all. The
    // `vxlan` device takes the marks off. Real NICs deliver such packets only where UDP GRO forwarding is switched on.
    if ctx.gso_size() != 0 && receiver.protocol != TCP {
        return Ok(Verdict::pass(Action::UdpGso));
    }
    decap::outer_v4(ctx)?;
    decap::ecn(ctx, tunnel.ecn)?;
    port::count_ingress(receiver.slot, trace.segments, trace.length - INNER_V4 as u32);
    // SAFETY: a plain helper call; the port is a veth whose peer is in another namespace.
    Ok(Verdict::redirect(Action::Local, unsafe { bpf_redirect_peer(receiver.ifindex, 0) }))
}
