//! XDP of an uplink: the same checks before an skb exists. Malformed and forged tunnel packets end here; what is right,
//! and what is not ours, goes on to TC and the stack.

use aya_ebpf::programs::XdpContext;
use fabric_common::reason::Action;

use crate::{
    outcome::{Outcome, Trace, Verdict},
    tunnel::{self, INNER_V4, Outer},
};

/// Runs the walk.
#[inline(always)]
pub fn walk(ctx: &XdpContext, trace: &mut Trace) -> Outcome {
    match tunnel::outer(ctx, trace)? {
        Outer::Stack(action) => Ok(Verdict::pass(action)),
        Outer::Tunnel(tunnel) => {
            tunnel::admit(ctx, trace, &tunnel, INNER_V4)?;
            Ok(Verdict::pass(Action::Checked))
        }
    }
}
