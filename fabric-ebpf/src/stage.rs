//! Marks of the stages that a packet passes, for `fabric trace`. They are in the traced build of the object alone (feature
//! `trace`), so that packets pay nothing for them.

use fabric_common::stage::Mark;
#[cfg(feature = "trace")]
use {
    aya_ebpf::{btf_maps::Array, macros::btf_map},
    fabric_common::stage,
};

#[cfg(feature = "trace")]
#[btf_map(name = "stages")]
static STAGES: Array<u32, { stage::ENTRIES as usize }> = Array::new();

/// Leaves a mark.
#[inline(always)]
pub fn mark(mark: Mark) {
    #[cfg(feature = "trace")]
    leave(mark.to_word());
    #[cfg(not(feature = "trace"))]
    let _: Mark = mark;
}

/// Out of line for its own stack. One traced walk runs at a time.
#[cfg(feature = "trace")]
#[inline(never)]
fn leave(word: u32) {
    let Some(count) = STAGES.get_ptr_mut(0) else { return };
    // SAFETY: memory of the map, and one walk at a time.
    let at = unsafe {
        *count += 1;
        *count
    };
    if let Some(entry) = STAGES.get_ptr_mut(at) {
        // SAFETY: as above.
        unsafe { *entry = word };
    }
}
