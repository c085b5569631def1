//! What in the policies is probably not meant.

use std::collections::BTreeSet;

use fabric_api::policy::LintFinding;

use crate::model::{
    Cluster, ClusterPolicy,
    policy::{Peer, Ports, Rule, Verdict},
};

use super::{
    effective::{Policy, selects},
    identity::Identity,
};

/// Looks at every policy: those that apply to nobody, rules whose peers are nobody, rules behind one that matches all that
/// they do, and rules of policies of one priority that contradict each other.
pub fn lint(cluster: &Cluster) -> Vec<LintFinding> {
    let mut lint = Lint { cluster, found: Vec::new(), identities: identities(cluster) };
    for policy in cluster.network_policies.values() {
        let name = format!("NetworkPolicy/{}/{}", policy.namespace, policy.name);
        let mut endpoints = cluster.endpoints.values();
        if !endpoints.any(|e| e.namespace == policy.namespace && policy.selector.matches(&e.labels)) {
            lint.say(&name, None, "it selects no endpoint: nothing is isolated by it");
        }
        for rules in policy.ingress.iter().chain(&policy.egress) {
            lint.rules(&name, rules);
        }
    }
    for policy in cluster.cluster_policies.values() {
        let name = format!("ClusterNetworkPolicy/{}", policy.name);
        if !lint.identities.iter().any(|identity| selects(policy, identity)) {
            lint.say(&name, None, "it selects no endpoint: none of its rules is ever asked");
        }
        lint.rules(&name, &policy.ingress);
        lint.rules(&name, &policy.egress);
    }
    lint.contradictions();
    lint.unreached();
    lint.found
}

fn identities(cluster: &Cluster) -> BTreeSet<Identity> {
    let endpoints = cluster.endpoints.values().map(|endpoint| Identity::of_endpoint(cluster, endpoint));
    endpoints.chain(cluster.nodes.keys().map(|name| Identity::of_node(cluster, name))).collect()
}

struct Lint<'a> {
    cluster: &'a Cluster,
    found: Vec<LintFinding>,
    identities: BTreeSet<Identity>,
}

impl Lint<'_> {
    fn say(&mut self, policy: &str, rule: Option<&Rule>, text: &str) {
        let rule = rule.map(|rule| rule.name.clone());
        let finding = LintFinding { policy: policy.to_owned(), rule, text: text.to_owned() };
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// Rules of one list.
    fn rules(&mut self, policy: &str, rules: &[Rule]) {
        for (at, rule) in rules.iter().enumerate() {
            let somebody = |peer: &Peer| match peer {
                Peer::Anyone | Peer::Cidr(..) | Peer::Name(_) => true,
                Peer::Endpoints(..) | Peer::Nodes(_) => self.identities.iter().any(|i| i.is(peer)),
            };
            if !rule.peers.iter().any(somebody) {
                self.say(policy, Some(rule), "none of its peers is there: it matches nothing now");
            }
            if let Some(earlier) = rules[..at].iter().find(|earlier| covers(earlier, rule)) {
                let text =
                    format!("{} before it matches all that it does: it is never reached", earlier.name);
                self.say(policy, Some(rule), &text);
            }
        }
    }

    /// Policies of one tier and priority that apply to one endpoint and say opposite things of one peer and port.
    fn contradictions(&mut self) {
        let policies: Vec<&ClusterPolicy> = self.cluster.cluster_policies.values().collect();
        for (at, first) in policies.iter().enumerate() {
            for second in &policies[at + 1..] {
                let both = |identity: &Identity| selects(first, identity) && selects(second, identity);
                if (first.tier, first.priority) != (second.tier, second.priority)
                    || !self.identities.iter().any(both)
                {
                    continue;
                }
                let lists = [(&first.ingress, &second.ingress), (&first.egress, &second.egress)];
                for (ours, theirs) in lists {
                    for rule in theirs {
                        let against = ours.iter().find(|other| {
                            other.verdict != rule.verdict && (covers(other, rule) || covers(rule, other))
                        });
                        let Some(against) = against else { continue };
                        let text = format!(
                            "{} says otherwise with the same priority and comes first by name: give one another priority",
                            against.name
                        );
                        self.say(&format!("ClusterNetworkPolicy/{}", second.name), Some(rule), &text);
                    }
                }
            }
        }
    }

    /// Rules that are asked for some endpoint, but for each of them behind one that matches all that they do.
    fn unreached(&mut self) {
        let mut reached: BTreeSet<String> = BTreeSet::new();
        let mut hidden: Vec<(Rule, String)> = Vec::new();
        for subject in self.identities.iter().filter(|i| matches!(i, Identity::Endpoint { .. })) {
            let policy = Policy::new(self.cluster, subject, "");
            for effective in [policy.ingress.all(), policy.egress.all()] {
                for rules in [&effective.admin, &effective.baseline] {
                    for (at, rule) in rules.iter().enumerate() {
                        match rules[..at].iter().find(|earlier| covers(earlier, rule)) {
                            Some(earlier) => hidden.push((rule.clone(), earlier.name.clone())),
                            None => {
                                reached.insert(rule.name.clone());
                            }
                        }
                    }
                }
                if effective.admin.iter().any(|rule| rule.verdict != Verdict::Pass && matches_all(rule)) {
                    continue;
                }
                let isolated = effective.isolation.iter().flat_map(|isolation| &isolation.rules);
                reached.extend(isolated.map(|rule| rule.name.clone()));
            }
        }
        for (rule, earlier) in hidden {
            if !reached.contains(&rule.name) {
                let policy = rule.name.split('/').take(2).collect::<Vec<_>>().join("/");
                let text = format!("{earlier} before it matches all that it does: it is never reached");
                self.say(&policy, Some(&rule), &text);
            }
        }
    }
}

fn matches_all(rule: &Rule) -> bool {
    rule.peers.contains(&Peer::Anyone) && rule.ports.contains(&Ports::All)
}

/// Whether a rule matches all that another one does, as far as it can be told without looking at who is there.
fn covers(rule: &Rule, other: &Rule) -> bool {
    let peer = |wanted: &Peer| {
        rule.peers.iter().any(|peer| match (peer, wanted) {
            (Peer::Anyone, _) => true,
            (Peer::Cidr(net, except), Peer::Cidr(inner, _)) if except.is_empty() => net.contains(inner),
            (peer, wanted) => peer == wanted,
        })
    };
    let port = |wanted: &Ports| {
        rule.ports.iter().any(|ports| match (ports, wanted) {
            (Ports::All, _) => true,
            (Ports::Range(protocol, first, last), Ports::Range(inner, low, high)) => {
                protocol == inner && first <= low && high <= last
            }
            (ports, wanted) => ports == wanted,
        })
    };
    other.peers.iter().all(peer) && other.ports.iter().all(port)
}
