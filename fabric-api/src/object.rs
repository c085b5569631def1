//! Objects: what is declared with `fabric apply`, the CLI's verbs or a manifest directory.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::status::{EndpointStatus, NetworkStatus, NodeStatus};

mod cluster_policy;
mod deny_set;
mod movement;
mod namespace;
mod network_policy;

pub use cluster_policy::*;
pub use deny_set::*;
pub use movement::*;
pub use namespace::Namespace;
pub use network_policy::*;

/// The version of the object format.
pub const API_VERSION: &str = "fabric/v1";

/// The namespace of a NetworkPolicy that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What every object has beside its own fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique among objects of its kind: 1 to 63 characters of `a-z`, `0-9`, `-` and `.`, first and last a letter or digit.
    pub name: String,
    /// Of a NetworkPolicy: its namespace, `default` if absent. Other kinds have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Free labels; policies select by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free text for people and tools. Kept, and of no effect but for those of policies that begin with `fabric.io/`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The front door that owns the object (`cli`, `manifests:DIR`, …). Set by the agent; only the owner may change or
    /// remove the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Store revision of the last change. Set by the agent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

impl Metadata {
    /// `NAMESPACE/NAME`, with [`DEFAULT_NAMESPACE`] where none is given.
    pub fn namespaced(&self) -> String {
        format!("{}/{}", self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE), self.name)
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// One object of any kind, tagged by `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind")]
#[expect(clippy::large_enum_variant, reason = "objects are moved rarely, and are looked into everywhere")]
pub enum Object {
    /// A layer 2 network, one VNI.
    Network(Network),
    /// A host of the fabric, or a foreign VTEP.
    Node(Node),
    /// A container's attachment to a network.
    Endpoint(Endpoint),
    /// The labels of a namespace.
    Namespace(Namespace),
    /// Who may talk to the endpoints of a namespace, and to whom they may.
    NetworkPolicy(NetworkPolicy),
    /// Rules before or behind the NetworkPolicies.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
    /// Sources that are dropped at the uplinks.
    DenySet(DenySet),
}

impl Object {
    /// The kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Network(_) => "Network",
            Self::Node(_) => "Node",
            Self::Endpoint(_) => "Endpoint",
            Self::Namespace(_) => "Namespace",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
            Self::DenySet(_) => "DenySet",
        }
    }

    /// Unique among objects of its kind: the name, of a NetworkPolicy `NAMESPACE/NAME`.
    pub fn id(&self) -> Cow<'_, str> {
        match self {
            Self::NetworkPolicy(object) => Cow::Owned(object.metadata.namespaced()),
            Self::Network(_)
            | Self::Node(_)
            | Self::Endpoint(_)
            | Self::Namespace(_)
            | Self::ClusterNetworkPolicy(_)
            | Self::DenySet(_) => Cow::Borrowed(&self.metadata().name),
        }
    }

    /// Whether the agent's part is there, which nobody else may set.
    pub fn has_status(&self) -> bool {
        match self {
            Self::Network(object) => object.status.is_some(),
            Self::Node(object) => object.status.is_some(),
            Self::Endpoint(object) => object.status.is_some(),
            Self::Namespace(object) => object.status.is_some(),
            Self::NetworkPolicy(object) => object.status.is_some(),
            Self::ClusterNetworkPolicy(object) => object.status.is_some(),
            Self::DenySet(object) => object.status.is_some(),
        }
    }

    /// Takes the agent's part out.
    pub fn clear_status(&mut self) {
        match self {
            Self::Network(object) => object.status = None,
            Self::Node(object) => object.status = None,
            Self::Endpoint(object) => object.status = None,
            Self::Namespace(object) => object.status = None,
            Self::NetworkPolicy(object) => object.status = None,
            Self::ClusterNetworkPolicy(object) => object.status = None,
            Self::DenySet(object) => object.status = None,
        }
    }

    /// The common part.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Network(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::Endpoint(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
            Self::ClusterNetworkPolicy(object) => &object.metadata,
            Self::DenySet(object) => &object.metadata,
        }
    }

    /// The common part, to be changed.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        match self {
            Self::Network(object) => &mut object.metadata,
            Self::Node(object) => &mut object.metadata,
            Self::Endpoint(object) => &mut object.metadata,
            Self::Namespace(object) => &mut object.metadata,
            Self::NetworkPolicy(object) => &mut object.metadata,
            Self::ClusterNetworkPolicy(object) => &mut object.metadata,
            Self::DenySet(object) => &mut object.metadata,
        }
    }
}

macro_rules! object {
    ($(#[$meta:meta])* $name:ident, $spec:ident, $status:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            /// Always `fabric/v1`.
            #[serde(default = "api_version")]
            pub api_version: String,
            /// Name, labels, owner.
            pub metadata: Metadata,
            /// What is wanted.
            pub spec: $spec,
            /// What is. Set by the agent, refused from outside.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub status: Option<$status>,
        }
    };
}

fn api_version() -> String {
    API_VERSION.to_owned()
}

object! {
    /// A layer 2 network: one VNI, one or more subnets.
    Network, NetworkSpec, NetworkStatus
}

/// What a network is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSpec {
    /// At least one; several of either family.
    #[schema(value_type = Vec<String>, example = json!(["192.168.10.0/24", "fd00:10::/64"]))]
    pub subnets: Vec<IpNet>,
    /// Gateway addresses; a subnet without one here has its first usable address as its gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// VXLAN network identifier, 0 to 16777215; chosen by the agent if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Largest IP packet, bytes; from the underlay if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Networks that are let in. Packets pass both ways between this network and each of them; policies say who may start a
    /// connection. Their subnets must not overlap with this network's, nor with each other's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
    /// The hosts themselves are in the network: they reach its containers from their own addresses in it, and are reached.
    /// Networks with it must not have overlapping subnets.
    #[serde(default, skip_serializing_if = "is_false")]
    pub host_access: bool,
    /// Its endpoints reach the world outside of the fabric through their host, with the host's address in place of their own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub masquerade: bool,
    /// Static routes: what containers send to the gateway for these prefixes goes to one of the network's endpoints, a router or
    /// VPN gateway, which may pass on packets from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Replicate broadcast and multicast to everybody in the network, at most 1000 packets a second of each sender.
    #[serde(default, skip_serializing_if = "is_false")]
    pub multicast: bool,
    /// Connections that were answered go on when a changed policy admits them no more; else the next packet is dropped.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep: bool,
    /// The gateway sends router advertisements, asked and unasked: default route, MTU, hop limit and on-link prefixes; no addresses.
    /// Needs an IPv6 subnet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub router_advertisement: bool,
}

/// A static route of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Where to, like `10.9.0.0/16`; `0.0.0.0/0` and `::/0` are whatever else. Not inside one of the network's subnets.
    #[schema(value_type = String)]
    pub prefix: IpNet,
    /// Address in the network of the endpoint that leads there, of the same family.
    #[schema(value_type = String)]
    pub next_hop: IpAddr,
}

fn is_false(b: &bool) -> bool {
    !*b
}

object! {
    /// A host of the fabric, or a foreign VTEP (a Linux `vxlan` device, a switch).
    Node, NodeSpec, NodeStatus
}

/// How a node is reached and what it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// VTEP addresses, IPv4 or IPv6, preferred first: the first that can be reached is used toward the node, all are accepted from it.
    #[schema(value_type = Vec<String>)]
    pub vteps: Vec<IpAddr>,
    /// Not one of our agents.
    #[serde(default, skip_serializing_if = "is_false")]
    pub foreign: bool,
    /// A foreign VTEP that takes no tunnel packets without a UDP checksum, as a Linux `vxlan` device over IPv6 that is made
    /// with `noudp6zerocsumrx` (the default). Checksums are computed for it then; otherwise they are zero (RFC 6935).
    #[serde(default, skip_serializing_if = "is_false")]
    pub udp_checksum: bool,
    /// Takes no endpoints more; those that it has stay and work. Set by `fabric node drain`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
    /// Networks that the node serves. A node is also a member of every network that it has an endpoint in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NodeNetwork>,
}

/// Whether a node is to take endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// It is to take none.
    pub drained: bool,
}

/// A node's part in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeNetwork {
    /// The network's name.
    pub network: String,
    /// The node's own addresses in the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Source addresses that a foreign VTEP may send, by prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub prefixes: Vec<IpNet>,
}

object! {
    /// A container's attachment to a network.
    Endpoint, EndpointSpec, EndpointStatus
}

/// What an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// The network's name.
    pub network: String,
    /// The node where it lives; this node if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Policy namespace; the network's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Addresses, at most one a subnet; those that are absent are allocated, one a subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// MAC; derived from the first address if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Named ports, for policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    /// Generation of the location; a lower one never replaces a higher one.
    #[serde(default = "first_generation")]
    pub generation: u64,
    /// Where the container's side goes. Only for endpoints of this node, set by `attach`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// The move to another node that is going on. Set by the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub movement: Option<Movement>,
}

fn first_generation() -> u64 {
    1
}

/// A named port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedPort {
    /// The name that policies use.
    pub name: String,
    /// Port number, 1 to 65535.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// The container's side of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attachment {
    /// Path of the network namespace (a bind mount, or `/proc/PID/ns/net`). With `engine`, where the engine will make it; empty
    /// until it has said so.
    pub netns: String,
    /// Inode number of the namespace when it was attached, so that a reused process number is noticed; set by the agent.
    #[serde(default)]
    pub netns_inode: u64,
    /// Interface name inside, 1 to 15 characters. With `engine`, the name under which the interface waits in the host's namespace.
    pub ifname: String,
    /// The process of the container engine that moves the interface into the container and sets it up there by itself, as Docker
    /// does. Absent: the agent does both. Set by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The container's name, as that engine calls it; absent until it has said so. Set by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}
