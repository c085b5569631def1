//! `flood`: copies of broadcast and multicast frames, one for each port and each node of the network's lists (head-end
//! replication). The port that a frame came in at gets none, and what came through the tunnel goes to ports only. Of the ports, those get copies of a group that have joined it; other nodes know that of their own.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::HashMap,
    helpers::generated::bpf_loop,
    macros::btf_map,
    programs::TcContext,
};
use fabric_common::{
    abi,
    addr::Addr,
    flood::{FloodKey, FloodValue, NODES, PLACES, PORTS},
    membership::{Audience, GroupKey, audience},
    reason::{Action, DropReason},
    stage::Stage,
};

use crate::{
    counters, encap,
    inner::{ETH_LEN, IPV6},
    membership, node,
    outcome::{Trace, lose, unpack},
    packet::{Frame, skb},
    port, settings, untracked,
};

#[btf_map(name = "flood")]
static MAP: HashMap<FloodKey, FloodValue, { abi::FLOOD.entries as usize }> = HashMap::new();

/// What the loop's body knows. Its own copy of the trace: a copy's length is that of the frame without outer headers.
struct Copies {
    ctx: TcContext,
    trace: Trace,
    list: u32,
    /// Largest IP packet that the frame holds, of each of its segments.
    size: u32,
    /// 1 once a copy was made. A count would be another state of the loop for the verifier at each of its steps.
    made: u32,
}

/// Copies for the ports of this node. Returns whether there is any.
#[inline(always)]
pub fn to_ports(ctx: &TcContext, trace: &Trace) -> bool {
    run(ctx, trace, PORTS, 0) != 0
}

/// Copies for the other nodes, of a frame whose IP packets have up to `size` bytes. Returns whether there is any.
#[inline(always)]
pub fn to_nodes(ctx: &TcContext, trace: &Trace, size: u32) -> bool {
    run(ctx, trace, NODES, size) != 0
}

/// Out of line for its stack; two callers.
#[inline(never)]
fn run(ctx: &TcContext, trace: &Trace, list: u32, size: u32) -> u32 {
    let trace = Trace { inner: 0, length: Frame::len(ctx), ..*trace };
    let mut copies = Copies { ctx: TcContext::new(skb(ctx)), trace, list, size, made: 0 };
    // SAFETY: the body is a function of this object with the signature that the helper asks for, and `copies` outlives
    // the call.
    unsafe { bpf_loop(PLACES, body as *mut c_void, (&raw mut copies).cast(), 0) };
    copies.made
}

/// One place of a list. Returns 0 to go on, 1 to end.
unsafe extern "C" fn body(place: u32, copies: *mut Copies) -> i64 {
    // SAFETY: what `run` handed over, which nobody else uses meanwhile.
    let copies = unsafe { &mut *copies };
    let key = FloodKey { vni: copies.trace.vni, list: copies.list, place };
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    let Some(target) = (unsafe { MAP.get(key) }) else { return 1 };
    if copies.list == PORTS
        && (target.ifindex == Frame::ifindex(&copies.ctx)
            || wants(&copies.ctx, copies.trace.vni, target.ifindex) == 0)
    {
        return 0;
    }
    let lost = if copies.list == PORTS { to_port(copies, target) } else { to_node(copies, target.node) };
    if lost == 0 {
        copies.made = 1;
    } else {
        lose(&copies.ctx, &copies.trace, reason(lost));
    }
    0
}

/// 1 if the frame is for everybody, or for a group that the port has joined. Out of line for its stack, which is why it reads the
/// destination each time.
#[inline(never)]
fn wants(ctx: &TcContext, vni: u32, ifindex: u32) -> u32 {
    // Not by the packet's pointers: the compiler would hand them over as numbers.
    let group = if Frame::load::<2>(ctx, 12) == Some(IPV6.to_ne_bytes()) {
        Frame::load::<16>(ctx, ETH_LEN as u32 + 24).map(Addr::v6)
    } else {
        Frame::load::<4>(ctx, ETH_LEN as u32 + 16).map(Addr::v4)
    };
    let Some(group) = group else { return 0 };
    let all = matches!(audience(&group), Audience::Everybody);
    u32::from(all || membership::has(GroupKey { vni, ifindex, group }))
}

/// Returns 0, or the number of the reason why the copy is lost. Out of line: its stack is given back when a loss is reported.
#[inline(never)]
fn to_port(copies: &Copies, target: &FloodValue) -> i64 {
    let denied = untracked::receives(target.policy);
    if denied != 0 {
        return i64::from(denied);
    }
    copies.trace.mark(Stage::CopyLocal);
    if send(&copies.ctx, target.ifindex).is_err() {
        return DropReason::CopyFailed as i64;
    }
    port::count_ingress(target.slot, copies.trace.segments, copies.trace.length);
    counters::action_beside(copies.trace.hook, Action::CopyLocal, copies.trace.segments, copies.trace.length);
    0
}

/// The same through the `vxlan` device, which finds the next hop for each copy and serves every kind of node. Out of line: its
/// stack is given back when a loss is reported.
#[inline(never)]
fn to_node(copies: &Copies, node: u32) -> i64 {
    match sent_to_node(copies, node) {
        Ok(()) => 0,
        Err(reason) => reason as i64,
    }
}

#[inline(always)]
fn sent_to_node(copies: &Copies, node: u32) -> Result<(), DropReason> {
    let node = node::get(node)?;
    if copies.size > u32::from(node.mtu) {
        return Err(DropReason::TooBig);
    }
    let device = settings::get()?.vxlan_ifindex;
    encap::describe_tunnel(&copies.ctx, device, node, copies.trace.vni)?;
    copies.trace.mark(Stage::CopyRemote);
    send(&copies.ctx, device)?;
    counters::action_beside(copies.trace.hook, Action::CopyRemote, copies.trace.segments, copies.trace.length);
    Ok(())
}

/// Undoes `as i64`.
#[inline(always)]
fn reason(number: i64) -> DropReason {
    match unpack(-number) {
        Err(reason) => reason,
        Ok(_) => DropReason::CopyFailed,
    }
}

/// A test run really sends clones, so the traced build makes none.
#[inline(always)]
fn send(ctx: &TcContext, ifindex: u32) -> Result<(), DropReason> {
    #[cfg(not(feature = "trace"))]
    {
        // SAFETY: a plain helper call; no packet pointer lives across it.
        if unsafe { aya_ebpf::helpers::bpf_clone_redirect(skb(ctx), ifindex, 0) } != 0 {
            return Err(DropReason::CopyFailed);
        }
    }
    #[cfg(feature = "trace")]
    let _: (&TcContext, u32) = (ctx, ifindex);
    Ok(())
}
