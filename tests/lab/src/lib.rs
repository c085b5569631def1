//! A lab: hosts, containers and agents on one machine, for tests, the demonstration and benchmarks.
//!
//! ```text
//!  c1 c2 (containers)          c1
//!   └┬─┘                        │
//!  host h1 ── u0 ── router ── u0 ── host h2
//!           10.0.1.1/24   10.0.2.1/24
//! ```
//!
//! A host is a network namespace and a private mount namespace (own `/sys` with its own bpffs, own `/run`), held by a
//! process. Every host has a subnet of its own; the router, a namespace as well, joins them. A container is a network
//! namespace with a process. Nothing of the machine itself is touched: no interface, no firewall rule, no bpffs.
//!
//! A lab has an id, and everything it makes carries it (`fabID-h1`, `fabID-r`, `fabID-h1-c1`), so that several labs
//! exist side by side. Dropping a [`Lab`] removes all of it, also on a panic; what a killed run left behind is removed
//! when a lab of the same id is made.

mod agent;
mod capture;
mod cast;
mod container;
mod docker;
mod etcd;
pub mod exact;
pub mod foreign;
mod host;
mod inspect;
mod net;
mod peers;
mod policies;
mod process;
pub mod recipes;
pub mod scale;
mod teardown;
mod topology;
mod trace;
mod traffic;

pub use capture::Capture;
pub use cast::{Cast, Outcomes, declared};
pub use container::Container;
pub use docker::{DOCKER_IMAGE, Docker};
pub use etcd::{Etcd, Loopback};
pub use host::Host;
pub use inspect::{Background, Counts, Monitor, until};
pub use policies::Policy;
pub use process::{Output, stdout_of};
pub use teardown::remove;
pub use topology::{Lab, Options};
pub use traffic::Server;

/// MTU of the wire between hosts, bytes.
pub const UNDERLAY_MTU: u32 = 1500;

/// A host's interface on the wire.
pub const UNDERLAY: &str = "u0";
