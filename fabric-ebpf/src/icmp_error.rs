//! ICMP and ICMPv6 errors from the gateway (RFC 792, RFC 4443), written over the packet that they are about.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    btf_maps::PerCpuArray,
    helpers::{
        bpf_csum_diff, bpf_ktime_get_boot_ns, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    macros::btf_map,
    programs::TcContext,
};
use fabric_common::{
    abi,
    addr::{Addr, Mac},
    network::NetworkValue,
    reason::{Action, DropReason, Hook},
};
use fabric_ebpf::{bucket, checksum};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    counters,
    extension::{self, Upper},
    inner::{ETH_LEN, ICMP, ICMPV6, IPV4, IPV6},
    network,
    packet::{Frame, add_addr, bounded, header, same_addr, skb, v6 as v6_addr, word},
    port,
};

/// The word of the token bucket, and room for an answer, which would take half of the stack that a program has.
#[btf_map(name = "icmp_errors")]
static ERRORS: PerCpuArray<[u64; WORDS], { abi::ICMP_ERRORS.entries as usize }> = PerCpuArray::new();

const WORDS: usize = 1 + size_of::<Answer<Ipv6Hdr>>() / 8;

/// Bytes of the packet that the answer quotes at most. Room for the longest IPv4 header, or for IPv6 with a few extension headers,
/// and for the transport header's ports and sequence number, by which the sender finds the connection.
const QUOTED: usize = 128;
/// ICMP's header.
const HEAD: usize = 8;
/// ICMP's header and what it quotes, at most.
const MESSAGE: usize = HEAD + QUOTED;
/// Bytes that are taken out at the front, more than any transport header is away from it. The kernel gives a checksum up
/// that the sender left to the hardware (CHECKSUM_PARTIAL) once its place is gone (`__skb_postpull_rcsum`); otherwise it
/// might be written into the quoted packet.
const FRONT: u32 = 128;

/// The whole answer. The two bytes in front align the rest to words.
#[repr(C, align(8))]
struct Answer<Ip> {
    pad: [u8; 2],
    eth: EthHdr,
    ip: Ip,
    icmp: [u8; 8],
    quoted: [u8; QUOTED],
}

/// An error as one integer, which a function that is not inlined can take: type and code of ICMP, of ICMPv6, and the MTU that
/// the message tells, 0 where it tells none.
#[derive(Clone, Copy)]
pub struct Error(u64);

impl Error {
    /// No network that is opened to the sender's has the destination (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
    pub const NO_ROUTE: Self = Self::new([3, 0], [1, 0], 0);
    /// Nobody has the destination address.
    pub const NO_HOST: Self = Self::new([3, 1], [1, 3], 0);
    /// Nothing listens there.
    pub const NO_PORT: Self = Self::new([3, 3], [1, 4], 0);
    /// A link-local source, which is not routed. IPv4 has no such message and no such source here.
    pub const BEYOND_SCOPE: Self = Self::new([3, 0], [1, 2], 0);
    /// Time to live or hop limit used up.
    pub const TTL_EXCEEDED: Self = Self::new([11, 0], [3, 0], 0);

    /// Fragmentation needed (RFC 1191), packet too big (RFC 4443 section 3.2).
    pub const fn too_big(mtu: u16) -> Self {
        Self::new([3, 4], [2, 0], mtu)
    }

    const fn new(v4: [u8; 2], v6: [u8; 2], mtu: u16) -> Self {
        let [high, low] = mtu.to_be_bytes();
        Self(u64::from_be_bytes([v4[0], v4[1], v6[0], v6[1], high, low, 0, 0]))
    }

    /// The first eight bytes of the message; the checksum is zero.
    #[inline(always)]
    const fn head(self, v6: bool) -> [u8; 8] {
        let [type4, code4, type6, code6, high, low, _, _] = self.0.to_be_bytes();
        if v6 { [type6, code6, 0, 0, 0, 0, high, low] } else { [type4, code4, 0, 0, 0, 0, high, low] }
    }
}

/// Answers the packet, which was counted as dropped, with `error` if it may be answered. Returns the TC code. The packet must
/// be as the container sent it.
#[inline(always)]
pub fn answer(ctx: &TcContext, error: Error) -> i32 {
    answer_packed(ctx, error.0)
}

/// Out of line, and finds all that it needs itself: nothing of it costs the packets that are not dropped.
#[inline(never)]
fn answer_packed(ctx: &TcContext, error: u64) -> i32 {
    let Ok(port) = port::get(Frame::ifindex(ctx)) else { return TC_ACT_SHOT };
    let length = write(ctx, port.vni, &port.mac, Error(error));
    if length == 0 {
        return TC_ACT_SHOT;
    }
    counters::action_beside(Hook::FromContainer, Action::IcmpError, 1, length);
    // SAFETY: a plain helper call.
    unsafe { bpf_redirect(Frame::ifindex(ctx), 0) as i32 }
}

/// Writes the answer of the gateway of network `vni`, to the MAC `to`, over the packet. Length of the answer; 0 if there is
/// none.
#[inline(always)]
pub fn write(ctx: &TcContext, vni: u32, to: &Mac, error: Error) -> u32 {
    let Ok(eth) = header::<EthHdr>(ctx, 0, DropReason::Malformed) else { return 0 };
    let Some(network) = network::get(vni) else { return 0 };
    if eth.ether_type == IPV4 {
        v4(ctx, to, network, error.0)
    } else {
        v6(ctx, to, network, error.0)
    }
}

/// Takes one answer from this CPU's budget, and gives the room to put it together.
#[inline(always)]
fn take<Ip>() -> Option<*mut Answer<Ip>> {
    let errors = ERRORS.get_ptr_mut(0)?.cast::<u64>();
    // SAFETY: this CPU's own slot, as long as the longest answer and the word in front of it; a plain helper call.
    unsafe {
        *errors = bucket::take(*errors, bpf_ktime_get_boot_ns(), 1, bucket::BURST)?;
        Some(errors.add(1).cast())
    }
}

#[inline(never)]
fn v4(ctx: &TcContext, to: &Mac, network: &NetworkValue, error: u64) -> u32 {
    let Ok(ip) = header::<Ipv4Hdr>(ctx, ETH_LEN, DropReason::Malformed) else { return 0 };
    let frags = u16::from_be_bytes(ip.frags);
    // RFC 1122 section 3.2.2: not in answer to a later fragment, nor to a packet for a group.
    if frags & 0x1fff != 0 || ip.dst_addr[0] >= 224 {
        return 0;
    }
    let upper = (ETH_LEN + usize::from(ip.vihl & 0xf) * 4) as u32;
    // Nor in answer to an error: the messages that are none.
    if ip.proto == ICMP && !matches!(ctx.load::<[u8; 1]>(upper as usize), Ok([0 | 8 | 13..=18])) {
        return 0;
    }
    let (sender, gateway) = (word(&ip.src_addr), network.gateway_v4.v4_bytes());
    if same_addr(&network.gateway_v4, &Addr::UNSPECIFIED) {
        return 0;
    }
    let quoted = quotable(ctx, u32::from(u16::from_be_bytes(ip.tot_len)));
    let tot_len = ((20 + HEAD) as u16 + quoted as u16).to_be_bytes();
    let Some(answer) = take::<Ipv4Hdr>() else { return 0 };
    let head = [
        u32::from_ne_bytes([0x45, 0xc0, tot_len[0], tot_len[1]]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([64, ICMP, 0, 0]),
    ];
    let sum = head.iter().fold(0, |sum, word| checksum::add(sum, *word));
    let sum = checksum::add(checksum::add(sum, u32::from_ne_bytes(gateway)), sender);
    // SAFETY: this CPU's own room. What is in it from before is plain bytes.
    unsafe {
        (&raw mut (*answer).eth).write(EthHdr {
            dst_addr: to.bytes,
            src_addr: network.gateway_mac.bytes,
            ether_type: IPV4,
        });
        (&raw mut (*answer).ip).write(Ipv4Hdr {
            vihl: 0x45,
            // Internetwork control (RFC 1812 section 4.3.2.5).
            tos: 0xc0,
            tot_len,
            id: [0; 2],
            frags: [0x40, 0],
            ttl: 64,
            proto: ICMP,
            check: checksum::finish(sum).to_ne_bytes(),
            src_addr: gateway,
            dst_addr: sender.to_ne_bytes(),
        });
        (&raw mut (*answer).icmp).write(Error(error).head(false));
        finish(ctx, answer, quoted, 0)
    }
}

#[inline(never)]
fn v6(ctx: &TcContext, to: &Mac, network: &NetworkValue, error: u64) -> u32 {
    let Ok(ip) = header::<Ipv6Hdr>(ctx, ETH_LEN, DropReason::Malformed) else { return 0 };
    if ip.dst_addr[0] == 0xff || same_addr(&network.gateway_v6, &Addr::UNSPECIFIED) {
        return 0;
    }
    // As for IPv4, and not where it can't be told (RFC 4443 section 2.4(e)). Errors are below 128.
    match extension::upper(ctx, (ETH_LEN + 40) as u32, ip.next_hdr) {
        Upper::Header { protocol: ICMPV6, at } => match ctx.load::<[u8; 1]>(at as usize) {
            Ok([128..=255]) => {}
            _ => return 0,
        },
        Upper::Header { .. } => {}
        Upper::LaterFragment | Upper::Unknown => return 0,
    }
    let quoted = quotable(ctx, u32::from(u16::from_be_bytes(ip.payload_len)) + 40);
    let payload_len = (HEAD as u16 + quoted as u16).to_be_bytes();
    let Some(answer) = take::<Ipv6Hdr>() else { return 0 };
    // SAFETY: this CPU's own room. What is in it from before is plain bytes.
    unsafe {
        (&raw mut (*answer).eth).write(EthHdr {
            dst_addr: to.bytes,
            src_addr: network.gateway_mac.bytes,
            ether_type: IPV6,
        });
        (&raw mut (*answer).ip).write(Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len,
            next_hdr: ICMPV6,
            hop_limit: 64,
            src_addr: network.gateway_v6.bytes,
            dst_addr: v6_addr(&ip.src_addr).bytes,
        });
        (&raw mut (*answer).icmp).write(Error(error).head(true));
        // The pseudo-header (RFC 8200 section 8.1).
        let sum =
            u32::from(u16::from_ne_bytes(payload_len)) + u32::from(u16::from_ne_bytes([0, ICMPV6]));
        let sum = add_addr(sum, &network.gateway_v6);
        finish(ctx, answer, quoted, add_addr(sum, &Addr::v6((*answer).ip.dst_addr)))
    }
}

/// How much of a packet of `length` bytes is quoted. In a GSO packet, whose length field says nothing, all that fits.
#[inline(always)]
fn quotable(ctx: &TcContext, length: u32) -> u32 {
    let there = Frame::len(ctx).wrapping_sub(ETH_LEN as u32);
    let length = if Frame::gso_size(ctx) != 0 || length > there { there } else { length };
    if length > QUOTED as u32 { QUOTED as u32 } else { length }
}

/// Quotes the packet, computes ICMP's checksum on top of `sum`, and writes the answer over the packet. Returns its length,
/// or 0.
///
/// # Safety
/// All but `quoted` and the padding must have been written.
#[inline(always)]
unsafe fn finish<Ip>(ctx: &TcContext, answer: *mut Answer<Ip>, quoted: u32, sum: u32) -> u32 {
    if quoted == 0 || quoted > QUOTED as u32 {
        return 0;
    }
    const { assert!(QUOTED.is_power_of_two()) };
    let quoted = bounded(quoted, QUOTED as u32);
    let length = (ETH_LEN + size_of::<Ip>() + HEAD) as u32 + quoted;
    // SAFETY: plain helper calls within the fields' sizes; no packet pointer lives across them.
    unsafe {
        // What is behind a short packet counts as zero in the checksum.
        (&raw mut (*answer).quoted).write([0; QUOTED]);
        if bpf_skb_load_bytes(skb(ctx).cast(), ETH_LEN as u32, (&raw mut (*answer).quoted).cast(), quoted) != 0 {
            return 0;
        }
        let message = (&raw mut (*answer).icmp).cast::<u32>();
        let sum = bpf_csum_diff(core::ptr::null_mut(), 0, message, MESSAGE as u32, sum);
        if sum < 0 {
            return 0;
        }
        let [high, low] = checksum::finish(sum as u32).to_ne_bytes();
        (*answer).icmp[2] = high;
        (*answer).icmp[3] = low;
        if bpf_skb_change_tail(skb(ctx), length + FRONT, 0) != 0
            || bpf_skb_adjust_room(skb(ctx), -(FRONT as i32), BPF_ADJ_ROOM_MAC, 0) != 0
            || bpf_skb_store_bytes(skb(ctx), 0, (&raw const (*answer).eth).cast(), length, 0) != 0
        {
            return 0;
        }
    }
    length
}

const _: () = assert!(size_of::<Answer<Ipv4Hdr>>() == 176 && size_of::<Answer<Ipv6Hdr>>() == 192);
