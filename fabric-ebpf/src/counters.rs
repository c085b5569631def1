//! `drops` and `actions`: exact, per CPU.

use aya_ebpf::{
    btf_maps::{PerCpuArray, PerCpuHashMap},
    macros::btf_map,
};
use fabric_common::{
    abi,
    counters::{DropKey, Tally, action_index},
    reason::{Action, DropReason, Hook},
};

use crate::outcome::Trace;

#[btf_map(name = "drops")]
static DROPS: PerCpuHashMap<DropKey, Tally, { abi::DROPS.entries as usize }> = PerCpuHashMap::new();

#[btf_map(name = "actions")]
static ACTIONS: PerCpuArray<Tally, { abi::ACTIONS.entries as usize }> = PerCpuArray::new();

/// Counts a packet that was not dropped.
#[inline(always)]
pub fn action(trace: &Trace, action: Action) {
    action_beside(trace.hook, action, trace.segments, trace.length);
}

/// Counts something that is noted beside the packet's own outcome.
#[inline(always)]
pub fn action_beside(hook: Hook, action: Action, packets: u32, bytes: u32) {
    if let Some(tally) = ACTIONS.get_ptr_mut(action_index(hook, action)) {
        // SAFETY: this CPU's own slot; a program is not interrupted by another of ours on the same CPU at the same hook.
        unsafe {
            (*tally).packets += u64::from(packets);
            (*tally).bytes += u64::from(bytes);
        }
    }
}

/// Counts a drop.
#[inline(always)]
pub fn drop(trace: &Trace, reason: DropReason) {
    let key = DropKey::new(trace.hook, reason);
    if let Some(tally) = DROPS.get_ptr_mut(key) {
        // SAFETY: this CPU's own value; rows of this map are never removed.
        unsafe {
            (*tally).packets += u64::from(trace.segments);
            (*tally).bytes += u64::from(trace.length);
        }
    } else {
        // The agent fills the map with every pair; this is for a program that runs before that.
        let tally = Tally { packets: u64::from(trace.segments), bytes: u64::from(trace.length) };
        let _: Result<(), _> = DROPS.insert(key, tally, 0);
    }
}
