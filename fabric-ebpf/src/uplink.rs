//! `uplinks` and `local_vteps`: where tunnel packets may come in, and to which addresses.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use fabric_common::{
    abi,
    addr::Addr,
    uplink::{LocalVtepValue, UplinkValue},
};

#[btf_map(name = "uplinks")]
static UPLINKS: HashMap<u32, UplinkValue, { abi::UPLINKS.entries as usize }> = HashMap::new();

#[btf_map(name = "local_vteps")]
static LOCAL_VTEPS: HashMap<Addr, LocalVtepValue, { abi::LOCAL_VTEPS.entries as usize }> = HashMap::new();

/// Whether a packet to `addr` that came in at `ifindex` is for one of our VTEPs, at one of our uplinks.
#[inline(always)]
pub fn is_ours(addr: &Addr, ifindex: u32) -> bool {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    match unsafe { LOCAL_VTEPS.get(addr) } {
        // At the address's own uplink, as nearly always: no second lookup.
        Some(vtep) if vtep.ifindex == ifindex => true,
        // SAFETY: only presence matters.
        Some(_) => unsafe { UPLINKS.get(ifindex) }.is_some(),
        None => false,
    }
}

/// The uplink that has one of this host's VTEP addresses.
#[inline(always)]
pub fn of(addr: &Addr) -> Option<u32> {
    // SAFETY: as above.
    unsafe { LOCAL_VTEPS.get(addr) }.map(|vtep| vtep.ifindex)
}
