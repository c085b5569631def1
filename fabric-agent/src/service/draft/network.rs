//! Networks and nodes in a draft: what is chosen for them and when they may go.

use std::net::IpAddr;

use fabric_api::{Network, Node, Object};
use fabric_common::vni::VNI_MAX;

use super::{
    super::{ServiceError, owner::AGENT},
    Draft, VNI_CURSOR, named,
};
use crate::{
    model::{self, Cluster},
    plan::{
        self,
        desired::{NodeFacts, RouteFacts},
    },
};

/// The first VNI that is given away by itself; those below are left to people.
const FIRST_VNI: u32 = 4096;
/// How many names a sentence lists.
const LISTED: usize = 5;

impl Draft {
    /// Chooses the VNI, and checks what can be checked at once.
    pub(super) fn complete_network(
        &mut self,
        new: &mut Network,
        old: Option<&Network>,
    ) -> Result<(), ServiceError> {
        let name = new.metadata.name.clone();
        if new.spec.vni.is_none() {
            new.spec.vni = match old.and_then(|o| o.spec.vni) {
                Some(vni) => Some(vni),
                None => Some(self.free_vni()?),
            };
        }
        if old.is_none_or(|o| o.spec.vni != new.spec.vni) {
            self.cursors.insert(VNI_CURSOR.to_owned(), Some(name.clone()));
        }
        let checked = model::Network::new(new)?;
        fits(&checked, &self.before, &self.facts).map_err(ServiceError::invalid)?;
        if old.is_some_and(|o| o.spec.vni != new.spec.vni) {
            self.network_is_unused(&name)?;
        }
        if let Some(old) = old {
            new.status.clone_from(&old.status);
        }
        Ok(())
    }

    /// Refuses networks of this draft that do not fit the underlay with the nodes of this draft: each was checked with the
    /// nodes that were there before. Nobody has looked for the way to a new VTEP yet, so it is taken for the uplink that has an
    /// address of its family.
    pub(in crate::service) fn networks_fit(&self) -> Result<(), ServiceError> {
        let objects: Vec<Object> = self.objects.values().cloned().collect();
        let after = Cluster::from_objects(&objects);
        let (node, mut facts) = (&self.settings.node, self.facts.clone());
        let known = self.before.remote_vteps(node);
        for vtep in after.remote_vteps(node).into_iter().filter(|vtep| !known.contains(vtep)) {
            let same_family = |own: &IpAddr| own.is_ipv6() == vtep.is_ipv6();
            if let Some(uplink) = facts.uplinks.iter().find(|uplink| uplink.vteps.iter().any(same_family)) {
                facts.routes.entry(vtep).or_insert(RouteFacts { ifindex: uplink.ifindex, mtu: None });
            }
        }
        let asked = |name: &str| self.touched.contains(&("Network".to_owned(), name.to_owned()));
        for network in after.networks.values().filter(|network| asked(&network.name)) {
            let refused = |text: String| ServiceError::invalid(named("Network", &network.name, &text));
            fits(network, &after, &facts).map_err(refused)?;
        }
        Ok(())
    }

    /// Lowest free one.
    fn free_vni(&self) -> Result<u32, ServiceError> {
        let networks =
            self.objects.values().filter_map(|o| if let Object::Network(n) = o { n.spec.vni } else { None });
        let used: std::collections::BTreeSet<u32> = networks.collect();
        let free = (FIRST_VNI..=VNI_MAX).find(|vni| !used.contains(vni));
        free.ok_or_else(|| {
            ServiceError::refused(format!("no VNI from {FIRST_VNI} to {VNI_MAX} is free: remove a network"))
        })
    }

    /// Checks a node; one of our own name says which addresses this node has in its networks.
    pub(super) fn complete_node(&mut self, new: &mut Node) -> Result<(), ServiceError> {
        let node = model::Node::new(new)?;
        if node.name == self.settings.node {
            if node.foreign {
                return Err(ServiceError::invalid(format!(
                    "{} is the name of this node, which is not foreign: choose another name",
                    node.name
                )));
            }
            return Ok(());
        }
        let own = |vtep: &&IpAddr| self.facts.uplinks.iter().any(|u| u.vteps.contains(vtep));
        match node.vteps.iter().find(own) {
            Some(vtep) => Err(ServiceError::invalid(format!(
                "VTEP address {vtep} is this node's own ({}): correct the address or the name",
                self.settings.node
            ))),
            None => Ok(()),
        }
    }

    /// Refuses to remove a network that others, which stay, let in.
    pub(super) fn let_in_stay(&self) -> Result<(), ServiceError> {
        let here = |name: &str| self.objects.contains_key(&("Network".to_owned(), name.to_owned()));
        for gone in self.before.networks.keys().filter(|name| !here(name)) {
            let lets_in = |n: &&Network| n.spec.allow_from.contains(gone);
            let networks =
                self.objects.values().filter_map(|o| if let Object::Network(n) = o { Some(n) } else { None });
            let names: Vec<&str> = networks.filter(lets_in).map(|n| n.metadata.name.as_str()).collect();
            if !names.is_empty() {
                return Err(ServiceError::refused(format!(
                    "network {gone} is let in by networks that stay ({}): take it out of their allowFrom first",
                    list(&names)
                )));
            }
        }
        Ok(())
    }

    /// Refuses while a network has endpoints or is in a node's list.
    pub(super) fn network_is_unused(&self, network: &str) -> Result<(), ServiceError> {
        let mut endpoints = Vec::new();
        let mut nodes = Vec::new();
        for object in self.objects.values() {
            match object {
                Object::Endpoint(e) if e.spec.network == network => endpoints.push(e.metadata.name.as_str()),
                // A node that registers itself leaves a network by itself.
                Object::Node(n)
                    if n.metadata.owner != AGENT && n.spec.networks.iter().any(|p| p.network == network) =>
                {
                    nodes.push(n.metadata.name.as_str());
                }
                Object::Endpoint(_)
                | Object::Node(_)
                | Object::Network(_)
                | Object::Namespace(_)
                | Object::NetworkPolicy(_)
                | Object::ClusterNetworkPolicy(_)
                | Object::DenySet(_) => {}
            }
        }
        if !endpoints.is_empty() {
            let names = list(&endpoints);
            return Err(ServiceError::refused(format!(
                "network {network} has endpoints ({names}): detach them first"
            )));
        }
        if !nodes.is_empty() {
            let names = list(&nodes);
            return Err(ServiceError::refused(format!(
                "network {network} is in the list of nodes ({names}): take it out there first"
            )));
        }
        Ok(())
    }
}

/// Whether the underlay can carry a network.
fn fits(network: &model::Network, cluster: &Cluster, facts: &NodeFacts) -> Result<(), String> {
    let limit = plan::underlay_mtu(cluster, facts);
    if let Some(mtu) = network.mtu.filter(|mtu| *mtu > limit) {
        return Err(format!(
            "mtu {mtu} is more than the underlay carries: use at most {limit}, or raise the uplinks' MTU"
        ));
    }
    plan::check_mtu(network, limit)?;
    let conflict = if network.host_access { plan::access_conflict(network, cluster, facts) } else { None };
    conflict.map_or(Ok(()), Err)
}

fn list(names: &[&str]) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        text.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    text
}
