//! Policies that were checked: Kubernetes NetworkPolicies (`networking.k8s.io/v1`) and ClusterNetworkPolicies
//! (`policy.networking.k8s.io`). What they mean is said where they are decided, in [`crate::policy`].

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::domain_name::DomainName;
pub use super::treatment::Treatment;

/// Labels of an endpoint, a namespace or a node.
pub type Labels = BTreeMap<String, String>;

/// The label that every namespace has, with its name as the value
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name>).
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The label that every node has, with its name as the value
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetesiohostname>).
pub const NODE_NAME_LABEL: &str = "kubernetes.io/hostname";

/// A Kubernetes label selector: all of its requirements hold. None of them: everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// In a fixed order, without duplicates.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The label exists, with one of these values (sorted).
    In(String, Vec<String>),
    /// The label does not exist, or has none of these values (sorted).
    NotIn(String, Vec<String>),
    /// The label exists.
    Exists(String),
    /// The label does not exist.
    DoesNotExist(String),
}

impl Selector {
    /// Whether labels are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

/// Whose namespaces' endpoints a peer or a subject selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// This one: that of the NetworkPolicy itself.
    Named(String),
    /// Those whose labels match ([`NAMESPACE_NAME_LABEL`] among them).
    Matching(Selector),
}

/// Who may be the other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Anybody, endpoint or not.
    Anyone,
    /// Endpoints.
    Endpoints(Namespaces, Selector),
    /// Addresses that no endpoint of the fabric has: in the prefix and in none of the exceptions.
    Cidr(IpNet, Vec<IpNet>),
    /// The addresses of nodes in the fabric's networks, by the labels of the Node objects.
    Nodes(Selector),
    /// Addresses of the world that the endpoint was told by a DNS server for such a name. Only in `Accept` rules of egress.
    Name(DomainName),
}

/// Ports that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every protocol and port.
    All,
    /// An IP protocol (6, 17 or 132) with the destination ports from the first to the last.
    Range(u8, u16, u16),
    /// The port of that name, and that protocol, at the receiver: each endpoint has its own.
    Named(u8, String),
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Let through, without asking further tiers.
    Accept,
    /// Drop, without asking further tiers.
    Deny,
    /// Ask the tiers behind.
    Pass,
}

/// Which way a packet goes, seen from the endpoint that is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Toward the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// One rule. It matches if any peer and any of the ports does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// What people see where it decides: `NetworkPolicy/NAMESPACE/NAME/ingress/0` (the index in the list), or for a rule of a
    /// ClusterNetworkPolicy that has a name of its own `ClusterNetworkPolicy/NAME/ingress/RULE`.
    pub name: String,
    /// What it says. Those of a NetworkPolicy accept.
    pub verdict: Verdict,
    /// At least one.
    pub peers: Vec<Peer>,
    /// At least one.
    pub ports: Vec<Ports>,
    /// How its verdict is carried out.
    pub treatment: Treatment,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Endpoints of the namespace that it applies to.
    pub selector: Selector,
    /// Its ingress rules, if `Ingress` is one of its policy types: then what no rule accepts is denied.
    pub ingress: Option<Vec<Rule>>,
    /// Its egress rules, if `Egress` is one of its policy types.
    pub egress: Option<Vec<Rule>>,
    /// How it is carried out that what no rule accepts is denied.
    pub treatment: Treatment,
}

/// The tier of a ClusterNetworkPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Asked before NetworkPolicies.
    Admin,
    /// Asked behind NetworkPolicies, where none of them applies to the endpoint in that direction.
    Baseline,
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Name.
    pub name: String,
    /// Tier.
    pub tier: Tier,
    /// 0 to 1000; lower is asked first. Of two with one priority in a tier the first by name is asked first.
    pub priority: i32,
    /// Namespaces of the endpoints that it applies to.
    pub namespaces: Namespaces,
    /// Endpoints that it applies to.
    pub endpoints: Selector,
    /// Ingress rules, in the order in which they are asked.
    pub ingress: Vec<Rule>,
    /// Egress rules, in the order in which they are asked.
    pub egress: Vec<Rule>,
}
