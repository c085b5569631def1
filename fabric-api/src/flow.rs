//! Connections as connection tracking knows them: one JSON object a line from `GET /v1/flows`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who talks to whom. Only flows that an endpoint with a policy takes part in are tracked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Flow {
    /// Network name; the VNI as text if no network has it.
    pub network: String,
    /// VNI; of a flow between two networks the smaller one.
    pub vni: u32,
    /// Protocol name or number.
    pub protocol: String,
    /// The side that began.
    pub source: FlowSide,
    /// The side that answers.
    pub destination: FlowSide,
    /// How far it is.
    pub state: FlowState,
    /// When it began, RFC 3339, UTC, to the second.
    pub began: String,
    /// Time since then, seconds.
    pub age: u64,
    /// Time since its last packet, seconds, to about one.
    pub idle: u64,
    /// Time until it is forgotten if no packet comes, seconds.
    pub expires: u64,
    /// Rule that admits it on the side that began, like `NetworkPolicy/shop/web/egress/0`; absent if that side has no policy here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_rule: Option<String>,
    /// Rule that admits it on the answering side; absent if that side has no policy here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_rule: Option<String>,
    /// One of the rules is of a policy that is audited, and would not admit it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub would_drop: bool,
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowSide {
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port; of an ICMP echo the identifier at the source; 0 if there is none.
    pub port: u16,
    /// Name of the endpoint that has the address, here or elsewhere; empty if none does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// What it has sent, bytes of frames with their Ethernet header.
    pub bytes: u64,
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// Nobody has answered yet.
    New,
    /// Both sides have sent.
    Established,
    /// TCP: one side or both have sent FIN, or RST was seen.
    Closing,
}

impl FlowState {
    /// The name in JSON, in the CLI and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

/// Which flows are wanted; what is absent chooses nothing. With all of them absent: every flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowFilter {
    /// Name of an endpoint on either side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Name of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// `tcp`, `udp`, `sctp`, `icmp` or `icmpv6` in any case, or a protocol number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Address or prefix of either side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Port of either side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FlowState>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}
