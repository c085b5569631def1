//! Requests that only read: objects with their status.

use std::collections::BTreeSet;

use fabric_api::{
    object::{Metadata, NodeNetwork, NodeSpec},
    status::{EndpointStatus, NetworkStatus, NodeStatus, RouteStatus, State},
};

use super::*;
use crate::{
    dataplane::Joined,
    model::{Cluster, ids},
    plan::{self, desired::NodeFacts},
    store::Snapshot,
};

impl Service {
    /// All networks, by name.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn networks(&self) -> Result<Vec<Network>, ServiceError> {
        Ok(self.view().await?.networks())
    }

    /// A network.
    ///
    /// # Errors
    /// Not there, or the store can't be read.
    pub async fn network(&self, name: &str) -> Result<Network, ServiceError> {
        let found = self.view().await?.networks().into_iter().find(|n| n.metadata.name == name);
        found.ok_or_else(|| ServiceError::not_found("Network", name))
    }

    /// All endpoints, local and remote, by name.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, ServiceError> {
        Ok(self.view().await?.endpoints())
    }

    /// An endpoint.
    ///
    /// # Errors
    /// Not there, or the store can't be read.
    pub async fn endpoint(&self, name: &str) -> Result<Endpoint, ServiceError> {
        let view = self.view().await?;
        match view.snapshot.get("Endpoint", name) {
            Some(Object::Endpoint(endpoint)) => Ok(view.endpoint(endpoint)),
            _ => Err(ServiceError::not_found("Endpoint", name)),
        }
    }

    /// All nodes, this one included, by name.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn nodes(&self) -> Result<Vec<Node>, ServiceError> {
        Ok(self.view().await?.nodes())
    }

    /// A node.
    ///
    /// # Errors
    /// Not there, or the store can't be read.
    pub async fn node(&self, name: &str) -> Result<Node, ServiceError> {
        let found = self.view().await?.nodes().into_iter().find(|n| n.metadata.name == name);
        found.ok_or_else(|| ServiceError::not_found("Node", name))
    }

    /// The node's health.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn status(&self) -> Result<Status, ServiceError> {
        let mut status = self.inner.kernel.node_status();
        self.node_name().clone_into(&mut status.node);
        status.store = self.inner.store.address();
        let mut told: BTreeSet<String> = status.problems.iter().cloned().collect();
        // A store that was never read is a problem like others: everything else can be told nevertheless.
        let objects = match self.view().await {
            Ok(view) => view.problems(),
            Err(e) if self.inner.store.troubles().is_empty() => vec![e.message],
            Err(_) => Vec::new(),
        };
        let problems = self.inner.store.troubles().into_iter().chain(objects).chain(self.reported());
        status.problems.extend(problems.filter(|problem| told.insert(problem.clone())));
        Ok(status)
    }

    /// What is wrong with the store, one sentence each.
    pub fn store_troubles(&self) -> Vec<String> {
        self.inner.store.troubles()
    }

    pub(super) async fn view(&self) -> Result<View<'_>, ServiceError> {
        let snapshot = self.inner.store.snapshot().await?;
        let cluster = Cluster::from_objects(&snapshot.objects);
        let facts = self.inner.kernel.facts();
        let local = &self.inner.settings.node;
        let ids = plan::node_ids(&cluster, local);
        let limit = plan::underlay_mtu(&cluster, &facts);
        let kernel = &*self.inner.kernel;
        // Only where somebody can have joined anything.
        let joined = cluster.networks.values().any(|network| network.multicast).then(|| kernel.groups());
        let joined = joined.unwrap_or_default();
        Ok(View { kernel, local, snapshot, cluster, facts, joined, ids, limit })
    }
}

/// Store and kernel at one moment.
pub(super) struct View<'a> {
    pub(super) kernel: &'a dyn Kernel,
    pub(super) local: &'a str,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) cluster: Cluster,
    facts: NodeFacts,
    joined: BTreeMap<u32, Joined>,
    ids: BTreeMap<String, u32>,
    /// Largest inner IP packet that the underlay carries, bytes.
    limit: u16,
}

impl View<'_> {
    /// How far an object is, here and where it lives.
    fn state(&self, kind: &'static str, name: &str) -> (State, String) {
        let node = match self.snapshot.get(kind, name) {
            Some(Object::Node(node)) => Some(node.metadata.name.as_str()),
            Some(Object::Endpoint(endpoint)) => endpoint.spec.node.as_deref(),
            _ => None,
        };
        match (node.filter(|node| self.is_dead(node)), self.state_here(kind, name)) {
            (Some(node), (State::Ready | State::Pending, _)) if kind == "Node" => (
                State::Degraded,
                format!("its agent is not heard of: is host {node} up, and does it reach the store?"),
            ),
            (Some(node), (State::Ready | State::Pending, _)) => {
                (State::Degraded, format!("node {node}, where it lives, is not heard of"))
            }
            (_, here) => here,
        }
    }

    /// Whether a node that registers itself has not been heard of for longer than its lease.
    fn is_dead(&self, node: &str) -> bool {
        let registered = self.cluster.nodes.get(node).is_some_and(|node| node.registered);
        registered
            && node != self.local
            && self.snapshot.live.as_ref().is_some_and(|live| !live.contains_key(node))
    }

    pub(super) fn state_here(&self, kind: &'static str, name: &str) -> (State, String) {
        if let Some(problem) = self.cluster.problems.get(&(kind, name.to_owned())) {
            return (State::Degraded, problem.clone());
        }
        self.kernel.state(kind, name).unwrap_or((State::Pending, String::new()))
    }

    fn problems(&self) -> Vec<String> {
        let mut all = Vec::new();
        for object in &self.snapshot.objects {
            let (kind, name) = (object.kind(), object.id());
            // That another node is down is no fault of this one.
            let (state, reason) = self.state_here(kind, &name);
            if state == State::Degraded {
                all.push(draft::named(kind, &name, &reason));
            }
        }
        all
    }

    fn networks(&self) -> Vec<Network> {
        let mut endpoints: BTreeMap<&str, u32> = BTreeMap::new();
        for object in &self.snapshot.objects {
            if let Object::Endpoint(e) = object {
                *endpoints.entry(&e.spec.network).or_default() += 1;
            }
        }
        let networks = self
            .snapshot
            .objects
            .iter()
            .filter_map(|o| if let Object::Network(n) = o { Some(n) } else { None });
        networks
            .map(|n| self.network(n, endpoints.get(n.metadata.name.as_str()).copied().unwrap_or(0)))
            .collect()
    }

    fn network(&self, network: &Network, endpoints: u32) -> Network {
        let (state, reason) = self.state("Network", &network.metadata.name);
        let mut status = NetworkStatus { endpoints, state, reason, ..NetworkStatus::default() };
        if let Some(checked) = self.cluster.networks.get(&network.metadata.name) {
            status.vni = checked.vni.get();
            status.mtu = plan::network_mtu(checked, self.limit);
            status.gateways = checked.subnets.iter().map(|s| s.gateway).collect();
            status.opened = self.cluster.opened(checked).map(|n| n.name.clone()).collect();
            status.routes = checked.routes.iter().map(|route| self.route(checked, route)).collect();
            status.host_ifname = self.host_ifname(checked);
            status.node_addresses = self.cluster.node_addresses(checked, self.local, true);
        }
        Network { status: Some(status), ..network.clone() }
    }

    fn route(&self, network: &crate::model::Network, route: &crate::model::Route) -> RouteStatus {
        let endpoint = self.cluster.endpoint_at(&network.name, route.next_hop);
        RouteStatus {
            prefix: route.prefix,
            next_hop: route.next_hop,
            endpoint: endpoint.map(|e| e.name.clone()).unwrap_or_default(),
        }
    }

    /// The host's own interface in a network; empty if there is none.
    fn host_ifname(&self, network: &crate::model::Network) -> String {
        let there = network.host_access && self.facts.access.contains_key(&network.name);
        if there { ids::access_ifname(&network.name) } else { String::new() }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let endpoints = self
            .snapshot
            .objects
            .iter()
            .filter_map(|o| if let Object::Endpoint(e) = o { Some(e) } else { None });
        endpoints.map(|e| self.endpoint(e)).collect()
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Endpoint {
        let name = &endpoint.metadata.name;
        let local = endpoint.spec.node.as_deref().is_none_or(|n| n == self.local);
        let (state, reason) = self.state("Endpoint", name);
        let mut status = EndpointStatus { local, state, reason, ..EndpointStatus::default() };
        if local {
            status.host_ifname = ids::host_ifname(name);
            status.ifindex = self.facts.ports.get(name).copied().unwrap_or(0);
            status.slot = endpoint.status.as_ref().and_then(|s| s.slot);
            if let Some(joined) = self.joined.get(&status.ifindex) {
                status.groups.clone_from(&joined.groups);
                status.groups_refused = joined.refused;
            }
            status.names = self.kernel.names(status.ifindex);
            status.counters = status.slot.and_then(|slot| self.kernel.counters(slot));
        }
        Endpoint { status: Some(status), ..endpoint.clone() }
    }

    fn nodes(&self) -> Vec<Node> {
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        for object in &self.snapshot.objects {
            if let Object::Node(node) = object {
                nodes.insert(node.metadata.name.clone(), node.clone());
            }
        }
        let declared = nodes.get(self.local);
        // One that registers itself is what it has registered.
        if declared.is_none_or(|node| node.metadata.owner != owner::AGENT) {
            let own = self.own_node(declared);
            nodes.insert(self.local.to_owned(), own);
        }
        nodes.into_values().map(|node| self.node(node)).collect()
    }

    /// This node as the others should declare it.
    fn own_node(&self, declared: Option<&Node>) -> Node {
        let vteps = self.facts.uplinks.iter().flat_map(|u| u.vteps.iter().copied()).collect();
        let part = |n: &crate::model::Network| NodeNetwork {
            network: n.name.clone(),
            addresses: self.cluster.node_addresses(n, self.local, true),
            prefixes: Vec::new(),
        };
        let networks = self.cluster.networks.values().map(part).collect();
        let metadata = declared.map(|n| n.metadata.clone());
        Node {
            api_version: fabric_api::object::API_VERSION.to_owned(),
            metadata: metadata
                .unwrap_or_else(|| Metadata { name: self.local.to_owned(), ..Metadata::default() }),
            spec: NodeSpec { vteps, networks, ..NodeSpec::default() },
            status: None,
        }
    }

    fn node(&self, node: Node) -> Node {
        let name = &node.metadata.name;
        let local = name == self.local;
        let (state, reason) = match self.state("Node", name) {
            // The node that answers needs no row of its own.
            (State::Pending, reason) if local => (State::Ready, reason),
            other => other,
        };
        let mut status = NodeStatus { local, state, reason, ..NodeStatus::default() };
        status.id = self.ids.get(name).copied().unwrap_or(0);
        let here = |e: &&crate::model::Endpoint| e.node == *name;
        status.endpoints =
            u32::try_from(self.cluster.endpoints.values().filter(here).count()).unwrap_or(u32::MAX);
        if local {
            status.uplinks = self.facts.uplinks.iter().map(|u| u.name.clone()).collect();
            status.mtu = self.limit;
        } else if let Ok(pair) = plan::toward(&node.spec.vteps, &self.facts) {
            status.uplinks = vec![pair.uplink.name.clone()];
            status.mtu = pair.mtu();
            status.path_mtu = pair.path_mtu;
            status.peer_mtu = pair.peer_mtu;
        }
        Node { status: Some(status), ..node }
    }
}
