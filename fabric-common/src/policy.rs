//! Policy as the programs see it: who may talk to whom.
//!
//! The agent numbers what matters: label sets become **identities**, what applies to an endpoint becomes a **policy**, ranges
//! of ports become **tables**, rules become **rules** (for names). What a number stands for never changes while it is in use
//! (see [`NumberKey`]), so that a verdict that was given for a policy and an identity stays right for as long as both are
//! those of the packet in hand: nothing has to be invalidated.

use crate::shared;

/// The policy of an endpoint to which none applies: everything is admitted, nothing is tracked.
pub const NO_POLICY: u32 = 0;

/// Set in the numbers of policies that name domain names: their endpoints' DNS messages are looked at, and `named` says whose some
/// addresses of the world are.
pub const POLICY_NAMES: u32 = 1 << 31;

/// Direction of a question: what the endpoint sends.
pub const EGRESS: u32 = 1;
/// Direction of a question: what the endpoint receives.
pub const INGRESS: u32 = 2;

/// The identity of whoever is no endpoint, no node, and in no CIDR that a rule names. As a key it is a policy's answer for
/// every identity that has no row of its own.
pub const IDENTITY_ANYONE: u32 = 0;
/// Set in the identities of nodes and gateways: those who send ICMP errors about other people's packets.
pub const IDENTITY_NODE: u32 = 1 << 31;

shared! {
    /// Key of `policies`. A question is looked up with the other side's identity and, where that has no row, with
    /// [`IDENTITY_ANYONE`]. A policy without that row is unknown, and what is unknown is dropped.
    12 bytes: pub struct PolicyKey {
        /// The policy of the endpoint that is asked for.
        pub policy: u32,
        /// [`EGRESS`] or [`INGRESS`].
        pub direction: u32,
        /// Identity of the other side.
        pub identity: u32,
    }
}

shared! {
    /// Value of `policies`.
    4 bytes: pub struct PolicyValue {
        /// See [`verdict`].
        pub verdict: u32,
    }
}

/// A verdict in 32 bits: what kind (two bits), how it is carried out (three bits), and the number of the rule that decides or of
/// the table that knows.
pub mod verdict {
    /// Not admitted; the other bits are the rule's number.
    pub const DENY: u32 = 0;
    /// Admitted; the other bits are the rule's number.
    pub const ALLOW: u32 = 1 << 30;
    /// It depends on protocol and port; the other bits are the `policy_ports` key.
    pub const TABLE: u32 = 2 << 30;
    /// The bits of the kind.
    pub const KIND: u32 = 3 << 30;
    /// With [`DENY`]: the sender is told.
    pub const REJECT: u32 = 1 << 29;
    /// With [`ALLOW`]: the rule denies, but its policy is only tried out.
    pub const AUDIT: u32 = 1 << 28;
    /// With [`ALLOW`]: a new flow is reported.
    pub const LOG: u32 = 1 << 27;
    /// What a flow keeps of the verdict that admitted it.
    pub const KEPT: u32 = AUDIT | NUMBER;
    /// The bits of the number. Rule and table numbers are 1 to this; rule 0 is no rule (no policy applies).
    pub const NUMBER: u32 = LOG - 1;
}

/// The mark of an answer to a rejected packet, on its way into the port of the packet's receiver, where policies let it pass.
pub const REJECT_MARK: u32 = 0x20fa_b000;

/// Ranges in one `policy_ports` row.
pub const PORT_RANGES: usize = 16;
/// How deep tables may lead to tables: the first one, and two below it, 4096 ranges in all.
pub const PORT_DEPTH: usize = 3;

shared! {
    /// Value of `policy_ports`, keyed by table number: ranges of [`port_key`]s that follow each other without gaps. The verdict
    /// of the last range whose start is not above the key is the answer; it may be [`verdict::TABLE`], [`PORT_DEPTH`] tables
    /// deep. A row that is not full repeats its last range.
    128 bytes: pub struct PolicyPorts {
        /// First key of each range, ascending; the first is 0.
        pub starts: [u32; 16],
        /// Verdict of each range.
        pub verdicts: [u32; 16],
    }
}

/// What ranges of ports are about: the protocol number, above the destination port (host byte order) of TCP, UDP and SCTP; with
/// ICMP and ICMPv6, type and code; with everything else 0.
#[inline(always)]
pub const fn port_key(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

shared! {
    /// Key of `numbers`.
    8 bytes: pub struct NumberKey {
        /// `KIND_*`.
        pub kind: u32,
        /// An identity, a policy, a table or a rule.
        pub number: u32,
    }
}

/// The number is an identity.
pub const KIND_IDENTITY: u32 = 1;
/// The number is a policy.
pub const KIND_POLICY: u32 = 2;
/// The number is a table of ports.
pub const KIND_TABLE: u32 = 3;
/// The number is a rule.
pub const KIND_RULE: u32 = 4;

shared! {
    /// Value of `numbers`: what a number stands for. The programs do not read it; an agent that starts anew learns from it
    /// which numbers are taken and by what, so that verdicts of flows that go on stay right.
    16 bytes: pub struct NumberValue {
        /// First half of the SHA-256 of the content.
        pub digest: [u8; 16],
    }
}
