//! Where a packet to a gateway's MAC goes: from a network into another of its subnets, into a network that is opened to it,
//! or to the endpoint that a static route names.

use crate::{
    addr::{Addr, Mac},
    shared,
};

shared! {
    /// Value of `routes` (longest prefix): the network that holds the prefix's addresses, or who leads there.
    32 bytes: pub struct RouteValue {
        /// Network of the destination, or of the next hop, host byte order.
        pub vni: u32,
        /// Largest IP packet inside that network, bytes.
        pub mtu: u16,
        /// `FLAG_*`.
        pub flags: u16,
        /// MAC of that network's gateway: the source MAC of the routed frame.
        pub gateway_mac: Mac,
        /// Always zero.
        pub zero: [u8; 2],
        /// With [`FLAG_NEXT_HOP`] the address of the endpoint that leads there, in the route's own network; with [`FLAG_WORLD`] the
        /// address of this host that stands for the sender's.
        pub next_hop: Addr,
    }
}

/// A static route: packets go to the endpoint that has `next_hop`, which may send with sources of the prefix.
pub const FLAG_NEXT_HOP: u16 = 1;
/// To the world outside of the fabric, through the uplink that has the address `next_hop`.
pub const FLAG_WORLD: u16 = 2;

/// In place of a VNI: prefixes under it are the fabric's own, subnets and VTEPs, and no part of the world.
pub const NOT_WORLD: u32 = u32::MAX;
