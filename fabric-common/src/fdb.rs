//! The forwarding database: (VNI, destination MAC) to a local port or a remote node. Filled by the agent alone;
//! nothing is learned from packets.

use crate::{addr::Mac, shared};

shared! {
    /// Key of `fdb`.
    12 bytes: pub struct FdbKey {
        /// Network, host byte order.
        pub vni: u32,
        /// Destination MAC.
        pub mac: Mac,
        /// Always zero.
        pub zero: [u8; 2],
    }
}

shared! {
    /// Value of `fdb`.
    32 bytes: pub struct FdbValue {
        /// The local port to deliver to; 0 if the MAC lives on another node.
        pub ifindex: u32,
        /// The node where it lives (`nodes` key); with `FLAG_ARRIVED` the node that it came from.
        pub node: u32,
        /// Slot in `port_counters` of a local port; `u32::MAX` if it is not counted.
        pub slot: u32,
        /// `FLAG_*`.
        pub flags: u32,
        /// Generation of the location.
        pub generation: u64,
        /// Policy identity of who has the MAC, node-local; `policy::IDENTITY_ANYONE` while no policy is compiled.
        pub identity: u32,
        /// Policy of the endpoint behind a local port; `policy::NO_POLICY` elsewhere.
        pub policy: u32,
    }
}

/// The MAC of the network's gateway or of a node in it: a frame to it is no bridge's business.
pub const FLAG_ROUTER: u32 = 1;
/// The host itself: `ifindex` is its access port, whose other side is in the same namespace, and only packets to the host's
/// own addresses in the network may go there.
pub const FLAG_HOST: u32 = 2;
/// It has left this node, and `ifindex` is 0: what still arrives for it in a tunnel is relayed to `node`.
pub const FLAG_LEFT: u32 = 4;
/// It is being moved here from `node`: what arrives in a tunnel goes to `ifindex`, and who is on this node still sends to `node`,
/// which may relay what others send.
pub const FLAG_ARRIVING: u32 = 8;
/// It has moved here from `node`, which may relay what others send.
pub const FLAG_ARRIVED: u32 = 16;

impl FdbValue {
    /// Whether who is on this node reaches it at a port of this node.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.ifindex != 0 && self.flags & FLAG_ARRIVING == 0
    }

    /// Whether `node` may relay to it what others have sent. `node` is never 0.
    #[inline(always)]
    pub const fn takes_from(&self, node: u32) -> bool {
        self.flags & (FLAG_ARRIVING | FLAG_ARRIVED) != 0 && self.node == node
    }
}

impl FdbKey {
    /// The key of `mac` in network `vni`.
    #[inline(always)]
    pub const fn new(vni: u32, mac: Mac) -> Self {
        Self { vni, mac, zero: [0; 2] }
    }
}
