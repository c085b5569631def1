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
    // SAFETY: only presence matters.
    unsafe { LOCAL_VTEPS.get(addr).is_some() && UPLINKS.get(ifindex).is_some() }
}
