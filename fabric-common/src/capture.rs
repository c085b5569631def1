//! What the programs leave of a dropped packet while somebody captures.

use crate::{event::DropEvent, shared};

/// Bytes of a dropped packet that are copied at most. A frame of a link with an MTU of 1500 fits whole, outer headers and tags
/// included.
pub const DATA: usize = 2048;

/// Index in `capture`: the time since boot, nanoseconds (CLOCK_BOOTTIME), up to which dropped packets are copied.
pub const UNTIL: u32 = 0;
/// Index in `capture`: dropped packets that found no room in `captured`.
pub const LOST: u32 = 1;

shared! {
    /// A dropped packet with its first bytes.
    2168 bytes: pub struct CapturedDrop {
        /// Who dropped it and why. `suppressed` is zero: captured drops have no rate limit.
        pub event: DropEvent,
        /// Offset of the inner Ethernet header in `data`; 0 for a frame without outer headers, or if it was not reached.
        pub inner: u32,
        /// The VLAN tag that the kernel keeps beside the frame, as TPID (upper half) and TCI; 0 if there is none.
        pub vlan: u32,
        /// Bytes of `data` that are the frame's.
        pub captured: u32,
        /// Always zero.
        pub zero: u32,
        /// The frame from its Ethernet header on.
        pub data: [u8; DATA],
    }
}
