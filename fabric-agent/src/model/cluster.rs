//! Everything that was declared, checked object by object and against each other. What can't stand becomes a problem
//! with one sentence; the rest stands. The result depends on the set of objects alone, not on their order.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use fabric_api::Object;
use fabric_common::addr::Mac;

use super::{
    deny_set::DenySet,
    endpoint::Endpoint,
    error::{ModelError, refuse},
    ids, ipam, namespace,
    network::Network,
    node::{Node, NodeNetwork},
    policy::{self, ClusterPolicy, Labels, NetworkPolicy},
    route::Route,
};

/// Kind and name of an object that has a problem.
pub type ProblemKey = (&'static str, String);

/// What was declared, as far as it is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Networks by name; no two have one VNI.
    pub networks: BTreeMap<String, Network>,
    /// Which networks are opened to which, by name; each pair in both directions. A network and all that it is opened to have
    /// no address in common.
    pub openings: BTreeMap<String, BTreeSet<String>>,
    /// Nodes by name; no two have one VTEP address. They refer to networks that exist.
    pub nodes: BTreeMap<String, Node>,
    /// Endpoints by name. Their networks exist and hold their addresses; no two of a network have one address or MAC,
    /// and none has a declared node's or a gateway's.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Labels of namespaces by name, of those that have a Namespace object, [`policy::NAMESPACE_NAME_LABEL`] among them.
    pub namespaces: BTreeMap<String, Labels>,
    /// NetworkPolicies by namespace and name.
    pub network_policies: BTreeMap<(String, String), NetworkPolicy>,
    /// ClusterNetworkPolicies by name.
    pub cluster_policies: BTreeMap<String, ClusterPolicy>,
    /// Deny sets by name.
    pub deny_sets: BTreeMap<String, DenySet>,
    /// Why the other objects are left out, one sentence each.
    pub problems: BTreeMap<ProblemKey, String>,
}

impl Cluster {
    /// Checks `objects`. Of two objects that want the same thing the endpoint with the higher generation wins, else the
    /// first by name; the other one becomes a problem.
    pub fn from_objects(objects: &[Object]) -> Self {
        let mut cluster = Self::default();
        let mut nodes = BTreeMap::new();
        let mut endpoints = Vec::new();
        let mut networks = BTreeMap::new();
        for object in objects {
            let name = object.id().into_owned();
            match object {
                Object::Network(object) => cluster.keep(&mut networks, "Network", name, Network::new(object)),
                Object::Node(object) => cluster.keep(&mut nodes, "Node", name, Node::new(object)),
                Object::Endpoint(object) => match Endpoint::new(object) {
                    Ok(endpoint) => endpoints.push(endpoint),
                    Err(e) => cluster.problem("Endpoint", name, e.0),
                },
                Object::Namespace(object) => match namespace::labels(object) {
                    Ok(labels) => drop(cluster.namespaces.insert(name, labels)),
                    Err(e) => cluster.problem("Namespace", name, e.0),
                },
                Object::NetworkPolicy(object) => match NetworkPolicy::new(object) {
                    Ok(policy) => {
                        let key = (policy.namespace.clone(), policy.name.clone());
                        cluster.network_policies.insert(key, policy);
                    }
                    Err(e) => cluster.problem("NetworkPolicy", name, e.0),
                },
                Object::ClusterNetworkPolicy(object) => match ClusterPolicy::new(object) {
                    Ok(policy) => drop(cluster.cluster_policies.insert(name, policy)),
                    Err(e) => cluster.problem("ClusterNetworkPolicy", name, e.0),
                },
                Object::DenySet(object) => match DenySet::new(object) {
                    Ok(set) => drop(cluster.deny_sets.insert(name, set)),
                    Err(e) => cluster.problem("DenySet", name, e.0),
                },
            }
        }
        cluster.admit_networks(networks);
        cluster.admit_openings();
        cluster.admit_routes();
        cluster.admit_host_access();
        let mut claims = Claims::new(&cluster.networks);
        cluster.admit_nodes(nodes, &mut claims);
        cluster.admit_endpoints(endpoints, &mut claims);
        cluster
    }

    /// The addresses of `node` in `network`: of each subnet the declared one or, where none is declared and `derive` is
    /// set, the one that a node of this name takes by itself (see [`ipam::node_address`]).
    pub fn node_addresses(&self, network: &Network, node: &str, derive: bool) -> Vec<IpAddr> {
        let declared = self.nodes.get(node).and_then(|n| n.networks.get(&network.name));
        let used: BTreeSet<IpAddr> =
            if derive { self.used(&network.name).into_keys().collect() } else { BTreeSet::new() };
        let mut addresses = Vec::new();
        for subnet in &network.subnets {
            let own =
                declared.and_then(|part| part.addresses.iter().copied().find(|a| subnet.net.contains(a)));
            let derived = || derive.then(|| ipam::node_address(subnet, node, &used)).flatten();
            addresses.extend(own.or_else(derived));
        }
        addresses
    }

    /// The networks that `network` is opened to: it lets them in, or they let it in.
    pub fn opened(&self, network: &Network) -> impl Iterator<Item = &Network> {
        let names = self.openings.get(&network.name).into_iter().flatten();
        names.filter_map(|name| self.networks.get(name))
    }

    /// Every declared address of a network with who has it (`endpoint c1`, `node n2`); gateways are not among them.
    pub fn used(&self, network: &str) -> BTreeMap<IpAddr, String> {
        let mut used = BTreeMap::new();
        for node in self.nodes.values() {
            if let Some(part) = node.networks.get(network) {
                used.extend(part.addresses.iter().map(|a| (*a, format!("node {}", node.name))));
            }
        }
        for endpoint in self.endpoints.values().filter(|e| e.network == network) {
            used.extend(endpoint.addresses.iter().map(|a| (*a, format!("endpoint {}", endpoint.name))));
        }
        used
    }

    /// The labels of a namespace; one without a Namespace object has that of its name.
    pub fn namespace_labels(&self, namespace: &str) -> Labels {
        let own = self.namespaces.get(namespace).cloned().unwrap_or_default();
        own.into_iter().chain([(policy::NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned())]).collect()
    }

    /// The labels of a node, declared or not, with that of its name.
    pub fn node_labels(&self, node: &str) -> Labels {
        let own = self.nodes.get(node).map(|node| node.labels.clone()).unwrap_or_default();
        own.into_iter().chain([(policy::NODE_NAME_LABEL.to_owned(), node.to_owned())]).collect()
    }

    /// VTEP addresses of all nodes but `local`: what the kernel's routes have to lead to.
    pub fn remote_vteps(&self, local: &str) -> BTreeSet<IpAddr> {
        self.nodes.values().filter(|n| n.name != local).flat_map(|n| n.vteps.iter().copied()).collect()
    }

    fn problem(&mut self, kind: &'static str, name: String, text: String) {
        self.problems.entry((kind, name)).or_insert(text);
    }

    fn keep<T>(
        &mut self,
        into: &mut BTreeMap<String, T>,
        kind: &'static str,
        name: String,
        checked: Result<T, ModelError>,
    ) {
        match checked {
            Ok(object) => {
                into.insert(name, object);
            }
            Err(e) => self.problem(kind, name, e.0),
        }
    }

    fn admit_networks(&mut self, networks: BTreeMap<String, Network>) {
        let mut vnis = BTreeMap::new();
        for (name, network) in networks {
            match vnis.entry(network.vni) {
                Entry::Vacant(free) => {
                    free.insert(name.clone());
                    self.networks.insert(name, network);
                }
                Entry::Occupied(taken) => {
                    let text =
                        format!("VNI {} belongs to network {}: choose another one", network.vni, taken.get());
                    self.problem("Network", name, text);
                }
            }
        }
    }

    /// Opens networks to each other, in the order of their names. An opening that can't be is left out.
    fn admit_openings(&mut self) {
        let networks = std::mem::take(&mut self.networks);
        for network in networks.values() {
            for from in &network.allow_from {
                match self.check_opening(&networks, network, from) {
                    Ok(()) => {
                        self.openings.entry(network.name.clone()).or_default().insert(from.clone());
                        self.openings.entry(from.clone()).or_default().insert(network.name.clone());
                    }
                    Err(e) => self.problem("Network", network.name.clone(), e.0),
                }
            }
        }
        self.networks = networks;
    }

    /// Neither side may have, or be opened already to, a network whose addresses are those of the other side: a destination
    /// would be in two networks, and so would a source.
    fn check_opening(
        &self,
        networks: &BTreeMap<String, Network>,
        network: &Network,
        from: &str,
    ) -> Result<(), ModelError> {
        let Some(other) = networks.get(from) else {
            refuse!("network {from} does not exist: create it first, or take it out of allowFrom");
        };
        let beside =
            |name: &str| self.openings.get(name).into_iter().flatten().filter_map(|n| networks.get(n));
        let pairs = [(network, other)]
            .into_iter()
            .chain(beside(&network.name).filter(|n| n.name != from).map(|n| (n, other)))
            .chain(beside(from).filter(|n| n.name != network.name).map(|n| (n, network)));
        for (a, b) in pairs {
            let Some((one, two)) = a.overlap(b) else { continue };
            if a.name == network.name {
                refuse!(
                    "subnet {two} of network {from} overlaps {one}: networks that are opened to each other must be apart, so take {from} out of allowFrom or choose other subnets"
                );
            }
            refuse!(
                "network {from} can't be let in, since subnet {one} of network {} overlaps {two} of network {} and one network would be opened to both: take one of them out of allowFrom",
                a.name,
                b.name
            );
        }
        Ok(())
    }

    /// A static route must not take addresses away from a network that is opened to its own; it is left out then.
    fn admit_routes(&mut self) {
        let mut refused = Vec::new();
        for (name, network) in &self.networks {
            for Route { prefix, .. } in &network.routes {
                let mut subnets =
                    self.opened(network).flat_map(|n| n.subnets.iter().map(move |s| (s.net, &n.name)));
                if let Some((subnet, other)) = subnets.find(|(subnet, _)| subnet.contains(prefix)) {
                    let text = format!(
                        "route {prefix} lies in subnet {subnet} of network {other}, and the two are opened to each other: take the route or the opening out"
                    );
                    refused.push((name.clone(), *prefix, text));
                }
            }
        }
        for (name, prefix, text) in refused {
            if let Some(network) = self.networks.get_mut(&name) {
                network.routes.retain(|route| route.prefix != prefix);
            }
            self.problem("Network", name, text);
        }
    }

    /// Who has an address in a network, if an endpoint has.
    pub fn endpoint_at(&self, network: &str, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.values().find(|e| e.network == network && e.addresses.contains(&address))
    }

    /// The host has one table of routes: of networks whose subnets overlap only one can have the host in it, the first by
    /// name. The other one stays as a network.
    fn admit_host_access(&mut self) {
        let mut taken: Vec<Network> = Vec::new();
        let mut refused = Vec::new();
        for network in self.networks.values_mut().filter(|network| network.host_access) {
            let Some(text) = taken.iter().find_map(|other| network.host_access_clash(other)) else {
                taken.push(network.clone());
                continue;
            };
            network.host_access = false;
            refused.push((network.name.clone(), text));
        }
        for (name, text) in refused {
            self.problem("Network", name, text);
        }
    }

    fn admit_nodes(&mut self, nodes: BTreeMap<String, Node>, claims: &mut Claims) {
        let mut vteps: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (name, mut node) in nodes {
            let other = node.vteps.iter().find_map(|v| vteps.get(v).map(|other| (*v, other.clone())));
            if let Some((vtep, other)) = other {
                self.problem(
                    "Node",
                    name,
                    format!("VTEP address {vtep} belongs to node {other}: choose another one"),
                );
                continue;
            }
            vteps.extend(node.vteps.iter().map(|v| (*v, name.clone())));
            let mut parts = BTreeMap::new();
            for (network, part) in std::mem::take(&mut node.networks) {
                match self.admit_part(&name, &network, &part, claims) {
                    Ok(()) => {
                        parts.insert(network, part);
                    }
                    // It leaves a network that was removed a moment later.
                    Err(_) if node.registered && !self.networks.contains_key(&network) => {}
                    Err(e) => self.problem("Node", name.clone(), e.0),
                }
            }
            node.networks = parts;
            self.nodes.insert(name, node);
        }
    }

    fn admit_part(
        &self,
        node: &str,
        network: &str,
        part: &NodeNetwork,
        claims: &mut Claims,
    ) -> Result<(), ModelError> {
        let Some(known) = self.networks.get(network) else {
            refuse!("network {network} does not exist: create it first, or take it out of the node's list");
        };
        check_addresses(known, &part.addresses)?;
        let macs = if part.addresses.is_empty() { None } else { Some(ids::node_mac(node)) };
        claims.take(known, &format!("node {node}"), &part.addresses, macs)
    }

    fn admit_endpoints(&mut self, mut endpoints: Vec<Endpoint>, claims: &mut Claims) {
        endpoints.sort_by(|a, b| b.generation.cmp(&a.generation).then_with(|| a.name.cmp(&b.name)));
        for endpoint in endpoints {
            match self.admit_endpoint(&endpoint, claims) {
                Ok(()) => {
                    self.endpoints.insert(endpoint.name.clone(), endpoint);
                }
                Err(e) => self.problem("Endpoint", endpoint.name, e.0),
            }
        }
    }

    fn admit_endpoint(&self, endpoint: &Endpoint, claims: &mut Claims) -> Result<(), ModelError> {
        let Some(network) = self.networks.get(&endpoint.network) else {
            refuse!("network {} does not exist: create it first", endpoint.network);
        };
        check_addresses(network, &endpoint.addresses)?;
        claims.take(network, &format!("endpoint {}", endpoint.name), &endpoint.addresses, Some(endpoint.mac))
    }
}

/// Each address must be a host's, and no two in one subnet.
fn check_addresses(network: &Network, addresses: &[IpAddr]) -> Result<(), ModelError> {
    for (i, address) in addresses.iter().enumerate() {
        network.check_host_address(*address)?;
        let subnet = network.subnet_of(*address).map(|s| s.net);
        if let Some(other) = addresses[..i].iter().find(|o| network.subnet_of(**o).map(|s| s.net) == subnet) {
            refuse!("addresses {other} and {address} are in one subnet: choose one of them");
        }
    }
    Ok(())
}

/// Who has an address or a MAC, per network.
struct Claims {
    addresses: BTreeMap<(String, IpAddr), String>,
    macs: BTreeMap<(String, Mac), String>,
}

impl Claims {
    fn new(networks: &BTreeMap<String, Network>) -> Self {
        let gateway = |n: &Network| ((n.name.clone(), ids::gateway_mac(n.vni)), "the gateway".to_owned());
        Self { addresses: BTreeMap::new(), macs: networks.values().map(gateway).collect() }
    }

    /// Takes all, or nothing.
    fn take(
        &mut self,
        network: &Network,
        who: &str,
        addresses: &[IpAddr],
        mac: Option<Mac>,
    ) -> Result<(), ModelError> {
        let name = &network.name;
        for address in addresses {
            if let Some(other) = self.addresses.get(&(name.clone(), *address)) {
                refuse!("address {address} in network {name} belongs to {other}: choose another one");
            }
        }
        if let Some(mac) = mac
            && let Some(other) = self.macs.get(&(name.clone(), mac))
        {
            refuse!("MAC {mac} in network {name} belongs to {other}: choose another one");
        }
        self.addresses.extend(addresses.iter().map(|a| ((name.clone(), *a), who.to_owned())));
        self.macs.extend(mac.map(|mac| ((name.clone(), mac), who.to_owned())));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
