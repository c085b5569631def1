//! Policies and namespaces: objects with their status, and what the policies say of a question.

use std::collections::BTreeSet;

use fabric_api::{
    ClusterNetworkPolicy, Namespace, NetworkPolicy,
    object::{API_VERSION, DEFAULT_NAMESPACE, Metadata},
    policy::{LintFinding, PolicyAnswer, PolicyQuestion},
    status::{NamespaceStatus, PolicyStatus, State},
};

use super::{
    draft::{Draft, Key},
    read::View,
    *,
};
use crate::{model, policy};

/// What a policy's name as people write it may stand for, first choice first.
fn keys(name: &str) -> Vec<Key> {
    let network = |name: String| ("NetworkPolicy".to_owned(), name);
    // Namespaces have no capital letters.
    for kind in ["NetworkPolicy", "ClusterNetworkPolicy"] {
        if let Some(rest) = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/')) {
            return vec![(kind.to_owned(), rest.to_owned())];
        }
    }
    if name.contains('/') {
        return vec![network(name.to_owned())];
    }
    vec![("ClusterNetworkPolicy".to_owned(), name.to_owned()), network(format!("{DEFAULT_NAMESPACE}/{name}"))]
}

impl Service {
    /// All policies: ClusterNetworkPolicies, then NetworkPolicies, each by name.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn policies(&self) -> Result<Vec<Object>, ServiceError> {
        Ok(self.view().await?.policies(|_| true))
    }

    /// A policy: `NAMESPACE/NAME` is a NetworkPolicy, `NAME` a ClusterNetworkPolicy or, where there is none of that name, a
    /// NetworkPolicy of the namespace `default`. The kind may be in front: `ClusterNetworkPolicy/NAME`,
    /// `NetworkPolicy/NAMESPACE/NAME`.
    ///
    /// # Errors
    /// Not there, or the store can't be read.
    pub async fn policy(&self, name: &str) -> Result<Object, ServiceError> {
        let view = self.view().await?;
        let found = keys(name).into_iter().find(|key| view.snapshot.get(&key.0, &key.1).is_some());
        let of = |key: Key| view.policies(|o| o.kind() == key.0 && o.id() == key.1).pop();
        found.and_then(of).ok_or_else(|| ServiceError::not_found("policy", name))
    }

    /// Removes a policy, named as for [`Self::policy`], and waits until the kernel has forgotten it.
    ///
    /// # Errors
    /// Not there, or another owner's.
    pub async fn delete_policy(&self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        let ((), revision) = self
            .transact(|draft: &mut Draft| {
                let key = keys(name).into_iter().find(|key| draft.get(&key.0, &key.1).is_some());
                draft.delete(owner, &key.ok_or_else(|| ServiceError::not_found("policy", name))?)?;
                draft.validate()
            })
            .await?;
        self.settle(revision).await;
        Ok(())
    }

    /// All namespaces by name: those that have an object, and those that an endpoint or a policy names.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, ServiceError> {
        Ok(self.view().await?.namespaces())
    }

    /// A namespace.
    ///
    /// # Errors
    /// Not there, or the store can't be read.
    pub async fn namespace(&self, name: &str) -> Result<Namespace, ServiceError> {
        let found = self.namespaces().await?.into_iter().find(|n| n.metadata.name == name);
        found.ok_or_else(|| ServiceError::not_found("Namespace", name))
    }

    /// Removes a Namespace object; what is in the namespace stays, without the labels.
    ///
    /// # Errors
    /// Not there, or another owner's.
    pub async fn delete_namespace(&self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        let ((), revision) = self
            .transact(|draft: &mut Draft| {
                draft.delete(owner, &("Namespace".to_owned(), name.to_owned()))?;
                draft.validate()
            })
            .await?;
        self.settle(revision).await;
        Ok(())
    }

    /// What the policies say of a question.
    ///
    /// # Errors
    /// The question names somebody who is not there, or the store can't be read.
    pub async fn ask_policies(&self, question: &PolicyQuestion) -> Result<PolicyAnswer, ServiceError> {
        let view = self.view().await?;
        Ok(policy::decide(&view.cluster, self.node_name(), question)?)
    }

    /// What in the policies is probably not meant.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn lint_policies(&self) -> Result<Vec<LintFinding>, ServiceError> {
        Ok(policy::lint(&self.view().await?.cluster))
    }
}

impl View<'_> {
    fn policies(&self, wanted: impl Fn(&Object) -> bool) -> Vec<Object> {
        let mut in_sync = None;
        let mut found = Vec::new();
        for object in self.snapshot.objects.iter().filter(|o| wanted(o)) {
            match object {
                Object::NetworkPolicy(policy) => {
                    let id = object.id();
                    let key =
                        policy.metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
                    let checked = self.cluster.network_policies.get(&(key, policy.metadata.name.clone()));
                    let applies = |e: &model::Endpoint| {
                        checked.is_some_and(|p| e.namespace == p.namespace && p.selector.matches(&e.labels))
                    };
                    let status = self.policy_status("NetworkPolicy", &id, &mut in_sync, applies);
                    found.push(Object::NetworkPolicy(NetworkPolicy {
                        status: Some(status),
                        ..policy.clone()
                    }));
                }
                Object::ClusterNetworkPolicy(policy) => {
                    let name = &policy.metadata.name;
                    let checked = self.cluster.cluster_policies.get(name);
                    let applies = |e: &model::Endpoint| {
                        checked.is_some_and(|p| {
                            self.is_in(&p.namespaces, &e.namespace) && p.endpoints.matches(&e.labels)
                        })
                    };
                    let status = self.policy_status("ClusterNetworkPolicy", name, &mut in_sync, applies);
                    let policy = ClusterNetworkPolicy { status: Some(status), ..policy.clone() };
                    found.push(Object::ClusterNetworkPolicy(policy));
                }
                Object::Network(_) | Object::Node(_) | Object::Endpoint(_) | Object::Namespace(_) => {}
            }
        }
        found
    }

    fn is_in(&self, wanted: &model::policy::Namespaces, namespace: &str) -> bool {
        match wanted {
            model::policy::Namespaces::Named(name) => name == namespace,
            model::policy::Namespaces::Matching(selector) => {
                selector.matches(&self.cluster.namespace_labels(namespace))
            }
        }
    }

    /// A policy is in the kernel once everything is: it has no row of its own.
    fn policy_status(
        &self,
        kind: &'static str,
        id: &str,
        in_sync: &mut Option<bool>,
        applies: impl Fn(&model::Endpoint) -> bool,
    ) -> PolicyStatus {
        let (state, reason) = match self.state_here(kind, id) {
            (State::Pending, reason) if *in_sync.get_or_insert_with(|| self.kernel.node_status().in_sync) => {
                (State::Ready, reason)
            }
            other => other,
        };
        let endpoints = self.cluster.endpoints.values().filter(|e| applies(e)).count();
        PolicyStatus { endpoints: count(endpoints), state, reason }
    }

    fn namespaces(&self) -> Vec<Namespace> {
        let mut all: BTreeMap<String, Namespace> = BTreeMap::new();
        for object in &self.snapshot.objects {
            if let Object::Namespace(namespace) = object {
                all.insert(namespace.metadata.name.clone(), namespace.clone());
            }
        }
        let endpoints = self.cluster.endpoints.values().map(|e| &e.namespace);
        let named: BTreeSet<&String> =
            endpoints.chain(self.cluster.network_policies.keys().map(|(namespace, _)| namespace)).collect();
        for name in named {
            all.entry(name.clone()).or_insert_with(|| Namespace {
                api_version: API_VERSION.to_owned(),
                metadata: Metadata { name: name.clone(), ..Metadata::default() },
                status: None,
            });
        }
        for (name, namespace) in &mut all {
            let endpoints = self.cluster.endpoints.values().filter(|e| e.namespace == *name).count();
            let policies = self.cluster.network_policies.keys().filter(|(n, _)| n == name).count();
            namespace.status =
                Some(NamespaceStatus { endpoints: count(endpoints), policies: count(policies) });
        }
        all.into_values().collect()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
