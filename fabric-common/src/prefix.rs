//! Keys of the maps that are looked up by longest prefix: a prefix of a network's addresses.

use crate::{addr::Addr, shared};

shared! {
    /// The data of a `source_prefixes` or `routes` key, behind aya's prefix length: the VNI in network byte order (so that
    /// it is a prefix) and the address. The prefix length counts the VNI's 32 bits.
    24 bytes: pub struct VniPrefix {
        /// Network byte order.
        pub vni: [u8; 4],
        /// Network byte order, IPv4 mapped: an IPv4 /n has a length of 32 + 96 + n.
        pub addr: Addr,
        /// Always zero, behind every prefix: the kernel puts the value right after the key, which must leave it aligned.
        pub zero: [u8; 4],
    }
}

impl VniPrefix {
    /// Bits of the whole key: VNI and address. What a lookup asks for.
    pub const BITS: u32 = 32 + 128;

    /// The data for `addr` in network `vni` (host byte order).
    #[inline(always)]
    pub const fn new(vni: u32, addr: Addr) -> Self {
        Self { vni: vni.to_be_bytes(), addr, zero: [0; 4] }
    }
}
