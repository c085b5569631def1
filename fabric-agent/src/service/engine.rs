//! What the door of a container engine needs beside the verbs: networks that it shares with others, what it must remember of them,
//! and addresses that are chosen before there is an endpoint.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{draft::Draft, *};

/// Part of a network from which an address is to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The subnet.
    pub subnet: IpNet,
    /// The part of it that may be used, if not all of it.
    pub range: Option<IpNet>,
}

impl Service {
    /// Makes a network be there: creates it, or takes the one of its name if `fits` says that it is as wanted. Remembers `note`
    /// of it, in the same transaction.
    ///
    /// # Errors
    /// A field is wrong, or `fits` says why the network that is there is not the wanted one.
    pub async fn share_network(
        &self,
        owner: &Owner,
        wanted: Network,
        (note, value): (&str, &str),
        fits: impl Fn(&Network) -> Result<(), String>,
    ) -> Result<Network, ServiceError> {
        let name = wanted.metadata.name.clone();
        let change = |draft: &mut Draft| {
            match draft.get("Network", &name) {
                Some(Object::Network(found)) => {
                    let (kind, found) = ("Network", found.clone());
                    fits(&found).map_err(|e| ServiceError::invalid(draft::named(kind, &name, &e)))?;
                }
                _ => drop(draft.put(owner, Object::Network(wanted.clone()))?),
            }
            draft.note(note, Some(value.to_owned()));
            draft.validate()
        };
        let ((), revision) = self.transact(change).await?;
        self.settle(revision).await;
        self.network(&name).await
    }

    /// Forgets `note`, and removes the network if it is the owner's, has no endpoint, and no note that begins with `prefix` is about
    /// it, as `about` says. Doing it again is success.
    ///
    /// # Errors
    /// The store can't be written.
    pub async fn leave_network(
        &self,
        owner: &Owner,
        note: &str,
        network: &str,
        (prefix, about): (&str, impl Fn(&str) -> bool),
    ) -> Result<(), ServiceError> {
        let change = |draft: &mut Draft| {
            draft.note(note, None);
            let used = draft.notes(prefix).any(|(_, value)| about(value));
            let owned = draft.get("Network", network).is_some_and(|o| o.metadata().owner == owner.as_str());
            if owned && !used {
                // It stays while others have endpoints in it.
                let key = ("Network".to_owned(), network.to_owned());
                let _ = draft.attempt(|draft| draft.delete(owner, &key));
            }
            draft.validate()
        };
        let ((), revision) = self.transact(change).await?;
        self.settle(revision).await;
        Ok(())
    }

    /// What was remembered under names that begin so, by the rest of the name.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn notes(&self, prefix: &str) -> Result<BTreeMap<String, String>, ServiceError> {
        let snapshot = self.inner.store.snapshot().await?;
        let rest = |(name, cursor): (&String, &crate::store::Cursor)| {
            Some((name.strip_prefix(prefix)?.to_owned(), cursor.value.clone()))
        };
        Ok(snapshot.cursors.iter().filter_map(rest).collect())
    }

    /// A free address of a network, beside those in `taken`: the next one after what was chosen last, so that nobody who asks at the
    /// same time gets the same.
    ///
    /// # Errors
    /// The network has no such subnet, or none is free.
    pub async fn next_address(
        &self,
        network: &str,
        part: Part,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, ServiceError> {
        let change = |draft: &mut Draft| draft.next_address(network, part.subnet, part.range, taken);
        Ok(self.transact(change).await?.0)
    }

    /// Checks that nobody has an address of a network.
    ///
    /// # Errors
    /// Somebody has it (the sentence says who), or it is no address for an endpoint.
    pub async fn check_free(&self, network: &str, address: IpAddr) -> Result<(), ServiceError> {
        self.transact(|draft| draft.check_free(network, address)).await.map(drop)
    }

    /// Writes down what an engine says of an endpoint of its own after it was made.
    ///
    /// # Errors
    /// There is no such endpoint of this owner, or what is said is not valid.
    pub async fn amend_endpoint(
        &self,
        owner: &Owner,
        name: &str,
        amend: impl Fn(&mut Endpoint),
    ) -> Result<(), ServiceError> {
        let change = |draft: &mut Draft| {
            let Some(Object::Endpoint(found)) = draft.get("Endpoint", name) else {
                return Err(ServiceError::not_found("Endpoint", name));
            };
            let mut endpoint = Endpoint { status: None, ..found.clone() };
            amend(&mut endpoint);
            draft.put(owner, Object::Endpoint(endpoint)).map(drop)
        };
        self.transact(change).await.map(drop)
    }

    /// The owner's endpoints on this node, as they are stored.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn own_endpoints(&self, owner: &Owner) -> Result<Vec<Endpoint>, ServiceError> {
        let snapshot = self.inner.store.snapshot().await?;
        let own = |object: &Object| match object {
            Object::Endpoint(endpoint)
                if endpoint.metadata.owner == owner.as_str()
                    && endpoint.spec.node.as_deref() == Some(self.node_name()) =>
            {
                Some(endpoint.clone())
            }
            Object::Endpoint(_)
            | Object::Network(_)
            | Object::Node(_)
            | Object::Namespace(_)
            | Object::NetworkPolicy(_)
            | Object::ClusterNetworkPolicy(_)
            | Object::DenySet(_) => None,
        };
        Ok(snapshot.objects.iter().filter_map(own).collect())
    }

    /// Endpoints of this node whose interface was moved into a container and is there, as of the last look at the links.
    pub fn plugged(&self) -> BTreeSet<String> {
        self.inner.kernel.facts().plugged
    }
}
