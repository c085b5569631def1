//! `sources` and `source_prefixes`: which nodes may send a tunnel packet with an inner source address.

use aya_ebpf::{
    btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use fabric_common::{
    abi,
    addr::{Addr, Mac},
    endpoint::EndpointKey,
    reason::DropReason,
    prefix::VniPrefix,
    source::{FLAG_RELAYED, SourceValue},
};

use crate::{fdb, network, policy, settings};

#[btf_map(name = "sources")]
static SOURCES: HashMap<EndpointKey, SourceValue, { abi::SOURCES.entries as usize }> = HashMap::new();

#[btf_map(name = "source_prefixes")]
static SOURCE_PREFIXES: LpmTrie<VniPrefix, SourceValue, { abi::SOURCE_PREFIXES.entries as usize }> = LpmTrie::new();

/// One of our own nodes sends it from the gateway's MAC: it may then be of a foreign VTEP that used that node's gateway, and the node
/// has checked that it may.
pub const ROUTED: u64 = 1 << 32;
/// One of our own nodes sends it: its receiver may have moved from there, and the node relays what others send and has checked that
/// they may.
pub const OWN: u64 = 2 << 32;

/// Accepts `addr` in network `vni` from `node`, or says why not. Returns the identity of the sender. `more` is asked where the
/// record does not name the node, and returns [`ROUTED`] and [`OWN`]; `to` is the receiver's MAC.
#[inline(always)]
pub fn check(vni: u32, addr: &Addr, node: u32, to: &Mac, more: impl FnOnce() -> u64) -> Result<u32, DropReason> {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    if let Some(record) = unsafe { SOURCES.get(EndpointKey { vni, addr: *addr }) }
        && record.names(node)
    {
        return Ok(record.identity);
    }
    let packed = by_others(vni, addr, to, u64::from(node) | more());
    if packed >= 0 {
        return Ok(packed as u32);
    }
    // SAFETY: `by_others` was given a valid reason, whose number fits a byte.
    Err(unsafe { core::mem::transmute::<u8, DropReason>((-packed) as u8) })
}

/// A source whose own record does not name the node: the identity, or the negative number of a reason. Out of line, since most have
/// one. `sender`: the node, [`ROUTED`] and [`OWN`].
#[inline(never)]
fn by_others(vni: u32, addr: &Addr, to: &Mac, sender: u64) -> i64 {
    let node = sender as u32;
    // SAFETY: as in `check`.
    let record = unsafe { SOURCES.get(EndpointKey { vni, addr: *addr }) };
    let (known, by_gateway) = match record {
        Some(record) => (true, record.flags & FLAG_RELAYED != 0),
        None => match by_prefix(vni, addr, node) {
            NAMED => return i64::from(policy::of_stranger(addr)),
            found => (found != NONE, found == RELAYED),
        },
    };
    let routed = by_gateway && sender & ROUTED != 0;
    let relayed = || known && sender & OWN != 0 && fdb::get(vni, *to).is_some_and(|entry| entry.takes_from(node));
    if routed || relayed() {
        return match record {
            Some(record) => i64::from(record.identity),
            None => i64::from(policy::of_stranger(addr)),
        };
    }
    -(refusal(vni, node, record) as i64)
}

const NONE: u32 = 0;
const NAMED: u32 = 1;
const RELAYED: u32 = 2;
const OTHERS: u32 = 3;

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
        Some(record) if record.nodes[0] != 0 => OTHERS,
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
