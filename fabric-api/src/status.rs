//! What the agent says: status of objects and of itself, counters, results and errors.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far an object is from what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not in the kernel yet.
    #[default]
    Pending,
    /// In the kernel as wanted.
    Ready,
    /// Something is wrong; `reason` says what.
    Degraded,
}

/// Status of a network on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkStatus {
    /// The VNI in use.
    pub vni: u32,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// One gateway a subnet.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// This node's own addresses in the network.
    #[schema(value_type = Vec<String>)]
    pub node_addresses: Vec<IpAddr>,
    /// Networks that packets are routed to and from, both ways: those of its `allowFrom`, and those whose `allowFrom` names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opened: Vec<String>,
    /// Its static routes, and who leads there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteStatus>,
    /// This node's own interface in the network, where the host has access to it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_ifname: String,
    /// Endpoints in the network, local and remote.
    pub endpoints: u32,
    /// How far it is.
    pub state: State,
    /// What is wrong, if anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A static route in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteStatus {
    /// Where to.
    #[schema(value_type = String)]
    pub prefix: IpNet,
    /// The next hop's address.
    #[schema(value_type = String)]
    pub next_hop: IpAddr,
    /// The endpoint that has it; while nobody has, senders are told that the host is unreachable.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
}

/// Status of a node as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeStatus {
    /// Whether it is the node that answers.
    pub local: bool,
    /// The number that stands for the node in the maps of this node.
    pub id: u32,
    /// The uplink that leads there; of the local node, all of them.
    pub uplinks: Vec<String>,
    /// Largest inner packet toward it, bytes; 0 if it can't be reached.
    pub mtu: u16,
    /// Underlay MTU of the path to it where it is smaller than the uplink's, bytes: the route's, what routers have said in
    /// the last ten minutes, or what probes found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// MTU of its uplink where it is known to differ from that of ours, bytes. Only agents that probe know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_mtu: Option<u32>,
    /// Endpoints that live there.
    pub endpoints: u32,
    /// How far it is.
    pub state: State,
    /// What is wrong, if anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Status of a policy on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyStatus {
    /// Endpoints that it applies to, local and remote.
    pub endpoints: u32,
    /// What its rules decided on, on this node, by name. Rules are here once an endpoint of this node is under the policy, but for
    /// those that found no room in the map `rule_counters`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleStatus>,
    /// How far it is.
    pub state: State,
    /// What is wrong, if anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What one rule of a policy decided on, on this node: what it denied, and what it admitted with the answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleStatus {
    /// The rule inside its policy: direction and place or name, like `ingress/0`; the direction alone is what is denied because
    /// no rule accepts it.
    pub rule: String,
    /// Packets.
    pub packets: u64,
    /// Bytes of those, Ethernet headers included.
    pub bytes: u64,
}

/// Status of a deny set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenySetStatus {
    /// Whether the node that answers is one of those that drop.
    pub applies: bool,
    /// How far it is.
    pub state: State,
    /// What is wrong, if anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Status of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceStatus {
    /// Endpoints in it, local and remote.
    pub endpoints: u32,
    /// NetworkPolicies in it.
    pub policies: u32,
}

/// Status of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointStatus {
    /// Whether it lives on the node that answers.
    pub local: bool,
    /// Host side of the veth, if local.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_ifname: String,
    /// Its interface index; 0 if there is none.
    #[serde(default)]
    pub ifindex: u32,
    /// Slot in `port_counters`, if local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Counters, if local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<EndpointCounters>,
    /// Groups that it has joined, if local and in a network with multicast; those that everybody gets are not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<IpAddr>,
    /// Joins that found no room: an endpoint may have 64 groups at a time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub groups_refused: u32,
    /// What it was told for the domain names in its policies, if local.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ToldName>,
    /// How far it is.
    pub state: State,
    /// What is wrong, if anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// An address that an endpoint was told by a DNS server, for a name that its policies name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToldName {
    /// The name, in lower case.
    pub name: String,
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Seconds for which it is still known by the name, if it is not told again.
    pub seconds: u64,
}

/// Counters of a local endpoint; directions are seen from the container, bytes include the Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointCounters {
    /// Packets that it sent and the fabric took.
    pub egress_packets: u64,
    /// Bytes of those.
    pub egress_bytes: u64,
    /// Packets delivered to it.
    pub ingress_packets: u64,
    /// Bytes of those.
    pub ingress_bytes: u64,
    /// Packets of it that were dropped.
    pub egress_drops: u64,
    /// Packets for it that were dropped.
    pub ingress_drops: u64,
}

/// The whole node's health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// Running kernel release.
    pub kernel: String,
    /// Whether every source was read completely and the kernel was made equal to it at least once.
    pub in_sync: bool,
    /// The store's address.
    pub store: String,
    /// The bpffs directory.
    pub bpffs: String,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Uplinks.
    pub uplinks: Vec<UplinkStatus>,
    /// What the kernel offers and what is used instead where it does not.
    pub features: Vec<Feature>,
    /// What is wrong; empty when all is well.
    pub problems: Vec<String>,
    /// What the reconciler did since the agent started.
    pub reconcile: ReconcileStatus,
    /// Entries in use and room, per map.
    pub maps: Vec<MapStatus>,
}

/// One uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UplinkStatus {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// Underlay MTU, bytes.
    pub mtu: u32,
    /// VTEP addresses on it.
    #[schema(value_type = Vec<String>)]
    pub vteps: Vec<IpAddr>,
    /// How the programs are attached: `tcx` or `clsact`, and `xdp` where that stage is on.
    pub mode: String,
    /// Why this mode.
    pub why: String,
}

/// A kernel feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Feature {
    /// What it is.
    pub name: String,
    /// Whether the kernel has it.
    pub available: bool,
    /// What it is used for, or what is used instead.
    pub note: String,
}

/// What the reconciler did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconcileStatus {
    /// Passes so far.
    pub passes: u64,
    /// Those that ended with an error.
    #[serde(default)]
    pub failed_passes: u64,
    /// When the last pass without an error ended, seconds since 1970 UTC; 0 if none has.
    #[serde(default)]
    pub last_success: u64,
    /// Rows of maps that were still to be written or removed after the last pass.
    #[serde(default)]
    pub pending_rows: u64,
    /// Rows, links and attachments that were written because the desired state changed.
    pub changes: u64,
    /// Rows, links and attachments that were found different from what this agent had written, and were repaired.
    pub repairs: u64,
    /// What the last repairs were, newest last, at most 32.
    pub last_repairs: Vec<String>,
    /// Errors of the last pass; empty when it succeeded.
    pub errors: Vec<String>,
}

/// Use of one map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MapStatus {
    /// Name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Room.
    pub max_entries: u64,
}

/// A counter of drops or actions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counter {
    /// Hook name.
    pub hook: String,
    /// `drop` or `action`.
    pub kind: String,
    /// Name of the drop reason or action.
    pub name: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What `apply` did with one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Applied {
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// `created`, `changed` or `unchanged`.
    pub outcome: String,
}

/// The body of every answer that is not a success: one sentence that says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorBody {
    /// The sentence.
    pub error: String,
    /// Further facts, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}
