//! Egress to the world outside of the fabric, and its answers: packets of containers in networks that are masqueraded leave
//! through an uplink with the host's address. The kernel's routes and neighbours of that uplink decide where they go.
//!
//! Policies see addresses as the container has them: they are asked before the one translation and behind the other.

use aya_ebpf::{
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use fabric_common::{
    nat::HOST_SIDE,
    policy::{IDENTITY_ANYONE, IDENTITY_NODE, NO_POLICY},
    reason::{Action, DropReason},
    stage::Stage,
};

use crate::{
    arp::overwrite,
    conntrack::{self, Sides},
    endpoint, fdb,
    inner::{self, IPV4},
    names, nat, network,
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    packet::{Frame, skb},
    policy, port,
    question::{self, BY_ADDRESS},
    related, rewrite, route, settings, transport, tunnel, uplink,
};

/// A container's packet to the world, which routing let go there.
#[inline(always)]
pub fn send(ctx: &TcContext, trace: &Trace) -> Outcome {
    unpack(send_packed(ctx, trace))
}

/// Out of line, since it is none of the fabric's own packets.
#[inline(never)]
fn send_packed(ctx: &TcContext, trace: &Trace) -> i64 {
    pack(translate(ctx, trace))
}

#[inline(always)]
fn translate(ctx: &TcContext, trace: &Trace) -> Outcome {
    refused(route::world(ctx, trace.vni))?;
    trace.mark(Stage::World);
    let dst = inner::destination(ctx, 0, tunnel::ether_type(ctx))?;
    let dst_identity = names::identity(trace.policy, Frame::ifindex(ctx), &dst).unwrap_or(BY_ADDRESS);
    let sides = Sides {
        vni: trace.vni,
        offset: 0,
        src_identity: trace.identity,
        src_policy: trace.policy,
        dst_identity,
        dst_policy: NO_POLICY,
        to_host: false,
    };
    conntrack::judge(ctx, trace, sides)?;
    names::query(ctx, trace);
    conntrack::put(sides, trace.hook)?;
    refused(nat::nat_egress(skb(ctx)))?;
    trace.mark(Stage::Translated);
    let room = nat::room().ok_or(DropReason::NatFailed)?;
    let ifindex = uplink::of(&room.host.addr).ok_or(DropReason::NoRoute)?;
    port::count_egress(trace.slot, trace.segments, trace.length);
    // SAFETY: a plain helper call.
    let code = unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
    Ok(Verdict::redirect(Action::Masqueraded, code))
}

/// From the number of a drop reason; 0 is none.
#[inline(always)]
fn refused(number: u32) -> Result<(), DropReason> {
    if number == 0 {
        return Ok(());
    }
    match unpack(-i64::from(number)) {
        Err(reason) => Err(reason),
        Ok(_) => Err(DropReason::NatFailed),
    }
}

/// A packet at an uplink that is no tunnel packet, and was to be left to the stack for the reason `action`. It is, unless it is
/// for a container.
#[inline(always)]
pub fn receive(ctx: &TcContext, trace: &mut Trace, action: Action) -> Outcome {
    match received_packed(ctx, trace) {
        TO_STACK => Ok(Verdict::pass(action)),
        packed => unpack(packed),
    }
}

/// Beside what `pack` gives.
const TO_STACK: i64 = 1 << 40;

/// Out of line for its own stack.
#[inline(never)]
fn received_packed(ctx: &TcContext, trace: &mut Trace) -> i64 {
    let found = find(ctx, trace);
    if found == nat::NONE {
        return TO_STACK;
    }
    pack(deliver(ctx, trace, found))
}

/// Whether there is a translation for the packet: what [`nat::nat_find`] says.
#[inline(always)]
fn find(ctx: &TcContext, trace: &Trace) -> u32 {
    let Ok(settings) = settings::get() else { return nat::NONE };
    let ether_type = tunnel::ether_type(ctx);
    if settings.nat_first == [0; 2] || inner::ip(ctx, 0, ether_type).is_err() {
        return nat::NONE;
    }
    let Ok(addr) = inner::destination(ctx, 0, ether_type) else { return nat::NONE };
    if !uplink::is_ours(&addr, Frame::ifindex(ctx)) {
        return nat::NONE;
    }
    let sides = Sides {
        vni: HOST_SIDE,
        offset: 0,
        src_identity: IDENTITY_ANYONE,
        src_policy: NO_POLICY,
        dst_identity: IDENTITY_ANYONE,
        dst_policy: NO_POLICY,
        to_host: false,
    };
    if conntrack::put(sides, trace.hook).is_err() { nat::NONE } else { nat::nat_find(skb(ctx)) }
}

/// The MACs of a frame.
#[repr(C)]
struct Macs {
    dst: [u8; 6],
    src: [u8; 6],
}

/// Translates the packet back and hands it to its container. The room has the translation.
#[inline(always)]
fn deliver(ctx: &TcContext, trace: &mut Trace, found: u32) -> Outcome {
    let room = nat::room().ok_or(DropReason::NatFailed)?;
    let vni = room.container.vni;
    trace.vni = vni;
    // The network may go there no more, or the container lives here no more.
    if route::to_world(vni, &room.outside.src).is_none() {
        return Err(DropReason::NoRoute);
    }
    let owner = endpoint::get(vni, &room.container.addr).ok_or(DropReason::NotLocal)?;
    let entry = fdb::get(vni, owner.mac).ok_or(DropReason::NotLocal)?;
    if entry.ifindex == 0 || entry.ifindex != owner.ifindex {
        return Err(DropReason::NotLocal);
    }
    trace.slot = entry.slot;
    let at = if tunnel::ether_type(ctx) == IPV4 { 22 } else { 21 };
    let [ttl] = Frame::load::<1>(ctx, at).ok_or(DropReason::Malformed)?;
    if ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let question = question::get()?;
    let (now, tcp) = (question.now, u32::from(transport::tcp_flags(question)));
    refused(rewrite::nat_rewrite(skb(ctx), rewrite::DESTINATION))?;
    let gateway = network::get(vni).ok_or(DropReason::NoRoute)?.gateway_mac;
    overwrite(ctx, &Macs { dst: owner.mac.bytes, src: gateway.bytes })?;
    trace.mark(Stage::Translated);
    let sides = Sides {
        vni,
        offset: 0,
        src_identity: IDENTITY_ANYONE,
        src_policy: NO_POLICY,
        dst_identity: entry.identity,
        dst_policy: entry.policy,
        to_host: false,
    };
    if found == nat::ABOUT {
        about(ctx, trace, sides)?;
    } else {
        let named = names::identity(entry.policy, entry.ifindex, &room.outside.src);
        let src_identity = named.unwrap_or_else(|| policy::of_stranger(&room.outside.src));
        conntrack::judge(ctx, trace, Sides { src_identity, ..sides })?;
        nat::nat_answered(now, tcp);
    }
    port::count_ingress(entry.slot, trace.segments, trace.length);
    if found != nat::ABOUT && names::answer(ctx, entry.policy, entry.ifindex) {
        return Ok(Verdict::consume(Action::Held));
    }
    // SAFETY: a plain helper call; the port is a veth whose peer is in another namespace.
    Ok(Verdict::redirect(Action::Local, unsafe { bpf_redirect_peer(entry.ifindex, 0) }))
}

/// An ICMP error about a flow of the container's, which any router on the way may send: it passes while the flow does.
#[inline(always)]
fn about(ctx: &TcContext, trace: &Trace, sides: Sides) -> Result<(), DropReason> {
    if sides.dst_policy == NO_POLICY {
        return Ok(());
    }
    conntrack::put(Sides { src_identity: IDENTITY_NODE, ..sides }, trace.hook)?;
    let question = question::get()?;
    conntrack::read(ctx, question);
    if related::is_related(ctx, question) != 0 { Ok(()) } else { Err(DropReason::PolicyDenied) }
}

