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
    source::{FLAG_RELAYED, SourceValue},
};

use crate::{network, policy, settings};

#[btf_map(name = "sources")]
static SOURCES: HashMap<EndpointKey, SourceValue, { abi::SOURCES.entries as usize }> = HashMap::new();

#[btf_map(name = "source_prefixes")]
static SOURCE_PREFIXES: LpmTrie<VniPrefix, SourceValue, { abi::SOURCE_PREFIXES.entries as usize }> = LpmTrie::new();

/// Accepts `addr` in network `vni` from `node`, or says why not. `routed` says whether one of our own nodes sends it from the
/// gateway's MAC: it may then be of a foreign VTEP that used that node's gateway, and the node has checked that it may. Returns
/// the identity of the sender.
#[inline(always)]
pub fn check(vni: u32, addr: &Addr, node: u32, routed: impl FnOnce() -> bool) -> Result<u32, DropReason> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    let (relayed, record) = match unsafe { SOURCES.get(EndpointKey { vni, addr: *addr }) } {
        Some(record) if record.names(node) => return Ok(record.identity),
        Some(record) => (record.flags & FLAG_RELAYED != 0, Some(record)),
        None => match by_prefix(vni, addr, node) {
            NAMED => return Ok(policy::of_stranger(addr)),
            found => (found == RELAYED, None),
        },
    };
    if relayed && routed() {
        return Ok(record.map_or_else(|| policy::of_stranger(addr), |record| record.identity));
    }
    Err(refusal(vni, node, record))
}

const NONE: u32 = 0;
const NAMED: u32 = 1;
const RELAYED: u32 = 2;

/// Out of line: only foreign VTEPs and what is behind next hops have records by prefix.
#[inline(never)]
fn by_prefix(vni: u32, addr: &Addr, node: u32) -> u32 {
    // However wide the prefix is.
    if addr.is_martian() {
        return NONE;
    }
    let key = Key::new(VniPrefix::BITS, VniPrefix::new(vni, *addr));
    match SOURCE_PREFIXES.get(&key) {
        Some(record) if record.names(node) => NAMED,
        Some(record) if record.flags & FLAG_RELAYED != 0 => RELAYED,
        _ => NONE,
    }
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
