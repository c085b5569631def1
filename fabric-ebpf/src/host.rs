//! Packets for the host itself: into its access port, a veth with both sides in the host's namespace.

use aya_ebpf::{helpers::bpf_redirect, programs::TcContext};
use fabric_common::{
    fdb::FdbValue,
    reason::{Action, DropReason},
};
use network_types::eth::EthHdr;

use crate::{
    conntrack::{self, Sides},
    endpoint, fdb,
    inner::destination,
    names,
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    packet::{Frame, header, mac},
    port,
};

/// Refuses what is to the host's MAC but not to an address that the host has in the network: the access port is no way to its
/// other addresses, nor past it.
#[inline(always)]
pub fn check(
    frame: &impl Frame,
    offset: usize,
    ether_type: u16,
    vni: u32,
    entry: &FdbValue,
) -> Result<(), DropReason> {
    let addr = destination(frame, offset, ether_type)?;
    if endpoint::owns(vni, &addr, entry.ifindex) { Ok(()) } else { Err(DropReason::NoRoute) }
}

/// Hands the frame to the host's stack. `bpf_redirect_peer` only goes to other namespaces.
#[inline(always)]
pub fn deliver(ifindex: u32) -> Verdict {
    // SAFETY: a plain helper call.
    Verdict::redirect(Action::Local, unsafe { bpf_redirect(ifindex, 0) })
}

/// A container's packet to this host's MAC. Its source was checked.
#[inline(always)]
pub fn handle(ctx: &TcContext, trace: &Trace) -> Outcome {
    unpack(handle_packed(ctx, trace))
}

/// Out of line, since most packets are not for the host.
#[inline(never)]
fn handle_packed(ctx: &TcContext, trace: &Trace) -> i64 {
    pack(handle_inner(ctx, trace))
}

#[inline(always)]
fn handle_inner(ctx: &TcContext, trace: &Trace) -> Outcome {
    let port = port::get(ctx.ifindex())?;
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let entry = fdb::get(port.vni, mac(&eth.dst_addr)).ok_or(DropReason::UnknownDestination)?;
    check(ctx, 0, eth.ether_type, port.vni, entry)?;
    if entry.ifindex == ctx.ifindex() {
        return Err(DropReason::Hairpin);
    }
    let sides = Sides {
        vni: port.vni,
        offset: 0,
        src_identity: trace.identity,
        src_policy: trace.policy,
        dst_identity: entry.identity,
        dst_policy: entry.policy,
        to_host: false,
    };
    conntrack::judge(ctx, trace, sides)?;
    names::query(ctx, trace);
    port::count_egress(port.slot, trace.segments, trace.length);
    Ok(deliver(entry.ifindex))
}
