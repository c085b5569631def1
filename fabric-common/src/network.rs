//! What a network (VNI) is on this node, and which nodes are members of it.

use crate::{
    addr::{Addr, Mac},
    shared,
};

shared! {
    /// Value of `networks`, keyed by VNI (`u32`, host byte order).
    48 bytes: pub struct NetworkValue {
        /// MAC of the anycast gateway, the same on every node.
        pub gateway_mac: Mac,
        /// Largest IP packet inside the network, bytes.
        pub mtu: u16,
        /// `FLAG_*`.
        pub flags: u16,
        /// Always zero.
        pub zero: [u8; 2],
        /// Number of the network for events; a hash of its name.
        pub id: u32,
        /// Gateway of the first IPv4 subnet, the source of ICMP errors; unspecified if there is none.
        pub gateway_v4: Addr,
        /// Gateway of the first IPv6 subnet, the source of ICMPv6 errors; unspecified if there is none.
        pub gateway_v6: Addr,
    }
}

/// Broadcast and multicast are replicated to the members.
pub const FLAG_MULTICAST: u16 = 1;
/// Flows that were answered go on when policies admit them no more.
pub const FLAG_KEEP: u16 = 1 << 8;

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
