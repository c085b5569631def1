//! Denied prefixes: sources whose packets are dropped where they enter the host, before anything else looks at them.

use crate::shared;

shared! {
    /// Value of `denied`, a trie of source prefixes; the longest one decides.
    4 bytes: pub struct DeniedValue {
        /// Number of the rule that denies, which names the deny set; [`EXEMPT`] where the prefix is let in.
        pub rule: u32,
    }
}

/// Let in although a wider prefix is denied: what the fabric itself depends on.
pub const EXEMPT: u32 = 0;
