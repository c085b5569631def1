//! Policies about packets that are no flow's: to a gateway, which answers itself, and to groups.

use fabric_common::{
    policy::{INGRESS, NO_POLICY, verdict},
    reason::{Action, DropReason},
};

use crate::{
    conntrack::{self, Sides},
    outcome::{Trace, Verdict, pack, unpack},
    packet::Frame,
    policy,
    question::{self, BY_ADDRESS},
    transport,
};

/// Asks whether the sender may send the packet whose Ethernet header is at the frame's start, to whoever has its destination
/// address; afterwards receivers can be asked with [`receives`].
#[inline(always)]
pub fn sends<F: Frame>(frame: &F, trace: &Trace) -> Result<(), DropReason> {
    let sides = Sides {
        vni: trace.vni,
        offset: 0,
        src_identity: trace.identity,
        src_policy: trace.policy,
        dst_identity: BY_ADDRESS,
        dst_policy: NO_POLICY,
        to_host: false,
    };
    conntrack::put(sides, trace.hook)?;
    match unpack(sends_packed(frame)) {
        Ok(_) => Ok(()),
        Err(reason) => Err(reason),
    }
}

#[inline(never)]
fn sends_packed<F: Frame>(frame: &F) -> i64 {
    let Ok(question) = question::get() else { return -(DropReason::PolicyUnknown as i64) };
    conntrack::read(frame, question);
    let first = question.first;
    let denied = if question.src_policy == NO_POLICY {
        0
    } else if question.kind == transport::UNKNOWN {
        DropReason::PolicyNoPorts as u32
    } else {
        conntrack::conntrack_alone()
    };
    if denied != 0 {
        return -i64::from(denied);
    }
    if first != 0 && !cfg!(feature = "trace") {
        transport::remember();
    }
    pack(Ok(Verdict::pass(Action::Checked)))
}

/// Asks whether an endpoint with `policy` may have a copy of the packet of which [`sends`] was asked. Returns 0, or the number
/// of a drop reason.
#[inline(always)]
pub fn receives(policy: u32) -> u32 {
    if policy == NO_POLICY {
        return 0;
    }
    let Ok(question) = question::get() else { return DropReason::PolicyUnknown as u32 };
    if question.kind == transport::UNKNOWN {
        return DropReason::PolicyNoPorts as u32;
    }
    let word = policy::policy_ask(policy, INGRESS, question.src_identity, transport::asked_port(question, false));
    let denied = conntrack::answer(question, word);
    policy::count(word & verdict::NUMBER, question.packets, question.bytes);
    denied
}
