//! Requests that change the store.

use std::{collections::BTreeSet, sync::PoisonError};

use fabric_api::status::State;

use super::{
    draft::{Draft, Key},
    *,
};

/// How often a transaction is tried again after somebody else changed an entry at the same time.
const TRIES: usize = 16;

/// What [`Service::replace_owned`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// One per object that stands.
    pub applied: Vec<Applied>,
    /// Kind and name of objects that were removed.
    pub removed: Vec<(String, String)>,
    /// One sentence per object that was refused; it stays as it was before.
    pub problems: Vec<String>,
}

impl Service {
    /// Creates a network; what the request leaves open is chosen. The answer is the network as stored.
    ///
    /// # Errors
    /// The name or VNI is taken, or a field is wrong.
    pub async fn create_network(&self, owner: &Owner, network: Network) -> Result<Network, ServiceError> {
        let name = network.metadata.name.clone();
        let object = Object::Network(network);
        self.transact(|draft| {
            draft.must_be_absent(&object)?;
            draft.put(owner, object.clone())?;
            draft.validate()
        })
        .await?;
        self.network(&name).await
    }

    /// Removes a network that has no endpoints.
    ///
    /// # Errors
    /// Not there, another owner's, or still in use (the sentence names the endpoints).
    pub async fn delete_network(&self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        self.transact(|draft| {
            draft.delete(owner, &("Network".to_owned(), name.to_owned()))?;
            draft.validate()
        })
        .await?;
        Ok(())
    }

    /// Attaches a container and waits until its traffic flows. After a failure nothing is left of it. Goes on to its
    /// end even if the caller goes away.
    ///
    /// # Errors
    /// The name is taken, a field is wrong, no address is free, or the kernel refused.
    pub async fn attach_endpoint(
        &self,
        owner: &Owner,
        mut endpoint: Endpoint,
    ) -> Result<Endpoint, ServiceError> {
        let name = endpoint.metadata.name.clone();
        let local = self.node_name();
        let node = endpoint.spec.node.get_or_insert_with(|| local.to_owned());
        if node != local {
            return Err(ServiceError::refused(format!(
                "endpoint {name} is for node {node}, this is {local}: attach it there, and declare it here with `fabric apply`"
            )));
        }
        if endpoint.spec.attachment.is_none() {
            return Err(ServiceError::invalid(format!(
                "endpoint {name} has no network namespace: give --netns or --pid"
            )));
        }
        let (this, owner) = (self.clone(), owner.clone());
        let task = tokio::spawn(async move { this.attach(&owner, endpoint).await });
        task.await.unwrap_or_else(|e| {
            Err(ServiceError::new(ErrorKind::Internal, format!("the attaching task ended: {e}")))
        })
    }

    async fn attach(&self, owner: &Owner, endpoint: Endpoint) -> Result<Endpoint, ServiceError> {
        let name = endpoint.metadata.name.clone();
        let object = Object::Endpoint(endpoint);
        let ((), revision) = self
            .transact(|draft| {
                draft.must_be_absent(&object)?;
                draft.put(owner, object.clone())?;
                draft.validate()
            })
            .await?;
        match self.outcome(&name, revision).await {
            Ok(()) => self.endpoint(&name).await,
            Err(text) => {
                let undone = self.remove_endpoint(owner, &name, Some(revision)).await;
                let also = undone
                    .err()
                    .map_or(String::new(), |e| format!("; undoing it failed as well: {}", e.message));
                Err(ServiceError::new(
                    ErrorKind::Unavailable,
                    format!("endpoint {name} can't be attached: {text}{also}"),
                ))
            }
        }
    }

    /// Waits for the kernel; what is wrong if the endpoint is not ready then.
    async fn outcome(&self, name: &str, revision: u64) -> Result<(), String> {
        let kernel = &self.inner.kernel;
        let late = tokio::time::timeout(self.inner.timeout, kernel.programmed(revision)).await.is_err();
        match kernel.state("Endpoint", name) {
            Some((State::Ready, _)) => Ok(()),
            Some((State::Degraded, reason)) if !reason.is_empty() => Err(reason),
            _ if late => {
                Err(format!("the kernel was not programmed within {} s", self.inner.timeout.as_secs()))
            }
            Some((_, reason)) if !reason.is_empty() => Err(reason),
            _ => Err("the kernel was not programmed; `fabric status` says what is wrong".to_owned()),
        }
    }

    /// Detaches an endpoint, or removes a declared one, and waits until the kernel has forgotten it.
    ///
    /// # Errors
    /// Not there, or another owner's.
    pub async fn detach_endpoint(&self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        self.remove_endpoint(owner, name, None).await
    }

    /// Only the given revision, if one is given.
    async fn remove_endpoint(
        &self,
        owner: &Owner,
        name: &str,
        only: Option<u64>,
    ) -> Result<(), ServiceError> {
        let key: Key = ("Endpoint".to_owned(), name.to_owned());
        let ((), revision) = self
            .transact(|draft| {
                if only.is_some() && draft.revision(&key) != only {
                    return Ok(());
                }
                draft.delete(owner, &key)?;
                draft.validate()
            })
            .await?;
        // A kernel that does not answer must not keep the name: the store has forgotten it, a later pass will clean up.
        let _ = tokio::time::timeout(self.inner.timeout, self.inner.kernel.programmed(revision)).await;
        Ok(())
    }

    /// Creates or changes all objects, or none. The answers are in the order of the request.
    ///
    /// # Errors
    /// The first object that is refused.
    pub async fn apply(&self, owner: &Owner, objects: Vec<Object>) -> Result<Vec<Applied>, ServiceError> {
        if let Some(twice) = duplicate(&objects) {
            return Err(ServiceError::invalid(format!(
                "{} {} is given twice: keep one",
                twice.0.to_lowercase(),
                twice.1
            )));
        }
        let (applied, _) = self
            .transact(|draft| {
                let mut applied = Vec::new();
                for (i, object) in in_order(&objects) {
                    let outcome = draft.put(owner, object.clone())?;
                    applied.push((i, answer(object, outcome)));
                }
                draft.validate()?;
                applied.sort_by_key(|(i, _)| *i);
                Ok(applied.into_iter().map(|(_, a)| a).collect())
            })
            .await?;
        Ok(applied)
    }

    /// Makes an owner's objects equal to `objects`. An object that is refused keeps its former state and is reported;
    /// the others stand. What the owner has beyond them is removed if `prune` is set.
    ///
    /// # Errors
    /// The store can't be written.
    pub async fn replace_owned(
        &self,
        owner: &Owner,
        objects: Vec<Object>,
        prune: bool,
    ) -> Result<Replaced, ServiceError> {
        let (replaced, _) = self.transact(|draft| replace(draft, owner, &objects, prune)).await?;
        Ok(replaced)
    }

    /// Reads, lets `change` draft the writes, and commits; again if somebody else was faster.
    pub(super) async fn transact<T>(
        &self,
        change: impl Fn(&mut Draft) -> Result<T, ServiceError>,
    ) -> Result<(T, u64), ServiceError> {
        let inner = &self.inner;
        let _guard = inner.writing.lock().await;
        let mut last = None;
        for _ in 0..TRIES {
            let snapshot = inner.store.snapshot().await?;
            let mut draft =
                Draft::new(&snapshot, inner.settings.clone(), inner.kernel.facts(), inner.resolve);
            let value = change(&mut draft)?;
            for slot in draft.new_slots() {
                inner.kernel.reset_counters(slot);
            }
            match inner.store.commit(draft.into_writes(&snapshot)).await {
                Ok(revision) => return Ok((value, revision)),
                Err(e @ crate::store::StoreError::Conflict { .. }) => last = Some(e),
                Err(e) => return Err(e.into()),
            }
        }
        Err(last.map_or_else(|| ServiceError::conflict("the store is busy; try again"), ServiceError::from))
    }

    /// What front doors reported, one sentence each.
    pub(super) fn reported(&self) -> Vec<String> {
        let reports = self.inner.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.values().flatten().cloned().collect()
    }
}

/// What is referred to comes first.
fn rank(kind: &str) -> u8 {
    match kind {
        "Network" => 0,
        "Node" => 1,
        _ => 2,
    }
}

fn in_order(objects: &[Object]) -> Vec<(usize, &Object)> {
    let mut sorted: Vec<_> = objects.iter().enumerate().collect();
    sorted.sort_by_key(|(i, o)| (rank(o.kind()), *i));
    sorted
}

fn key(object: &Object) -> Key {
    (object.kind().to_owned(), object.metadata().name.clone())
}

fn duplicate(objects: &[Object]) -> Option<Key> {
    let mut seen = BTreeSet::new();
    objects.iter().map(key).find(|k| !seen.insert(k.clone()))
}

fn answer(object: &Object, outcome: &str) -> Applied {
    let (kind, name) = key(object);
    Applied { kind, name, outcome: outcome.to_owned() }
}

/// All at once if all is well; else one by one, so that one wrong object harms no other.
fn replace(
    draft: &mut Draft,
    owner: &Owner,
    objects: &[Object],
    prune: bool,
) -> Result<Replaced, ServiceError> {
    let wanted: BTreeSet<Key> = objects.iter().map(key).collect();
    let mut surplus: Vec<Key> = if prune { draft.owned(owner) } else { Vec::new() };
    surplus.retain(|k| !wanted.contains(k));
    // Endpoints go before nodes, nodes before networks.
    surplus.sort_by_key(|k| std::cmp::Reverse(rank(&k.0)));
    let saved = draft.clone();
    if duplicate(objects).is_none()
        && let Ok(applied) = replace_at_once(draft, owner, objects, &surplus)
    {
        return Ok(Replaced { applied, removed: surplus, problems: Vec::new() });
    }
    *draft = saved;
    Ok(replace_one_by_one(draft, owner, objects, surplus))
}

fn replace_at_once(
    draft: &mut Draft,
    owner: &Owner,
    objects: &[Object],
    surplus: &[Key],
) -> Result<Vec<Applied>, ServiceError> {
    let (networks, others): (Vec<&Key>, Vec<&Key>) = surplus.iter().partition(|k| rank(&k.0) == 0);
    for key in others {
        draft.delete(owner, key)?;
    }
    let mut applied = Vec::new();
    for (_, object) in in_order(objects) {
        let outcome = draft.put(owner, object.clone())?;
        applied.push(answer(object, outcome));
    }
    for key in networks {
        draft.delete(owner, key)?;
    }
    draft.validate()?;
    Ok(applied)
}

fn replace_one_by_one(draft: &mut Draft, owner: &Owner, objects: &[Object], surplus: Vec<Key>) -> Replaced {
    let mut replaced = Replaced::default();
    let mut seen = BTreeSet::new();
    // What can't go now may go once others are changed.
    let (gone, left): (Vec<Key>, Vec<Key>) =
        surplus.into_iter().partition(|k| draft.attempt(|d| d.delete(owner, k)).is_ok());
    replaced.removed = gone;
    for (_, object) in in_order(objects) {
        let (kind, name) = key(object);
        if !seen.insert((kind.clone(), name.clone())) {
            replaced
                .problems
                .push(format!("{} {name}: it is declared twice; the first one counts", kind.to_lowercase()));
            continue;
        }
        match draft.attempt(|d| d.put(owner, object.clone())) {
            Ok(outcome) => replaced.applied.push(answer(object, outcome)),
            Err(e) => replaced.problems.push(draft::named(&kind, &name, &e.message)),
        }
    }
    for k in left {
        match draft.attempt(|d| d.delete(owner, &k)) {
            Ok(()) => replaced.removed.push(k),
            Err(e) => replaced.problems.push(draft::named(&k.0, &k.1, &e.message)),
        }
    }
    replaced
}
