//! Namespace: the labels that policies select namespaces by.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{API_VERSION, Metadata};
use crate::status::NamespaceStatus;

/// A namespace's labels. A namespace exists as soon as an endpoint or a policy names it; every one has the label
/// `kubernetes.io/metadata.name` with its name, and this object gives it more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// `fabric/v1`, or `v1` as Kubernetes has it.
    #[serde(default = "version")]
    pub api_version: String,
    /// Name, labels, owner.
    pub metadata: Metadata,
    /// What is. Set by the agent, refused from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NamespaceStatus>,
}

fn version() -> String {
    API_VERSION.to_owned()
}
