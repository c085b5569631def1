//! Who has an address: (VNI, address) of every endpoint, gateway and node, local and remote.

use crate::{
    addr::{Addr, Mac},
    shared,
};

shared! {
    /// Key of `endpoints`.
    20 bytes: pub struct EndpointKey {
        /// Network, host byte order.
        pub vni: u32,
        /// The address inside the network.
        pub addr: Addr,
    }
}

shared! {
    /// Value of `endpoints`: what ARP and neighbour discovery answer, and what a source address is checked against.
    32 bytes: pub struct EndpointValue {
        /// The MAC that owns the address.
        pub mac: Mac,
        /// `FLAG_*`.
        pub flags: u16,
        /// The local port (host side of the veth) that may use this address as its source; 0 if it is not local.
        pub ifindex: u32,
        /// The node where it lives (`nodes` key); our own number if it is local.
        pub node: u32,
        /// Policy identity, node-local; `policy::IDENTITY_ANYONE` while no policy is compiled.
        pub identity: u32,
        /// Slot in `port_counters` of a local endpoint.
        pub slot: u32,
        /// Generation of the location: a late event with a lower one must not replace it.
        pub generation: u64,
    }
}

/// The network's anycast gateway, the same on every node.
pub const FLAG_GATEWAY: u16 = 1;
/// An address of a node itself in this network.
pub const FLAG_NODE: u16 = 2;
