//! `captured`: whole dropped packets, while somebody captures. Otherwise a drop pays one look at `capture`, and a packet that is
//! not dropped pays nothing: those are seen by packet sockets.

use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_boot_ns,
    macros::btf_map,
};
use fabric_common::{
    abi,
    capture::{CapturedDrop, DATA, LOST, UNTIL},
    reason::DropReason,
};

use crate::{event, outcome::Trace, packet::Frame};

#[btf_map(name = "capture")]
static CAPTURE: PerCpuArray<u64, { abi::CAPTURE.entries as usize }> = PerCpuArray::new();

#[btf_map(name = "captured")]
static CAPTURED: RingBuf<CapturedDrop, { abi::CAPTURED.entries as usize }> = RingBuf::new();

/// Copies a dropped packet, if somebody wants it now.
#[inline(always)]
pub fn dropped(frame: &impl Frame, trace: &Trace, reason: DropReason) {
    let Some(until) = CAPTURE.get(UNTIL) else { return };
    if *until == 0 {
        return;
    }
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if now > *until {
        return;
    }
    let Some(mut entry) = CAPTURED.reserve(0) else {
        if let Some(lost) = CAPTURE.get_ptr_mut(LOST) {
            // SAFETY: this CPU's own word.
            unsafe { *lost += 1 };
        }
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as the record, aligned to 8, and ours until it is submitted. All but `data` is
    // written here, `data` up to `captured` below; its rest is what the ring held before, and readers do not look there.
    let captured = unsafe {
        let event = &mut (*record).event;
        event::fill(frame, trace, reason, now, event);
        (*record).inner = trace.inner;
        (*record).vlan = frame.vlan();
        (*record).zero = 0;
        const { assert!(DATA.is_power_of_two()) };
        frame.copy((&raw mut (*record).data).cast(), DATA as u32)
    };
    // SAFETY: as above.
    unsafe { (*record).captured = captured };
    entry.submit(0);
}
