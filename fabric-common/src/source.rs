//! Source records: who may send a tunnel packet with a given inner source address.

use crate::shared;

/// How many nodes a source record can name: the home, a relay during a move, and room for anycast prefixes.
pub const SOURCE_NODES: usize = 4;

shared! {
    /// Value of `sources` (exact, keyed by `EndpointKey`) and of `source_prefixes` (longest prefix). A tunnel packet
    /// whose inner source has no record, or comes from a node that the record does not name, is dropped.
    32 bytes: pub struct SourceValue {
        /// `nodes` keys of those who may send it; unused places are 0.
        pub nodes: [u32; 4],
        /// Policy identity, node-local; `policy::IDENTITY_ANYONE` while no policy is compiled.
        pub identity: u32,
        /// `FLAG_*`.
        pub flags: u32,
        /// Generation of the record.
        pub generation: u64,
    }
}

/// Behind a foreign VTEP: our own nodes may send it as well, from the gateway's MAC, since the VTEP may use the gateway of any
/// of them.
pub const FLAG_RELAYED: u32 = 1;

impl SourceValue {
    /// Whether `node` may send packets with this source. `node` is never 0.
    #[inline(always)]
    pub const fn names(&self, node: u32) -> bool {
        self.nodes[0] == node || self.nodes[1] == node || self.nodes[2] == node || self.nodes[3] == node
    }
}
