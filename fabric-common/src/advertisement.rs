//! Router advertisements (RFC 4861 section 4.2), where a network has them.

use crate::shared;

/// Bytes that there is room for: the headers, the MTU, the router's MAC, and 13 prefixes.
pub const ROOM: usize = 512;

shared! {
    /// Value of `advertisements`, keyed by VNI (`u32`, host byte order).
    520 bytes: pub struct AdvertisementValue {
        /// Bytes of the frame.
        pub len: u32,
        /// Always zero.
        pub zero: u32,
        /// The whole frame as it is sent: from the gateway to all nodes, Ethernet header and checksum included.
        pub frame: [u8; 512],
    }
}

const _: () = assert!(ROOM == 512);
