//! Connection tracking: flows that an endpoint with a policy takes part in. Rows are written by the programs alone and
//! expire by their own clock, also while no agent runs.

use crate::{addr::Addr, shared};

shared! {
    /// Key of `flows` and `new_flows`: both directions of a flow have one row, whose sides are ordered by address.
    44 bytes: pub struct FlowKey {
        /// The network, host byte order; of a flow between two networks the smaller VNI of both.
        pub vni: u32,
        /// The side whose address is less, or with the same address the one whose port is.
        pub low: Addr,
        /// The other side.
        pub high: Addr,
        /// Port of the low side, network byte order. With an ICMP echo the asker's is the identifier, the other 0.
        pub low_port: [u8; 2],
        /// Port of the high side.
        pub high_port: [u8; 2],
        /// IP protocol.
        pub protocol: u8,
        /// Always zero.
        pub zero: [u8; 3],
    }
}

shared! {
    /// Value of `flows` and `new_flows`. Each side's policy gave a verdict for the identity that is kept beside it: while a
    /// packet has the same two, the verdict holds; else it is asked again.
    56 bytes: pub struct FlowValue {
        /// `FLAG_*`.
        pub flags: u32,
        /// When it began, seconds since boot.
        pub began: u32,
        /// When its last packet passed, nanoseconds since boot (`bpf_ktime_get_boot_ns`).
        pub seen: u64,
        /// What the side that began has sent, bytes of frames with their Ethernet header.
        pub began_bytes: u64,
        /// What the answering side has sent.
        pub answer_bytes: u64,
        /// Policy of the side that began, if that lives here; else `NO_POLICY`.
        pub egress_policy: u32,
        /// Identity of the answering side as that policy saw it.
        pub egress_identity: u32,
        /// Rule that admitted the flow there, or with `verdict::AUDIT` the one that would not have.
        pub egress_rule: u32,
        /// Policy of the answering side, if that lives here; else `NO_POLICY`.
        pub ingress_policy: u32,
        /// Identity of the side that began as that policy saw it.
        pub ingress_identity: u32,
        /// The same of the other side.
        pub ingress_rule: u32,
    }
}

/// The high side began it.
pub const FLAG_BEGAN_HIGH: u32 = 1;
/// The other side has answered.
pub const FLAG_ANSWERED: u32 = 2;
/// TCP: the side that began has sent FIN.
pub const FLAG_FIN_BEGAN: u32 = 4;
/// TCP: the answering side has sent FIN.
pub const FLAG_FIN_ANSWER: u32 = 8;
/// TCP: RST was seen.
pub const FLAG_RESET: u32 = 16;

shared! {
    /// Key of `fragments`: an IP packet in fragments (RFC 791 section 3.2, RFC 8200 section 4.5).
    44 bytes: pub struct FragmentKey {
        /// Network, host byte order.
        pub vni: u32,
        /// Source.
        pub src: Addr,
        /// Destination.
        pub dst: Addr,
        /// Identification, as it stands in the packet; IPv4 has two bytes of it and two of zero.
        pub id: [u8; 4],
        /// Protocol of the payload for IPv4; 0 for IPv6, whose identification is the pair's own.
        pub protocol: u8,
        /// Always zero.
        pub zero: [u8; 3],
    }
}

shared! {
    /// Value of `fragments`: what the first fragment said.
    24 bytes: pub struct FragmentValue {
        /// When the first fragment passed, nanoseconds since boot.
        pub seen: u64,
        /// Source port, network byte order.
        pub src_port: [u8; 2],
        /// Destination port, network byte order.
        pub dst_port: [u8; 2],
        /// Protocol of the payload.
        pub protocol: u8,
        /// What kind of packet, see `transport` in the programs.
        pub kind: u8,
        /// ICMP type and code, else TCP's flags.
        pub detail: [u8; 2],
        /// Always zero.
        pub zero: [u8; 8],
    }
}

/// How long a flow lives without a packet, nanoseconds.
pub mod timeout {
    const SECOND: u64 = 1_000_000_000;
    /// Nobody has answered yet.
    pub const NEW: u64 = 60 * SECOND;
    /// TCP with both directions (RFC 5382 section 5 asks for at least two hours and four minutes; Linux takes five days).
    pub const TCP: u64 = 5 * 86_400 * SECOND;
    /// TCP after FIN of both sides, or RST.
    pub const CLOSED: u64 = 10 * SECOND;
    /// Everything else with both directions (RFC 4787 section 4.3 asks for at least two minutes).
    pub const OTHER: u64 = 180 * SECOND;
    /// A packet in fragments (Linux puts them together within 30 s).
    pub const FRAGMENTS: u64 = 30 * SECOND;
}

/// How long a flow of a protocol lives behind its last packet, nanoseconds.
#[inline(always)]
pub const fn lifetime(protocol: u8, flags: u32) -> u64 {
    const TCP: u8 = 6;
    if flags & FLAG_ANSWERED == 0 {
        timeout::NEW
    } else if protocol != TCP {
        timeout::OTHER
    } else if is_closed(flags) {
        timeout::CLOSED
    } else {
        timeout::TCP
    }
}

/// Whether a TCP connection has come to its end.
#[inline(always)]
pub const fn is_closed(flags: u32) -> bool {
    flags & FLAG_RESET != 0 || flags & (FLAG_FIN_BEGAN | FLAG_FIN_ANSWER) == FLAG_FIN_BEGAN | FLAG_FIN_ANSWER
}
