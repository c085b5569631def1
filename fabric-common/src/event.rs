//! The record that a sampled drop, or a verdict that a policy wants reported, leaves in the ring buffer.

use crate::{
    addr::{Addr, Mac},
    shared,
};

/// The record's version; the first byte of every record.
pub const VERSION: u8 = 2;

/// In the place of a drop reason: the packet passed, but would not if a policy that is audited were in force.
pub const WOULD_DROP: u8 = 254;
/// In the place of a drop reason: the packet began a connection that a rule admits which is logged.
pub const ALLOWED: u8 = 255;

shared! {
    /// A dropped packet, or one of which a verdict is reported. What was not parsed by the time of the drop is zero. Length and five-tuple are those of the
    /// inner packet once it was reached.
    104 bytes: pub struct DropEvent {
        /// [`VERSION`].
        pub version: u8,
        /// `Hook` number.
        pub hook: u8,
        /// `DropReason` number, [`WOULD_DROP`] or [`ALLOWED`].
        pub reason: u8,
        /// IP protocol number; 0 if it was not reached.
        pub protocol: u8,
        /// Interface where the packet was dropped.
        pub ifindex: u32,
        /// Time since boot, nanoseconds (`bpf_ktime_get_boot_ns`, CLOCK_BOOTTIME).
        pub time: u64,
        /// Network, host byte order.
        pub vni: u32,
        /// Length of the frame as the hook saw it, bytes.
        pub length: u32,
        /// Source MAC.
        pub src_mac: Mac,
        /// Destination MAC.
        pub dst_mac: Mac,
        /// EtherType, network byte order.
        pub ethertype: [u8; 2],
        /// Source port, network byte order.
        pub src_port: [u8; 2],
        /// Destination port, network byte order.
        pub dst_port: [u8; 2],
        /// Always zero.
        pub zero: [u8; 2],
        /// Number of the policy rule that denied the packet, would have or admitted it; 0 if it was none.
        pub rule: u32,
        /// Source address.
        pub src: Addr,
        /// Destination address.
        pub dst: Addr,
        /// Outer source address of a tunnel packet.
        pub vtep: Addr,
        /// Events that this CPU did not report since its last one, because of the rate limit.
        pub suppressed: u64,
    }
}
