//! What rules say of an identity: verdicts by ranges of ports.

use std::collections::{BTreeMap, BTreeSet};

use fabric_common::policy::port_key;

use crate::model::policy::{Ports, Rule, Treatment, Verdict};

use super::{
    effective::{Effective, resolved},
    identity::Identity,
    matching::Matched,
};

/// A final verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ruling {
    /// Let through.
    pub(super) accept: bool,
    /// The rule that decides; absent if none does.
    pub(super) rule: Option<String>,
    /// How it is carried out. With `audit` it is let through although the rule denies it.
    pub(super) treatment: Treatment,
}

/// Rulings by the first [`port_key`] of each range, ascending from 0; neighbours differ.
pub(super) type Ranges = Vec<(u32, Ruling)>;

/// The keys that ports stand for, first and last.
fn keys(ports: &Ports, other: &Identity) -> Option<(u32, u32)> {
    match resolved(ports, other)? {
        Ports::Range(protocol, first, last) => Some((port_key(protocol, first), port_key(protocol, last))),
        Ports::All | Ports::Named(..) => Some((0, u32::MAX)),
    }
}

/// A rule's list and place in it.
type Place = (usize, usize);

/// The rules that match a key, with the number of their ranges that do.
type Active = BTreeMap<Place, usize>;

enum Edge {
    Begin,
    End,
}

fn change(active: &mut Active, place: Place, edge: Edge) {
    let ranges = active.entry(place).or_default();
    match edge {
        Edge::Begin => *ranges += 1,
        Edge::End => *ranges -= 1,
    }
    if *ranges == 0 {
        active.remove(&place);
    }
}

fn by(rule: &Rule) -> Ruling {
    carried_out(rule.verdict == Verdict::Accept, &rule.name, rule.treatment)
}

/// With as much of the treatment as makes a difference.
fn carried_out(accept: bool, rule: &str, treatment: Treatment) -> Ruling {
    let treatment =
        Treatment { reject: treatment.reject && !accept, log: treatment.log && accept, audit: false };
    Ruling { accept, rule: Some(rule.to_owned()), treatment }
}

/// What those in force say, with what those say that are audited as well: what would not be admitted then is let through by the name
/// of the rule that would not.
pub(super) fn audited(enforced: &Ranges, all: &Ranges) -> Ranges {
    let of = |ranges: &Ranges, key: u32| {
        let at = ranges.partition_point(|(start, _)| *start <= key);
        ranges[at - 1].1.clone()
    };
    let starts: BTreeSet<u32> = enforced.iter().chain(all).map(|(start, _)| *start).collect();
    let mut ranges = Ranges::new();
    for start in starts {
        let (now, then) = (of(enforced, start), of(all, start));
        let ruling = if !now.accept || then.accept {
            now
        } else {
            Ruling { accept: true, treatment: Treatment { audit: true, ..Treatment::default() }, ..then }
        };
        push(&mut ranges, start, ruling);
    }
    ranges
}

/// Neighbours that are the same are one range.
fn push(ranges: &mut Ranges, start: u32, ruling: Ruling) {
    if ranges.last().is_none_or(|(_, last)| *last != ruling) {
        ranges.push((start, ruling));
    }
}

/// What the rules say of `other`, which these match.
pub(super) fn rule(effective: &Effective, matched: &Matched<'_>, other: &Identity) -> Ranges {
    let lists = [&matched.admin, &matched.isolated, &matched.baseline];
    let at_home = matches!(other, Identity::Node { name, .. } if effective.own_node.as_ref() == Some(name));
    let accepted = Ruling { accept: true, rule: None, treatment: Treatment::default() };
    let decide = |active: &Active| {
        let first = |list: usize| {
            let mut of_list = active.range((list, 0)..(list + 1, 0));
            of_list.next().map(|((list, at), _)| lists[*list][*at])
        };
        if let Some(rule) = first(0).filter(|rule| rule.verdict != Verdict::Pass) {
            return by(rule);
        }
        if at_home {
            return accepted.clone();
        }
        if let Some(isolation) = &effective.isolation {
            let denied = || carried_out(false, &isolation.deny, isolation.treatment);
            return first(1).map_or_else(denied, by);
        }
        match first(2) {
            Some(rule) if rule.verdict != Verdict::Pass => by(rule),
            Some(_) | None => accepted.clone(),
        }
    };
    let mut edges: BTreeMap<u32, Vec<(Place, Edge)>> = BTreeMap::from([(0, Vec::new())]);
    for (list, rules) in lists.iter().enumerate() {
        for (at, rule) in rules.iter().enumerate() {
            for (first, last) in rule.ports.iter().filter_map(|ports| keys(ports, other)) {
                edges.entry(first).or_default().push(((list, at), Edge::Begin));
                if let Some(behind) = last.checked_add(1) {
                    edges.entry(behind).or_default().push(((list, at), Edge::End));
                }
            }
        }
    }
    let mut active = Active::new();
    let mut ranges = Ranges::new();
    for (start, changes) in edges {
        changes.into_iter().for_each(|(place, edge)| change(&mut active, place, edge));
        push(&mut ranges, start, decide(&active));
    }
    ranges
}
