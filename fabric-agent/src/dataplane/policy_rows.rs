//! The rows of policies, written so that one that is missing never admits what the others do not: in which order, and what
//! is taken away while a row finds no room.
//!
//! A lookup that finds no row for an identity falls back to the policy's row for everybody, and an address that has no row in
//! `cidrs` to that of a wider prefix. So a policy's row for everybody is there only while every other row of its direction
//! is; and while a prefix is missing, so are the rows of those wider ones whose answer is another. What has no row is unknown,
//! and what is unknown is dropped.

use std::collections::{BTreeMap, BTreeSet};

use fabric_common::policy::{
    IDENTITY_ANYONE, KIND_IDENTITY, KIND_POLICY, KIND_TABLE, NumberKey, NumberValue, PolicyKey, PolicyPorts,
    PolicyValue,
};

use super::{
    describe::Describe,
    error::DataplaneError,
    tables::{Failure, Row, Table},
};
use crate::{
    plan::desired::{AddrPrefix, Rows, Tables},
    policy::Change,
};

/// Where the rows of one map go.
pub(super) trait Sink<K, V> {
    /// Writes rows in the order given. Those that can be written are, whatever happens to others.
    fn write(&mut self, rows: &[(K, V)]) -> Result<(), Failure<K>>;
    /// Removes rows. Absent ones are success.
    fn remove(&mut self, keys: &BTreeSet<K>) -> Result<(), Failure<K>>;
}

impl<K: Row + Describe, V: Row> Sink<K, V> for Table<K, V> {
    fn write(&mut self, rows: &[(K, V)]) -> Result<(), Failure<K>> {
        self.upsert(rows.iter().map(|(key, value)| (key, value)))
    }

    fn remove(&mut self, keys: &BTreeSet<K>) -> Result<(), Failure<K>> {
        self.delete(keys)
    }
}

/// The maps of policies.
pub(super) struct PolicyTables<'a> {
    pub(super) numbers: &'a mut dyn Sink<NumberKey, NumberValue>,
    pub(super) policy_ports: &'a mut dyn Sink<u32, PolicyPorts>,
    pub(super) policies: &'a mut dyn Sink<PolicyKey, PolicyValue>,
    pub(super) cidrs: &'a mut dyn Sink<AddrPrefix, u32>,
}

/// Writes the rows of `pending`: those that `change` wants and does not find, and those for the time of the change. At no moment,
/// and however many of them fail, does a policy admit what it does not. Returns the first error of each step.
pub(super) fn write(tables: PolicyTables<'_>, pending: &Tables, change: Change<'_>) -> Vec<DataplaneError> {
    let transition = &pending.policies;
    let mut writing = Writing { tables, change, transition, withheld: BTreeSet::new(), errors: Vec::new() };
    let unnumbered = writing.numbers(&pending.numbers);
    let is_numbered = |kind, number| !unnumbered.contains(&NumberKey { kind, number });
    let ports = pending.policy_ports.iter().filter(|(table, _)| is_numbered(KIND_TABLE, **table));
    writing.ports(ports.map(|(table, row)| (*table, *row)).collect());

    // A number that no row of `numbers` holds would be given away by the next agent, with what was written for it.
    let (numbered, lost): (Vec<_>, Vec<_>) = pending
        .policies
        .iter()
        .filter(|(key, _)| is_numbered(KIND_POLICY, key.policy))
        .map(|(key, value)| (*key, *value))
        .partition(|(key, _)| key.identity == IDENTITY_ANYONE || is_numbered(KIND_IDENTITY, key.identity));
    writing.withhold(lost.iter().map(|(key, _)| everybody(*key)).collect());

    let (default, specific): (Vec<_>, Vec<_>) =
        numbered.into_iter().partition(|(key, _)| key.identity == IDENTITY_ANYONE);
    // A prefix must not have its identity before the identity has its rows, and an identity that is in use already must not
    // have them before narrower prefixes have theirs.
    let new: BTreeSet<u32> = pending.cidrs.values().copied().collect();
    let (early, late): (Vec<_>, Vec<_>) =
        specific.into_iter().partition(|(key, _)| new.contains(&key.identity));
    writing.policies(early);
    let cidrs = pending.cidrs.iter().filter(|(_, identity)| is_numbered(KIND_IDENTITY, **identity));
    let skipped = pending.cidrs.iter().filter(|(_, identity)| !is_numbered(KIND_IDENTITY, **identity));
    writing.miss(skipped.map(|(prefix, _)| *prefix));
    writing.cidrs(cidrs.map(|(prefix, identity)| (*prefix, *identity)).collect());
    writing.policies(late);
    writing.policies(default);
    writing.errors
}

struct Writing<'a, 'b> {
    tables: PolicyTables<'a>,
    change: Change<'b>,
    /// The rows that are written, with those for the time of the change.
    transition: &'b Rows<PolicyKey, PolicyValue>,
    /// Rows of `policies` that must not be there.
    withheld: BTreeSet<PolicyKey>,
    errors: Vec<DataplaneError>,
}

impl Writing<'_, '_> {
    /// Returns those that could not be written.
    fn numbers(&mut self, rows: &Rows<NumberKey, NumberValue>) -> BTreeSet<NumberKey> {
        let rows: Vec<_> = rows.iter().map(|(key, value)| (*key, *value)).collect();
        let done = self.tables.numbers.write(&rows);
        self.failed(done)
    }

    fn ports(&mut self, rows: Vec<(u32, PolicyPorts)>) {
        // Verdicts that lead to a table that is missing are unknown.
        let done = self.tables.policy_ports.write(&rows);
        self.failed(done);
    }

    fn policies(&mut self, mut rows: Vec<(PolicyKey, PolicyValue)>) {
        rows.retain(|(key, _)| !self.withheld.contains(key));
        let done = self.tables.policies.write(&rows);
        let failed = self.failed(done);
        self.withhold(failed.into_iter().map(everybody).collect());
    }

    /// Narrow prefixes first: an address never gets the identity of a wider one on the way to its own.
    fn cidrs(&mut self, mut rows: Vec<(AddrPrefix, u32)>) {
        rows.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.bits));
        for level in rows.chunk_by(|(a, _), (b, _)| a.bits == b.bits) {
            let done = self.tables.cidrs.write(level);
            let failed = self.failed(done);
            self.miss(failed.into_iter());
        }
    }

    /// Withholds the rows that addresses in missing prefixes would get instead of their own, where these say something else.
    fn miss(&mut self, prefixes: impl Iterator<Item = AddrPrefix>) {
        let change = self.change;
        let cases: BTreeSet<(u32, BTreeSet<u32>)> = prefixes
            .filter_map(|prefix| Some((*change.wanted.cidrs.get(&prefix)?, change.around(prefix))))
            .collect();
        if cases.is_empty() {
            return;
        }
        let mut named: BTreeMap<u32, BTreeSet<PolicyKey>> = BTreeMap::new();
        for key in change.wanted.policies.keys().chain(self.transition.keys()) {
            named.entry(key.identity).or_default().insert(everybody(*key));
        }
        let mut withheld = BTreeSet::new();
        for (own, instead) in cases {
            let sides = instead.iter().chain([&own]).filter(|identity| **identity != IDENTITY_ANYONE);
            let sides: BTreeSet<PolicyKey> =
                sides.filter_map(|identity| named.get(identity)).flatten().copied().collect();
            for side in sides {
                let row = |identity| PolicyKey { identity, ..side };
                let find = |key| change.wanted.policies.get(&key).or_else(|| self.transition.get(&key));
                let verdict = |identity| find(row(identity)).or_else(|| find(side));
                if instead.iter().any(|identity| verdict(*identity) != verdict(own)) {
                    withheld.extend(instead.iter().map(|identity| row(*identity)));
                }
            }
        }
        self.withhold(withheld);
    }

    fn withhold(&mut self, keys: BTreeSet<PolicyKey>) {
        let new: BTreeSet<PolicyKey> = keys.difference(&self.withheld).copied().collect();
        if new.is_empty() {
            return;
        }
        let done = self.tables.policies.remove(&new);
        self.failed(done);
        self.withheld.extend(new);
    }

    fn failed<K>(&mut self, done: Result<(), Failure<K>>) -> BTreeSet<K> {
        match done {
            Ok(()) => BTreeSet::new(),
            Err(failure) => {
                self.errors.push(failure.error);
                failure.keys
            }
        }
    }
}

/// The row to which a lookup falls back that does not find `key`.
fn everybody(key: PolicyKey) -> PolicyKey {
    PolicyKey { identity: IDENTITY_ANYONE, ..key }
}

#[cfg(test)]
mod tests;
