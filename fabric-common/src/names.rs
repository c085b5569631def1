//! Addresses that endpoints were told for domain names: who was told which, and the DNS messages that say so.
//!
//! Only endpoints whose policy has [`POLICY_NAMES`](crate::policy::POLICY_NAMES) pay for this: their DNS queries over UDP are
//! copied, answers are handed to the agent, which reads them and then delivers them itself.

use crate::{addr::Addr, shared};

/// The port of DNS servers (RFC 1035 section 4.2.1), network byte order.
pub const DNS_PORT: [u8; 2] = 53_u16.to_be_bytes();

/// Bytes of a DNS packet that are copied; longer ones are delivered unread.
pub const DATA: usize = 2048;

/// Index in `dns_watch`: the time since boot, nanoseconds (CLOCK_BOOTTIME), up to which somebody reads `dns`.
pub const UNTIL: u32 = 0;
/// Index in `dns_watch`: packets that found no room in `dns`.
pub const LOST: u32 = 1;

/// The packet goes on its way; this is a copy.
pub const QUERY: u32 = 1;
/// The packet itself: whoever reads it has to deliver it.
pub const ANSWER: u32 = 2;

/// Version of [`DnsPacket`].
pub const VERSION: u32 = 1;

shared! {
    /// Key of `named`: an address of the world, as one endpoint knows it.
    20 bytes: pub struct NamedKey {
        /// The endpoint's port (host side of its veth).
        pub ifindex: u32,
        /// The address; IPv4 mapped.
        pub addr: Addr,
    }
}

shared! {
    /// Key of `names`.
    36 bytes: pub struct NameKey {
        /// The endpoint's port.
        pub ifindex: u32,
        /// The address.
        pub addr: Addr,
        /// First half of the SHA-256 of the name.
        pub digest: [u8; 16],
    }
}

shared! {
    /// Value of `names`.
    272 bytes: pub struct NameValue {
        /// Time since boot, nanoseconds, from which the address is no longer known by the name.
        pub expires: u64,
        /// Bytes of the name.
        pub length: u32,
        /// Always zero.
        pub zero: u32,
        /// The name in lower case, without the dot of the root; zeros behind it.
        pub name: [u8; 256],
    }
}

shared! {
    /// A DNS packet of an endpoint.
    2080 bytes: pub struct DnsPacket {
        /// [`VERSION`].
        pub version: u32,
        /// [`QUERY`] or [`ANSWER`].
        pub kind: u32,
        /// Time since boot, nanoseconds.
        pub time: u64,
        /// The endpoint's port.
        pub ifindex: u32,
        /// Bytes of `data` that are the packet's.
        pub length: u32,
        /// Always zero.
        pub zero: u64,
        /// The frame as the endpoint sends or gets it.
        pub data: [u8; DATA],
    }
}
