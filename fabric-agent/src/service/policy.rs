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

/// The policy that a name as people write it stands for, among all objects.
fn named<'a>(name: &str, all: impl Iterator<Item = &'a Object>) -> Result<Key, ServiceError> {
    let key = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
    let is = |object: &Object, key: &Key| object.kind() == key.0 && object.id() == key.1;
    // Namespaces have no capital letters.
    let of_kind = ["NetworkPolicy", "ClusterNetworkPolicy"].into_iter().find_map(|kind| {
        let rest = name.strip_prefix(kind)?.strip_prefix('/')?;
        Some(key(kind, rest))
    });
    let exact = of_kind.or_else(|| name.contains('/').then(|| key("NetworkPolicy", name)));
    if let Some(exact) = exact {
        let found = { all }.any(|object| is(object, &exact));
        return if found { Ok(exact) } else { Err(ServiceError::not_found("policy", name)) };
    }
    let called = |object: &&Object| match object {
        Object::NetworkPolicy(policy) => policy.metadata.name == name,
        Object::ClusterNetworkPolicy(policy) => policy.metadata.name == name,
        Object::Network(_)
        | Object::Node(_)
        | Object::Endpoint(_)
        | Object::Namespace(_)
        | Object::DenySet(_) => false,
    };
    let found: Vec<Key> = all.filter(called).map(|object| key(object.kind(), &object.id())).collect();
    let full: Vec<String> = found.iter().map(|(kind, id)| format!("{kind}/{id}")).collect();
    match found.as_slice() {
        [] => Err(ServiceError::not_found("policy", name)),
        [one] if one.0 == "ClusterNetworkPolicy" || one.1 == format!("{DEFAULT_NAMESPACE}/{name}") => {
            Ok(one.clone())
        }
        [_] => Err(ServiceError::new(
            ErrorKind::NotFound,
            format!(
                "policy {name} is not in namespace {DEFAULT_NAMESPACE}, but there is {}: name it so",
                full[0]
            ),
        )),
        _ => Err(ServiceError::conflict(format!(
            "policy {name} may be any of {}: name one of them so, or its namespace with --namespace",
            full.join(", ")
        ))),
    }
}

impl Service {
    /// All policies: ClusterNetworkPolicies, then NetworkPolicies, each by name.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn policies(&self) -> Result<Vec<Object>, ServiceError> {
        Ok(self.view().await?.policies(|_| true))
    }

    /// A policy: `NAMESPACE/NAME` is a NetworkPolicy, `NAME` a ClusterNetworkPolicy or a NetworkPolicy of the namespace
    /// `default`, if no other policy has that name. The kind may be in front: `ClusterNetworkPolicy/NAME`,
    /// `NetworkPolicy/NAMESPACE/NAME`.
    ///
    /// # Errors
    /// Not there, more than one, or the store can't be read.
    pub async fn policy(&self, name: &str) -> Result<Object, ServiceError> {
        let view = self.view().await?;
        let (kind, id) = named(name, view.snapshot.objects.iter())?;
        let found = view.policies(|o| o.kind() == kind && o.id() == id).pop();
        found.ok_or_else(|| ServiceError::not_found("policy", name))
    }

    /// Removes a policy, named as for [`Self::policy`], and waits until the kernel has forgotten it.
    ///
    /// # Errors
    /// Not there, more than one, or another owner's.
    pub async fn delete_policy(&self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        let ((), revision) = self
            .transact(|draft: &mut Draft| {
                let key = named(name, draft.objects())?;
                draft.delete(owner, &key)?;
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
        Ok(policy::decide(&view.cluster, &view.kernel.facts(), question)?)
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
                Object::Network(_)
                | Object::Node(_)
                | Object::Endpoint(_)
                | Object::Namespace(_)
                | Object::DenySet(_) => {}
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
        PolicyStatus { endpoints: count(endpoints), rules: Vec::new(), state, reason }
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
