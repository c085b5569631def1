//! Rows between an old state and a new one, for the time in which both are half there.
//!
//! Rows change one after the other: first who an address is, then which policy applies to a port. So for a moment an old
//! policy is asked about new identities, and a new policy about old ones. Neither has rows for them, and what it says of
//! everybody may be more than either state admits. It gets rows that say what it says of the identity that these addresses
//! have in its own state.

use std::collections::{BTreeMap, BTreeSet};

use fabric_common::{
    addr::Addr,
    endpoint::{EndpointKey, EndpointValue},
    names::NamedKey,
    policy::{IDENTITY_ANYONE, PolicyKey, PolicyValue, verdict},
};

use crate::plan::desired::{AddrPrefix, Rows, Tables};

/// Which policies there are, and who is who.
#[derive(Clone, Copy)]
pub struct State<'a> {
    /// `policies`.
    pub policies: &'a Rows<PolicyKey, PolicyValue>,
    /// `cidrs`.
    pub cidrs: &'a Rows<AddrPrefix, u32>,
    /// `endpoints`.
    pub endpoints: &'a Rows<EndpointKey, EndpointValue>,
    /// `named`.
    pub named: &'a Rows<NamedKey, u32>,
}

impl<'a> From<&'a Tables> for State<'a> {
    fn from(tables: &'a Tables) -> Self {
        Self {
            policies: &tables.policies,
            cidrs: &tables.cidrs,
            endpoints: &tables.endpoints,
            named: &tables.named,
        }
    }
}

/// A verdict that no rules give: the programs drop what gets it, as unknown.
const UNKNOWN: PolicyValue = PolicyValue { verdict: verdict::KIND };

/// From one state to another.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// What is in the maps.
    pub actual: State<'a>,
    /// What should be.
    pub wanted: State<'a>,
}

impl Change<'_> {
    /// Rows of `policies` that are to be written with those that are wanted, and removed with those that only are there.
    pub fn transition(self) -> Rows<PolicyKey, PolicyValue> {
        let mut rows = asked_about(self.actual, self.wanted);
        rows.extend(asked_about(self.wanted, self.actual));
        rows
    }

    /// The identities that addresses in `prefix` may have while its own row is missing: that of everybody, and those of wider
    /// prefixes before and after the change.
    pub fn around(self, prefix: AddrPrefix) -> BTreeSet<u32> {
        let wider = prefix.bits.checked_sub(1);
        let states = [self.actual, self.wanted].into_iter();
        let wider = states
            .flat_map(|state| wider.into_iter().flat_map(move |bits| around(prefix, bits, state.cidrs)));
        let own = self.actual.cidrs.get(&prefix).copied();
        wider.chain(own).chain([IDENTITY_ANYONE]).collect()
    }
}

/// What the policies that only `own` has, or has whole, say of the identities that are in `other` alone.
fn asked_about(own: State<'_>, other: State<'_>) -> Rows<PolicyKey, PolicyValue> {
    let everybody = own.policies.keys().filter(|key| key.identity == IDENTITY_ANYONE);
    let sides: BTreeSet<PolicyKey> =
        everybody.filter(|key| !other.policies.contains_key(*key)).copied().collect();
    let mut rows = Rows::new();
    if sides.is_empty() {
        return rows;
    }
    for (identity, instead) in strangers(own, other) {
        for side in &sides {
            let said = |identity| {
                own.policies.get(&PolicyKey { identity, ..*side }).or_else(|| own.policies.get(side)).copied()
            };
            let mut said = instead.iter().map(|identity| identity.and_then(said));
            let first = said.next().flatten();
            let verdict = first.filter(|_| said.all(|other| other == first)).unwrap_or(UNKNOWN);
            if own.policies.get(side) != Some(&verdict) {
                rows.insert(PolicyKey { identity, ..*side }, verdict);
            }
        }
    }
    rows
}

/// The identities that only `other` has, and which ones their addresses have in `own`; absent for an endpoint that is not there.
fn strangers(own: State<'_>, other: State<'_>) -> BTreeMap<u32, BTreeSet<Option<u32>>> {
    let of = |state: State<'_>| -> BTreeSet<u32> {
        state
            .cidrs
            .values()
            .copied()
            .chain(state.named.values().copied())
            .chain(state.endpoints.values().map(|endpoint| endpoint.identity))
            .collect()
    };
    let mut known = of(own);
    known.insert(IDENTITY_ANYONE);
    let mut strangers: BTreeMap<u32, BTreeSet<Option<u32>>> = BTreeMap::new();
    for (prefix, identity) in other.cidrs.iter().filter(|(_, identity)| !known.contains(identity)) {
        strangers.entry(*identity).or_default().insert(Some(of_prefix(*prefix, own.cidrs)));
    }
    for (key, endpoint) in other.endpoints.iter().filter(|(_, endpoint)| !known.contains(&endpoint.identity))
    {
        let before = own.endpoints.get(key).map(|endpoint| endpoint.identity);
        strangers.entry(endpoint.identity).or_default().insert(before);
    }
    for (key, identity) in other.named.iter().filter(|(_, identity)| !known.contains(identity)) {
        let whole = AddrPrefix { bits: Addr::BITS, addr: key.addr };
        let before = own.named.get(key).copied().unwrap_or_else(|| of_prefix(whole, own.cidrs));
        strangers.entry(*identity).or_default().insert(Some(before));
    }
    strangers
}

/// The identity of the addresses in `prefix` for which `cidrs` has no narrower one.
fn of_prefix(prefix: AddrPrefix, cidrs: &Rows<AddrPrefix, u32>) -> u32 {
    around(prefix, prefix.bits, cidrs).next().unwrap_or(IDENTITY_ANYONE)
}

/// Identities of the prefixes that contain `prefix` and have at most `bits` bits, the narrowest first.
fn around(prefix: AddrPrefix, bits: u32, cidrs: &Rows<AddrPrefix, u32>) -> impl Iterator<Item = u32> + '_ {
    let addr = u128::from_be_bytes(prefix.addr.bytes);
    let at = move |bits: u32| {
        let mask = u128::MAX.checked_shl(Addr::BITS - bits).unwrap_or(0);
        AddrPrefix { bits, addr: Addr { bytes: (addr & mask).to_be_bytes() } }
    };
    (0..=bits).rev().filter_map(move |bits| cidrs.get(&at(bits)).copied())
}
