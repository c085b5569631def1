//! What a packet is to policies and connection tracking: its addresses and ports, also where extension headers stand before
//! them or an earlier fragment had them.

#![expect(clippy::needless_borrows_for_generic_args, reason = "keys are long, and must not be copied to the stack")]

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use fabric_common::{
    abi,
    addr::Addr,
    flow::{FragmentKey, FragmentValue, timeout},
    policy::port_key,
};

use crate::{
    extension::{self, Upper},
    inner::{ETH_LEN, ICMP, ICMPV6},
    packet::Frame,
    question::{self, Question},
};

#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, { abi::FRAGMENTS.entries as usize }> = LruHashMap::new();

/// It belongs to a flow, whose other direction has source and destination exchanged.
pub const FLOW: u8 = 1;
/// It stands alone: ICMP that nothing answers.
pub const SINGLE: u8 = 2;
/// An ICMP error, about the packet that it quotes.
pub const ERROR: u8 = 3;
/// Its ports are not there: a later fragment without its first, or a header that is cut off.
pub const UNKNOWN: u8 = 4;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// TCP flags (RFC 9293 section 3.1).
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// Reads the packet whose IP header is right behind the Ethernet header at `question.offset`, which was checked before.
/// Returns its kind, which is in the question as well.
#[inline(always)]
pub fn read<F: Frame>(frame: &F, question: &mut Question) -> u8 {
    question.first = 0;
    question.detail = [0; 2];
    question.kind = kind(frame, question);
    question.kind
}

#[inline(always)]
fn kind<F: Frame>(frame: &F, question: &mut Question) -> u8 {
    let ip = question.offset + ETH_LEN as u32;
    let Some([version]) = frame.load::<1>(ip) else { return UNKNOWN };
    if version >> 4 == 4 { v4(frame, question, ip, version) } else { v6(frame, question, ip) }
}

#[inline(always)]
fn v4<F: Frame>(frame: &F, question: &mut Question, ip: u32, version: u8) -> u8 {
    let Some(h) = frame.load::<20>(ip) else { return UNKNOWN };
    question.src = Addr::v4([h[12], h[13], h[14], h[15]]);
    question.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
    question.protocol = h[9];
    let field = u16::from_be_bytes([h[6], h[7]]) & 0x3fff;
    let at = ip + u32::from(version & 0xf) * 4;
    if field == 0 {
        return message(frame, question, at);
    }
    name_fragment(question, [h[4], h[5], 0, 0], h[9]);
    fragment(frame, question, at, field & 0x1fff)
}

#[inline(always)]
fn v6<F: Frame>(frame: &F, question: &mut Question, ip: u32) -> u8 {
    let Some([next]) = frame.load::<1>(ip + 6) else { return UNKNOWN };
    if !frame.load_to(ip + 8, &mut question.src.bytes) || !frame.load_to(ip + 24, &mut question.dst.bytes) {
        return UNKNOWN;
    }
    if !extension::is_one(next) {
        question.protocol = next;
        return message(frame, question, ip + 40);
    }
    let mut cut = 0;
    let upper = extension::walk(frame, ip + 40, next, &mut cut);
    if let Upper::Header { protocol, at } = upper {
        question.protocol = protocol;
        if cut == 0 {
            return message(frame, question, at);
        }
    }
    let (Upper::Header { .. } | Upper::LaterFragment) = upper else { return UNKNOWN };
    let Some([_, _, high, low, a, b, c, d]) = frame.load::<8>(cut) else { return UNKNOWN };
    let field = u16::from_be_bytes([high, low]);
    name_fragment(question, [a, b, c, d], 0);
    if let Upper::Header { at, .. } = upper {
        // A whole packet with a fragment header (RFC 6946).
        return if field & 1 == 0 { message(frame, question, at) } else { fragment(frame, question, at, 0) };
    }
    fragment(frame, question, 0, field >> 3)
}

#[inline(always)]
fn name_fragment(question: &mut Question, id: [u8; 4], protocol: u8) {
    question.fragment.vni = question.vni;
    question.fragment.src = question.src;
    question.fragment.dst = question.dst;
    question.fragment.id = id;
    question.fragment.protocol = protocol;
    question.fragment.zero = [0; 3];
}

/// A fragment at `offset` units of eight bytes, whose message would begin at `at`.
#[inline(always)]
fn fragment<F: Frame>(frame: &F, question: &mut Question, at: u32, offset: u16) -> u8 {
    if offset == 0 {
        question.first = 1;
        return message(frame, question, at);
    }
    later(question, u32::from(offset))
}

/// A later fragment: as its first one was.
#[inline(never)]
fn later(question: &mut Question, offset: u32) -> u8 {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    let Some(first) = (unsafe { FRAGMENTS.get(&question.fragment) }) else { return UNKNOWN };
    // It could lie over the flags that were looked at in the first one (RFC 1858 section 3.2.2).
    if question.now.wrapping_sub(first.seen) > timeout::FRAGMENTS || first.protocol == TCP && offset == 1 {
        return UNKNOWN;
    }
    question.protocol = first.protocol;
    question.src_port = first.src_port;
    question.dst_port = first.dst_port;
    question.detail = first.detail;
    first.kind
}

/// Remembers the first fragment in question, which was admitted, for the later ones.
#[inline(never)]
pub fn remember() {
    let Ok(question) = question::get() else { return };
    question.remembered = FragmentValue {
        seen: question.now,
        src_port: question.src_port,
        dst_port: question.dst_port,
        protocol: question.protocol,
        kind: question.kind,
        detail: question.detail,
        zero: [0; 8],
    };
    // A map that is full gives up its oldest row.
    let _: Result<(), _> = FRAGMENTS.insert(&question.fragment, &question.remembered, 0);
}

/// The header of the message, which begins at `at`.
#[inline(always)]
fn message<F: Frame>(frame: &F, question: &mut Question, at: u32) -> u8 {
    question.at = at;
    question.src_port = [0; 2];
    question.dst_port = [0; 2];
    match question.protocol {
        TCP => {
            let Some([a, b, c, d, .., flags]) = frame.load::<14>(at) else { return UNKNOWN };
            question.src_port = [a, b];
            question.dst_port = [c, d];
            question.detail = [flags, 0];
            FLOW
        }
        UDP | SCTP => {
            let Some([a, b, c, d]) = frame.load::<4>(at) else { return UNKNOWN };
            question.src_port = [a, b];
            question.dst_port = [c, d];
            FLOW
        }
        ICMP | ICMPV6 => {
            let Some([kind, code, _, _, a, b, _, _]) = frame.load::<8>(at) else { return UNKNOWN };
            question.detail = [kind, code];
            icmp(question, question.protocol == ICMPV6, [a, b])
        }
        _ => FLOW,
    }
}

/// An echo's identifier is the asker's port.
#[inline(always)]
fn icmp(question: &mut Question, v6: bool, id: [u8; 2]) -> u8 {
    match (v6, question.detail[0]) {
        (false, 8) | (true, 128) => {
            question.src_port = id;
            FLOW
        }
        (false, 0) | (true, 129) => {
            question.dst_port = id;
            FLOW
        }
        // Unreachable, quench, time exceeded, parameter problem; all below 128 (RFC 4443 section 2.1). A redirect is none: nobody
        // in the fabric may send it unasked.
        (false, 3 | 4 | 11 | 12) | (true, 1..=4) => ERROR,
        _ => SINGLE,
    }
}

/// Whether only who begins a flow sends such a packet.
#[inline(always)]
pub fn begins(question: &Question) -> bool {
    let [first, _] = question.detail;
    match question.protocol {
        TCP => first & (SYN | ACK) == SYN,
        ICMP => first == 8,
        ICMPV6 => first == 128,
        _ => false,
    }
}

/// TCP's flags; 0 of other protocols.
#[inline(always)]
pub fn tcp_flags(question: &Question) -> u8 {
    if question.protocol == TCP { question.detail[0] } else { 0 }
}

/// What rules about ports are about in a packet of the direction in which the flow began, or that stands alone: the
/// destination's port, or ICMP's type and code. `answer`: the packet in hand is of the other direction.
#[inline(always)]
pub fn asked_port(question: &Question, answer: bool) -> u32 {
    let protocol = question.protocol;
    match protocol {
        // Of an echo that goes on, the request is what was asked.
        ICMP if question.kind == FLOW && answer => port_key(protocol, 8 << 8),
        ICMPV6 if question.kind == FLOW && answer => port_key(protocol, 128 << 8),
        ICMP | ICMPV6 => port_key(protocol, u16::from_be_bytes(question.detail)),
        _ if answer => port_key(protocol, u16::from_be_bytes(question.src_port)),
        _ => port_key(protocol, u16::from_be_bytes(question.dst_port)),
    }
}
