//! `POST /v1/capture`: packets as a stream in the pcapng format, until the capture or either side ends.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Those of the containers.
    #[default]
    Inner,
    /// Tunnel packets at the uplinks.
    Outer,
    /// Both, each as an interface of its own.
    Both,
}

/// What to capture. Packets that the programs drop are in it with the reason as a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaptureRequest {
    /// Only what concerns this local endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Only what concerns this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Which frames.
    #[serde(default)]
    pub layer: Layer,
    /// Only packets that the programs drop.
    #[serde(default)]
    pub drops: bool,
    /// End after so many packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// End after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Bytes of each packet that are kept; 262144, which is all of them, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
}
