//! One question to one side's rules, rule by rule, for people who want to know why.

use fabric_api::policy::PolicyCandidate;

use crate::model::policy::{Peer, Ports, Rule, Verdict};

use super::{
    effective::{Effective, resolved},
    identity::Identity,
};

/// What is asked of a side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The other side.
    pub(super) other: &'a Identity,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Destination port; 0 if the protocol has none.
    pub(super) port: u16,
}

/// What a side says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Let through.
    pub(super) accept: bool,
    /// The rule that decides.
    pub(super) rule: Option<String>,
    /// Not let through, and the sender is told.
    pub(super) reject: bool,
    /// Rules that were asked, in order.
    pub(super) candidates: Vec<PolicyCandidate>,
}

/// Asks the rules one by one up to the one that decides.
pub(super) fn ask(effective: &Effective, asked: Asked<'_>) -> Said {
    let mut said = Said { accept: true, ..Said::default() };
    if let Some(rule) = first(&effective.admin, asked, &mut said)
        && rule.verdict != Verdict::Pass
    {
        return decided(said, rule);
    }
    if matches!(asked.other, Identity::Node { name, .. } if effective.own_node.as_ref() == Some(name)) {
        return said;
    }
    if let Some(isolation) = &effective.isolation {
        if let Some(rule) = first(&isolation.rules, asked, &mut said) {
            return decided(said, rule);
        }
        said.candidates.push(PolicyCandidate {
            rule: isolation.deny.clone(),
            verdict: "deny".to_owned(),
            matches: true,
            why: "no rule of the NetworkPolicies that select the endpoint accepts".to_owned(),
        });
        let reject = isolation.treatment.reject;
        return Said { accept: false, rule: Some(isolation.deny.clone()), reject, ..said };
    }
    match first(&effective.baseline, asked, &mut said) {
        Some(rule) if rule.verdict != Verdict::Pass => decided(said, rule),
        Some(_) | None => said,
    }
}

fn decided(said: Said, rule: &Rule) -> Said {
    let accept = rule.verdict == Verdict::Accept;
    Said { accept, rule: Some(rule.name.clone()), reject: rule.treatment.reject && !accept, ..said }
}

fn first<'a>(rules: &'a [Rule], asked: Asked<'_>, said: &mut Said) -> Option<&'a Rule> {
    for rule in rules {
        let why = mismatch(rule, asked);
        said.candidates.push(PolicyCandidate {
            rule: rule.name.clone(),
            verdict: word(rule.verdict).to_owned(),
            matches: why.is_none(),
            why: why.map_or_else(|| matched(rule, asked), str::to_owned),
        });
        if why.is_none() {
            return Some(rule);
        }
    }
    None
}

/// Why a rule matches: by which name, if it is one.
fn matched(rule: &Rule, asked: Asked<'_>) -> String {
    match rule.peers.iter().find(|peer| asked.other.is(peer)) {
        Some(Peer::Name(name)) => format!("domain name {name} and port match"),
        _ => "peer and port match".to_owned(),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accept",
        Verdict::Deny => "deny",
        Verdict::Pass => "pass",
    }
}

fn mismatch(rule: &Rule, asked: Asked<'_>) -> Option<&'static str> {
    if !rule.peers.iter().any(|peer| asked.other.is(peer)) {
        return Some("no peer matches");
    }
    let port = |ports: &Ports| match resolved(ports, asked.other) {
        Some(Ports::All) => true,
        Some(Ports::Range(protocol, first, last)) => {
            protocol == asked.protocol && (first..=last).contains(&asked.port)
        }
        Some(Ports::Named(..)) | None => false,
    };
    if rule.ports.is_empty() {
        return Some("the receiver has no port of that name");
    }
    (!rule.ports.iter().any(port)).then_some("no port matches")
}
