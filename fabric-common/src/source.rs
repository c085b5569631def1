//! Source records: who may send a tunnel packet with a given inner source address.

use crate::{addr::Addr, shared};

/// How many nodes a source record can name: the home, a relay during a move, and room for anycast prefixes.
pub const SOURCE_NODES: usize = 4;

shared! {
    /// Value of `sources` (exact, keyed by `EndpointKey`) and of `source_prefixes` (longest prefix). A tunnel packet
    /// whose inner source has no record, or comes from a node that the record does not name, is dropped.
    32 bytes: pub struct SourceValue {
        /// `nodes` keys of those who may send it; unused places are 0.
        pub nodes: [u32; 4],
        /// Policy identity, node-local; 0 while no policy is compiled.
        pub identity: u32,
        /// No flag is defined yet; always zero.
        pub flags: u32,
        /// Generation of the record.
        pub generation: u64,
    }
}

shared! {
    /// The data of a `source_prefixes` key, behind aya's prefix length: the VNI in network byte order (so that it is a
    /// prefix) and the address. The prefix length counts the VNI's 32 bits.
    24 bytes: pub struct SourcePrefix {
        /// Network byte order.
        pub vni: [u8; 4],
        /// Network byte order, IPv4 mapped: an IPv4 /n has a length of 32 + 96 + n.
        pub addr: Addr,
        /// Always zero, behind every prefix: the kernel puts the value right after the key, which must leave it aligned.
        pub zero: [u8; 4],
    }
}

impl SourcePrefix {
    /// The data for `addr` in network `vni` (host byte order).
    #[inline(always)]
    pub const fn new(vni: u32, addr: Addr) -> Self {
        Self { vni: vni.to_be_bytes(), addr, zero: [0; 4] }
    }
}

impl SourceValue {
    /// Whether `node` may send packets with this source. `node` is never 0.
    #[inline(always)]
    pub const fn names(&self, node: u32) -> bool {
        self.nodes[0] == node || self.nodes[1] == node || self.nodes[2] == node || self.nodes[3] == node
    }
}
