//! IPv6 neighbour discovery from a container (RFC 4861, RFC 4862): checked, answered on the spot, never flooded.

use aya_ebpf::{helpers::bpf_skb_change_tail, programs::TcContext};
use fabric_common::{
    addr::{Addr, Mac},
    endpoint::{EndpointValue, FLAG_GATEWAY},
    reason::{Action, DropReason},
};
use network_types::{eth::EthHdr, ip::Ipv6Hdr};

use fabric_ebpf::checksum;

use crate::{
    advertisement,
    arp::{back, overwrite},
    endpoint,
    extension::{self, Upper},
    inner::{ETH_LEN, ICMPV6, IPV6, Ip},
    outcome::{Outcome, Verdict, pack, unpack},
    packet::{Frame, add_addr, header, linear, same_addr, skb, v6},
    port, route,
};

/// ICMPv6 types (RFC 4861 section 4).
pub const ROUTER_SOLICITATION: u8 = 133;
/// See [`ROUTER_SOLICITATION`].
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// See [`ROUTER_SOLICITATION`].
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Option with the sender's MAC.
pub const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// ICMPv6 header of a solicitation or an advertisement, with its target.
#[repr(C)]
pub struct Neighbour {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    check: [u8; 2],
    flags: [u8; 4],
    /// Whose MAC is asked for or told.
    pub target: [u8; 16],
}

/// An advertisement with the target's link-layer address.
#[repr(C)]
struct Advertisement {
    kind: u8,
    code: u8,
    check: [u8; 2],
    flags: [u8; 4],
    target: [u8; 16],
    option: u8,
    option_len: u8,
    mac: [u8; 6],
}

/// The whole answer.
#[repr(C)]
struct Answer {
    eth: EthHdr,
    ip: Ipv6Hdr,
    message: Advertisement,
}

const ADVERTISEMENT_LEN: u16 = size_of::<Advertisement>() as u16;
const ANSWER_LEN: u32 = size_of::<Answer>() as u32;

/// Ethernet (14), IPv6 (40) and a message with its target (24).
pub const LINEAR: u32 = ETH_LEN as u32 + 40 + size_of::<Neighbour>() as u32;

/// Whether the packet is neighbour discovery, and if so whether it is behind extension headers: no honest host sends
/// that, and it would pass a check that looks only at the first header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not neighbour discovery.
    None,
    /// Right behind the IPv6 header.
    Plain,
    /// Behind extension headers, or behind more of them than are looked through.
    Hidden,
}

/// Looks for ICMPv6 types 133 to 137 in the IPv6 packet whose Ethernet header is at `offset`. A header chain that ends
/// before its upper-layer header counts as hidden: no packet may have one, a first fragment neither (RFC 7112), and the
/// second fragment could hold anything.
#[inline(always)]
pub fn kind(frame: &impl Frame, offset: usize, ip: &Ip) -> Kind {
    let at = (offset + ETH_LEN) as u32 + ip.header_len;
    match ip.protocol {
        ICMPV6 => match frame.load::<1>(at) {
            Some([ROUTER_SOLICITATION..=REDIRECT]) => Kind::Plain,
            _ => Kind::None,
        },
        0 | 43 | 44 | 51 | 60 => behind_extensions(frame, at, ip.protocol),
        _ => Kind::None,
    }
}

#[inline(always)]
fn behind_extensions(frame: &impl Frame, at: u32, next: u8) -> Kind {
    match extension::upper(frame, at, next) {
        // Only the first fragment holds the header; later ones alone can't be put together.
        Upper::LaterFragment => Kind::None,
        Upper::Header { protocol: ICMPV6, at } => match frame.load::<1>(at) {
            Some([ROUTER_SOLICITATION..=REDIRECT]) | None => Kind::Hidden,
            Some(_) => Kind::None,
        },
        Upper::Header { .. } => Kind::None,
        Upper::Unknown => Kind::Hidden,
    }
}

/// Handles neighbour discovery that is right behind the IPv6 header. The source MAC was checked.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Outcome {
    unpack(handle_packed(ctx))
}

/// Out of line, since most packets are not neighbour discovery.
#[inline(never)]
fn handle_packed(ctx: &TcContext) -> i64 {
    pack(handle_inner(ctx))
}

#[inline(always)]
fn handle_inner(ctx: &TcContext) -> Outcome {
    let port = port::get(ctx.ifindex())?;
    linear(ctx, LINEAR);
    let ip: &Ipv6Hdr = header(ctx, ETH_LEN, DropReason::Malformed)?;
    let src = v6(&ip.src_addr);
    let unspecified = same_addr(&src, &Addr::UNSPECIFIED);
    let ours = |addr: &Addr| {
        endpoint::owns(port.vni, addr, ctx.ifindex()) || route::leads_to(port.vni, addr, ctx.ifindex())
    };
    if ip.hop_limit != 255 || !(unspecified || ours(&src)) {
        return Err(DropReason::SpoofNd);
    }
    // A router solicitation has no target and may be as short as this.
    let [kind, code, ..]: &[u8; 8] = header(ctx, ETH_LEN + 40, DropReason::Malformed)?;
    match *kind {
        ROUTER_SOLICITATION => {
            // RFC 4861 section 6.1.1.
            let lies = match Frame::load::<8>(ctx, (ETH_LEN + 40 + 8) as u32) {
                Some([SOURCE_LINK_LAYER, 1, mac @ ..]) => unspecified || Mac::new(mac) != port.mac,
                _ => false,
            };
            if lies || *code != 0 {
                return Err(DropReason::SpoofNd);
            }
            return advertisement::answer(ctx, port.vni);
        }
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => {}
        _ => return Err(DropReason::SpoofNd),
    }
    let message: &Neighbour = header(ctx, ETH_LEN + 40, DropReason::Malformed)?;
    let target = v6(&message.target);
    match message.kind {
        // Only the truth about oneself, and even that is not needed: nothing is learned from packets.
        NEIGHBOUR_ADVERTISEMENT if ours(&target) => return Ok(Verdict::consume(Action::Absorbed)),
        NEIGHBOUR_SOLICITATION if message.code == 0 => {}
        _ => return Err(DropReason::SpoofNd),
    }
    if let Some([SOURCE_LINK_LAYER, 1, mac @ ..]) = Frame::load::<8>(ctx, (ETH_LEN + 40 + 24) as u32)
        && (unspecified || Mac::new(mac) != port.mac)
    {
        return Err(DropReason::SpoofNd);
    }
    match endpoint::get(port.vni, &target) {
        // The maps hold IPv4 addresses as mapped ones, which nobody has on the wire.
        Some(owner) if owner.ifindex != ctx.ifindex() && !target.is_v4() => {
            advertise(ctx, &target, owner, &src, port.mac)?;
            back(ctx)
        }
        _ => Ok(Verdict::consume(Action::Absorbed)),
    }
}

/// `ff02::1`.
const ALL_NODES: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// Its MAC (RFC 2464 section 7).
const ALL_NODES_MAC: Mac = Mac::new([0x33, 0x33, 0, 0, 0, 1]);

/// Writes the whole answer over the solicitation: that `owner` has `target`, to the asker with the address `asker`, which
/// may have none yet.
#[inline(always)]
pub fn advertise(
    ctx: &TcContext,
    target: &Addr,
    owner: &EndpointValue,
    asker: &Addr,
    asker_mac: Mac,
) -> Result<(), DropReason> {
    // Router, solicited (not toward all nodes, RFC 4861 section 7.2.4) and override.
    let router = if owner.flags & FLAG_GATEWAY != 0 { 0x80 } else { 0 };
    let unspecified = same_addr(asker, &Addr::UNSPECIFIED);
    let flags = router | (if unspecified { 0 } else { 0x40 }) | 0x20;
    let (to, to_mac) = if unspecified { (&ALL_NODES, ALL_NODES_MAC) } else { (asker, asker_mac) };
    let mac = owner.mac;
    // SAFETY: plain helper call; no packet pointer lives across it.
    if unsafe { bpf_skb_change_tail(skb(ctx), ANSWER_LEN, 0) } != 0 {
        return Err(DropReason::Malformed);
    }
    let answer = Answer {
        eth: EthHdr { dst_addr: to_mac.bytes, src_addr: mac.bytes, ether_type: IPV6 },
        ip: Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: ADVERTISEMENT_LEN.to_be_bytes(),
            next_hdr: ICMPV6,
            hop_limit: 255,
            src_addr: target.bytes,
            dst_addr: to.bytes,
        },
        message: Advertisement {
            kind: NEIGHBOUR_ADVERTISEMENT,
            code: 0,
            check: checksum_of(flags, target, mac, to).to_ne_bytes(),
            flags: [flags, 0, 0, 0],
            target: target.bytes,
            option: TARGET_LINK_LAYER,
            option_len: 1,
            mac: mac.bytes,
        },
    };
    overwrite(ctx, &answer)
}

/// ICMPv6 checksum with the pseudo-header (RFC 4443 section 2.3, RFC 8200 section 8.1). The source is the target, so the
/// target counts twice.
#[inline(always)]
fn checksum_of(flags: u8, target: &Addr, mac: Mac, to: &Addr) -> u16 {
    let two = |a: u8, b: u8| u32::from(u16::from_ne_bytes([a, b]));
    let mut sum = two(0, ADVERTISEMENT_LEN as u8) + two(0, ICMPV6);
    sum += two(NEIGHBOUR_ADVERTISEMENT, 0) + two(flags, 0) + two(TARGET_LINK_LAYER, 1);
    let m = mac.bytes;
    sum += two(m[0], m[1]) + two(m[2], m[3]) + two(m[4], m[5]);
    let target = add_addr(0, target);
    checksum::finish(add_addr(sum + target + target, to))
}
