//! What rules say of an identity: verdicts by ranges of ports.

use std::collections::BTreeSet;

use fabric_common::policy::port_key;

use crate::model::policy::{Ports, Rule, Verdict};

use super::{
    effective::{Effective, resolved},
    identity::Identity,
};

/// A final verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ruling {
    /// Let through.
    pub(super) accept: bool,
    /// The rule that decides; absent if none does.
    pub(super) rule: Option<String>,
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

/// A rule that may match, with the keys that it matches.
struct Candidate<'a> {
    rule: &'a Rule,
    keys: Vec<(u32, u32)>,
}

impl<'a> Candidate<'a> {
    fn all(rules: &'a [Rule], other: &Identity) -> Vec<Self> {
        let matching = rules.iter().filter(|rule| rule.peers.iter().any(|peer| other.is(peer)));
        let candidates = matching.map(|rule| Self {
            rule,
            keys: rule.ports.iter().filter_map(|ports| keys(ports, other)).collect(),
        });
        candidates.filter(|candidate| !candidate.keys.is_empty()).collect()
    }

    fn first(all: &[Self], key: u32) -> Option<&'a Rule> {
        let matches = |range: &(u32, u32)| range.0 <= key && key <= range.1;
        all.iter().find(|candidate| candidate.keys.iter().any(matches)).map(|candidate| candidate.rule)
    }
}

fn by(rule: &Rule) -> Ruling {
    Ruling { accept: rule.verdict == Verdict::Accept, rule: Some(rule.name.clone()) }
}

/// What the rules say of `other`.
pub(super) fn rule(effective: &Effective, other: &Identity) -> Ranges {
    let admin = Candidate::all(&effective.admin, other);
    let isolation = effective.isolation.as_ref().map(|i| (Candidate::all(&i.rules, other), &i.deny));
    let baseline = Candidate::all(&effective.baseline, other);
    let at_home = matches!(other, Identity::Node { name, .. } if effective.own_node.as_ref() == Some(name));
    let accepted = Ruling { accept: true, rule: None };
    let decide = |key: u32| {
        if let Some(rule) = Candidate::first(&admin, key).filter(|rule| rule.verdict != Verdict::Pass) {
            return by(rule);
        }
        if at_home {
            return accepted.clone();
        }
        if let Some((rules, deny)) = &isolation {
            return Candidate::first(rules, key)
                .map_or_else(|| Ruling { accept: false, rule: Some((*deny).clone()) }, by);
        }
        match Candidate::first(&baseline, key) {
            Some(rule) if rule.verdict != Verdict::Pass => by(rule),
            Some(_) | None => accepted.clone(),
        }
    };
    let isolated = isolation.iter().flat_map(|(rules, _)| rules);
    let all = admin.iter().chain(isolated).chain(&baseline).flat_map(|candidate| &candidate.keys);
    let starts: BTreeSet<u32> =
        all.flat_map(|(first, last)| [Some(*first), last.checked_add(1)]).flatten().chain([0]).collect();
    let mut ranges = Ranges::new();
    for start in starts {
        let ruling = decide(start);
        if ranges.last().is_none_or(|(_, last)| *last != ruling) {
            ranges.push((start, ruling));
        }
    }
    ranges
}
