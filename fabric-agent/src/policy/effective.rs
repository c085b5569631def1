//! The rules that apply to an endpoint, in the order in which they are asked.

use std::collections::BTreeSet;

use crate::model::{
    Cluster, ClusterPolicy, DomainName,
    policy::{Direction, Peer, Ports, Rule, Tier, Treatment},
};

use super::identity::{Identity, in_namespace};

/// What NetworkPolicies say of an endpoint that they isolate in a direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Isolation {
    /// Rules of all of them, which accept.
    pub(super) rules: Vec<Rule>,
    /// The name under which everything else is denied.
    pub(super) deny: String,
    /// How that is carried out: the sender is told where one of them says so.
    pub(super) treatment: Treatment,
}

/// The rules for one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Effective {
    /// Name of the node that is let in past NetworkPolicies: the endpoint's own, at ingress.
    pub(super) own_node: Option<String>,
    /// Asked first.
    pub(super) admin: Vec<Rule>,
    /// Asked next: final where it is there.
    pub(super) isolation: Option<Isolation>,
    /// Asked last.
    pub(super) baseline: Vec<Rule>,
}

impl Effective {
    /// Whether nothing applies.
    pub(super) fn is_empty(&self) -> bool {
        self.admin.is_empty() && self.isolation.is_none() && self.baseline.is_empty()
    }
}

/// The rules for one direction, with those that are only tried out kept apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Side {
    /// Those in force.
    pub(super) enforced: Effective,
    /// All of them, as if those that are audited were in force; absent if none is.
    pub(super) audited: Option<Effective>,
}

impl Side {
    fn new(cluster: &Cluster, subject: &Identity, node: &str, direction: Direction) -> Self {
        let enforced = effective(cluster, subject, node, direction, false);
        let all = effective(cluster, subject, node, direction, true);
        Self { audited: (all != enforced).then_some(all), enforced }
    }

    /// All rules, as if those that are audited were in force.
    pub(super) fn all(&self) -> &Effective {
        self.audited.as_ref().unwrap_or(&self.enforced)
    }

    fn is_empty(&self) -> bool {
        self.enforced.is_empty() && self.audited.is_none()
    }
}

/// All that applies to an endpoint. Two endpoints with equal ones have one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Policy {
    /// What it receives.
    pub(super) ingress: Side,
    /// What it sends.
    pub(super) egress: Side,
}

impl Policy {
    /// That of endpoints of an identity which live on `node`.
    pub(super) fn new(cluster: &Cluster, subject: &Identity, node: &str) -> Self {
        Self {
            ingress: Side::new(cluster, subject, node, Direction::Ingress),
            egress: Side::new(cluster, subject, node, Direction::Egress),
        }
    }

    /// Whether nothing applies in either direction.
    pub(super) fn is_empty(&self) -> bool {
        self.ingress.is_empty() && self.egress.is_empty()
    }

    /// The names of peers in its rules, also of those that are only tried out.
    pub(super) fn names(&self) -> BTreeSet<&DomainName> {
        let peers = self.egress.all().admin.iter().flat_map(|rule| &rule.peers);
        peers.filter_map(|peer| if let Peer::Name(name) = peer { Some(name) } else { None }).collect()
    }

    /// Of each rule, the first of its peers that stands for one of `names`: all that its verdict depends on.
    pub(super) fn first_names(&self, names: &BTreeSet<String>) -> BTreeSet<DomainName> {
        let first = |rule: &Rule| {
            rule.peers.iter().find_map(|peer| {
                let Peer::Name(name) = peer else { return None };
                names.iter().any(|n| name.matches(n)).then(|| name.clone())
            })
        };
        self.egress.all().admin.iter().filter_map(first).collect()
    }

    /// One direction of it.
    pub(super) fn direction(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Whether a ClusterNetworkPolicy applies to endpoints of an identity.
pub(super) fn selects(policy: &ClusterPolicy, subject: &Identity) -> bool {
    let Identity::Endpoint { namespace, namespace_labels, labels, .. } = subject else { return false };
    in_namespace(&policy.namespaces, namespace, namespace_labels) && policy.endpoints.matches(labels)
}

/// The rules of the policies in force, and of those that are only tried out if `audited`.
fn effective(
    cluster: &Cluster,
    subject: &Identity,
    node: &str,
    direction: Direction,
    audited: bool,
) -> Effective {
    let Identity::Endpoint { namespace, labels, .. } = subject else { return Effective::default() };
    let ingress = direction == Direction::Ingress;
    let mut selected: Vec<&ClusterPolicy> =
        cluster.cluster_policies.values().filter(|policy| selects(policy, subject)).collect();
    selected.sort_by_key(|policy| (policy.priority, &policy.name));
    let tier = |tier: Tier| {
        let policies = selected.iter().filter(move |policy| policy.tier == tier);
        let rules = policies.flat_map(|policy| if ingress { &policy.ingress } else { &policy.egress });
        rules.filter(|rule| audited || !rule.treatment.audit).cloned().collect()
    };
    let mut effective = Effective {
        own_node: None,
        admin: tier(Tier::Admin),
        isolation: None,
        baseline: tier(Tier::Baseline),
    };
    for policy in cluster.network_policies.values() {
        let rules = if ingress { &policy.ingress } else { &policy.egress };
        let Some(rules) = rules else { continue };
        let applies = audited || !policy.treatment.audit;
        if !applies || policy.namespace != *namespace || !policy.selector.matches(labels) {
            continue;
        }
        let word = if ingress { "ingress" } else { "egress" };
        let isolation = effective.isolation.get_or_insert_with(|| Isolation {
            rules: Vec::new(),
            deny: format!("NetworkPolicy/{}/{}/{word}", policy.namespace, policy.name),
            treatment: Treatment::default(),
        });
        isolation.treatment.reject |= policy.treatment.reject;
        isolation.rules.extend(rules.iter().cloned());
    }
    if effective.isolation.is_some() {
        effective.baseline.clear();
    }
    if ingress {
        let isolated = effective.isolation.iter_mut().flat_map(|isolation| &mut isolation.rules);
        for rule in effective.admin.iter_mut().chain(isolated).chain(&mut effective.baseline) {
            resolve(rule, subject);
        }
        effective.own_node = (!effective.is_empty()).then(|| node.to_owned());
    }
    effective
}

/// Puts numbers in the place of names of ports: those of the receiver. A name that it does not have matches nothing.
fn resolve(rule: &mut Rule, receiver: &Identity) {
    rule.ports = rule.ports.iter().filter_map(|ports| resolved(ports, receiver)).collect();
}

/// Ports with a number in the place of a name; absent if the receiver has no port of the name.
pub(super) fn resolved(ports: &Ports, receiver: &Identity) -> Option<Ports> {
    match ports {
        Ports::Named(protocol, name) => {
            let port = receiver.named_port(*protocol, name)?;
            Some(Ports::Range(*protocol, port, port))
        }
        Ports::All | Ports::Range(..) => Some(ports.clone()),
    }
}
