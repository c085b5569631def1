//! Address translation: what stands for a container's address and port in the world outside of the fabric. Rows are written by
//! the programs alone, two for each flow, and expire by their own clock as those of connection tracking do.

use crate::{addr::Addr, shared};

/// In place of a VNI: the side of the host's own addresses, where no network is.
pub const HOST_SIDE: u32 = u32::MAX;

shared! {
    /// Key of `nat` and `new_nat`: a packet of a translated flow, as it comes in. The row of what a container sends (its network's
    /// VNI) says where the flow's other row is; the row of what the world answers ([`HOST_SIDE`]) is the one that decides.
    44 bytes: pub struct NatKey {
        /// Network of the container, host byte order, or [`HOST_SIDE`].
        pub vni: u32,
        /// Source.
        pub src: Addr,
        /// Destination.
        pub dst: Addr,
        /// Source port, network byte order. With an ICMP echo the identifier stands at the asker's side, 0 at the other.
        pub src_port: [u8; 2],
        /// Destination port.
        pub dst_port: [u8; 2],
        /// IP protocol.
        pub protocol: u8,
        /// Always zero.
        pub zero: [u8; 3],
    }
}

shared! {
    /// Value of `nat` and `new_nat`: what the packet's own side is called on the other side.
    40 bytes: pub struct NatValue {
        /// When the last packet passed, nanoseconds since boot (`bpf_ktime_get_boot_ns`); 0 in a container's row.
        pub seen: u64,
        /// For a container's row the host's address, for a row of the host's side the container's.
        pub addr: Addr,
        /// Network of `addr`, host byte order, or [`HOST_SIDE`].
        pub vni: u32,
        /// `flow::FLAG_*`, of which `FLAG_BEGAN_HIGH` has no meaning here: the container begins. 0 in a container's row.
        pub flags: u32,
        /// Port of `addr`, or identifier of the echo, network byte order.
        pub port: [u8; 2],
        /// Always zero.
        pub zero: [u8; 6],
    }
}
