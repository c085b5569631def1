//! What the programs need to know of this node that is not a feature switch: the one row of `settings`.

use crate::{addr::Mac, shared};

shared! {
    /// The single value of `settings` (array of one).
    32 bytes: pub struct Settings {
        /// Our own number (`nodes` key of ourselves), never 0 once the agent has run; 0 means: not configured.
        pub node: u32,
        /// The collect-metadata `vxlan` device.
        pub vxlan_ifindex: u32,
        /// Where packets that are to be fragmented enter the agent's own veth; 0 if there is none.
        pub frag_ifindex: u32,
        /// How many drop events each CPU may report a second; 0 turns events off. Counters are exact all the same.
        pub events_per_second: u32,
        /// UDP port of VXLAN in network byte order.
        pub vxlan_port: [u8; 2],
        /// First port that translated flows are given, network byte order; 0 while no network is masqueraded.
        pub nat_first: [u8; 2],
        /// MAC of this node's own addresses in its networks.
        pub node_mac: Mac,
        /// Last port that translated flows are given, network byte order.
        pub nat_last: [u8; 2],
        /// `FLAG_*`: what is looked at only where it is used.
        pub flags: u32,
    }
}

/// `denied` has rows: sources are looked up there.
pub const FLAG_DENIED: u32 = 1;

/// Names of the load-time globals. They only switch features; the verifier removes what is off.
pub mod global {
    /// `u32`, 1 where the kernel can decapsulate an inner packet of another family than the outer
    /// (`BPF_F_ADJ_ROOM_DECAP_L3_IPV6`, Linux 6.3).
    pub const CROSS_FAMILY: &str = "CROSS_FAMILY";
    /// `u32`, 1 to log through aya-log what the programs decide. For debugging only.
    pub const DEBUG: &str = "DEBUG";
}
