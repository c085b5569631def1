//! Answers to packets that a policy rejects, written over the packet: a reset to a TCP segment (RFC 9293 section 3.10.7.1), to
//! everything else an ICMP error, administratively prohibited (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
//!
//! Whose sender lives here gets the answer at its port. To others it goes as if the receiver had sent it: it enters at the
//! receiver's port, with a mark by which policies let it pass, and `from_container` finds the way, whatever it is.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
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
    policy::REJECT_MARK,
    reason::{Action, Hook},
};
use fabric_ebpf::{bucket, checksum};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    counters,
    extension::{self, Upper},
    fdb,
    inner::{ETH_LEN, ICMP, ICMPV6, IPV4, IPV6},
    network,
    packet::{Frame, add_addr, bounded, same_addr, skb},
    port,
    question::{self, Question},
    transport::{self, ACK, ERROR, FIN, RST, SYN},
};

/// The word of the token bucket, and room for an answer. Not that of the other ICMP errors: who is rejected must not use up what
/// path MTU discovery needs.
#[btf_map(name = "rejects")]
static REJECTS: PerCpuArray<[u64; WORDS], { abi::REJECTS.entries as usize }> = PerCpuArray::new();

const WORDS: usize = 1 + size_of::<Answer<Ipv6Hdr>>() / 8;

const TCP: u8 = 6;
/// Bytes of the packet that an ICMP error quotes at most.
const QUOTED: usize = 128;
/// ICMP's header.
const HEAD: usize = 8;
/// What is behind the IP header, at most.
const MESSAGE: usize = HEAD + QUOTED;
/// A TCP header without options.
const TCP_LEN: usize = 20;
/// Bytes that are taken out at the front, more than any transport header is away from it, behind the outer headers as well:
/// `icmp_error` says why.
const FRONT: u32 = 256;
const TTL: u8 = 64;

/// The whole answer. The two bytes in front align the rest to words.
#[repr(C, align(8))]
struct Answer<Ip> {
    pad: [u8; 2],
    eth: EthHdr,
    ip: Ip,
    message: [u8; MESSAGE],
}

/// Answers the packet of this CPU's question, which was counted as dropped, if it may be answered. Returns the TC code.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> i32 {
    reject_answer(skb(ctx))
}

/// Global, so that the verifier checks it once for all programs.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn reject_answer(skb: *mut __sk_buff) -> i32 {
    let ctx = TcContext::new(skb);
    match question::get() {
        Ok(question) if question.reject != 0 => send(&ctx, question).unwrap_or(TC_ACT_SHOT),
        _ => TC_ACT_SHOT,
    }
}

/// Whether the packet that this CPU's question was about is to be answered.
#[inline(always)]
pub fn is_wanted() -> bool {
    question::get().is_ok_and(|question| question.reject != 0)
}

/// Whether the packet, of which policies are to be asked, is an answer of ours. Takes the mark off. A mark stays within the network
/// namespace: what comes from a container has none.
#[inline(always)]
pub fn is_answer(ctx: &TcContext) -> bool {
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
    if unsafe { (*skb(ctx)).mark } != REJECT_MARK {
        return false;
    }
    is_marked(ctx) != 0
}

/// Nothing else passes by the mark.
#[inline(never)]
fn is_marked(ctx: &TcContext) -> u32 {
    let Ok(question) = question::get() else { return 0 };
    if question.hook != Hook::FromContainer as u32 {
        return 0;
    }
    // SAFETY: as above; a program may write the mark.
    unsafe { (*skb(ctx)).mark = 0 };
    let kind = transport::read(ctx, question);
    u32::from(kind == ERROR || transport::tcp_flags(question) & RST != 0)
}

/// Beside the length of an answer: it is a reset.
const RESET: u32 = 1 << 31;

#[inline(always)]
fn send(ctx: &TcContext, question: &Question) -> Option<i32> {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low] = Frame::load::<ETH_LEN>(ctx, question.offset)?;
    let dst = [d0, d1, d2, d3, d4, d5];
    // Nothing is said about a packet to a group (RFC 1122 section 3.2.2, RFC 4443 section 2.4(e)).
    if d0 & 1 != 0 {
        return None;
    }
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program. Volatile, so that the compiler does not make one load of
    // this and that of the receiver's port, whose address would be either one's: the verifier wants to know.
    let here = unsafe { core::ptr::read_volatile(&raw const (*skb(ctx)).ifindex) };
    let (mut to, mut from) = (mac([s0, s1, s2, s3, s4, s5]), mac(dst));
    let home = question.hook == Hook::FromContainer as u32;
    let ifindex = if home {
        let port = port::get(here).ok()?;
        let own = mac(port.mac.bytes);
        // What was routed before it was rejected comes from the gateway's MAC.
        if to != own {
            (to, from) = (own, to);
        }
        here
    } else {
        fdb::get(question.vni, Mac::new(dst))?.ifindex
    };
    if ifindex == 0 {
        return None;
    }
    let written = match u16::from_ne_bytes([high, low]) {
        IPV4 => v4(ctx, to, from, u32::from(home)),
        IPV6 => v6(ctx, to, from, u32::from(home)),
        _ => 0,
    };
    if written == 0 {
        return None;
    }
    let action = if written & RESET != 0 { Action::Reset } else { Action::IcmpError };
    counters::action_beside(Hook::from_number(question.hook as u8)?, action, 1, written & !RESET);
    // SAFETY: plain helper calls; a program may write the mark.
    unsafe {
        if home {
            return Some(bpf_redirect(ifindex, 0) as i32);
        }
        (*skb(ctx)).mark = REJECT_MARK;
        Some(bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32)
    }
}

/// A MAC as an integer, which a function that is not inlined can take.
#[inline(always)]
const fn mac([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[inline(always)]
const fn bytes(mac: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = mac.to_be_bytes();
    [a, b, c, d, e, f]
}

/// Who tells of an ICMP error, other than the receiver: the gateway of the network of the port that the packet came in at.
#[inline(always)]
fn gateway(ctx: &TcContext) -> Option<&'static NetworkValue> {
    network::get(port::get(Frame::ifindex(ctx)).ok()?.vni)
}

/// Writes the answer; returns its length, with [`RESET`] if it is one, or 0. `home`: the sender lives here.
#[inline(never)]
fn v4(ctx: &TcContext, to: u64, from: u64, home: u32) -> u32 {
    let Ok(question) = question::get() else { return 0 };
    let ip_at = question.offset + ETH_LEN as u32;
    let Some(ip) = Frame::load::<20>(ctx, ip_at) else { return 0 };
    let frags = u16::from_be_bytes([ip[6], ip[7]]);
    if frags & 0x1fff != 0 || ip[16] >= 224 {
        return 0;
    }
    let (length, protocol) = (u32::from(u16::from_be_bytes([ip[2], ip[3]])), ip[9]);
    let at = ip_at + u32::from(ip[0] & 0xf) * 4;
    // In one piece; of the others only the first part is there, and how long a segment it is of is not known.
    let tcp = protocol == TCP && frags & 0x3fff == 0;
    if !may_be_answered(ctx, protocol, at) {
        return 0;
    }
    let mut source = [ip[16], ip[17], ip[18], ip[19]];
    let sender = [ip[12], ip[13], ip[14], ip[15]];
    let mut from = bytes(from);
    if !tcp
        && home != 0
        && let Some(network) = gateway(ctx)
        && !same_addr(&network.gateway_v4, &Addr::UNSPECIFIED)
    {
        (source, from) = (network.gateway_v4.v4_bytes(), network.gateway_mac.bytes);
    }
    let Some(answer) = take::<Ipv4Hdr>() else { return 0 };
    let sum = checksum::add(checksum::add(0, u32::from_ne_bytes(source)), u32::from_ne_bytes(sender));
    // SAFETY: this CPU's own room. What is in it from before is plain bytes.
    unsafe {
        (&raw mut (*answer).eth).write(EthHdr { dst_addr: bytes(to), src_addr: from, ether_type: IPV4 });
        let message = if tcp {
            let pseudo = u32::from_ne_bytes([0, TCP, 0, TCP_LEN as u8]);
            reset(ctx, &mut (*answer).message, at, (ip_at + length).wrapping_sub(at), checksum::add(sum, pseudo))
        } else {
            error(ctx, &mut (*answer).message, [3, 13], ip_at, length, 0)
        };
        if message == 0 {
            return 0;
        }
        let (tos, proto) = if tcp { (0, TCP) } else { (0xc0, ICMP) };
        let tot_len = (20 + message as u16).to_be_bytes();
        let sum = checksum::add(sum, u32::from_ne_bytes([0x45, tos, tot_len[0], tot_len[1]]));
        let sum = checksum::add(checksum::add(sum, u32::from_ne_bytes([0, 0, 0x40, 0])), u32::from_ne_bytes([TTL, proto, 0, 0]));
        (&raw mut (*answer).ip).write(Ipv4Hdr {
            vihl: 0x45,
            tos,
            tot_len,
            id: [0; 2],
            frags: [0x40, 0],
            ttl: TTL,
            proto,
            check: checksum::finish(sum).to_ne_bytes(),
            src_addr: source,
            dst_addr: sender,
        });
        put(ctx, (&raw mut (*answer).eth).cast(), 20, message, tcp)
    }
}

/// As [`v4`].
#[inline(never)]
fn v6(ctx: &TcContext, to: u64, from: u64, home: u32) -> u32 {
    let Ok(question) = question::get() else { return 0 };
    let ip_at = question.offset + ETH_LEN as u32;
    let Some([_, _, _, _, high, low, next, _]) = Frame::load::<8>(ctx, ip_at) else { return 0 };
    let mut cut = 0;
    let Upper::Header { protocol, at } = extension::walk(ctx, ip_at + 40, next, &mut cut) else { return 0 };
    let length = u32::from(u16::from_be_bytes([high, low])) + 40;
    let tcp = protocol == TCP && cut == 0;
    if !may_be_answered(ctx, protocol, at) {
        return 0;
    }
    let Some(answer) = take::<Ipv6Hdr>() else { return 0 };
    // SAFETY: this CPU's own room. What is in it from before is plain bytes.
    unsafe {
        let ip = &mut (*answer).ip;
        if !Frame::load_to(ctx, ip_at + 8, &mut ip.dst_addr) || !Frame::load_to(ctx, ip_at + 24, &mut ip.src_addr) {
            return 0;
        }
        if ip.src_addr[0] == 0xff {
            return 0;
        }
        let mut from = bytes(from);
        if !tcp
            && home != 0
            && let Some(network) = gateway(ctx)
            && !same_addr(&network.gateway_v6, &Addr::UNSPECIFIED)
        {
            (ip.src_addr, from) = (network.gateway_v6.bytes, network.gateway_mac.bytes);
        }
        (&raw mut (*answer).eth).write(EthHdr { dst_addr: bytes(to), src_addr: from, ether_type: IPV6 });
        let sum = add_addr(add_addr(0, &Addr::v6(ip.src_addr)), &Addr::v6(ip.dst_addr));
        let message = if tcp {
            let pseudo = u32::from_ne_bytes([0, TCP, 0, TCP_LEN as u8]);
            reset(ctx, &mut (*answer).message, at, (ip_at + length).wrapping_sub(at), checksum::add(sum, pseudo))
        } else {
            error(ctx, &mut (*answer).message, [1, 1], ip_at, length, sum)
        };
        if message == 0 {
            return 0;
        }
        ip.vcf = [0x60, 0, 0, 0];
        ip.payload_len = (message as u16).to_be_bytes();
        ip.next_hdr = if tcp { TCP } else { ICMPV6 };
        ip.hop_limit = TTL;
        put(ctx, (&raw mut (*answer).eth).cast(), 40, message, tcp)
    }
}

/// Not an ICMP error, which is what must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4(e)), and not a reset.
#[inline(always)]
fn may_be_answered(ctx: &TcContext, protocol: u8, at: u32) -> bool {
    match protocol {
        ICMP => matches!(Frame::load::<1>(ctx, at), Some([0 | 8 | 13..=18])),
        ICMPV6 => matches!(Frame::load::<1>(ctx, at), Some([128..=255])),
        TCP => matches!(Frame::load::<1>(ctx, at + 13), Some([flags]) if flags & RST == 0),
        _ => true,
    }
}

/// Takes one answer from this CPU's budget, and gives the room to put it together.
#[inline(always)]
fn take<Ip>() -> Option<*mut Answer<Ip>> {
    let rejects = REJECTS.get_ptr_mut(0)?.cast::<u64>();
    // SAFETY: this CPU's own slot, as long as the longest answer and the word in front of it; a plain helper call.
    unsafe {
        *rejects = bucket::take(*rejects, bpf_ktime_get_boot_ns(), 1, bucket::BURST)?;
        Some(rejects.add(1).cast())
    }
}

/// The reset that answers the segment at `at`, of `length` bytes with its header; `sum` is that of the pseudo-header. Returns its
/// length, or 0.
#[inline(always)]
fn reset(ctx: &TcContext, message: &mut [u8; MESSAGE], at: u32, length: u32, sum: u32) -> u32 {
    let Some(tcp) = Frame::load::<TCP_LEN>(ctx, at) else { return 0 };
    let (flags, header) = (tcp[13], u32::from(tcp[12] >> 4) * 4);
    if header > length {
        return 0;
    }
    let acknowledged = flags & ACK != 0;
    let taken = length - header + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let ack = seq.wrapping_add(taken).to_be_bytes();
    let (s, a, flags) =
        if acknowledged { ([tcp[8], tcp[9], tcp[10], tcp[11]], [0; 4], RST) } else { ([0; 4], ack, RST | ACK) };
    let words = [
        u32::from_ne_bytes([tcp[2], tcp[3], tcp[0], tcp[1]]),
        u32::from_ne_bytes(s),
        u32::from_ne_bytes(a),
        u32::from_ne_bytes([0x50, flags, 0, 0]),
    ];
    let mut sum = sum;
    let mut i = 0;
    while i < words.len() {
        sum = checksum::add(sum, words[i]);
        let [a, b, c, d] = words[i].to_ne_bytes();
        (message[i * 4], message[i * 4 + 1], message[i * 4 + 2], message[i * 4 + 3]) = (a, b, c, d);
        i += 1;
    }
    let [high, low] = checksum::finish(sum).to_ne_bytes();
    (message[16], message[17], message[18], message[19]) = (high, low, 0, 0);
    TCP_LEN as u32
}

/// The error of type and code `kind` about the IP packet at `ip_at`, of `length` bytes; `sum` is that of the addresses, where they
/// count. Returns its length, or 0.
#[inline(always)]
fn error(ctx: &TcContext, message: &mut [u8; MESSAGE], kind: [u8; 2], ip_at: u32, length: u32, sum: u32) -> u32 {
    let there = Frame::len(ctx).wrapping_sub(ip_at);
    // The length field of a GSO packet says nothing.
    let length = if Frame::gso_size(ctx) != 0 || length > there { there } else { length };
    if length == 0 {
        return 0;
    }
    const { assert!(QUOTED.is_power_of_two()) };
    let quoted = bounded(length, QUOTED as u32);
    // What is behind a short packet counts as zero in the checksum.
    *message = [0; MESSAGE];
    (message[0], message[1]) = (kind[0], kind[1]);
    let size = HEAD as u32 + quoted;
    let sum = if kind[0] == 1 { checksum::add(sum, u32::from_ne_bytes([0, ICMPV6, (size >> 8) as u8, size as u8])) } else { 0 };
    // SAFETY: plain helper calls within the room.
    unsafe {
        let start = message.as_mut_ptr();
        if bpf_skb_load_bytes(skb(ctx).cast(), ip_at, start.add(HEAD).cast(), quoted) != 0 {
            return 0;
        }
        let sum = bpf_csum_diff(core::ptr::null_mut(), 0, start.cast(), MESSAGE as u32, sum);
        if sum < 0 {
            return 0;
        }
        let [high, low] = checksum::finish(sum as u32).to_ne_bytes();
        (message[2], message[3]) = (high, low);
    }
    size
}

/// Puts the frame in the place of the packet: Ethernet, `ip` bytes of IP header and `message` bytes. Returns its length, with [`RESET`] if it is
/// one, or 0.
///
/// # Safety
/// There must be room for the longest answer behind `frame`.
#[inline(always)]
unsafe fn put(ctx: &TcContext, frame: *mut core::ffi::c_void, ip: u32, message: u32, reset: bool) -> u32 {
    let length = ETH_LEN as u32 + ip + message;
    // SAFETY: plain helper calls; no packet pointer lives across them.
    let failed = unsafe {
        bpf_skb_change_tail(skb(ctx), length + FRONT, 0) != 0
            || bpf_skb_adjust_room(skb(ctx), -(FRONT as i32), BPF_ADJ_ROOM_MAC, 0) != 0
            || bpf_skb_store_bytes(skb(ctx), 0, frame, length, 0) != 0
    };
    if failed { 0 } else { length | if reset { RESET } else { 0 } }
}

const _: () = assert!(size_of::<Answer<Ipv4Hdr>>() == 176 && size_of::<Answer<Ipv6Hdr>>() == 192);
