//! `settings`, and the load-time globals that switch features.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use fabric_common::{abi, reason::DropReason, settings::Settings};

#[btf_map(name = "settings")]
static SETTINGS: Array<Settings, { abi::SETTINGS.entries as usize }> = Array::new();

/// `fabric_common::settings::global::CROSS_FAMILY`.
#[unsafe(no_mangle)]
static CROSS_FAMILY: u32 = 0;
/// `fabric_common::settings::global::DEBUG`.
#[unsafe(no_mangle)]
static DEBUG: u32 = 0;

/// This node's settings; nothing is forwarded before the agent has written them.
#[inline(always)]
pub fn get() -> Result<&'static Settings, DropReason> {
    match SETTINGS.get(0) {
        Some(settings) if settings.node != 0 => Ok(settings),
        _ => Err(DropReason::NotConfigured),
    }
}

/// Whether a flag (`fabric_common::settings::FLAG_*`) is set.
#[inline(always)]
pub fn has(flag: u32) -> bool {
    SETTINGS.get(0).is_some_and(|settings| settings.flags & flag != 0)
}

/// Whether an outer header of another family than the inner packet can be taken off.
#[inline(always)]
pub fn cross_family() -> bool {
    // SAFETY: a load-time constant; volatile so that the compiler does not fold the default.
    unsafe { core::ptr::read_volatile(&raw const CROSS_FAMILY) != 0 }
}

/// Whether to log decisions. The verifier removes the branch when off.
#[inline(always)]
pub fn debug() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const DEBUG) != 0 }
}
