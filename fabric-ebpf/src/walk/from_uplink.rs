//! TC ingress of an uplink: tunnel packets for our containers; everything else goes on to the stack.
//!
//! source not denied → outer headers → sender known → network known → inner frame right → source record → receiver → its policy → decapsulation →
//! delivery into the receiver's namespace; or, for a receiver that has moved to another node, on to that.

use aya_ebpf::{helpers::bpf_redirect_peer, programs::TcContext};
use fabric_common::{
    reason::{Action, DropReason},
    stage::Stage,
};

use crate::{
    decap, denied, group, host,
    inner::{IPV4, IPV6},
    names,
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    packet::{self, Frame, skb},
    port, reject, relay, settings,
    tunnel::{self, Arrival, INNER_V4, INNER_V6, Outer, TCP, Tunnel},
    world,
};

/// Inner Ethernet (14) and IPv6 (40) behind the outer headers.
const INNER_LINEAR: usize = 54;
/// `PACKET_OTHERHOST` (`include/uapi/linux/if_packet.h`): not for this host's MAC, seen because of promiscuous mode.
const OTHER_HOST: u32 = 3;

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
    let ether_type = tunnel::ether_type(ctx);
    denied::check(ctx, trace, ether_type)?;
    let packed = match ether_type {
        IPV4 => over_v4(ctx, trace),
        IPV6 => over_v6(ctx, trace),
        _ => return Ok(Verdict::pass(Action::NotOurs)),
    };
    match packed {
        COPIES_NEXT => Ok(group::deliver(ctx, trace)),
        packed => match unpack(packed) {
            // What the world answers a container comes to the host's address.
            Ok(Verdict { action: action @ (Action::NotOurs | Action::OuterFragment | Action::OuterOptions), .. }) => {
                world::receive(ctx, trace, action)
            }
            // The answer is written over the packet, whose length no helper changes while it has the marks of a tunnel
            // (`__bpf_skb_change_tail`). The `vxlan` device takes them off.
            Err(DropReason::PolicyDenied) if reject::is_wanted() => Ok(Verdict::pass(Action::RejectStack)),
            outcome => outcome,
        },
    }
}

/// Where a packet goes when the stages are through.
enum Step {
    /// Nowhere: it is decided.
    Done(Verdict),
    /// To every port that wants a copy; its outer headers are off.
    Copies,
}

/// Beside what `pack` gives.
const COPIES_NEXT: i64 = 1 << 40;

/// Out of line, so that the stack and the registers of a family are its own, and given back when copies are made: a call chain
/// may have 512 bytes, and Linux 6.1 rounds every function's part up to 32.
#[inline(never)]
fn over_v4(ctx: &TcContext, trace: &mut Trace) -> i64 {
    let outer = tunnel::outer_v4(ctx, trace);
    step(ctx, trace, outer, INNER_V4, false)
}

/// See [`over_v4`].
#[inline(never)]
fn over_v6(ctx: &TcContext, trace: &mut Trace) -> i64 {
    // Less than the host's own TCP packets have in this family.
    packet::linear(ctx, INNER_V6 as u32);
    let outer = tunnel::outer_v6(ctx, trace);
    step(ctx, trace, outer, INNER_V6, true)
}

#[inline(always)]
fn step(
    ctx: &TcContext,
    trace: &mut Trace,
    outer: Result<Outer, DropReason>,
    inner: usize,
    over_v6: bool,
) -> i64 {
    let step = match outer {
        Err(reason) => Err(reason),
        Ok(Outer::Stack(action)) => Ok(Step::Done(Verdict::pass(action))),
        Ok(Outer::Tunnel(tunnel)) => arrive(ctx, trace, &tunnel, inner, over_v6),
    };
    match step {
        Ok(Step::Copies) => COPIES_NEXT,
        Ok(Step::Done(verdict)) => pack(Ok(verdict)),
        Err(reason) => pack(Err(reason)),
    }
}

/// A tunnel packet to us, its inner frame at `inner`.
#[inline(always)]
fn arrive(ctx: &TcContext, trace: &mut Trace, tunnel: &Tunnel, inner: usize, over_v6: bool) -> Result<Step, DropReason> {
    packet::linear(ctx, (inner + INNER_LINEAR) as u32);
    let receiver = match tunnel::admit(ctx, trace, tunnel, inner)? {
        Arrival::Receiver(receiver) => receiver,
        Arrival::Moved(node) => return Ok(Step::Done(relay::send(ctx, node, inner, over_v6)?)),
        // What a foreign VTEP asks is answered at the `vxlan` device alone.
        Arrival::Arp(_) | Arrival::Nd(_) | Arrival::Router(_) => {
            return Ok(Step::Done(Verdict::pass(Action::Foreign)));
        }
    };
    if (receiver.ether_type == IPV6) != over_v6 && !settings::cross_family() {
        return Ok(Step::Done(Verdict::pass(Action::CrossFamily)));
    }
    // Shrinking leaves SKB_GSO_UDP_TUNNEL and `encapsulation` set (`bpf_skb_net_shrink`). TCP's receiver never asks, but
    // a UDP socket without UDP_GRO cuts the packet first, looks for a tunnel header that is gone, and loses it all. The
    // `vxlan` device takes the marks off. Real NICs deliver such packets only where UDP GRO forwarding is switched on.
    if ctx.gso_size() != 0 && receiver.protocol != TCP {
        return Ok(Step::Done(Verdict::pass(Action::UdpGso)));
    }
    // The way into the access port, and that of copies, leads through a device's transmit path, which looks at the marks of
    // any packet.
    if (receiver.host || receiver.group) && ctx.gso_size() != 0 {
        return Ok(Step::Done(Verdict::pass(Action::HostGso)));
    }
    decap::outer(ctx, inner, over_v6)?;
    decap::ecn(ctx, tunnel.ecn)?;
    trace.mark(Stage::Decapsulated);
    if receiver.group {
        return Ok(Step::Copies);
    }
    port::count_ingress(receiver.slot, trace.segments, trace.length - inner as u32);
    if receiver.host {
        return Ok(Step::Done(host::deliver(receiver.ifindex)));
    }
    if names::answer(ctx, receiver.policy, receiver.ifindex) {
        return Ok(Step::Done(Verdict::consume(Action::Held)));
    }
    // SAFETY: a plain helper call; the port is a veth whose peer is in another namespace.
    Ok(Step::Done(Verdict::redirect(Action::Local, unsafe { bpf_redirect_peer(receiver.ifindex, 0) })))
}
