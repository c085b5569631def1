//! The compile: what was declared and what the kernel told about this node in, the wanted content of every map and
//! every link out. Pure: no I/O, no clock, and the same result whatever the order of the objects.
//!
//! Every network of the store is served by this node. A node has an address of its own in each, declared by a Node
//! object of its name or derived (see [`crate::model::ipam::node_address`]).

use std::collections::{BTreeMap, BTreeSet};

use fabric_common::{endpoint::EndpointKey, policy::IDENTITY_ANYONE};

use crate::{
    model::{Cluster, ProblemKey, ids},
    policy::{self, Compiled},
};

mod access;
pub mod advertisement;
pub mod desired;
mod endpoints;
mod flood;
mod links;
mod networks;
mod nodes;
mod routes;
mod sources;
#[cfg(test)]
mod tests;

pub use access::access_conflict;
pub use networks::{check_mtu, network_id, network_mtu, underlay_mtu};
pub use nodes::{node_ids, path_floor, toward};

use desired::{Desired, NodeFacts, PlanSettings};

/// Compiles. Objects that can't be realised as declared are in [`Desired::problems`]; everything else is realised.
pub fn plan(cluster: &Cluster, facts: &NodeFacts, settings: &PlanSettings) -> Desired {
    let mut context = Context::new(cluster, facts);
    let mut desired = Desired::default();
    nodes::compile(&mut context, settings, &mut desired);
    networks::compile(&mut context, &mut desired);
    endpoints::compile(&mut context, &mut desired);
    access::compile(&mut context, &mut desired);
    flood::compile(&mut context, &mut desired);
    advertisement::compile(&mut context, &mut desired);
    sources::compile(&mut context, &mut desired);
    routes::compile(&context, &mut desired);
    links::compile(&mut context, settings, &mut desired);
    policies(&mut context, &mut desired);
    desired.problems = context.problems;
    desired
}

/// The rows of policies, which the others refer to by number.
fn policies(context: &mut Context<'_>, desired: &mut Desired) {
    let compiled = std::mem::take(&mut context.policies);
    desired.tables.numbers = compiled.numbers;
    desired.tables.policy_ports = compiled.policy_ports;
    desired.tables.policies = compiled.policies;
    desired.tables.cidrs = compiled.cidrs;
    desired.tables.denied = compiled.denied;
    desired.tables.named = compiled.named;
    desired.watched = compiled.watched;
    desired.rules = compiled.rules;
    for (endpoint, text) in compiled.problems {
        context.problem("Endpoint", &endpoint, text);
    }
    for (set, text) in compiled.deny_problems {
        context.problem("DenySet", &set, text);
    }
}

/// What the features share while one plan is made.
struct Context<'a> {
    cluster: &'a Cluster,
    facts: &'a NodeFacts,
    /// Node numbers, this node's included.
    ids: BTreeMap<String, u32>,
    /// This node's number.
    local: u32,
    /// Largest inner IP packet that the underlay carries.
    limit: u16,
    /// Largest inner IP packet of each network, by name.
    mtus: BTreeMap<String, u16>,
    /// Numbers of identities and policies.
    policies: Compiled,
    /// Identities of nodes by their numbers.
    nodes: BTreeMap<u32, u32>,
    /// Ports of endpoints that are being moved here.
    arriving: BTreeSet<u32>,
    /// The second node that may send with an address, during a move.
    seconds: BTreeMap<EndpointKey, u32>,
    problems: BTreeMap<ProblemKey, String>,
}

impl<'a> Context<'a> {
    fn new(cluster: &'a Cluster, facts: &'a NodeFacts) -> Self {
        let ids = node_ids(cluster, &facts.node);
        let local = ids.get(&facts.node).copied().unwrap_or_else(|| ids::hash32(&facts.node).max(1));
        let limit = underlay_mtu(cluster, facts);
        let mtus = cluster.networks.values().map(|n| (n.name.clone(), network_mtu(n, limit))).collect();
        let policies = policy::compile(cluster, facts);
        let nodes = ids.iter().map(|(name, id)| (*id, policies.node(name))).collect();
        let (arriving, seconds) = (BTreeSet::new(), BTreeMap::new());
        let problems = cluster.problems.clone();
        Self { cluster, facts, ids, local, limit, mtus, policies, nodes, arriving, seconds, problems }
    }

    /// The identity of a node's own addresses, by its number.
    fn node_identity(&self, number: u32) -> u32 {
        self.nodes.get(&number).copied().unwrap_or(IDENTITY_ANYONE)
    }

    /// The first problem of an object stays.
    fn problem(&mut self, kind: &'static str, name: &str, text: String) {
        self.problems.entry((kind, name.to_owned())).or_insert(text);
    }
}
