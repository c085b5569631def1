//! Questions to the policies and what they answer: `POST /v1/policies/test`, `GET /v1/policies/lint`. The policies themselves
//! are objects, see [`crate::object`].

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// May one talk to the other?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyQuestion {
    /// Who starts: an endpoint's name, or an IP address.
    pub from: String,
    /// Who is asked: an endpoint's name, an IP address, or a domain name.
    pub to: String,
    /// `tcp`, `udp`, `sctp`, `icmp` or `icmpv6` in any case, or a protocol number as text; `tcp` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Destination port, 1 to 65535, needed with TCP, UDP and SCTP; absent with a protocol that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The network that addresses are in, if neither side is an endpoint's name or an endpoint's network is meant to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// What the policies say of a question. Routes and openings of networks are not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyAnswer {
    /// Both sides accept.
    pub allowed: bool,
    /// What the sender's policies say; absent if the sender is no endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<PolicySide>,
    /// What the receiver's policies say; absent if the receiver is no endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<PolicySide>,
}

/// What the policies of one side say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySide {
    /// The endpoint.
    pub endpoint: String,
    /// `accept` or `deny`.
    pub verdict: String,
    /// The rule that decides, like `NetworkPolicy/shop/db/ingress/0`; absent if none does, which accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// It is denied, and the sender is told: TCP by a reset, the others by an ICMP error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reject: bool,
    /// The rule of an audited policy that would deny what is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<String>,
    /// The rules that were asked, in order, up to the one that decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<PolicyCandidate>,
}

/// A rule that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyCandidate {
    /// The rule's name.
    pub rule: String,
    /// What it says where it matches: `accept`, `deny` or `pass`.
    pub verdict: String,
    /// It matches.
    pub matches: bool,
    /// Why it does or does not, a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Something in the policies that is probably not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LintFinding {
    /// The policy: `NetworkPolicy/NAMESPACE/NAME` or `ClusterNetworkPolicy/NAME`.
    pub policy: String,
    /// The rule, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// One sentence.
    pub text: String,
}
