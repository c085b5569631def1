//! What a packet may do, by the words of the Kubernetes documents alone
//! (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>,
//! <https://network-policy-api.sigs.k8s.io/api-overview/>): policy by policy and rule by rule, with nothing put together
//! before.

use std::net::IpAddr;

use fabric_agent::model::{
    ClusterPolicy, Endpoint, Labels,
    policy::{Namespaces, Peer, Ports, Requirement, Rule, Selector, Tier, Treatment, Verdict},
};
use ipnet::IpNet;

use super::generate::{Packet, World};

/// What both sides say; absent where a side is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Whether the sender's egress rules let the packet out.
    pub egress: Option<Said>,
    /// Whether the receiver's ingress rules let it in.
    pub ingress: Option<Said>,
}

/// What one side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It passes.
    Accept,
    /// It passes, but would not if the policies that are audited were in force.
    WouldDeny,
    /// It does not pass.
    Deny,
    /// It does not pass, and the sender is told.
    Reject,
}

impl Said {
    /// Whether it passes.
    pub fn passes(self) -> bool {
        matches!(self, Self::Accept | Self::WouldDeny)
    }
}

/// What becomes of a packet.
pub fn judge(world: &World, packet: &Packet) -> Opinion {
    let side = |own: IpAddr, other: IpAddr, egress: bool| {
        let endpoint = world.endpoint(own)?;
        let case = |audit| Case { world, packet, endpoint, other, egress, audit };
        let denied = |treatment: Treatment| if treatment.reject { Said::Reject } else { Said::Deny };
        Some(match (case(false).denied(), case(true).denied()) {
            (Some(treatment), _) => denied(treatment),
            (None, Some(_)) => Said::WouldDeny,
            (None, None) => Said::Accept,
        })
    };
    Opinion { egress: side(packet.from, packet.to, true), ingress: side(packet.to, packet.from, false) }
}

struct Case<'a> {
    world: &'a World,
    packet: &'a Packet,
    endpoint: &'a Endpoint,
    other: IpAddr,
    egress: bool,
    /// Policies that are audited count as well.
    audit: bool,
}

impl Case<'_> {
    /// How the denial is carried out; absent if there is none.
    fn denied(&self) -> Option<Treatment> {
        match self.tier(Tier::Admin) {
            Some((Verdict::Accept, _)) => return None,
            Some((Verdict::Deny, treatment)) => return Some(treatment),
            Some((Verdict::Pass, _)) | None => {}
        }
        let node = self.world.nodes.iter().find(|(_, _, address)| *address == self.other);
        if !self.egress && node.is_some_and(|(name, _, _)| *name == self.endpoint.node) {
            return None;
        }
        let mut isolated: Option<Treatment> = None;
        for policy in &self.world.network_policies {
            let rules = if self.egress { &policy.egress } else { &policy.ingress };
            let applies = (self.audit || !policy.treatment.audit)
                && policy.namespace == self.endpoint.namespace
                && selected(&policy.selector, &self.endpoint.labels);
            if let Some(rules) = rules.as_ref().filter(|_| applies) {
                if rules.iter().any(|rule| self.matches(rule)) {
                    return None;
                }
                // One that says so is enough for the sender to be told.
                if isolated.is_none() || policy.treatment.reject {
                    isolated = Some(policy.treatment);
                }
            }
        }
        if isolated.is_some() {
            return isolated;
        }
        let last = self.tier(Tier::Baseline);
        last.filter(|(verdict, _)| *verdict == Verdict::Deny).map(|(_, treatment)| treatment)
    }

    fn tier(&self, tier: Tier) -> Option<(Verdict, Treatment)> {
        let mut policies: Vec<&ClusterPolicy> = self.world.cluster_policies.iter().collect();
        policies.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        for policy in policies {
            let ours = policy.tier == tier
                && self.in_namespace(&policy.namespaces, &self.endpoint.namespace)
                && selected(&policy.endpoints, &self.endpoint.labels);
            let audited = |rule: &Rule| rule.treatment.audit && !self.audit;
            let rules = if self.egress { &policy.egress } else { &policy.ingress };
            if let Some(rule) = rules.iter().find(|rule| ours && !audited(rule) && self.matches(rule)) {
                return Some((rule.verdict, rule.treatment));
            }
        }
        None
    }

    fn matches(&self, rule: &Rule) -> bool {
        rule.peers.iter().any(|peer| self.is_peer(peer)) && rule.ports.iter().any(|ports| self.is_port(ports))
    }

    fn is_peer(&self, peer: &Peer) -> bool {
        let endpoint = self.world.endpoint(self.other);
        let node = self.world.nodes.iter().find(|(_, _, address)| *address == self.other);
        match peer {
            Peer::Anyone => true,
            Peer::Endpoints(namespaces, selector) => endpoint.is_some_and(|endpoint| {
                self.in_namespace(namespaces, &endpoint.namespace) && selected(selector, &endpoint.labels)
            }),
            Peer::Nodes(selector) => node.is_some_and(|(_, labels, _)| selected(selector, labels)),
            // Packets of the model have addresses, and nobody asks a DNS server.
            Peer::Name(_) => false,
            Peer::Cidr(net, except) => {
                let outside = endpoint.is_none() && node.is_none();
                outside && inside(net, self.other) && !except.iter().any(|net| inside(net, self.other))
            }
        }
    }

    fn is_port(&self, ports: &Ports) -> bool {
        let Packet { protocol, port, .. } = *self.packet;
        match ports {
            Ports::All => true,
            Ports::Range(wanted, first, last) => protocol == *wanted && port >= *first && port <= *last,
            Ports::Named(wanted, name) => {
                let receiver = self.world.endpoint(self.packet.to);
                let word = match *wanted {
                    6 => "TCP",
                    17 => "UDP",
                    _ => "SCTP",
                };
                receiver.is_some_and(|receiver| {
                    let mut named = receiver.ports.iter();
                    protocol == *wanted
                        && named.any(|p| p.name == *name && p.protocol == word && p.port == port)
                })
            }
        }
    }

    fn in_namespace(&self, wanted: &Namespaces, name: &str) -> bool {
        match wanted {
            Namespaces::Named(wanted) => wanted == name,
            Namespaces::Matching(selector) => {
                let declared = self.world.namespaces.iter().find(|(namespace, _)| namespace == name);
                let mut labels = declared.map(|(_, labels)| labels.clone()).unwrap_or_default();
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
                selected(selector, &labels)
            }
        }
    }
}

fn selected(selector: &Selector, labels: &Labels) -> bool {
    for requirement in &selector.requirements {
        let holds = match requirement {
            Requirement::In(key, values) => labels.iter().any(|(k, v)| k == key && values.contains(v)),
            Requirement::NotIn(key, values) => !labels.iter().any(|(k, v)| k == key && values.contains(v)),
            Requirement::Exists(key) => labels.keys().any(|k| k == key),
            Requirement::DoesNotExist(key) => labels.keys().all(|k| k != key),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// Whether the first bits are the same.
fn inside(net: &IpNet, address: IpAddr) -> bool {
    match (net.addr(), address) {
        (IpAddr::V4(net_address), IpAddr::V4(address)) => {
            let differ = u32::from(net_address) ^ u32::from(address);
            u64::from(differ) >> (32 - net.prefix_len()) == 0
        }
        (IpAddr::V6(net_address), IpAddr::V6(address)) => {
            let differ = u128::from(net_address) ^ u128::from(address);
            differ.checked_shr(128 - u32::from(net.prefix_len())).unwrap_or(0) == 0
        }
        _ => false,
    }
}
