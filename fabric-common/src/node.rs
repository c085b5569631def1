//! Other nodes: the outer header toward each, and which node a VTEP address belongs to.

use crate::{addr::Addr, shared};

/// Room for the longest outer header from the IP header on: IPv6 (40), UDP (8) and VXLAN (8).
pub const OUTER_MAX: usize = 56;
/// Outer header over IPv4 from the IP header on: IPv4 (20), UDP (8), VXLAN (8).
pub const OUTER_V4_LEN: usize = 36;
/// Bytes that encapsulation adds to an inner frame over IPv4, the outer Ethernet header not counted: 36 and the inner
/// Ethernet header (14). An underlay MTU minus this is the largest inner IP packet (RFC 7348 section 5).
pub const OVERHEAD_V4: usize = OUTER_V4_LEN + 14;
/// The same over IPv6.
pub const OVERHEAD_V6: usize = OUTER_MAX + 14;

shared! {
    /// Value of `nodes`, keyed by the node's number (`u32`): everything that sending to the node needs. A change of a
    /// node's address is a write of this one value.
    104 bytes: pub struct NodeValue {
        /// Our VTEP address toward this node: the outer source.
        pub local: Addr,
        /// The node's VTEP address: the outer destination.
        pub remote: Addr,
        /// The uplink that leads there.
        pub ifindex: u32,
        /// Sum of the outer IPv4 header's 16-bit words (as stored, little-endian words; RFC 1071 allows any order),
        /// total length and checksum taken as zero, not folded.
        pub ip_sum: u32,
        /// Largest inner IP packet that fits the underlay toward this node, bytes.
        pub mtu: u16,
        /// `FLAG_*`.
        pub flags: u16,
        /// Used length of `outer`, bytes.
        pub outer_len: u16,
        /// DSCP of the outer header, in its place in the traffic class (TOS) byte; zero where it is copied.
        pub class: u8,
        /// Bits of the inner traffic class byte that the outer one takes over: ECN, and DSCP where it is copied (RFC 2983).
        pub inherit: u8,
        /// Outer IP, UDP and VXLAN headers in wire order, `class` among them; total length, IP checksum, UDP length, source port and VNI are zero.
        pub outer: [u8; 56],
    }
}

/// The two bits of ECN in the traffic class byte (RFC 3168 section 5); the six above are the DSCP (RFC 2474).
pub const CLASS_ECN: u8 = 0x03;

/// The outer header is IPv6.
pub const FLAG_V6: u16 = 1;
/// Send through the collect-metadata `vxlan` device (outer checksum wanted, or a header the program does not build).
pub const FLAG_VIA_DEVICE: u16 = 2;
/// Not one of our agents: a Linux `vxlan` device, a switch.
pub const FLAG_FOREIGN: u16 = 4;
/// It wants outer UDP checksums. Only the `vxlan` device computes them, so that `FLAG_VIA_DEVICE` is set as well.
pub const FLAG_UDP_CHECKSUM: u16 = 8;

shared! {
    /// Value of `vteps`, keyed by a remote VTEP address: the node that it belongs to.
    8 bytes: pub struct VtepValue {
        /// `nodes` key.
        pub node: u32,
        /// `FLAG_*` of the node.
        pub flags: u32,
    }
}
