//! `policies`, `policy_ports`, `cidrs` and `numbers`: what a policy says of an identity, and whose an address is.

use aya_ebpf::{
    btf_maps::{HashMap, LpmTrie, PerCpuHashMap, lpm_trie::Key},
    macros::btf_map,
};
use fabric_common::{
    abi,
    addr::Addr,
    counters::Tally,
    policy::{
        IDENTITY_ANYONE, NumberKey, NumberValue, PORT_DEPTH, PORT_RANGES, PolicyKey, PolicyPorts, PolicyValue, verdict,
    },
};

use crate::endpoint;

#[btf_map(name = "policies")]
static POLICIES: HashMap<PolicyKey, PolicyValue, { abi::POLICIES.entries as usize }> = HashMap::new();

#[btf_map(name = "policy_ports")]
static POLICY_PORTS: HashMap<u32, PolicyPorts, { abi::POLICY_PORTS.entries as usize }> = HashMap::new();

#[btf_map(name = "cidrs")]
static CIDRS: LpmTrie<Addr, u32, { abi::CIDRS.entries as usize }> = LpmTrie::new();

/// The agent's alone; declared here so that it lives with the others.
#[btf_map(name = "numbers")]
static NUMBERS: HashMap<NumberKey, NumberValue, { abi::NUMBERS.entries as usize }> = HashMap::new();

#[btf_map(name = "rule_counters")]
static RULE_COUNTERS: PerCpuHashMap<u32, Tally, { abi::RULE_COUNTERS.entries as usize }> = PerCpuHashMap::new();

/// No verdict: the policy's row or a table is missing.
pub const UNKNOWN: u32 = verdict::KIND;

/// What `policy` says in `direction` of `identity` and [`port_key`](fabric_common::policy::port_key) `port`: `ALLOW` or `DENY`
/// with the rule's number, or [`UNKNOWN`]. At most two rows and three tables are read, however many rules there are. Global, so
/// that the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn policy_ask(policy: u32, direction: u32, identity: u32, port: u32) -> u32 {
    let Some(row) = row(policy, direction, identity) else { return UNKNOWN };
    let mut word = row.verdict;
    for _ in 0..PORT_DEPTH {
        if word & verdict::KIND != verdict::TABLE {
            break;
        }
        // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
        let Some(table) = (unsafe { POLICY_PORTS.get(word & verdict::NUMBER) }) else { return UNKNOWN };
        word = find(table, port);
    }
    // A table that leads on deeper than any is made.
    if word & verdict::KIND == verdict::TABLE { UNKNOWN } else { word }
}

#[inline(always)]
fn row(policy: u32, direction: u32, identity: u32) -> Option<&'static PolicyValue> {
    // SAFETY: as above.
    unsafe {
        POLICIES
            .get(PolicyKey { policy, direction, identity })
            .or_else(|| POLICIES.get(PolicyKey { policy, direction, identity: IDENTITY_ANYONE }))
    }
}

/// The last range that does not start above `port`, by halves: four steps among sixteen.
#[inline(always)]
fn find(table: &PolicyPorts, port: u32) -> u32 {
    let mut at = 0;
    let mut step = PORT_RANGES / 2;
    while step > 0 {
        let next = (at + step) & (PORT_RANGES - 1);
        if table.starts[next] <= port {
            at = next;
        }
        step /= 2;
    }
    table.verdicts[at & (PORT_RANGES - 1)]
}

/// Whose `addr` is in network `vni`: an endpoint's, else that of the longest prefix that rules name.
#[inline(never)]
pub fn of_addr(vni: u32, addr: &Addr) -> u32 {
    match endpoint::get(vni, addr) {
        Some(owner) => owner.identity,
        None => of_stranger(addr),
    }
}

/// The same of an address that no endpoint has.
#[inline(always)]
pub fn of_stranger(addr: &Addr) -> u32 {
    CIDRS.get(&Key::new(Addr::BITS, *addr)).copied().unwrap_or(IDENTITY_ANYONE)
}

/// Counts what `rule` decided on; 0 is no rule. The agent makes the rows.
#[inline(always)]
pub fn count(rule: u32, packets: u32, bytes: u32) {
    if cfg!(feature = "trace") || rule == 0 {
        return;
    }
    if let Some(tally) = RULE_COUNTERS.get_ptr_mut(rule) {
        // SAFETY: this CPU's own value. One that is removed meanwhile stays memory of this map (`main.rs`).
        unsafe {
            (*tally).packets += u64::from(packets);
            (*tally).bytes += u64::from(bytes);
        }
    }
}
