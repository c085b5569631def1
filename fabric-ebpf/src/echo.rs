//! Echo requests (ping) to the gateway's own addresses, answered in place (RFC 792, RFC 4443 section 4).

use aya_ebpf::programs::TcContext;
use fabric_common::reason::DropReason;
use fabric_ebpf::checksum;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    arp::{back, overwrite},
    inner::{ICMP, ICMPV6, IPV4},
    outcome::{Outcome, pack, unpack},
    packet::{header, linear},
};

/// What the answer is written over: up to ICMP's checksum.
#[repr(C)]
#[derive(Clone, Copy)]
struct Echo<Ip> {
    eth: EthHdr,
    ip: Ip,
    icmp: [u8; 4],
}

/// Bytes of ICMP's header with identifier and sequence number.
const ICMP_LEN: u16 = 8;
const V4_REQUEST: [u8; 2] = [8, 0];
const V4_REPLY: [u8; 2] = [0, 0];
const V6_REQUEST: [u8; 2] = [128, 0];
const V6_REPLY: [u8; 2] = [129, 0];
/// Time to live of what the gateway sends.
const TTL: u8 = 64;

/// A packet to an address of a gateway: an echo request is answered, nothing else is for it. The source was checked, and
/// that lengths agree with the frame.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Outcome {
    unpack(handle_packed(ctx))
}

/// Out of line, since most packets are not for the gateway.
#[inline(never)]
fn handle_packed(ctx: &TcContext) -> i64 {
    pack(match answer(ctx) {
        Ok(()) => back(ctx),
        Err(reason) => Err(reason),
    })
}

/// Writes the answer over the request.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> Result<(), DropReason> {
    linear(ctx, size_of::<Echo<Ipv6Hdr>>() as u32);
    let eth: &EthHdr = header(ctx, 0, DropReason::NoRoute)?;
    if eth.ether_type == IPV4 { answer_v4(ctx) } else { answer_v6(ctx) }
}

#[inline(always)]
fn turned(eth: &EthHdr) -> EthHdr {
    EthHdr { dst_addr: eth.src_addr, src_addr: eth.dst_addr, ether_type: eth.ether_type }
}

/// The other type and the checksum that follows from it. The pseudo-header's sum is the same in both directions.
#[inline(always)]
fn reply(icmp: [u8; 4], from: [u8; 2], to: [u8; 2]) -> [u8; 4] {
    // A reply can be all zero; 0xffff is right then, and as good as 0 otherwise.
    match checksum::replace([icmp[2], icmp[3]], from, to) {
        [0, 0] => [to[0], to[1], 0xff, 0xff],
        [a, b] => [to[0], to[1], a, b],
    }
}

#[inline(always)]
fn answer_v4(ctx: &TcContext) -> Result<(), DropReason> {
    let echo: &Echo<Ipv4Hdr> = header(ctx, 0, DropReason::NoRoute)?;
    let (ip, kind) = (&echo.ip, [echo.icmp[0], echo.icmp[1]]);
    let fragment = u16::from_be_bytes(ip.frags) & 0x3fff != 0;
    let whole = u16::from_be_bytes(ip.tot_len) >= 20 + ICMP_LEN;
    if ip.proto != ICMP || kind != V4_REQUEST || ip.vihl != 0x45 || fragment || !whole {
        return Err(DropReason::NoRoute);
    }
    let answer = Echo {
        eth: turned(&echo.eth),
        ip: Ipv4Hdr {
            ttl: TTL,
            check: checksum::replace(ip.check, [ip.ttl, ICMP], [TTL, ICMP]),
            src_addr: ip.dst_addr,
            dst_addr: ip.src_addr,
            ..*ip
        },
        icmp: reply(echo.icmp, V4_REQUEST, V4_REPLY),
    };
    overwrite(ctx, &answer)
}

#[inline(always)]
fn answer_v6(ctx: &TcContext) -> Result<(), DropReason> {
    let echo: &Echo<Ipv6Hdr> = header(ctx, 0, DropReason::NoRoute)?;
    let (ip, kind) = (&echo.ip, [echo.icmp[0], echo.icmp[1]]);
    let whole = u16::from_be_bytes(ip.payload_len) >= ICMP_LEN;
    if ip.next_hdr != ICMPV6 || kind != V6_REQUEST || !whole {
        return Err(DropReason::NoRoute);
    }
    let answer = Echo {
        eth: turned(&echo.eth),
        ip: Ipv6Hdr { hop_limit: TTL, src_addr: ip.dst_addr, dst_addr: ip.src_addr, ..*ip },
        icmp: reply(echo.icmp, V6_REQUEST, V6_REPLY),
    };
    overwrite(ctx, &answer)
}

const _: () = assert!(size_of::<Echo<Ipv4Hdr>>() == 38 && size_of::<Echo<Ipv6Hdr>>() == 58);
