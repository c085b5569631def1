//! Fabric's own view of what people declared: objects whose fields were checked once, here, so that planning and the
//! service never meet an invalid name, subnet or MAC. Everything in this module is pure.

pub mod cluster;
mod cluster_policy;
pub mod deny_set;
mod domain_name;
pub mod dscp;
pub mod endpoint;
pub mod error;
pub mod guard;
pub mod ids;
pub mod ipam;
pub mod name;
pub mod namespace;
pub mod network;
mod network_policy;
pub mod node;
pub mod policy;
pub mod route;
mod selector;
mod treatment;

pub use cluster::{Cluster, ProblemKey};
pub use deny_set::DenySet;
pub use domain_name::DomainName;
pub use dscp::Dscp;
pub use endpoint::{Endpoint, Presence};
pub use error::ModelError;
pub use guard::Guard;
pub use network::{Network, Subnet};
pub use node::Node;
pub use policy::{ClusterPolicy, Labels, NetworkPolicy};
pub use route::Route;
