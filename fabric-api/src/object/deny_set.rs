//! DenySet: sources whose packets the hosts drop where they come in.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{API_VERSION, LabelSelector, Metadata};
use crate::status::DenySetStatus;

/// Source prefixes that are dropped at the uplinks, before anything else looks at the packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenySet {
    /// Always `fabric/v1`.
    #[serde(default = "version")]
    pub api_version: String,
    /// Name, labels, owner.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: DenySetSpec,
    /// What is. Set by the agent, refused from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DenySetStatus>,
}

fn version() -> String {
    API_VERSION.to_owned()
}

/// What a deny set is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenySetSpec {
    /// Denied prefixes, at most 10000. One that covers the VTEP address of a node or an address of the store is refused; a node
    /// that comes later is let in all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["198.51.100.0/24", "2001:db8:bad::/48"]))]
    pub prefixes: Vec<IpNet>,
    /// Prefixes that are denied whatever they cover. Counted with the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub forced: Vec<IpNet>,
    /// Nodes that drop them, by the labels of the Node objects and `kubernetes.io/hostname`, the node's name. Absent: every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
}

/// A change of a deny set. What is neither added nor removed stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenySetChange {
    /// Prefixes to deny. The set is made if there is none of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub add: Vec<IpNet>,
    /// Prefixes to deny no longer. A set without any is removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub remove: Vec<IpNet>,
    /// Add them to `forced`.
    #[serde(default)]
    pub force: bool,
    /// The nodes of a set that is made; of one that is there it must be the same, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
}
