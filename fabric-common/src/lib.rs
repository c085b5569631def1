//! What Fabric's eBPF programs and its agent must agree on, byte for byte.
//!
//! Three layout rules hold for every type that lives in a map or in an event:
//!
//! 1. **No padding.** Types are declared with [`shared!`], which derives zerocopy's `IntoBytes`: a hole between two
//!    fields does not compile, so a key never misses because of a random byte.
//! 2. **Wire data stays in wire order.** Addresses, MACs and ports taken from packets are byte arrays behind
//!    accessors. Plain integers are host order and never meet a packet.
//! 3. **A layout names itself.** Every type has [`layout::Layout::HASH`], computed from field names, sizes and
//!    offsets. It is part of the name under which a map is pinned, so an agent never reads a map with other eyes
//!    than the one who wrote it.
//!
//! One file holds one concept; the same word names the file here, the map's file in `fabric-ebpf` and the table in
//! the agent.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod addr;
pub mod advertisement;
pub mod capture;
pub mod counters;
pub mod denied;
pub mod endpoint;
pub mod event;
pub mod fdb;
pub mod flood;
pub mod flow;
pub mod layout;
pub mod membership;
pub mod names;
pub mod nat;
pub mod network;
pub mod node;
pub mod policy;
pub mod port;
pub mod prefix;
pub mod reason;
pub mod route;
pub mod settings;
pub mod source;
pub mod stage;
pub mod uplink;
pub mod vni;
