//! Desired, actual and the difference between them: one implementation for map rows, links and attachments.
//!
//! Pure: the owner of a tracker does the I/O. It sets what should be, loads what is, works through the pending
//! upserts and deletes, and tells the tracker what succeeded. What failed stays pending, so it is retried by itself.

use std::collections::{BTreeMap, BTreeSet};

/// How an observation differs from what the tracker believed to be there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift<K> {
    /// It was there and is gone.
    Missing(K),
    /// It was there with another value.
    Changed(K),
    /// It was not there before.
    Unexpected(K),
}

impl<K> Drift<K> {
    /// The key concerned.
    pub fn key(&self) -> &K {
        match self {
            Self::Missing(key) | Self::Changed(key) | Self::Unexpected(key) => key,
        }
    }
}

/// What should be and what is, by key.
///
/// Invariants: a key is a pending upsert exactly if its desired value is not its actual value, and a pending delete
/// exactly if it is actual and not desired.
#[derive(Clone, Debug)]
pub struct DeltaTracker<K, V> {
    desired: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
    upserts: BTreeSet<K>,
    deletes: BTreeSet<K>,
    loaded: bool,
}

impl<K, V> Default for DeltaTracker<K, V> {
    fn default() -> Self {
        Self {
            desired: BTreeMap::new(),
            actual: BTreeMap::new(),
            upserts: BTreeSet::new(),
            deletes: BTreeSet::new(),
            loaded: false,
        }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> DeltaTracker<K, V> {
    /// A tracker in which nothing is desired and nothing is there.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces everything that is desired.
    pub fn set_desired(&mut self, desired: impl IntoIterator<Item = (K, V)>) {
        self.desired = desired.into_iter().collect();
        self.recompute();
    }

    /// Makes one value desired.
    pub fn upsert_desired(&mut self, key: K, value: V) {
        self.desired.insert(key.clone(), value);
        self.refresh(&key);
    }

    /// Makes one key undesired.
    pub fn remove_desired(&mut self, key: &K) {
        self.desired.remove(key);
        self.refresh(key);
    }

    /// Replaces the picture of what is there by an observation, and returns how it differs from the picture before.
    /// The first observation differs from nothing: what an earlier process left is no drift.
    pub fn observe(&mut self, actual: impl IntoIterator<Item = (K, V)>) -> Vec<Drift<K>> {
        let found: BTreeMap<K, V> = actual.into_iter().collect();
        let drift = if self.loaded { drift(&self.actual, &found) } else { Vec::new() };
        self.loaded = true;
        if !drift.is_empty() || self.actual.len() != found.len() || self.actual != found {
            self.actual = found;
            self.recompute();
        }
        drift
    }

    /// Whether there was an observation yet.
    pub fn loaded(&self) -> bool {
        self.loaded
    }

    /// Everything that is desired.
    pub fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// Everything that is believed to be there.
    pub fn actual(&self) -> &BTreeMap<K, V> {
        &self.actual
    }

    /// What must be written, in key order.
    pub fn pending_upserts(&self) -> impl Iterator<Item = (&K, &V)> {
        self.upserts.iter().filter_map(|key| self.desired.get_key_value(key))
    }

    /// What must be removed, in key order.
    pub fn pending_deletes(&self) -> impl Iterator<Item = &K> {
        self.deletes.iter()
    }

    /// Whether nothing is pending.
    pub fn in_sync(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }

    /// Records that `value` was written at `key`. The value is named because the desired one may have changed
    /// since the write began.
    pub fn wrote(&mut self, key: K, value: V) {
        self.actual.insert(key.clone(), value);
        self.refresh(&key);
    }

    /// Records that `key` was removed, or was found absent.
    pub fn removed(&mut self, key: &K) {
        self.actual.remove(key);
        self.refresh(key);
    }

    fn refresh(&mut self, key: &K) {
        let (desired, actual) = (self.desired.get(key), self.actual.get(key));
        set_membership(&mut self.upserts, key, desired.is_some() && desired != actual);
        set_membership(&mut self.deletes, key, desired.is_none() && actual.is_some());
    }

    fn recompute(&mut self) {
        self.upserts = self
            .desired
            .iter()
            .filter(|(key, value)| self.actual.get(key) != Some(value))
            .map(|(key, _)| key.clone())
            .collect();
        self.deletes = self.actual.keys().filter(|key| !self.desired.contains_key(key)).cloned().collect();
    }
}

fn set_membership<K: Ord + Clone>(set: &mut BTreeSet<K>, key: &K, member: bool) {
    if member {
        set.insert(key.clone());
    } else {
        set.remove(key);
    }
}

fn drift<K: Ord + Clone, V: PartialEq>(before: &BTreeMap<K, V>, found: &BTreeMap<K, V>) -> Vec<Drift<K>> {
    let gone_or_changed = before.iter().filter_map(|(key, value)| match found.get(key) {
        None => Some(Drift::Missing(key.clone())),
        Some(now) if now != value => Some(Drift::Changed(key.clone())),
        Some(_) => None,
    });
    let new = found.keys().filter(|key| !before.contains_key(key)).map(|key| Drift::Unexpected(key.clone()));
    gone_or_changed.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{DeltaTracker, Drift};

    #[derive(Clone, Debug)]
    enum Step {
        SetDesired(BTreeMap<u8, u8>),
        Upsert(u8, u8),
        Remove(u8),
        Observe(BTreeMap<u8, u8>),
        Wrote(u8, u8),
        Removed(u8),
    }

    fn map() -> impl Strategy<Value = BTreeMap<u8, u8>> {
        prop::collection::btree_map(0..6u8, 0..3u8, 0..6)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            map().prop_map(Step::SetDesired),
            (0..6u8, 0..3u8).prop_map(|(k, v)| Step::Upsert(k, v)),
            (0..6u8).prop_map(Step::Remove),
            map().prop_map(Step::Observe),
            (0..6u8, 0..3u8).prop_map(|(k, v)| Step::Wrote(k, v)),
            (0..6u8).prop_map(Step::Removed),
        ]
    }

    proptest! {
        /// After any history, what is pending is what a comparison of two plain maps says.
        #[test]
        fn pending_is_the_difference(steps in prop::collection::vec(step(), 0..40)) {
            let (mut desired, mut actual) = (BTreeMap::new(), BTreeMap::new());
            let mut tracker = DeltaTracker::new();
            for step in steps {
                match step {
                    Step::SetDesired(map) => { tracker.set_desired(map.clone()); desired = map; }
                    Step::Upsert(k, v) => { tracker.upsert_desired(k, v); desired.insert(k, v); }
                    Step::Remove(k) => { tracker.remove_desired(&k); desired.remove(&k); }
                    Step::Observe(map) => { tracker.observe(map.clone()); actual = map; }
                    Step::Wrote(k, v) => { tracker.wrote(k, v); actual.insert(k, v); }
                    Step::Removed(k) => { tracker.removed(&k); actual.remove(&k); }
                }
                let upserts: Vec<_> =
                    desired.iter().filter(|(k, v)| actual.get(k) != Some(v)).map(|(k, v)| (*k, *v)).collect();
                let deletes: Vec<_> = actual.keys().filter(|k| !desired.contains_key(k)).copied().collect();
                prop_assert_eq!(tracker.pending_upserts().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), upserts);
                prop_assert_eq!(tracker.pending_deletes().copied().collect::<Vec<_>>(), deletes);
                prop_assert_eq!(tracker.in_sync(), desired == actual);
                prop_assert_eq!(tracker.actual(), &actual);
            }
        }

        /// Working through what is pending converges, whatever was there.
        #[test]
        fn applying_converges(desired in map(), actual in map()) {
            let mut tracker = DeltaTracker::new();
            tracker.observe(actual);
            tracker.set_desired(desired.clone());
            let upserts: Vec<_> = tracker.pending_upserts().map(|(k, v)| (*k, *v)).collect();
            let deletes: Vec<_> = tracker.pending_deletes().copied().collect();
            for (key, value) in upserts { tracker.wrote(key, value); }
            for key in deletes { tracker.removed(&key); }
            prop_assert!(tracker.in_sync());
            prop_assert_eq!(tracker.actual(), &desired);
        }

        /// Drift names exactly the keys at which two observations differ.
        #[test]
        fn drift_is_the_difference_of_observations(before in map(), after in map()) {
            let mut tracker = DeltaTracker::new();
            prop_assert!(tracker.observe(before.clone()).is_empty());
            let mut keys: Vec<u8> = tracker.observe(after.clone()).iter().map(|d| *d.key()).collect();
            keys.sort_unstable();
            let differ: Vec<u8> = (0..6u8).filter(|k| before.get(k) != after.get(k)).collect();
            prop_assert_eq!(keys, differ);
        }
    }

    #[test]
    fn drift_says_what_happened() {
        let mut tracker = DeltaTracker::new();
        tracker.observe([(1, 'a'), (2, 'b')]);
        assert_eq!(
            tracker.observe([(2, 'c'), (3, 'd')]),
            [Drift::Missing(1), Drift::Changed(2), Drift::Unexpected(3)]
        );
    }

    #[test]
    fn a_write_of_a_value_that_is_no_longer_wanted_leaves_the_key_pending() {
        let mut tracker = DeltaTracker::new();
        tracker.upsert_desired(1, 'a');
        tracker.upsert_desired(1, 'b');
        tracker.wrote(1, 'a');
        assert_eq!(tracker.pending_upserts().collect::<Vec<_>>(), [(&1, &'b')]);
    }
}
