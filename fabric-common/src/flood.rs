//! Who gets a copy of a broadcast or multicast frame: for each network that replicates, a list of ports of this node and a list
//! of other nodes.

use crate::shared;

/// The list of ports of this node.
pub const PORTS: u32 = 0;
/// The list of other nodes.
pub const NODES: u32 = 1;
/// Places that are looked at in one list.
pub const PLACES: u32 = 4096;

shared! {
    /// Key of `flood`: a place in a list. The places of a list are used from 0 on, without gaps: a walk ends at the first one
    /// without a row.
    12 bytes: pub struct FloodKey {
        /// Network, host byte order.
        pub vni: u32,
        /// [`PORTS`] or [`NODES`].
        pub list: u32,
        /// From 0.
        pub place: u32,
    }
}

shared! {
    /// Value of `flood`.
    16 bytes: pub struct FloodValue {
        /// The local port; 0 in a list of nodes.
        pub ifindex: u32,
        /// `nodes` key; 0 in a list of ports.
        pub node: u32,
        /// Slot in `port_counters` of a local port; `u32::MAX` if it is not counted.
        pub slot: u32,
        /// Policy of the endpoint behind a local port; `policy::NO_POLICY` where none applies, and in a list of nodes.
        pub policy: u32,
    }
}
