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
        /// The node where it lives (`nodes` key).
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

impl FdbKey {
    /// The key of `mac` in network `vni`.
    #[inline(always)]
    pub const fn new(vni: u32, mac: Mac) -> Self {
        Self { vni, mac, zero: [0; 2] }
    }
}
