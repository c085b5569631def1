//! `POST /v1/trace`: one packet walked through the real programs and tables, without sending it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which packet. Either `from` and `to`, or `packet`: with `from` as that container sends it, alone as it reaches an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceRequest {
    /// A local endpoint: the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// An endpoint of the same network, or an address: the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `icmp` (an echo request, the default), `tcp` (a SYN) or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Destination port of `tcp` and `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The frame from its Ethernet header on, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
}

/// A stage that the packet passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceStage {
    /// Its name.
    pub name: String,
    /// What was found.
    pub text: String,
}

/// What happened to the packet on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceReport {
    /// The node.
    pub node: String,
    /// The hook whose program ran; empty if no packet came to be.
    pub hook: String,
    /// The frame as it went in, hexadecimal.
    pub packet: String,
    /// Stages that it passed, in their order.
    pub stages: Vec<TraceStage>,
    /// `drop`, or the action by its name as in the counters.
    pub verdict: String,
    /// The drop reason; empty if it was not dropped.
    pub reason: String,
    /// The verdict in words.
    pub sentence: String,
    /// The local endpoint that gets it; empty if none does.
    pub endpoint: String,
    /// The node that it is sent to; empty if it stays here.
    pub next_node: String,
    /// The frame as it left the program, hexadecimal: on its way, or the answer to the sender, also the ICMP error that a dropped
    /// packet is answered with. Empty if nothing left it.
    pub result: String,
    /// What this node knows of the way that is left.
    pub known: Vec<String>,
    /// What only the next node or the underlay knows.
    pub unknown: Vec<String>,
}
