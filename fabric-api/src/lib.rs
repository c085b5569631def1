//! Fabric's API as data: the objects that people declare, what the agent says of them, and the requests and answers
//! of its HTTP API over a Unix socket. Clients need this crate and nothing else of the agent.
//!
//! Every JSON form here is stable and documented (`docs/generated/openapi.json`). Unknown keys are refused: a typing
//! mistake must not silently change what a network does.

pub mod capture;
#[cfg(feature = "client")]
pub mod client;
pub mod event;
pub mod flow;
pub mod object;
pub mod parse;
pub mod policy;
pub mod report;
pub mod status;
pub mod trace;

pub use event::Event;
pub use object::{
    ClusterNetworkPolicy, DenySet, Endpoint, Metadata, Namespace, Network, NetworkPolicy, Node, Object,
};
