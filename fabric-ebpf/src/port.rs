//! `ports` and `port_counters`: the host sides of the containers' veths.

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use fabric_common::{
    abi,
    port::{PortCounters, PortValue},
    reason::{DropReason, Hook},
};

use crate::outcome::{NO_SLOT, Trace};

#[btf_map(name = "ports")]
static PORTS: HashMap<u32, PortValue, { abi::PORTS.entries as usize }> = HashMap::new();

#[btf_map(name = "port_counters")]
static PORT_COUNTERS: PerCpuArray<PortCounters, { abi::PORT_COUNTERS.entries as usize }> = PerCpuArray::new();

/// The port of an interface. Fail closed: an interface without a row forwards nothing.
#[inline(always)]
pub fn get(ifindex: u32) -> Result<&'static PortValue, DropReason> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    unsafe { PORTS.get(ifindex) }.ok_or(DropReason::NoPort)
}

/// Counts a packet that the container sent and the fabric took.
#[inline(always)]
pub fn count_egress(slot: u32, packets: u32, bytes: u32) {
    if let Some(counters) = PORT_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own slot.
        unsafe {
            (*counters).egress_packets += u64::from(packets);
            (*counters).egress_bytes += u64::from(bytes);
        }
    }
}

/// Counts a packet that is delivered to the container.
#[inline(always)]
pub fn count_ingress(slot: u32, packets: u32, bytes: u32) {
    if let Some(counters) = PORT_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own slot.
        unsafe {
            (*counters).ingress_packets += u64::from(packets);
            (*counters).ingress_bytes += u64::from(bytes);
        }
    }
}

/// Counts a drop at the port it concerns, if that is known.
#[inline(always)]
pub fn count_drop(trace: &Trace) {
    if trace.slot == NO_SLOT {
        return;
    }
    if let Some(counters) = PORT_COUNTERS.get_ptr_mut(trace.slot) {
        // SAFETY: this CPU's own slot.
        unsafe {
            if matches!(trace.hook, Hook::FromContainer) {
                (*counters).egress_drops += u64::from(trace.segments);
            } else {
                (*counters).ingress_drops += u64::from(trace.segments);
            }
        }
    }
}
