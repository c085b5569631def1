//! `fdb`: destination MAC to local port or remote node.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use fabric_common::{abi, addr::Mac, fdb::{FdbKey, FdbValue}};

#[btf_map(name = "fdb")]
static MAP: HashMap<FdbKey, FdbValue, { abi::FDB.entries as usize }> = HashMap::new();

/// Where `mac` lives in network `vni`.
#[inline(always)]
pub fn get(vni: u32, mac: Mac) -> Option<&'static FdbValue> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    unsafe { MAP.get(FdbKey::new(vni, mac)) }
}
