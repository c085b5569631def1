//! Endpoints in a draft: node, addresses, MAC, namespace and slot are chosen where the request leaves them open.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fabric_api::{Endpoint, Object, status::EndpointStatus};
use ipnet::IpNet;

use super::{super::ServiceError, Draft};
use crate::model::{self, Network, ids, ipam};

/// Name of the cursor that guards the addresses of a network.
pub(super) fn cursor_name(network: &str) -> String {
    format!("addresses/{network}")
}

/// Name of the cursor that guards the MACs that are chosen in a network; the others follow from addresses.
pub(super) fn mac_cursor(network: &str) -> String {
    format!("macs/{network}")
}

/// What a declared endpoint of this node is to its host.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Announced {
    /// An object like others.
    No,
    /// Somebody else's endpoint here, declared as it is: for the other hosts.
    AsAttached,
    /// It should be an endpoint here, and is not or is another one: one sentence.
    Wrong(String),
}

impl Draft {
    /// Whether an object only says of this node what the others need to know: an endpoint that names this node and has
    /// no attachment, and is not `owner`'s.
    pub(in super::super) fn announced(&self, owner: &super::Owner, object: &Object) -> Announced {
        let Object::Endpoint(new) = object else { return Announced::No };
        let local = &self.settings.node;
        if new.spec.node.as_ref() != Some(local) || new.spec.attachment.is_some() {
            return Announced::No;
        }
        let old = match self.objects.get(&("Endpoint".to_owned(), new.metadata.name.clone())) {
            None => {
                let text = format!(
                    "it is not attached on this node ({local}): attach it with `fabric endpoint attach`, or take it out"
                );
                return Announced::Wrong(text);
            }
            Some(Object::Endpoint(old)) if old.metadata.owner != owner.as_str() => old,
            Some(_) => return Announced::No,
        };
        match differs(new, old) {
            None => Announced::AsAttached,
            Some(what) => Announced::Wrong(format!(
                "it is attached on this node ({local}) with another {what}: correct the declaration, or detach it and attach it again"
            )),
        }
    }

    pub(super) fn complete_endpoint(
        &mut self,
        new: &mut Endpoint,
        old: Option<&Endpoint>,
    ) -> Result<(), ServiceError> {
        model::endpoint::check_fields(new)?;
        let network = self.network_model(&new.spec.network)?;
        let local = self.settings.node.clone();
        if let Some(old) = old {
            self.check_change(new, old)?;
        }
        let node = new.spec.node.get_or_insert_with(|| local.clone()).clone();
        if old.is_none_or(|old| old.spec.node.as_ref() != Some(&node)) {
            self.takes_endpoints(&node)?;
        }
        new.spec.namespace.get_or_insert_with(|| network.name.clone());
        if node == local {
            self.complete_attachment(new, old)?;
            self.complete_slot(new, old)?;
            self.complete_addresses(new, old, &network)?;
        } else {
            check_remote(new, &node)?;
        }
        let chosen_mac = new.spec.mac.is_some();
        if !chosen_mac {
            let kept = old.and_then(|o| o.spec.mac.clone());
            let derived = || ids::endpoint_mac(&new.spec.addresses, &new.metadata.name).to_string();
            new.spec.mac = Some(kept.unwrap_or_else(derived));
        }
        let before = old.map(|o| o.spec.addresses.as_slice()).unwrap_or_default();
        if before != new.spec.addresses {
            self.guard_addresses(&network, &new.spec.addresses);
        }
        if self.settings.blocks && chosen_mac && old.is_none_or(|o| o.spec.mac != new.spec.mac) {
            self.guard(mac_cursor(&network.name));
        }
        Ok(())
    }

    /// Makes this transaction and others that take the same addresses exclude each other.
    pub(super) fn guard_addresses(&mut self, network: &Network, addresses: &[IpAddr]) {
        if !self.settings.blocks {
            return self.guard(cursor_name(&network.name));
        }
        for address in addresses {
            if let Some(subnet) = network.subnet_of(*address) {
                self.guard_block(&network.name, subnet.net, *address);
            }
        }
    }

    /// Writes an allocator as it is.
    fn guard(&mut self, cursor: String) {
        let value = self.cursor(&cursor).unwrap_or("{}").to_owned();
        self.cursors.insert(cursor, Some(value));
    }

    pub(super) fn network_model(&self, name: &str) -> Result<Network, ServiceError> {
        match self.objects.get(&("Network".to_owned(), name.to_owned())) {
            Some(Object::Network(network)) => Ok(Network::new(network)?),
            _ => Err(ServiceError::invalid(format!("network {name} does not exist: create it first"))),
        }
    }

    /// Whether an endpoint is on this node.
    pub(super) fn lives_here(&self, endpoint: &Endpoint) -> bool {
        endpoint.spec.node.as_deref().is_none_or(|node| node == self.settings.node)
    }

    /// What a change may not do.
    fn check_change(&self, new: &Endpoint, old: &Endpoint) -> Result<(), ServiceError> {
        if new.spec.generation < old.spec.generation {
            return Err(ServiceError::conflict(format!(
                "generation {} is older than the stored {}: read the endpoint again",
                new.spec.generation, old.spec.generation
            )));
        }
        let (was_here, is_here) = (self.lives_here(old), self.lives_here(new));
        if was_here != is_here || (was_here && old.spec.network != new.spec.network) {
            return Err(ServiceError::refused(
                "an endpoint of this node can't change its node or network: detach it and attach it again",
            ));
        }
        Ok(())
    }

    /// The namespace must exist, and its interface belong to no other endpoint.
    fn complete_attachment(&self, new: &mut Endpoint, old: Option<&Endpoint>) -> Result<(), ServiceError> {
        if new.spec.attachment.is_none()
            && let Some(kept) = old.and_then(|o| o.spec.attachment.clone())
        {
            // It is what it was, also where the path has gone since.
            new.spec.attachment = Some(kept);
            return Ok(());
        }
        let name = &new.metadata.name;
        let Some(attachment) = &mut new.spec.attachment else {
            return Err(ServiceError::invalid(format!(
                "endpoint {name} lives on this node ({}): attach it with `fabric endpoint attach`, or give it an attachment",
                self.settings.node
            )));
        };
        self.resolve_attachment(name, attachment)
    }

    /// Looks at the namespace of an attachment on this node, whose interface must be nobody else's.
    pub(super) fn resolve_attachment(
        &self,
        name: &str,
        attachment: &mut fabric_api::object::Attachment,
    ) -> Result<(), ServiceError> {
        // What an engine moves has no namespace yet.
        attachment.netns_inode = match attachment.engine {
            Some(_) => 0,
            None => (self.resolve)(&attachment.netns)?,
        };
        for object in self.objects.values() {
            let Object::Endpoint(other) = object else { continue };
            let Some((theirs, _)) = self.seat(other) else { continue };
            let same = theirs.netns_inode == attachment.netns_inode
                && theirs.engine.is_some() == attachment.engine.is_some()
                && theirs.ifname == attachment.ifname;
            if same && other.metadata.name != *name {
                return Err(ServiceError::conflict(format!(
                    "interface {} in {} belongs to endpoint {}: choose another --ifname",
                    attachment.ifname, attachment.netns, other.metadata.name
                )));
            }
        }
        Ok(())
    }

    /// An endpoint's port on this node, as far as it has one: that of its home, or that which a move prepares.
    fn seat<'a>(&self, endpoint: &'a Endpoint) -> Option<(&'a fabric_api::object::Attachment, Option<u32>)> {
        if self.lives_here(endpoint) {
            let slot = endpoint.status.as_ref().and_then(|status| status.slot);
            return Some((endpoint.spec.attachment.as_ref()?, slot));
        }
        let movement = endpoint.spec.movement.as_ref().filter(|m| m.node == self.settings.node)?;
        Some((movement.attachment.as_ref()?, movement.slot))
    }

    /// Dense: the lowest free one.
    fn complete_slot(&mut self, new: &mut Endpoint, old: Option<&Endpoint>) -> Result<(), ServiceError> {
        let kept = old.and_then(|o| o.status.clone());
        if kept.as_ref().is_some_and(|s| s.slot.is_some()) {
            new.status = kept;
            return Ok(());
        }
        let slot = self.free_slot()?;
        new.status = Some(EndpointStatus { slot: Some(slot), ..EndpointStatus::default() });
        Ok(())
    }

    /// A slot of this node that no endpoint has. Other nodes number their own.
    pub(super) fn free_slot(&mut self) -> Result<u32, ServiceError> {
        let slot_of = |o: &Object| if let Object::Endpoint(e) = o { self.seat(e)?.1 } else { None };
        let used: BTreeSet<u32> = self.objects.values().filter_map(slot_of).collect();
        let Some(slot) = (0..self.settings.slots).find(|slot| !used.contains(slot)) else {
            return Err(ServiceError::refused(format!(
                "this node has {} endpoints, as many as its maps have room for: raise ports and port_counters under [maps] and restart the agent",
                used.len()
            )));
        };
        self.slots.push(slot);
        Ok(slot)
    }

    /// Of each subnet the chosen address, the one it had, or a free one; in the order of the subnets.
    fn complete_addresses(
        &mut self,
        new: &mut Endpoint,
        old: Option<&Endpoint>,
        network: &Network,
    ) -> Result<(), ServiceError> {
        let used = self.used(network, &new.metadata.name);
        for address in &new.spec.addresses {
            ipam::check_chosen(network, *address, &used)?;
        }
        let exact = new.spec.attachment.as_ref().is_some_and(|a| a.engine.is_some());
        let cursor = cursor_name(&network.name);
        let mut positions = self.positions(&cursor);
        let before = old.map(|o| o.spec.addresses.as_slice()).unwrap_or_default();
        let mut addresses = Vec::new();
        for subnet in &network.subnets {
            let mut chosen =
                new.spec.addresses.iter().copied().filter(|a| subnet.net.contains(a)).collect::<Vec<_>>();
            // An engine configures the addresses that it names, and no other.
            if chosen.is_empty() && !exact {
                let kept = before.iter().copied().find(|a| subnet.net.contains(a) && !used.contains_key(a));
                chosen.push(match kept {
                    Some(address) => address,
                    None if self.settings.blocks => self.block_address(network, subnet, &used)?,
                    None => {
                        let address =
                            ipam::allocate(network, subnet, &used, positions.get(&subnet.net).copied())?;
                        positions.insert(subnet.net, address);
                        address
                    }
                });
            }
            addresses.extend(chosen);
        }
        new.spec.addresses = addresses;
        self.set_positions(cursor, &positions);
        Ok(())
    }

    /// The address that was given away last, by subnet or part of one.
    fn positions(&self, cursor: &str) -> BTreeMap<IpNet, IpAddr> {
        self.cursor(cursor).and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default()
    }

    fn set_positions(&mut self, cursor: String, positions: &BTreeMap<IpNet, IpAddr>) {
        let value = serde_json::to_string(positions).unwrap_or_else(|_| "{}".to_owned());
        if self.cursor(&cursor) != Some(value.as_str()) && !positions.is_empty() {
            self.cursors.insert(cursor, Some(value));
        }
    }

    /// Chooses a free address of a subnet of `network`, or of the part `range` of it, as the next one: beside those that endpoints
    /// and nodes have, and those in `taken`.
    pub(in super::super) fn next_address(
        &mut self,
        network: &str,
        net: IpNet,
        range: Option<IpNet>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, ServiceError> {
        let network = self.network_model(network)?;
        let Some(subnet) = network.subnets.iter().find(|s| s.net == net) else {
            return Err(ServiceError::invalid(format!("network {} has no subnet {net}", network.name)));
        };
        let mut used = self.used(&network, "");
        used.extend(taken.iter().map(|address| (*address, "a container that starts".to_owned())));
        if self.settings.blocks && range.is_none() {
            return self.block_address(&network, &subnet.clone(), &used);
        }
        let cursor = cursor_name(&network.name);
        let mut positions = self.positions(&cursor);
        let part = range.unwrap_or(net);
        let address = ipam::allocate_within(&network, subnet, part, &used, positions.get(&part).copied())?;
        positions.insert(part, address);
        self.set_positions(cursor, &positions);
        Ok(address)
    }

    /// Checks that `address` of `network` is free.
    pub(in super::super) fn check_free(&self, network: &str, address: IpAddr) -> Result<(), ServiceError> {
        let network = self.network_model(network)?;
        Ok(ipam::check_chosen(&network, address, &self.used(&network, ""))?)
    }

    /// Every address of a network that somebody but endpoint `except` has, this node's own among them.
    pub(super) fn used(&self, network: &Network, except: &str) -> BTreeMap<IpAddr, String> {
        let mut used = BTreeMap::new();
        let mut own = Vec::new();
        for object in self.objects.values() {
            match object {
                Object::Endpoint(e) if e.spec.network == network.name && e.metadata.name != except => {
                    used.extend(
                        e.spec.addresses.iter().map(|a| (*a, format!("endpoint {}", e.metadata.name))),
                    );
                }
                Object::Node(n) => {
                    for part in n.spec.networks.iter().filter(|p| p.network == network.name) {
                        used.extend(part.addresses.iter().map(|a| (*a, format!("node {}", n.metadata.name))));
                        if n.metadata.name == self.settings.node {
                            own.clone_from(&part.addresses);
                        }
                    }
                }
                Object::Endpoint(_)
                | Object::Network(_)
                | Object::Namespace(_)
                | Object::NetworkPolicy(_)
                | Object::ClusterNetworkPolicy(_)
                | Object::DenySet(_) => {}
            }
        }
        let taken: BTreeSet<IpAddr> = used.keys().copied().collect();
        for subnet in network.subnets.iter().filter(|s| !own.iter().any(|a| s.net.contains(a))) {
            if let Some(address) = ipam::node_address(subnet, &self.settings.node, &taken) {
                used.insert(address, format!("node {} (this node's own address)", self.settings.node));
            }
        }
        used
    }
}

/// What a declaration says otherwise than the endpoint is; what it leaves open fits anything.
fn differs(declared: &Endpoint, attached: &Endpoint) -> Option<&'static str> {
    let mac = |e: &Endpoint| e.spec.mac.as_ref().map(|mac| mac.to_lowercase());
    let addresses = |e: &Endpoint| e.spec.addresses.iter().copied().collect::<BTreeSet<_>>();
    if attached.spec.node != declared.spec.node {
        Some("node")
    } else if attached.spec.network != declared.spec.network {
        Some("network")
    } else if !declared.spec.addresses.is_empty() && addresses(declared) != addresses(attached) {
        Some("address")
    } else if declared.spec.mac.is_some() && mac(declared) != mac(attached) {
        Some("MAC")
    } else {
        None
    }
}

/// An endpoint of another node is declared completely; nothing is chosen for it here.
fn check_remote(new: &Endpoint, node: &str) -> Result<(), ServiceError> {
    if new.spec.addresses.is_empty() {
        return Err(ServiceError::invalid(format!(
            "it lives on node {node}, so its addresses are chosen there: name them under addresses"
        )));
    }
    if new.spec.attachment.is_some() {
        return Err(ServiceError::invalid(format!(
            "it lives on node {node}, so it has no attachment here: take it out"
        )));
    }
    Ok(())
}
