//! Where a packet to the gateway's MAC goes: from a network into another of its subnets, or into a network that is opened
//! to it.

use crate::{addr::Mac, shared};

shared! {
    /// Value of `routes` (longest prefix): the network that holds the prefix's addresses.
    16 bytes: pub struct RouteValue {
        /// Network of the destination, host byte order.
        pub vni: u32,
        /// Largest IP packet inside that network, bytes.
        pub mtu: u16,
        /// No flag is defined yet; always zero.
        pub flags: u16,
        /// MAC of that network's gateway: the source MAC of the routed frame.
        pub gateway_mac: Mac,
        /// Always zero.
        pub zero: [u8; 2],
    }
}
