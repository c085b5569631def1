//! Every single write and removal of every change, with maps of every size: nothing is admitted that neither the state
//! before nor the one after admits.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use fabric_common::{
    addr::Addr,
    endpoint::{EndpointKey, EndpointValue},
    policy::{
        EGRESS, IDENTITY_ANYONE, INGRESS, KIND_IDENTITY, KIND_POLICY, NumberKey, NumberValue, PolicyKey,
        PolicyPorts, PolicyValue, verdict,
    },
};
use proptest::prelude::*;
use zerocopy::FromZeros;

use super::{PolicyTables, Sink, write};
use crate::{
    dataplane::{DataplaneError, Failure},
    plan::desired::{AddrPrefix, Rows, Tables},
    policy::{Change, State},
};

const POLICIES: u32 = 4;
const LABELS: u32 = 4;
/// Addresses are these many low bits.
const BITS: u32 = 3;

type Prefix = (u32, u32);

/// What a policy says, which never changes: of labels, and of strangers, by which of the blocks that its rules name they are in.
#[derive(Clone, Debug)]
struct Says {
    blocks: Vec<Prefix>,
    strangers: BTreeMap<u32, Vec<bool>>,
    labels: BTreeMap<u32, Vec<bool>>,
}

impl Says {
    /// Of an endpoint with a label, or of strangers in these blocks.
    fn of(&self, direction: u32, who: &Who) -> bool {
        match who {
            Who::Label(label) => self.labels[&direction][*label as usize],
            Who::Stranger(within) => {
                let bit = |(i, block)| u32::from(within.contains(block)) << i;
                let case: u32 = self.blocks.iter().enumerate().map(bit).sum();
                self.strangers[&direction][case as usize]
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Label(u32),
    Stranger(BTreeSet<Prefix>),
}

impl Who {
    /// The number that stands for this.
    fn number(&self) -> u32 {
        match self {
            Self::Label(label) => 1 + label,
            Self::Stranger(within) if within.is_empty() => IDENTITY_ANYONE,
            Self::Stranger(within) => {
                let bit = |(bits, low): &Prefix| 1 << ((1 << bits) + (low >> (BITS - bits)));
                LABELS + 1 + within.iter().map(bit).sum::<u32>()
            }
        }
    }
}

/// Which policies there are, that of the port among them, and which label an endpoint has.
#[derive(Clone, Debug)]
struct World {
    policy: u32,
    others: BTreeSet<u32>,
    endpoint: Option<(u32, u32)>,
}

impl World {
    fn policies(&self) -> BTreeSet<u32> {
        self.others.iter().chain([&self.policy]).copied().collect()
    }

    fn label(&self, low: u32) -> Option<Who> {
        self.endpoint.filter(|(own, _)| *own == low).map(|(_, label)| Who::Label(label))
    }
}

fn block() -> impl Strategy<Value = Prefix> {
    (0..=BITS, 0..1u32 << BITS).prop_map(|(bits, low)| (bits, low_of(bits, low)))
}

fn low_of(bits: u32, low: u32) -> u32 {
    low >> (BITS - bits) << (BITS - bits)
}

fn says() -> impl Strategy<Value = Vec<Says>> {
    let answers = |count: usize| {
        let ways = [EGRESS, INGRESS].map(|way| (Just(way), prop::collection::vec(any::<bool>(), count)));
        ways.to_vec().prop_map(|ways| ways.into_iter().collect::<BTreeMap<_, _>>())
    };
    let one = (prop::collection::btree_set(block(), 0..4), answers(8), answers(LABELS as usize)).prop_map(
        |(blocks, strangers, labels)| Says { blocks: blocks.into_iter().collect(), strangers, labels },
    );
    prop::collection::vec(one, POLICIES as usize)
}

fn world() -> impl Strategy<Value = World> {
    let policy = 0..POLICIES;
    let endpoint = prop::option::of((0..1u32 << BITS, 0..LABELS));
    (policy.clone(), prop::collection::btree_set(policy, 0..3), endpoint)
        .prop_map(|(policy, others, endpoint)| World { policy, others, endpoint })
}

fn prefix((bits, low): Prefix) -> AddrPrefix {
    AddrPrefix { bits: Addr::BITS - BITS + bits, addr: addr(low) }
}

fn addr(low: u32) -> Addr {
    Addr::v4([192, 0, 2, low as u8])
}

fn stranger<'a>(blocks: impl IntoIterator<Item = &'a Prefix>, low: u32) -> Who {
    Who::Stranger(blocks.into_iter().filter(|(bits, own)| low_of(*bits, low) == *own).copied().collect())
}

fn word(admitted: bool) -> PolicyValue {
    PolicyValue { verdict: if admitted { verdict::ALLOW | 1 } else { verdict::DENY | 1 } }
}

/// The rows of a world, as `policy::compile` makes them.
fn tables(world: &World, says: &[Says]) -> Tables {
    let mut tables = Tables::default();
    let blocks: BTreeSet<Prefix> =
        world.policies().iter().flat_map(|policy| &says[*policy as usize].blocks).copied().collect();
    let mut identities = BTreeSet::new();
    for (bits, low) in &blocks {
        let around = blocks.iter().filter(|(wider, own)| wider <= bits && low_of(*wider, *low) == *own);
        let who = Who::Stranger(around.copied().collect());
        tables.cidrs.insert(prefix((*bits, *low)), who.number());
        identities.insert(who);
    }
    if let Some((low, label)) = world.endpoint {
        let mut value = EndpointValue::new_zeroed();
        value.identity = Who::Label(label).number();
        tables.endpoints.insert(EndpointKey { vni: 1, addr: addr(low) }, value);
        identities.insert(Who::Label(label));
    }
    for policy in world.policies() {
        for direction in [EGRESS, INGRESS] {
            let of = |who: &Who| says[policy as usize].of(direction, who);
            let default = of(&Who::Stranger(BTreeSet::new()));
            let key = |identity| PolicyKey { policy: policy + 1, direction, identity };
            tables.policies.insert(key(IDENTITY_ANYONE), word(default));
            let others = identities.iter().filter(|who| of(who) != default);
            tables.policies.extend(others.map(|who| (key(who.number()), word(of(who)))));
        }
    }
    let number = |kind, number| (NumberKey { kind, number }, NumberValue { digest: [0; 16] });
    tables.numbers.extend(identities.iter().map(|who| number(KIND_IDENTITY, who.number())));
    tables.numbers.extend(world.policies().iter().map(|policy| number(KIND_POLICY, policy + 1)));
    tables
}

/// Whether the policy admits what is exchanged with `low`, as the programs find out.
fn admits(tables: &Tables, policy: u32, direction: u32, low: u32) -> bool {
    let found =
        tables.endpoints.get(&EndpointKey { vni: 1, addr: addr(low) }).map(|endpoint| endpoint.identity);
    let by_prefix = || {
        let rows = (0..=BITS).rev().filter_map(|bits| tables.cidrs.get(&prefix((bits, low_of(bits, low)))));
        rows.copied().next().unwrap_or(IDENTITY_ANYONE)
    };
    let identity = found.unwrap_or_else(by_prefix);
    let key = |identity| PolicyKey { policy: policy + 1, direction, identity };
    let row = tables.policies.get(&key(identity)).or_else(|| tables.policies.get(&key(IDENTITY_ANYONE)));
    row.is_some_and(|row| row.verdict & verdict::KIND == verdict::ALLOW)
}

/// The maps, and what must hold after each of their changes.
struct Maps {
    tables: Tables,
    says: Vec<Says>,
    before: World,
    after: World,
    /// The port's policy.
    policy: u32,
    limits: (usize, usize, usize),
}

impl Maps {
    /// Whoever the port's policy admits, it does admit: as who the address is, was, or is to be.
    fn check(&self) {
        let says = &self.says[self.policy as usize];
        for (way, low) in (0..1 << BITS).flat_map(|low| [(EGRESS, low), (INGRESS, low)]) {
            let who = |world: &World| world.label(low).unwrap_or_else(|| stranger(&says.blocks, low));
            let admitted = says.of(way, &who(&self.before)) || says.of(way, &who(&self.after));
            assert!(
                admitted || !admits(&self.tables, self.policy, way, low),
                "{way} {low} is admitted by policy {}: {:?}",
                self.policy + 1,
                self.tables.policies
            );
        }
    }

    /// What a world says, it says.
    fn is_complete(&self) {
        let says = &self.says[self.policy as usize];
        for (way, low) in (0..1 << BITS).flat_map(|low| [(EGRESS, low), (INGRESS, low)]) {
            let who = self.after.label(low).unwrap_or_else(|| stranger(&says.blocks, low));
            assert_eq!(admits(&self.tables, self.policy, way, low), says.of(way, &who), "{way} {low}");
        }
    }
}

/// One of the maps.
struct View<'a, K, V> {
    maps: &'a RefCell<Maps>,
    rows: fn(&mut Tables) -> &mut Rows<K, V>,
    limit: fn(&Maps) -> usize,
}

impl<K: Ord + Copy, V: Copy> Sink<K, V> for View<'_, K, V> {
    fn write(&mut self, rows: &[(K, V)]) -> Result<(), Failure<K>> {
        let mut failed = BTreeSet::new();
        for (key, value) in rows {
            let mut maps = self.maps.borrow_mut();
            let limit = (self.limit)(&maps);
            let map = (self.rows)(&mut maps.tables);
            if map.len() < limit || map.contains_key(key) {
                map.insert(*key, *value);
            } else {
                failed.insert(*key);
            }
            maps.check();
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure { error: DataplaneError::Object("full".to_owned()), keys: failed })
    }

    fn remove(&mut self, keys: &BTreeSet<K>) -> Result<(), Failure<K>> {
        for key in keys {
            let mut maps = self.maps.borrow_mut();
            (self.rows)(&mut maps.tables).remove(key);
            maps.check();
        }
        Ok(())
    }
}

fn missing<K: Ord + Copy, V: Copy + PartialEq>(wanted: &Rows<K, V>, actual: &Rows<K, V>) -> Rows<K, V> {
    wanted
        .iter()
        .filter(|(key, value)| actual.get(key) != Some(value))
        .map(|(key, value)| (*key, *value))
        .collect()
}

fn surplus<K: Ord + Copy, V>(wanted: &Rows<K, V>, actual: &Rows<K, V>) -> BTreeSet<K> {
    actual.keys().filter(|key| !wanted.contains_key(key)).copied().collect()
}

/// A pass, as the reconciler does it: what is written, in the order of the tables, and what is removed. Returns whether all
/// was written.
fn pass(maps: &RefCell<Maps>, wanted: &Tables, policy: u32) -> bool {
    let actual = maps.borrow().tables.clone();
    let mut pending = Tables {
        numbers: missing(&wanted.numbers, &actual.numbers),
        policies: missing(&wanted.policies, &actual.policies),
        cidrs: missing(&wanted.cidrs, &actual.cidrs),
        ..Tables::default()
    };
    let change = Change { actual: State::from(&actual), wanted: State::from(wanted) };
    pending.policies.extend(change.transition());
    let mut numbers = View { maps, rows: |tables| &mut tables.numbers, limit: |maps| maps.limits.0 };
    let mut policy_ports: View<'_, u32, PolicyPorts> =
        View { maps, rows: |tables| &mut tables.policy_ports, limit: |_| usize::MAX };
    let mut policies = View { maps, rows: |tables| &mut tables.policies, limit: |maps| maps.limits.1 };
    let mut cidrs = View { maps, rows: |tables| &mut tables.cidrs, limit: |maps| maps.limits.2 };
    let tables = PolicyTables {
        numbers: &mut numbers,
        policy_ports: &mut policy_ports,
        policies: &mut policies,
        cidrs: &mut cidrs,
    };
    let done = write(tables, &pending, change).is_empty();
    let mut endpoints = View { maps, rows: |tables| &mut tables.endpoints, limit: |_| usize::MAX };
    // The port after the records of sources, and before those of destinations: both orders are right.
    let rows: Vec<_> =
        missing(&wanted.endpoints, &actual.endpoints).iter().map(|(key, value)| (*key, *value)).collect();
    let (first, rest) = rows.split_at(rows.len() / 2);
    assert!(endpoints.write(first).is_ok());
    maps.borrow_mut().policy = policy;
    maps.borrow().check();
    assert!(endpoints.write(rest).is_ok());

    let actual = maps.borrow().tables.clone();
    assert!(endpoints.remove(&surplus(&wanted.endpoints, &actual.endpoints)).is_ok());
    assert!(cidrs.remove(&surplus(&wanted.cidrs, &actual.cidrs)).is_ok());
    assert!(policies.remove(&surplus(&wanted.policies, &actual.policies)).is_ok());
    if done {
        assert!(numbers.remove(&surplus(&wanted.numbers, &actual.numbers)).is_ok());
    }
    done
}

fn change(says: &[Says], worlds: &[World], limits: (usize, usize, usize)) {
    let first = &worlds[0];
    let maps = RefCell::new(Maps {
        tables: Tables::default(),
        says: says.to_vec(),
        before: World { endpoint: None, ..first.clone() },
        after: first.clone(),
        policy: first.policy,
        limits,
    });
    for world in worlds {
        let wanted = tables(world, says);
        maps.borrow_mut().after = world.clone();
        // Twice: what failed is tried again.
        for _ in 0..2 {
            if pass(&maps, &wanted, world.policy) {
                assert_eq!(maps.borrow().tables.policies, wanted.policies);
                maps.borrow().is_complete();
            }
        }
        maps.borrow_mut().before = world.clone();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn changes_admit_no_more_than_policies_say(says in says(), worlds in prop::collection::vec(world(), 1..4)) {
        change(&says, &worlds, (usize::MAX, usize::MAX, usize::MAX));
    }

    #[test]
    fn full_maps_admit_no_more_either(
        says in says(),
        worlds in prop::collection::vec(world(), 1..4),
        limits in (4..12usize, 4..40usize, 0..5usize),
    ) {
        change(&says, &worlds, limits);
    }
}
