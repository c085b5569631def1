//! A transaction being prepared: the objects as they would be, and the writes that get there. Pure but for the look at
//! a container's namespace.

use std::collections::{BTreeMap, BTreeSet};

use fabric_api::{Object, object::DEFAULT_NAMESPACE};

use super::{ServiceError, ServiceSettings, netns::Resolve, owner::Owner};
use crate::{
    model::{self, Cluster, Network, Node, ProblemKey},
    plan::desired::NodeFacts,
    store::{Expected, Snapshot, Write},
};

mod blocks;
mod deny_set;
mod endpoint;
mod movement;
mod network;
mod node;

pub(super) use endpoint::Announced;
pub(super) use movement::flows_note;
pub(super) use node::is_registered;

/// Kind and name.
pub(super) type Key = (String, String);

/// Name of the cursor that guards the choice of VNIs.
const VNI_CURSOR: &str = "vni";

/// A transaction being prepared.
#[derive(Clone)]
pub(super) struct Draft {
    settings: ServiceSettings,
    facts: NodeFacts,
    resolve: Resolve,
    before: std::sync::Arc<Cluster>,
    objects: BTreeMap<Key, Object>,
    touched: BTreeSet<Key>,
    /// Positions of allocators; `None` was removed. Those that are here are written.
    cursors: BTreeMap<String, Option<String>>,
    known_cursors: BTreeMap<String, String>,
    slots: Vec<u32>,
}

/// A sentence about an object: with its name in front unless it is there already.
pub(super) fn named(kind: &str, name: &str, text: &str) -> String {
    let subject = format!("{} {name}", kind.to_lowercase());
    // `endpoint a` is not in `endpoint attach`.
    let whole = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    if text.match_indices(&subject).any(|(at, _)| whole(&text[at + subject.len()..])) {
        text.to_owned()
    } else {
        format!("{subject}: {text}")
    }
}

impl Draft {
    pub(super) fn new(
        snapshot: &Snapshot,
        settings: ServiceSettings,
        facts: NodeFacts,
        resolve: Resolve,
    ) -> Self {
        let key = |o: &Object| (o.kind().to_owned(), o.id().into_owned());
        Self {
            settings,
            facts,
            resolve,
            before: Cluster::from_objects(&snapshot.objects).into(),
            objects: snapshot.objects.iter().map(|o| (key(o), o.clone())).collect(),
            touched: BTreeSet::new(),
            cursors: BTreeMap::new(),
            known_cursors: snapshot.cursors.iter().map(|(k, c)| (k.clone(), c.value.clone())).collect(),
            slots: Vec::new(),
        }
    }

    /// Revision of an object's last change.
    pub(super) fn revision(&self, key: &Key) -> Option<u64> {
        self.objects.get(key).map(|o| o.metadata().revision)
    }

    /// All objects, by kind and name.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// Everything that an owner has.
    pub(super) fn owned(&self, owner: &Owner) -> Vec<Key> {
        let own = |(_, o): &(&Key, &Object)| o.metadata().owner == owner.as_str();
        self.objects.iter().filter(own).map(|(k, _)| k.clone()).collect()
    }

    /// Slots that endpoints of this draft got.
    pub(super) fn new_slots(&self) -> Vec<u32> {
        self.slots.clone()
    }

    /// For requests that create.
    pub(super) fn must_be_absent(&self, object: &Object) -> Result<(), ServiceError> {
        let key = (object.kind().to_owned(), object.id().into_owned());
        if self.objects.contains_key(&key) {
            let kind = key.0.to_lowercase();
            return Err(ServiceError::conflict(format!(
                "{kind} {} exists already: choose another name, or remove it first",
                key.1
            )));
        }
        Ok(())
    }

    /// Creates or changes an object, filling in what it leaves open: `created`, `changed` or `unchanged`.
    pub(super) fn put(&mut self, owner: &Owner, mut object: Object) -> Result<&'static str, ServiceError> {
        let key = (object.kind().to_owned(), object.id().into_owned());
        let existing = self.objects.get(&key).cloned();
        if let Some(existing) = &existing {
            owner.check(existing)?;
        }
        refuse_agent_fields(&object, owner).map_err(|e| self.about(&key, e))?;
        keep_movement(&mut object, existing.as_ref()).map_err(|e| self.about(&key, e))?;
        owner.as_str().clone_into(&mut object.metadata_mut().owner);
        object.metadata_mut().revision = existing.as_ref().map_or(0, |o| o.metadata().revision);
        let done = match (&mut object, &existing) {
            (Object::Network(new), Some(Object::Network(old))) => self.complete_network(new, Some(old)),
            (Object::Network(new), _) => self.complete_network(new, None),
            (Object::Node(new), _) => self.complete_node(new),
            (Object::Endpoint(new), Some(Object::Endpoint(old))) => self.complete_endpoint(new, Some(old)),
            (Object::Endpoint(new), _) => self.complete_endpoint(new, None),
            (Object::NetworkPolicy(new), _) => {
                new.metadata.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
                model::NetworkPolicy::new(new).map(drop).map_err(ServiceError::from)
            }
            (Object::ClusterNetworkPolicy(new), _) => {
                model::ClusterPolicy::new(new).map(drop).map_err(ServiceError::from)
            }
            (Object::DenySet(new), _) => self.deny_set(new),
            (Object::Namespace(new), _) => {
                model::namespace::labels(new).map(drop).map_err(ServiceError::from)
            }
        };
        done.map_err(|e| self.about(&key, e))?;
        if existing.as_ref() == Some(&object) {
            return Ok("unchanged");
        }
        self.objects.insert(key.clone(), object);
        self.touched.insert(key);
        Ok(if existing.is_some() { "changed" } else { "created" })
    }

    fn about(&self, key: &Key, e: ServiceError) -> ServiceError {
        ServiceError { message: named(&key.0, &key.1, &e.message), ..e }
    }

    /// Removes an object.
    pub(super) fn delete(&mut self, owner: &Owner, key: &Key) -> Result<(), ServiceError> {
        let Some(existing) = self.objects.get(key) else {
            return Err(ServiceError::not_found(&key.0, &key.1));
        };
        owner.check(existing)?;
        if key.0 == "Network" {
            self.network_is_unused(&key.1)?;
            self.cursors.insert(endpoint::cursor_name(&key.1), None);
            self.cursors.insert(endpoint::mac_cursor(&key.1), None);
            self.forget_blocks(&key.1);
        }
        let gone = self.objects.remove(key);
        self.touched.insert(key.clone());
        if let Some(Object::Endpoint(endpoint)) = gone
            && self.settings.blocks
        {
            self.release_blocks(&endpoint.spec.network, &endpoint.spec.addresses);
        }
        Ok(())
    }

    /// Does `change` and checks the whole; after an error nothing of it is left.
    pub(super) fn attempt<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        let saved = self.clone();
        let result = change(self).and_then(|value| self.validate().map(|()| value));
        if result.is_err() {
            *self = saved;
        }
        result
    }

    /// Refuses a draft that makes a problem which was not there before.
    pub(super) fn validate(&self) -> Result<(), ServiceError> {
        let objects: Vec<Object> = self.objects.values().cloned().collect();
        let after = Cluster::from_objects(&objects);
        self.holders_stay(&after)?;
        self.let_in_stay()?;
        let fresh = |(key, text): &(&ProblemKey, &String)| self.before.problems.get(*key) != Some(*text);
        // What was asked for is named before what suffers from it.
        let asked = |key: &ProblemKey| self.touched.contains(&(key.0.to_owned(), key.1.clone()));
        let mut problems: Vec<_> = after.problems.iter().filter(fresh).collect();
        problems.sort_by_key(|(key, _)| !asked(key));
        if let Some(((kind, name), text)) = problems.first() {
            return Err(ServiceError::invalid(named(kind, name, text)));
        }
        self.own_addresses_stay(&after)?;
        self.nodes_are_declared(&after)
    }

    /// A VNI, a VTEP address and the host's route to a subnet stay with who has them: a cluster prefers by name, which is no
    /// answer to somebody who asks for one that is taken.
    fn holders_stay(&self, after: &Cluster) -> Result<(), ServiceError> {
        let untouched = |kind: &str, name: &str| !self.touched.contains(&(kind.to_owned(), name.to_owned()));
        let gone = |n: &&Network| !after.networks.contains_key(&n.name) && untouched("Network", &n.name);
        for old in self.before.networks.values().filter(gone) {
            if let Some(new) = after.networks.values().find(|n| n.vni == old.vni) {
                let text = format!("VNI {} belongs to network {}: choose another one", old.vni, old.name);
                return Err(ServiceError::invalid(named("Network", &new.name, &text)));
            }
        }
        let lost = |n: &&Network| {
            let now = after.networks.get(&n.name);
            n.host_access && untouched("Network", &n.name) && now.is_some_and(|now| !now.host_access)
        };
        for old in self.before.networks.values().filter(lost) {
            let mut with_host = after.networks.values().filter(|n| n.host_access);
            if let Some((new, text)) = with_host.find_map(|n| Some((n, n.host_access_clash(old)?))) {
                return Err(ServiceError::invalid(named("Network", &new.name, &text)));
            }
        }
        let gone = |n: &&Node| !after.nodes.contains_key(&n.name) && untouched("Node", &n.name);
        for old in self.before.nodes.values().filter(gone) {
            for vtep in &old.vteps {
                if let Some(new) = after.nodes.values().find(|n| n.vteps.contains(vtep)) {
                    let text =
                        format!("VTEP address {vtep} belongs to node {}: choose another one", old.name);
                    return Err(ServiceError::invalid(named("Node", &new.name, &text)));
                }
            }
        }
        Ok(())
    }

    /// The addresses that this node took for itself must not be given to others.
    fn own_addresses_stay(&self, after: &Cluster) -> Result<(), ServiceError> {
        let node = &self.settings.node;
        let own_name = format!("node {node}");
        for network in self.before.networks.values().filter(|n| after.networks.contains_key(&n.name)) {
            let used = after.used(&network.name);
            for address in self.before.node_addresses(network, node, true) {
                if let Some(other) = used.get(&address).filter(|other| **other != own_name) {
                    return Err(ServiceError::invalid(format!(
                        "{other}: address {address} in network {} is the own address of this node ({node}): choose another one",
                        network.name
                    )));
                }
            }
        }
        Ok(())
    }

    fn nodes_are_declared(&self, after: &Cluster) -> Result<(), ServiceError> {
        let known =
            |cluster: &Cluster, node: &str| node == self.settings.node || cluster.nodes.contains_key(node);
        let mut endpoints = after.endpoints.values();
        let all_known = |cluster: &Cluster, e: &model::Endpoint| e.senders().all(|node| known(cluster, node));
        let lost = endpoints.find(|e| {
            !all_known(after, e)
                && self.before.endpoints.get(&e.name).is_none_or(|old| all_known(&self.before, old))
        });
        match lost {
            None => Ok(()),
            Some(e) if known(after, &e.node) => Err(ServiceError::refused(format!(
                "endpoint {} is being moved from or to a node that would be gone: wait, or abort the move",
                e.name
            ))),
            Some(e) if self.touched.contains(&("Endpoint".to_owned(), e.name.clone())) => {
                Err(ServiceError::invalid(format!(
                    "endpoint {}: node {} is not declared: apply a Node object for it first",
                    e.name, e.node
                )))
            }
            Some(e) => Err(ServiceError::refused(format!(
                "node {} still has endpoints, for example {}: remove them first",
                e.node, e.name
            ))),
        }
    }

    /// The writes, each with what it expects of `snapshot`, which the draft was made from.
    pub(super) fn into_writes(mut self, snapshot: &Snapshot) -> Vec<Write> {
        let expected = |revision: Option<u64>| revision.map_or(Expected::Absent, Expected::Revision);
        let mut writes = self.requirements(snapshot);
        for (kind, name) in std::mem::take(&mut self.touched) {
            let before = snapshot.get(&kind, &name).map(|o| o.metadata().revision);
            match self.objects.remove(&(kind.clone(), name.clone())) {
                Some(object) => writes.push(Write::Put { object: object.into(), expected: expected(before) }),
                None if before.is_some() => {
                    writes.push(Write::Delete { kind, name, expected: expected(before) })
                }
                None => {}
            }
        }
        for (name, value) in self.cursors {
            let before = snapshot.cursors.get(&name).map(|c| c.revision);
            if before.is_some() || value.is_some() {
                writes.push(Write::Cursor { name, value, expected: expected(before) });
            }
        }
        writes
    }

    /// The networks of endpoints that are written must stay as they were read: nobody may remove one meanwhile.
    fn requirements(&self, snapshot: &Snapshot) -> Vec<Write> {
        let network = |key: &Key| match self.objects.get(key) {
            Some(Object::Endpoint(endpoint)) => Some(endpoint.spec.network.clone()),
            _ => None,
        };
        let networks: BTreeSet<String> = self.touched.iter().filter_map(network).collect();
        let rest = networks.into_iter().filter_map(|name| {
            let kind = "Network".to_owned();
            let revision = snapshot.get(&kind, &name)?.metadata().revision;
            let untouched = !self.touched.contains(&(kind.clone(), name.clone()));
            untouched.then_some(Write::Require { kind, name, expected: Expected::Revision(revision) })
        });
        rest.collect()
    }

    /// What a front door must remember, by a name that begins so.
    pub(super) fn notes<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let own = self.cursors.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_deref()?)));
        let known = self.known_cursors.iter().filter(|(k, _)| !self.cursors.contains_key(*k));
        let known = known.map(|(k, v)| (k.as_str(), v.as_str()));
        own.chain(known).filter(move |(name, _)| name.starts_with(prefix))
    }

    /// Remembers something for a front door, or forgets it.
    pub(super) fn note(&mut self, name: &str, value: Option<String>) {
        if self.cursor(name) != value.as_deref() {
            self.cursors.insert(name.to_owned(), value);
        }
    }

    /// An object.
    pub(super) fn get(&self, kind: &str, name: &str) -> Option<&Object> {
        self.objects.get(&(kind.to_owned(), name.to_owned()))
    }

    /// The newest position of an allocator.
    fn cursor(&self, name: &str) -> Option<&str> {
        match self.cursors.get(name) {
            Some(value) => value.as_deref(),
            None => self.known_cursors.get(name).map(String::as_str),
        }
    }
}

/// Status is the agent's; so is the owner.
fn refuse_agent_fields(object: &Object, owner: &Owner) -> Result<(), ServiceError> {
    if object.has_status() {
        return Err(ServiceError::invalid("status is set by the agent: take it out"));
    }
    if object.metadata().namespace.is_some() && object.kind() != "NetworkPolicy" {
        let hint = if object.kind() == "Endpoint" { ", an endpoint's is spec.namespace" } else { "" };
        return Err(ServiceError::invalid(format!(
            "metadata.namespace is for NetworkPolicies{hint}: take it out"
        )));
    }
    if let Object::Endpoint(endpoint) = object
        && endpoint.spec.attachment.as_ref().is_some_and(|a| a.engine.is_some() || a.container.is_some())
        && *owner != Owner::docker()
    {
        return Err(ServiceError::invalid("engine and container are set by the agent: take them out"));
    }
    let given = &object.metadata().owner;
    if !given.is_empty() && given != owner.as_str() {
        return Err(ServiceError::invalid(format!("owner {given:?} can't be set from here: take it out")));
    }
    Ok(())
}

/// A move goes on whatever else is declared of its endpoint.
fn keep_movement(object: &mut Object, existing: Option<&Object>) -> Result<(), ServiceError> {
    let Object::Endpoint(new) = object else { return Ok(()) };
    let kept =
        existing.and_then(|o| if let Object::Endpoint(old) = o { old.spec.movement.clone() } else { None });
    if new.spec.movement.is_some() && new.spec.movement != kept {
        return Err(ServiceError::invalid(
            "movement is set by the agents: take it out, and use `fabric endpoint move`",
        ));
    }
    new.spec.movement = kept;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_sentence_names_its_object_once() {
        assert_eq!(
            named("Endpoint", "a", "use `fabric endpoint attach`"),
            "endpoint a: use `fabric endpoint attach`"
        );
        assert_eq!(named("Node", "n1", "node n1-x is gone"), "node n1: node n1-x is gone");
        assert_eq!(named("Node", "n1", "the address is node n1's"), "the address is node n1's");
        assert_eq!(named("Node", "n1", "node n1"), "node n1");
    }
}
