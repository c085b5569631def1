//! What runs programs and namespaces for real. The packet walks are here: [`cast`] names who takes part, [`frame`] builds
//! and checks frames, [`walk`] runs the programs on them, [`ledger`] watches every counter. [`fuzz`] gives
//! them frames that nobody would send and judges what they do, [`oracle`] compares them with the kernel's own VXLAN device.
//! [`world`] is where the agent's dataplane meets the real kernel.

mod captured;
pub mod cast;
pub mod frame;
pub mod fuzz;
pub mod icmp;
pub mod ledger;
pub mod load;
pub mod masquerade;
pub mod membership;
pub mod named;
pub mod oracle;
pub mod policed;
pub mod policy_model;
pub mod random;
pub mod routing;
mod rows;
pub mod tap;
pub mod tunnel_table;
pub mod walk;
pub mod wire;
pub mod world;
