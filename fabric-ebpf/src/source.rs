//! `sources` and `source_prefixes`: which nodes may send a tunnel packet with an inner source address.

use aya_ebpf::{
    btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use fabric_common::{
    abi,
    addr::Addr,
    endpoint::EndpointKey,
    reason::DropReason,
    prefix::VniPrefix,
    source::SourceValue,
};

use crate::{network, settings};

#[btf_map(name = "sources")]
static SOURCES: HashMap<EndpointKey, SourceValue, { abi::SOURCES.entries as usize }> = HashMap::new();

#[btf_map(name = "source_prefixes")]
static SOURCE_PREFIXES: LpmTrie<VniPrefix, SourceValue, { abi::SOURCE_PREFIXES.entries as usize }> = LpmTrie::new();

/// Accepts `addr` in network `vni` from `node`, or says why not.
#[inline(always)]
pub fn check(vni: u32, addr: &Addr, node: u32) -> Result<(), DropReason> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    match unsafe { SOURCES.get(EndpointKey { vni, addr: *addr }) } {
        Some(record) if record.names(node) => Ok(()),
        Some(record) => Err(refusal(vni, node, Some(record))),
        None if prefix_names(vni, addr, node) => Ok(()),
        None => Err(refusal(vni, node, None)),
    }
}

/// Out of line: only foreign VTEPs have records by prefix.
#[inline(never)]
fn prefix_names(vni: u32, addr: &Addr, node: u32) -> bool {
    // However wide the prefix is.
    if addr.is_martian() {
        return false;
    }
    let key = Key::new(VniPrefix::BITS, VniPrefix::new(vni, *addr));
    SOURCE_PREFIXES.get(&key).is_some_and(|record| record.names(node))
}

/// Names the reason. A network that does not exist has no records, so that it is asked for only here.
#[inline(always)]
fn refusal(vni: u32, node: u32, record: Option<&SourceValue>) -> DropReason {
    if network::get(vni).is_none() {
        return DropReason::UnknownVni;
    }
    if !network::has_member(vni, node) {
        return DropReason::VtepNotInVni;
    }
    match (record, settings::get()) {
        (Some(record), Ok(settings)) if record.names(settings.node) => DropReason::Loop,
        _ => DropReason::SpoofSource,
    }
}
