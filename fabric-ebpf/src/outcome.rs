//! From a walk's result to the kernel's return code: the one place where packets are counted and drops reported.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    programs::{TcContext, XdpContext},
};
use fabric_common::{
    policy::{IDENTITY_ANYONE, NO_POLICY},
    reason::{Action, DropReason, Hook},
    stage::{Mark, Stage},
};

use crate::{capture, counters, event, packet::Frame, port, settings, stage};

/// What a walk decided.
pub type Outcome = Result<Verdict, DropReason>;

/// A packet that was not dropped: what became of it, and the code that makes the kernel do it.
#[must_use]
#[derive(Clone, Copy)]
pub struct Verdict {
    /// For the counters.
    pub action: Action,
    /// TC code; XDP programs only ever pass.
    pub code: i32,
}

impl Verdict {
    /// Leave it to whoever comes next: other TC programs of this hook, then the stack. `TC_ACT_OK` would end the hook and
    /// hide the host's own traffic from everybody else's programs.
    #[inline(always)]
    pub fn pass(action: Action) -> Self {
        Self { action, code: TC_ACT_UNSPEC }
    }

    /// Take it off the wire without a drop.
    #[inline(always)]
    pub fn consume(action: Action) -> Self {
        Self { action, code: TC_ACT_SHOT }
    }

    /// The code that a redirect helper returned.
    #[inline(always)]
    pub fn redirect(action: Action, code: i64) -> Self {
        Self { action, code: code as i32 }
    }
}

/// An outcome as one integer. Functions that are not inlined return integers only: the BTF of a Rust enum with data is
/// refused by the kernel (a union member at an offset), and with it all of the object's BTF.
#[inline(always)]
pub fn pack(outcome: Outcome) -> i64 {
    match outcome {
        Ok(verdict) => (i64::from(verdict.code as u32) << 8) | verdict.action as i64,
        Err(reason) => -(reason as i64),
    }
}

/// Undoes [`pack`].
#[inline(always)]
pub fn unpack(packed: i64) -> Outcome {
    if packed < 0 {
        // SAFETY: `pack` was given a valid reason, whose number fits a byte.
        return Err(unsafe { core::mem::transmute::<u8, DropReason>((-packed) as u8) });
    }
    // SAFETY: `pack` was given a valid action, whose number fits a byte.
    let action = unsafe { core::mem::transmute::<u8, Action>(packed as u8) };
    Ok(Verdict { action, code: (packed >> 8) as i32 })
}

/// What a walk has learned by the time it ends, for the counters and the event.
#[derive(Clone, Copy)]
pub struct Trace {
    /// Where.
    pub hook: Hook,
    /// Offset of the frame that matters: 0, or that of the inner Ethernet header once it was reached.
    pub inner: u32,
    /// Network, once it is known.
    pub vni: u32,
    /// Slot of the port concerned, once it is known; `NO_SLOT` before.
    pub slot: u32,
    /// Length of the frame when it came in, bytes: encapsulation and decapsulation change it.
    pub length: u32,
    /// Packets it stands for.
    pub segments: u32,
    /// Identity of the sender, once it is known.
    pub identity: u32,
    /// Policy of the sender, if it lives here.
    pub policy: u32,
}

pub use fabric_common::port::NO_SLOT;

impl Trace {
    /// At the start of a walk.
    #[inline(always)]
    pub fn new(hook: Hook, frame: &impl Frame) -> Self {
        Self {
            hook,
            inner: 0,
            vni: 0,
            slot: NO_SLOT,
            length: frame.len(),
            segments: frame.segments(),
            identity: IDENTITY_ANYONE,
            policy: NO_POLICY,
        }
    }

    /// Notes that a stage was passed, where somebody traces it.
    #[inline(always)]
    pub fn mark(&self, passed: Stage) {
        stage::mark(Mark::Passed(passed));
    }
}

/// Ends a TC walk.
#[inline(always)]
pub fn finish_tc(ctx: &TcContext, trace: &Trace, outcome: Outcome) -> i32 {
    match outcome {
        Ok(verdict) => {
            stage::mark(Mark::Done(verdict.action));
            counters::action(trace, verdict.action);
            verdict.code
        }
        Err(reason) => {
            stage::mark(Mark::Dropped(reason));
            drop_tc(ctx, trace, reason);
            capture_tc(ctx, trace, reason);
            TC_ACT_SHOT
        }
    }
}

/// Ends an XDP walk: pass or drop.
#[inline(always)]
pub fn finish_xdp(ctx: &XdpContext, trace: &Trace, outcome: Outcome) -> u32 {
    match outcome {
        Ok(verdict) => {
            stage::mark(Mark::Done(verdict.action));
            counters::action(trace, verdict.action);
            xdp_action::XDP_PASS
        }
        Err(reason) => {
            stage::mark(Mark::Dropped(reason));
            drop_xdp(ctx, trace, reason);
            capture_xdp(ctx, trace, reason);
            xdp_action::XDP_DROP
        }
    }
}

/// Counts and reports a copy of a frame that is lost, while the frame itself goes on.
#[inline(always)]
pub fn lose(ctx: &TcContext, trace: &Trace, reason: DropReason) {
    drop_tc(ctx, trace, reason);
    capture_tc(ctx, trace, reason);
}

/// Out of line: the slow way out, once a program.
#[inline(never)]
fn drop_tc(ctx: &TcContext, trace: &Trace, reason: DropReason) {
    counters::drop(trace, reason);
    port::count_drop(trace);
    event::report(ctx, trace, reason);
    if settings::debug() {
        log_drop(ctx, trace.hook as u32, reason as u32);
    }
}

#[inline(never)]
fn drop_xdp(ctx: &XdpContext, trace: &Trace, reason: DropReason) {
    counters::drop(trace, reason);
    event::report(ctx, trace, reason);
}

/// Out of line, and beside the event, whose stack it does not add to.
#[inline(never)]
fn capture_tc(ctx: &TcContext, trace: &Trace, reason: DropReason) {
    capture::dropped(ctx, trace, reason);
}

#[inline(never)]
fn capture_xdp(ctx: &XdpContext, trace: &Trace, reason: DropReason) {
    capture::dropped(ctx, trace, reason);
}

/// Out of line for its own stack; the verifier removes it with the branch that calls it.
#[inline(never)]
fn log_drop(ctx: &TcContext, hook: u32, reason: u32) {
    aya_log_ebpf::debug!(ctx, "hook {} drops for reason {}", hook, reason);
}
