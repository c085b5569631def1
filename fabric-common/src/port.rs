//! Ports: the host side of each container's veth, by interface index.

use crate::{
    addr::{Addr, Mac},
    shared,
};

/// The slot of a port that is not counted: the host's own.
pub const NO_SLOT: u32 = u32::MAX;

shared! {
    /// Value of `ports`, keyed by interface index (`u32`).
    44 bytes: pub struct PortValue {
        /// The network that the port is in, host byte order.
        pub vni: u32,
        /// Slot in `port_counters`; [`NO_SLOT`] for the host's access port.
        pub slot: u32,
        /// The only source MAC that the container may use.
        pub mac: Mac,
        /// No flag is defined yet; always zero.
        pub flags: u16,
        /// Policy identity, node-local; `policy::IDENTITY_ANYONE` while no policy is compiled.
        pub identity: u32,
        /// Policy of the endpoint; `policy::NO_POLICY` where none applies.
        pub policy: u32,
        /// Largest IP packet, bytes.
        pub mtu: u32,
        /// One of the container's addresses: the source that most packets have is checked without a lookup. The others
        /// are in `endpoints`.
        pub addr: Addr,
    }
}

shared! {
    /// Value of `port_counters`, a per-CPU array by slot. Directions are seen from the container.
    48 bytes: pub struct PortCounters {
        /// Packets the container sent and the fabric took.
        pub egress_packets: u64,
        /// Bytes of those, Ethernet header included.
        pub egress_bytes: u64,
        /// Packets delivered to the container.
        pub ingress_packets: u64,
        /// Bytes of those, Ethernet header included.
        pub ingress_bytes: u64,
        /// Packets of the container that were dropped.
        pub egress_drops: u64,
        /// Packets for the container that were dropped once it was known that they were for it.
        pub ingress_drops: u64,
    }
}
