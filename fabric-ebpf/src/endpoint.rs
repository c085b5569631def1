//! `endpoints`: who has an address in a network.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use fabric_common::{abi, addr::Addr, endpoint::{EndpointKey, EndpointValue}};

#[btf_map(name = "endpoints")]
static MAP: HashMap<EndpointKey, EndpointValue, { abi::ENDPOINTS.entries as usize }> = HashMap::new();

/// Who has `addr` in network `vni`.
#[inline(always)]
pub fn get(vni: u32, addr: &Addr) -> Option<&'static EndpointValue> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    unsafe { MAP.get(EndpointKey { vni, addr: *addr }) }
}

/// Whether the port `ifindex` may use `addr` as its source.
#[inline(always)]
pub fn owns(vni: u32, addr: &Addr, ifindex: u32) -> bool {
    matches!(get(vni, addr), Some(endpoint) if endpoint.ifindex == ifindex)
}
