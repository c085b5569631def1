//! Writes a translation into a packet. Checksums follow by differences (RFC 1624), through helpers that know what the hardware
//! has summed up or will; segmentation stays as it was asked for.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::TcContext,
};
use fabric_common::{addr::Addr, reason::DropReason};

use crate::{
    inner::{ETH_LEN, ICMP, ICMPV6},
    nat::{self, Change},
    packet::Frame,
    question,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ETH: u32 = ETH_LEN as u32;
/// The source is changed.
pub const SOURCE: u32 = 0;
/// The destination is changed.
pub const DESTINATION: u32 = 1;

/// Changes one side of the packet in question, [`SOURCE`] or [`DESTINATION`], as the room says, and takes a hop off. In an ICMP
/// error, the other side of the packet that it quotes as well (RFC 5508 section 4.2). Returns 0, or the number of a drop reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nat_rewrite(skb: *mut __sk_buff, side: u32) -> u32 {
    let (Ok(question), Some(room)) = (question::get(), nat::room()) else { return DropReason::NatFailed as u32 };
    let change = &mut room.change;
    let (from, to) = (change.from.bytes.as_mut_ptr().cast(), change.to.bytes.as_mut_ptr().cast());
    // SAFETY: a plain helper call over two addresses.
    let diff = unsafe { bpf_csum_diff(from, 16, to, 16, 0) };
    let packet = Packet { skb, side: side & 1, v6: !change.to.is_v4(), diff: diff as u32 };
    let written = if diff < 0 {
        None
    } else {
        // The error's message first: its checksum knows the quoted packet, and over IPv6 the outer addresses.
        let inside = if room.quoted != 0 {
            packet.quoted(change, question.at, room.quoted, room.protocol as u8)
        } else if question.at != 0 {
            packet.transport(change, question.at, room.protocol as u8)
        } else {
            Some(())
        };
        inside.and_then(|()| packet.header(change))
    };
    if written.is_some() { 0 } else { DropReason::NatFailed as u32 }
}

/// What is changed where.
struct Packet {
    skb: *mut __sk_buff,
    side: u32,
    v6: bool,
    /// Difference of the addresses.
    diff: u32,
}

impl Packet {
    /// The IP header.
    #[inline(always)]
    fn header(&self, change: &Change) -> Option<()> {
        let ctx = TcContext::new(self.skb);
        if self.v6 {
            let [limit] = Frame::load::<1>(&ctx, ETH + 7)?;
            // No checksum in the header takes these changes back out of what the hardware summed up. The one of the message does,
            // but `BPF_F_PSEUDO_HDR` takes out what it puts in, as IPv4 needs it.
            self.store(ETH + 7, &[limit.wrapping_sub(1)], BPF_F_RECOMPUTE_CSUM)?;
            return self.store(ETH + 8 + self.side * 16, &change.to.bytes, BPF_F_RECOMPUTE_CSUM);
        }
        let [ttl, protocol] = Frame::load::<2>(&ctx, ETH + 8)?;
        let less = [ttl.wrapping_sub(1), protocol];
        let (from, to) = (word4(&change.from), word4(&change.to));
        // SAFETY: plain helper calls.
        let failed = unsafe {
            bpf_l3_csum_replace(self.skb, ETH + 10, half([ttl, protocol]), half(less), 2) != 0
                || bpf_l3_csum_replace(self.skb, ETH + 10, from, to, 4) != 0
        };
        if failed {
            return None;
        }
        self.store(ETH + 8, &less, 0)?;
        self.store(ETH + 12 + self.side * 4, &change.to.v4_bytes(), 0)
    }

    /// The transport header at `at`, or an echo's.
    #[inline(always)]
    fn transport(&self, change: &Change, at: u32, protocol: u8) -> Option<()> {
        let (check, port) = places(at, self.side, protocol)?;
        if check == 0 {
            return Some(());
        }
        if protocol != ICMP {
            self.sum(check, 0, u64::from(self.diff), BPF_F_PSEUDO_HDR | zero(protocol))?;
        }
        self.sum(check, half(change.from_port), half(change.to_port), 2 | zero(protocol))?;
        self.store(port, &change.to_port, 0)
    }

    /// The packet that the error whose ICMP header is at `at` quotes, its transport header at `inner`.
    #[inline(always)]
    fn quoted(&self, change: &Change, at: u32, inner: u32, protocol: u8) -> Option<()> {
        let (ip, icmp, other) = (at + 8, at + 2, 1 - self.side);
        let (check, port) = places(inner, other, protocol)?;
        if self.v6 {
            self.sum(icmp, 0, u64::from(self.diff), BPF_F_PSEUDO_HDR)?;
            self.sum(icmp, 0, u64::from(self.diff), 0)?;
            self.store(ip + 8 + other * 16, &change.to.bytes, 0)?;
        } else {
            // The header's own checksum takes the address out of the message's.
            // SAFETY: a plain helper call.
            if unsafe { bpf_l3_csum_replace(self.skb, ip + 10, word4(&change.from), word4(&change.to), 4) } != 0 {
                return None;
            }
            self.store(ip + 12 + other * 4, &change.to.v4_bytes(), 0)?;
        }
        if check == 0 {
            return Some(());
        }
        self.sum(icmp, half(change.from_port), half(change.to_port), 2)?;
        self.store(port, &change.to_port, 0)?;
        // It may be cut off (RFC 792 asks for eight bytes), or not be there.
        let ctx = TcContext::new(self.skb);
        let Some(old) = Frame::load::<2>(&ctx, check) else { return Some(()) };
        if protocol == UDP && old == [0; 2] {
            return Some(());
        }
        if protocol != ICMP {
            self.sum(check, 0, u64::from(self.diff), zero(protocol))?;
        }
        self.sum(check, half(change.from_port), half(change.to_port), 2 | zero(protocol))?;
        let new = Frame::load::<2>(&ctx, check)?;
        self.sum(icmp, half(old), half(new), 2)
    }

    #[inline(always)]
    fn sum(&self, at: u32, from: u64, to: u64, flags: u32) -> Option<()> {
        // SAFETY: a plain helper call.
        let failed = unsafe { bpf_l4_csum_replace(self.skb, at, from, to, u64::from(flags)) };
        if failed == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn store<const N: usize>(&self, at: u32, bytes: &[u8; N], flags: u32) -> Option<()> {
        // SAFETY: the helper reads exactly `N` bytes.
        let failed =
            unsafe { bpf_skb_store_bytes(self.skb, at, bytes.as_ptr().cast(), N as u32, u64::from(flags)) };
        if failed == 0 { Some(()) } else { None }
    }
}

/// Where a message's checksum and the port of a side are, the message beginning at `at`. A checksum at 0: SCTP's, which does not
/// know addresses, and whose port stays.
#[inline(always)]
fn places(at: u32, side: u32, protocol: u8) -> Option<(u32, u32)> {
    Some(match protocol {
        TCP => (at + 16, at + side * 2),
        UDP => (at + 6, at + side * 2),
        ICMP | ICMPV6 => (at + 2, at + 4),
        132 => (0, 0),
        _ => return None,
    })
}

/// UDP's checksum of zero is none, and one that becomes zero is written otherwise (RFC 768).
#[inline(always)]
fn zero(protocol: u8) -> u32 {
    if protocol == UDP { BPF_F_MARK_MANGLED_0 } else { 0 }
}

/// Two bytes as the helpers take them: as they lie in memory.
#[inline(always)]
fn half(bytes: [u8; 2]) -> u64 {
    u64::from(u16::from_ne_bytes(bytes))
}

/// An IPv4 address as the helpers take it.
#[inline(always)]
fn word4(addr: &Addr) -> u64 {
    u64::from(u32::from_ne_bytes(addr.v4_bytes()))
}
