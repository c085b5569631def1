//! What a network (VNI) is on this node, and which nodes are members of it.

use crate::{addr::Mac, shared};

shared! {
    /// Value of `networks`, keyed by VNI (`u32`, host byte order).
    24 bytes: pub struct NetworkValue {
        /// MAC of the anycast gateway, the same on every node.
        pub gateway_mac: Mac,
        /// MAC of this node's own address in the network; zero if it has none.
        pub node_mac: Mac,
        /// Largest IP packet inside the network, bytes.
        pub mtu: u16,
        /// `FLAG_*`.
        pub flags: u16,
        /// Number of the network for events; a hash of its name.
        pub id: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

/// Broadcast and multicast are replicated to the members.
pub const FLAG_MULTICAST: u16 = 1;

shared! {
    /// Key of `members`: a node that serves a network.
    8 bytes: pub struct MemberKey {
        /// Network, host byte order.
        pub vni: u32,
        /// `nodes` key.
        pub node: u32,
    }
}

shared! {
    /// Value of `members`.
    4 bytes: pub struct MemberValue {
        /// No flag is defined yet; always zero.
        pub flags: u32,
    }
}
