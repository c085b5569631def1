//! XDP of an uplink: the same checks before an skb exists. Denied sources and malformed and forged tunnel packets end
//! here; what is right, and what is not ours, goes on to TC and the stack.

use aya_ebpf::programs::XdpContext;
use fabric_common::reason::{Action, DropReason};

use crate::{
    denied,
    inner::{IPV4, IPV6},
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    tunnel::{self, INNER_V4, INNER_V6, Outer},
};

/// Runs the walk.
#[inline(always)]
pub fn walk(ctx: &XdpContext, trace: &mut Trace) -> Outcome {
    let ether_type = tunnel::ether_type(ctx);
    denied::check(ctx, trace, ether_type)?;
    match ether_type {
        IPV4 => unpack(over_v4(ctx, trace)),
        IPV6 => unpack(over_v6(ctx, trace)),
        _ => Ok(Verdict::pass(Action::NotOurs)),
    }
}

/// Out of line, so that each family's stack and registers are its own.
#[inline(never)]
fn over_v4(ctx: &XdpContext, trace: &mut Trace) -> i64 {
    let outer = tunnel::outer_v4(ctx, trace);
    pack(judge(ctx, trace, outer, INNER_V4))
}

/// See [`over_v4`].
#[inline(never)]
fn over_v6(ctx: &XdpContext, trace: &mut Trace) -> i64 {
    let outer = tunnel::outer_v6(ctx, trace);
    pack(judge(ctx, trace, outer, INNER_V6))
}

#[inline(always)]
fn judge(ctx: &XdpContext, trace: &mut Trace, outer: Result<Outer, DropReason>, inner: usize) -> Outcome {
    match outer? {
        Outer::Stack(action) => Ok(Verdict::pass(action)),
        Outer::Tunnel(tunnel) => {
            tunnel::admit(ctx, trace, &tunnel, inner)?;
            Ok(Verdict::pass(Action::Checked))
        }
    }
}
