//! Exact per-CPU counters: drops by hook and reason, actions by hook.

use crate::{
    reason::{Action, DropReason, Hook},
    shared,
};

shared! {
    /// Packets and bytes (Ethernet header included; as the hook saw them).
    16 bytes: pub struct Tally {
        /// Packets. A GSO packet counts as the segments it stands for at `from_container`, else as one.
        pub packets: u64,
        /// Bytes.
        pub bytes: u64,
    }
}

shared! {
    /// Key of `drops`, a per-CPU hash that the agent fills with every pair, so that a drop is one lookup and
    /// `bpftool map dump` shows names of fields.
    4 bytes: pub struct DropKey {
        /// [`Hook`] number.
        pub hook: u8,
        /// [`DropReason`] number.
        pub reason: u8,
        /// Always zero.
        pub zero: [u8; 2],
    }
}

/// Hooks that the arrays have room for.
pub const HOOK_SLOTS: u32 = 16;
/// Actions per hook that `actions` has room for; a new action changes no layout.
pub const ACTION_SLOTS: u32 = 32;
/// Drop reasons that a hook may ever have.
pub const DROP_SLOTS: u32 = 128;

impl DropKey {
    /// The key of a pair.
    #[inline(always)]
    pub const fn new(hook: Hook, reason: DropReason) -> Self {
        Self { hook: hook as u8, reason: reason as u8, zero: [0; 2] }
    }
}

/// Index in `actions`, a per-CPU array: hook times [`ACTION_SLOTS`] plus action.
#[inline(always)]
pub const fn action_index(hook: Hook, action: Action) -> u32 {
    hook as u32 * ACTION_SLOTS + action as u32
}
