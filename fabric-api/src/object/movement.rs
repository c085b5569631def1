//! An endpoint's way from one node to another.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Attachment;

/// How far a move is. Phases follow each other in this order; the agent named with each one writes the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MovementPhase {
    /// Somebody asked for it; the destination makes the port.
    Requested,
    /// The destination has its port, program and rows; nothing is sent there yet. The home goes on once activation is asked for.
    Prepared,
    /// The home has handed over its connections; the destination takes them.
    Copied,
    /// The destination is ready for packets: the home takes its own port away and relays, and then activates. No way back from here.
    Armed,
    /// The endpoint lives at the destination; its former home relays what still arrives there, until it is released.
    Activated,
}

impl MovementPhase {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Prepared => "prepared",
            Self::Copied => "copied",
            Self::Armed => "armed",
            Self::Activated => "activated",
        }
    }
}

/// A move that is going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Movement {
    /// How far it is.
    pub phase: MovementPhase,
    /// The other node: the destination, and from `activated` on the former home.
    pub node: String,
    /// The container's side at the destination; absent once that is the endpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// Slot of the endpoint's counters at the destination, once that has chosen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Whether it is to go on beyond `prepared`.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub activate: bool,
    /// Why it does not go on, one sentence; empty where nothing is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What is to be done about a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MoveStep {
    /// Everything, to the end: prepares, activates, and answers once the endpoint lives at the destination.
    Move(Destination),
    /// Makes the port at the destination and answers once it is ready for packets. Nothing is sent there yet.
    Prepare(Destination),
    /// Lets a prepared move go on, and answers once the endpoint lives at the destination.
    Activate,
    /// Ends the relay of the former home now, not when its time is over.
    Release,
    /// Undoes a move that the destination has not been armed for.
    Abort,
}

/// Where an endpoint goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// The node.
    pub node: String,
    /// Path of the container's network namespace there.
    pub netns: String,
    /// Name of the interface inside; the one that it has now if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
}
