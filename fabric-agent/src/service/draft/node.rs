//! This node's own Node object in a store that hosts share: who it is, and its addresses in the networks that it is in.

use std::{collections::BTreeSet, net::IpAddr};

use fabric_api::{
    Node, Object,
    object::{API_VERSION, Metadata, NodeNetwork, NodeSpec},
};

use super::{super::ServiceError, Draft, Owner};
use crate::{model::ipam, plan::desired::NodeFacts, service::owner::AGENT, store::Snapshot};

/// The networks that a node needs addresses in: those of its endpoints, and those that the hosts are in.
fn parts<'a>(objects: impl Iterator<Item = &'a Object> + Clone, node: &str) -> BTreeSet<&'a str> {
    let wanted = |object: &'a Object| {
        if let Object::Network(network) = object {
            network.spec.host_access.then_some(network.metadata.name.as_str())
        } else if let Object::Endpoint(endpoint) = object {
            let moves = endpoint.spec.movement.as_ref().is_some_and(|movement| movement.node == node);
            let here = moves || endpoint.spec.node.as_deref() == Some(node);
            here.then_some(endpoint.spec.network.as_str())
        } else {
            None
        }
    };
    let wanted: BTreeSet<&str> = objects.clone().filter_map(wanted).collect();
    // An endpoint without its network is a problem of its own.
    let there = objects.filter(|object| object.kind() == "Network");
    there.map(|object| object.metadata().name.as_str()).filter(|name| wanted.contains(name)).collect()
}

/// VTEP addresses in the order of the uplinks.
fn vteps(facts: &NodeFacts) -> Vec<IpAddr> {
    facts.uplinks.iter().flat_map(|uplink| uplink.vteps.iter().copied()).collect()
}

/// Whether the stored Node object of `node` is as it should be: cheap, since it is asked at every change of the store.
pub(in crate::service) fn is_registered(snapshot: &Snapshot, facts: &NodeFacts, node: &str) -> bool {
    let Some(Object::Node(stored)) = snapshot.get("Node", node) else { return false };
    let parts = parts(snapshot.objects.iter(), node);
    let complete = |part: &NodeNetwork| match snapshot.get("Network", &part.network) {
        Some(Object::Network(network)) => {
            let subnets = &network.spec.subnets;
            subnets.iter().all(|subnet| part.addresses.iter().any(|address| subnet.contains(address)))
        }
        _ => false,
    };
    stored.metadata.owner == AGENT
        && (stored.spec.vteps == vteps(facts) || vteps(facts).is_empty())
        && stored.spec.networks.iter().map(|part| part.network.as_str()).collect::<BTreeSet<_>>() == parts
        && stored.spec.networks.iter().all(complete)
}

impl Draft {
    /// Makes this node's own Node object as it should be.
    pub(in crate::service) fn register(&mut self) -> Result<(), ServiceError> {
        let name = self.settings.node.clone();
        let stored = match self.get("Node", &name) {
            Some(Object::Node(node)) if node.metadata.owner == AGENT => Some(node.clone()),
            Some(other) => {
                return Err(ServiceError::refused(format!(
                    "node {name} is declared by {}: take that Node object out, since this agent registers its node by itself",
                    other.metadata().owner
                )));
            }
            None => None,
        };
        let vteps = vteps(&self.facts);
        if vteps.is_empty() {
            return Ok(());
        }
        let before = stored.as_ref().map(|node| node.spec.networks.as_slice()).unwrap_or_default();
        let wanted: Vec<String> =
            parts(self.objects.values(), &name).into_iter().map(str::to_owned).collect();
        let mut networks = Vec::new();
        for network in wanted {
            let kept = before.iter().find(|part| part.network == network);
            networks.push(
                self.own_part(&network, kept.map(|part| part.addresses.as_slice()).unwrap_or_default())?,
            );
        }
        let spec = stored.as_ref().map(|node| node.spec.clone()).unwrap_or_default();
        let metadata = stored.map_or_else(|| Metadata { name, ..Metadata::default() }, |node| node.metadata);
        let spec = NodeSpec { vteps, networks, ..spec };
        let node = Node { api_version: API_VERSION.to_owned(), metadata, spec, status: None };
        self.put(&Owner::agent(), Object::Node(node)).map(drop)
    }

    /// Refuses what would be one more endpoint of a node that is drained.
    pub(super) fn takes_endpoints(&self, node: &str) -> Result<(), ServiceError> {
        match self.get("Node", node) {
            Some(Object::Node(object)) if object.spec.drained => Err(ServiceError::refused(format!(
                "node {node} is drained and takes no endpoints: choose another node, or use `fabric node drain {node} --undo`"
            ))),
            _ => Ok(()),
        }
    }

    /// Lets a node take no endpoints more, or take them again.
    pub(in crate::service) fn drain(&mut self, name: &str, drained: bool) -> Result<(), ServiceError> {
        if !self.settings.blocks {
            return Err(ServiceError::refused(
                "nodes are drained where hosts share a store: start the agents with --store etcd://…",
            ));
        }
        let Some(Object::Node(node)) = self.get("Node", name) else {
            return Err(ServiceError::not_found("Node", name));
        };
        let mut node = node.clone();
        if node.spec.drained == drained {
            return Ok(());
        }
        node.spec.drained = drained;
        self.put(&Owner::agent(), Object::Node(node)).map(drop)
    }

    /// An address of each subnet: those of `kept` that still fit, and new ones.
    fn own_part(&mut self, network: &str, kept: &[IpAddr]) -> Result<NodeNetwork, ServiceError> {
        let model = self.network_model(network)?;
        let name = self.settings.node.clone();
        let own = [format!("node {name}"), format!("node {name} (this node's own address)")];
        let used = self.used(&model, "").into_iter().filter(|(_, who)| !own.contains(who));
        let used: BTreeSet<IpAddr> = used.map(|(address, _)| address).collect();
        let mut addresses = Vec::new();
        for subnet in &model.subnets {
            let old = kept.iter().copied().find(|a| subnet.net.contains(a) && !used.contains(a));
            // A full subnet leaves the node without an address there, which harms only what the host itself sends.
            addresses.extend(old.or_else(|| ipam::node_address(subnet, &name, &used)));
        }
        if addresses != kept {
            self.guard_addresses(&model, &addresses);
        }
        Ok(NodeNetwork { network: network.to_owned(), addresses, prefixes: Vec::new() })
    }
}
