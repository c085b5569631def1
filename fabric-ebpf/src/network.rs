//! `networks` and `members`: what a VNI is on this node, and which nodes serve it.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use fabric_common::{
    abi,
    network::{MemberKey, MemberValue, NetworkValue},
};

#[btf_map(name = "networks")]
static NETWORKS: HashMap<u32, NetworkValue, { abi::NETWORKS.entries as usize }> = HashMap::new();

#[btf_map(name = "members")]
static MEMBERS: HashMap<MemberKey, MemberValue, { abi::MEMBERS.entries as usize }> = HashMap::new();

/// The network of a VNI. Not asked on the way of packets that are only bridged.
#[inline(always)]
pub fn get(vni: u32) -> Option<&'static NetworkValue> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    unsafe { NETWORKS.get(vni) }
}

/// Whether `node` serves network `vni`. Only asked to name the reason of a drop.
#[inline(always)]
pub fn has_member(vni: u32, node: u32) -> bool {
    // SAFETY: as above.
    unsafe { MEMBERS.get(MemberKey { vni, node }) }.is_some()
}
