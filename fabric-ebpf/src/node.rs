//! `nodes` and `vteps`: the outer header toward each node, and which node a VTEP address belongs to.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use fabric_common::{
    abi,
    addr::Addr,
    node::{NodeValue, VtepValue},
    reason::DropReason,
};

#[btf_map(name = "nodes")]
static NODES: HashMap<u32, NodeValue, { abi::NODES.entries as usize }> = HashMap::new();

#[btf_map(name = "vteps")]
static VTEPS: HashMap<Addr, VtepValue, { abi::VTEPS.entries as usize }> = HashMap::new();

/// What sending to `node` needs.
#[inline(always)]
pub fn get(node: u32) -> Result<&'static NodeValue, DropReason> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    unsafe { NODES.get(node) }.ok_or(DropReason::NoNode)
}

/// The node that a tunnel packet's outer source belongs to.
#[inline(always)]
pub fn of_vtep(addr: &Addr) -> Result<&'static VtepValue, DropReason> {
    // SAFETY: as above.
    unsafe { VTEPS.get(addr) }.ok_or(DropReason::UnknownVtep)
}
