//! Requests that change the store.

use std::{collections::BTreeSet, sync::PoisonError};

use fabric_api::status::State;

use super::{
    draft::{Draft, Key},
    *,
};

/// How long a transaction is tried again after somebody else changed an entry at the same time.
const TRY: Duration = Duration::from_secs(15);
/// Those who were in each other's way wait for different times, up to this.
const APART: Duration = Duration::from_millis(20);
/// How long the change of somebody else, which a transaction has met, may take to be read here as well.
const ARRIVAL: Duration = Duration::from_millis(200);

impl Service {
    /// Creates a network; what the request leaves open is chosen. The answer is the network as stored, once the kernel
    /// has it or has failed to take it, which its state says.
    ///
    /// # Errors
    /// The name or VNI is taken, or a field is wrong.
    pub async fn create_network(&self, owner: &Owner, network: Network) -> Result<Network, ServiceError> {
        let name = network.metadata.name.clone();
        let revision = self.create(owner, &Object::Network(network)).await?;
        self.settle(revision).await;
        self.network(&name).await
    }

    /// Stores an object of a new name.
    async fn create(&self, owner: &Owner, object: &Object) -> Result<u64, ServiceError> {
        let change = |draft: &mut Draft| {
            draft.must_be_absent(object)?;
            draft.put(owner, object.clone())?;
            draft.validate()
        };
        Ok(self.transact(change).await?.1)
    }

    /// Removes a network that has no endpoints, and waits until the kernel has forgotten it.
    ///
    /// # Errors
    /// Not there, another owner's, or still in use (the sentence names the endpoints).
    pub async fn delete_network(&self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        let ((), revision) = self
            .transact(|draft| {
                draft.delete(owner, &("Network".to_owned(), name.to_owned()))?;
                draft.validate()
            })
            .await?;
        self.settle(revision).await;
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
        let revision = self.create(owner, &Object::Endpoint(endpoint)).await?;
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
    pub(super) async fn outcome(&self, name: &str, revision: u64) -> Result<(), String> {
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
        self.settle(revision).await;
        Ok(())
    }

    /// Lets a node take no endpoints more, or take them again. Those that it has stay and work.
    ///
    /// # Errors
    /// Not there, not one that registers itself, or the hosts share no store.
    pub async fn drain_node(&self, name: &str, drained: bool) -> Result<Node, ServiceError> {
        self.transact(|draft| {
            draft.drain(name, drained)?;
            draft.validate()
        })
        .await?;
        self.node(name).await
    }

    /// Waits until the kernel was brought up to a revision, with success or not, or until it takes too long. The store
    /// has it in any case, and later passes go on with it.
    pub(super) async fn settle(&self, revision: u64) {
        let _ = tokio::time::timeout(self.inner.timeout, self.inner.kernel.programmed(revision)).await;
    }

    /// Creates or changes all objects, or none, and waits until the kernel has them or has failed to take some, which
    /// their states say. The answers are in the order of the request.
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
        let (applied, revision) = self
            .transact(|draft| {
                let mut applied = Vec::new();
                for (i, object) in in_order(&objects) {
                    let outcome = draft.put(owner, object.clone())?;
                    applied.push((i, answer(object, outcome)));
                }
                draft.validate()?;
                draft.networks_fit()?;
                applied.sort_by_key(|(i, _)| *i);
                Ok(applied.into_iter().map(|(_, a)| a).collect())
            })
            .await?;
        self.settle(revision).await;
        Ok(applied)
    }

    /// Reads, lets `change` draft the writes, and commits; again if somebody else was faster. What is refused is looked at again
    /// once everything that others have written by now was read: they may just have made what it needs.
    pub(super) async fn transact<T>(
        &self,
        change: impl Fn(&mut Draft) -> Result<T, ServiceError>,
    ) -> Result<(T, u64), ServiceError> {
        let inner = &self.inner;
        let _guard = inner.writing.lock().await;
        let mut newest = !inner.store.shared();
        let begun = tokio::time::Instant::now();
        loop {
            let mut changes = inner.store.watch();
            let snapshot = inner.store.snapshot().await?;
            let mut draft =
                Draft::new(&snapshot, inner.settings.clone(), inner.kernel.facts(), inner.resolve);
            let value = match change(&mut draft) {
                Ok(value) => value,
                Err(e) if newest || inner.store.catch_up().await.is_err() => return Err(e),
                Err(_) => {
                    newest = true;
                    continue;
                }
            };
            for slot in draft.new_slots() {
                inner.kernel.reset_counters(slot);
            }
            match inner.store.commit(draft.into_writes(&snapshot)).await {
                Ok(revision) => return Ok((value, revision)),
                Err(crate::store::StoreError::Conflict { .. }) if begun.elapsed() < TRY => {
                    let seen = |revision: &u64| *revision != snapshot.revision;
                    if tokio::time::timeout(ARRIVAL, changes.wait_for(seen)).await.is_err() {
                        inner.store.catch_up().await?;
                    }
                    tokio::time::sleep(APART.mul_f64(chance())).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What front doors reported, one sentence each.
    pub(super) fn reported(&self) -> Vec<String> {
        let reports = self.inner.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.values().flatten().cloned().collect()
    }
}

/// Between 0 and 1, different for everybody.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    f64::from(RandomState::new().hash_one(0) as u32) / f64::from(u32::MAX)
}

/// What is referred to comes first.
pub(super) fn rank(kind: &str) -> u8 {
    match kind {
        "Network" => 0,
        "Node" => 1,
        _ => 2,
    }
}

pub(super) fn in_order(objects: &[Object]) -> Vec<(usize, &Object)> {
    let mut sorted: Vec<_> = objects.iter().enumerate().collect();
    sorted.sort_by_key(|(i, o)| (rank(o.kind()), *i));
    sorted
}

pub(super) fn key(object: &Object) -> Key {
    (object.kind().to_owned(), object.id().into_owned())
}

pub(super) fn duplicate(objects: &[Object]) -> Option<Key> {
    let mut seen = BTreeSet::new();
    objects.iter().map(key).find(|k| !seen.insert(k.clone()))
}

pub(super) fn answer(object: &Object, outcome: &str) -> Applied {
    let (kind, name) = key(object);
    Applied { kind, name, outcome: outcome.to_owned() }
}
