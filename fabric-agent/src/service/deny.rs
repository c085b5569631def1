//! Deny sets: objects with their status, and changes of single prefixes.

use std::collections::BTreeSet;

use fabric_api::{
    DenySet,
    object::{API_VERSION, DenySetChange, DenySetSpec, Metadata},
    status::{DenySetStatus, State},
};
use ipnet::IpNet;

use super::{
    draft::{Draft, Key},
    read::View,
    *,
};

fn key(name: &str) -> Key {
    ("DenySet".to_owned(), name.to_owned())
}

impl Service {
    /// All deny sets, by name.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn deny_sets(&self) -> Result<Vec<DenySet>, ServiceError> {
        Ok(self.view().await?.deny_sets())
    }

    /// A deny set.
    ///
    /// # Errors
    /// Not there, or the store can't be read.
    pub async fn deny_set(&self, name: &str) -> Result<DenySet, ServiceError> {
        let found = self.deny_sets().await?.into_iter().find(|set| set.metadata.name == name);
        found.ok_or_else(|| ServiceError::not_found("DenySet", name))
    }

    /// Adds prefixes to a deny set and takes some out, and waits until the kernel has that. A set that is not there is made; one
    /// that is left empty is removed. The answer is the set as it is then.
    ///
    /// # Errors
    /// A prefix is to be taken out that is not there, one covers what the fabric depends on, the set is another owner's, or is for
    /// other nodes.
    pub async fn change_deny_set(
        &self,
        owner: &Owner,
        name: &str,
        change: &DenySetChange,
    ) -> Result<DenySet, ServiceError> {
        if change.add.is_empty() && change.remove.is_empty() {
            return Err(ServiceError::invalid("the change is empty: name prefixes to add or to remove"));
        }
        let (changed, revision) = self
            .transact(|draft: &mut Draft| {
                let changed = changed(draft, name, change)?;
                if changed.spec.prefixes.is_empty() && changed.spec.forced.is_empty() {
                    draft.delete(owner, &key(name))?;
                } else {
                    draft.put(owner, Object::DenySet(changed.clone()))?;
                }
                draft.validate()?;
                Ok(changed)
            })
            .await?;
        self.settle(revision).await;
        let now = self.deny_set(name).await;
        // Without a prefix it is gone.
        if now.is_err() { Ok(changed) } else { now }
    }

    /// Removes a deny set, and waits until the kernel has forgotten it.
    ///
    /// # Errors
    /// Not there, or another owner's.
    pub async fn delete_deny_set(&self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        let ((), revision) = self
            .transact(|draft: &mut Draft| {
                draft.delete(owner, &key(name))?;
                draft.validate()
            })
            .await?;
        self.settle(revision).await;
        Ok(())
    }
}

fn changed(draft: &Draft, name: &str, change: &DenySetChange) -> Result<DenySet, ServiceError> {
    let mut set = match draft.get("DenySet", name) {
        Some(Object::DenySet(set)) => DenySet { status: None, ..set.clone() },
        _ if change.add.is_empty() => return Err(ServiceError::not_found("DenySet", name)),
        _ => DenySet {
            api_version: API_VERSION.to_owned(),
            metadata: Metadata { name: name.to_owned(), ..Metadata::default() },
            spec: DenySetSpec { nodes: change.nodes.clone(), ..DenySetSpec::default() },
            status: None,
        },
    };
    if change.nodes.is_some() && change.nodes != set.spec.nodes {
        return Err(ServiceError::conflict(format!("deny set {name} is for other nodes: name another set")));
    }
    let canonical = |nets: &[IpNet]| nets.iter().map(IpNet::trunc).collect::<BTreeSet<_>>();
    let (mut prefixes, mut forced) = (canonical(&set.spec.prefixes), canonical(&set.spec.forced));
    for net in &change.remove {
        let (there, was_forced) = (prefixes.remove(&net.trunc()), forced.remove(&net.trunc()));
        if !there && !was_forced {
            return Err(ServiceError::invalid(format!(
                "prefix {net} is not in deny set {name}: `fabric deny ls` lists what is"
            )));
        }
    }
    if change.force { &mut forced } else { &mut prefixes }.extend(canonical(&change.add));
    (set.spec.prefixes, set.spec.forced) = (prefixes.into_iter().collect(), forced.into_iter().collect());
    Ok(set)
}

impl View<'_> {
    fn deny_sets(&self) -> Vec<DenySet> {
        let labels = self.cluster.node_labels(self.local);
        let mut in_sync = None;
        let mut sets = Vec::new();
        for object in &self.snapshot.objects {
            let Object::DenySet(set) = object else { continue };
            let name = &set.metadata.name;
            let known = self.cluster.deny_sets.get(name);
            let (state, reason) = match self.state_here("DenySet", name) {
                (State::Pending, reason)
                    if *in_sync.get_or_insert_with(|| self.kernel.node_status().in_sync) =>
                {
                    (State::Ready, reason)
                }
                other => other,
            };
            let applies = known.is_some_and(|set| set.nodes.matches(&labels));
            sets.push(DenySet { status: Some(DenySetStatus { applies, state, reason }), ..set.clone() });
        }
        sets
    }
}
