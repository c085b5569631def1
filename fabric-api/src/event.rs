//! Live events: one JSON object a line from `GET /v1/events`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// In the place of a drop reason: the packet passed, but would not if a policy that is audited were in force.
pub const WOULD_DROP: &str = "would_drop";
/// In the place of a drop reason: the packet began a connection that a rule admits which is logged.
pub const ALLOWED: &str = "allowed";

/// A dropped packet, as far as it was parsed, or one of which a policy wants the verdict reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// Wall-clock time, RFC 3339, UTC, microseconds.
    pub time: String,
    /// Hook name.
    pub hook: String,
    /// Drop reason; `would_drop` or `allowed` of a packet that passed.
    pub reason: String,
    /// Name of the policy rule that decided, like `NetworkPolicy/shop/db/ingress`; absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Network name; the VNI as text if no network has it; empty if it was not reached.
    pub network: String,
    /// VNI.
    pub vni: u32,
    /// Name of the local endpoint concerned; empty if none is known.
    pub endpoint: String,
    /// Interface where the packet was dropped.
    pub ifname: String,
    /// Source MAC.
    pub src_mac: String,
    /// Destination MAC.
    pub dst_mac: String,
    /// EtherType, like `0x0800`.
    pub ethertype: String,
    /// Protocol name or number; empty if it was not reached.
    pub protocol: String,
    /// Source address.
    #[schema(value_type = Option<String>)]
    pub src: Option<IpAddr>,
    /// Destination address.
    #[schema(value_type = Option<String>)]
    pub dst: Option<IpAddr>,
    /// Source port; 0 if there is none.
    pub src_port: u16,
    /// Destination port; 0 if there is none.
    pub dst_port: u16,
    /// Outer source of a tunnel packet.
    #[schema(value_type = Option<String>)]
    pub vtep: Option<IpAddr>,
    /// Length of the frame, bytes.
    pub length: u32,
    /// Events left out before this one on the same CPU because of the rate limit.
    pub suppressed: u64,
    /// Events that this reader missed before this one because it read too slowly; absent if none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Event {
    /// Whether the packet was dropped.
    pub fn is_drop(&self) -> bool {
        self.reason != WOULD_DROP && self.reason != ALLOWED
    }
}
