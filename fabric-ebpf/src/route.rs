//! Routing, on the sender's host: `routes`, and what becomes of a packet to the gateway's MAC. A routed frame carries the
//! destination network's VNI and its gateway's MAC, and is bridged from there on.

use aya_ebpf::{
    bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT},
    btf_maps::{LpmTrie, lpm_trie::Key},
    helpers::bpf_skb_store_bytes,
    macros::btf_map,
    programs::TcContext,
};
use fabric_common::{
    abi,
    addr::{Addr, Mac},
    endpoint::{EndpointValue, FLAG_GATEWAY},
    prefix::VniPrefix,
    reason::DropReason,
    route::{FLAG_NEXT_HOP, FLAG_WORLD, NOT_WORLD, RouteValue},
};
use fabric_ebpf::checksum;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    arp::overwrite,
    encap, endpoint, fragment,
    icmp_error::{self, Error},
    inner::{self, ETH_LEN, IPV4, Ip},
    network, node,
    packet::{Frame, header, same_mac, skb, v4, v6},
    port,
};

#[btf_map(name = "routes")]
static ROUTES: LpmTrie<VniPrefix, RouteValue, { abi::ROUTES.entries as usize }> = LpmTrie::new();

/// What [`step`] returns for a packet to an address of a gateway. Beside VNIs, which are below, and the negative numbers of
/// drop reasons.
pub const TO_GATEWAY: i64 = 1 << 40;

/// Beside the VNI in what [`step`] returns: the packet is routed, but has to be fragmented first.
pub const TO_FRAGMENT: i64 = 1 << 41;

/// Beside the VNI as well: an endpoint leads to the destination, which is somebody else's address.
pub const TO_NEXT_HOP: i64 = 1 << 42;

/// What [`step`] returns for a packet that may go to the world, for [`world`] to judge.
pub const TO_WORLD: i64 = 1 << 43;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet to the gateway's MAC, as far as routing looks at it.
struct Packet {
    ip: Ip,
    dst: Addr,
    /// Time to live or hop limit.
    ttl: u8,
    ether_type: u16,
}

/// Routes a packet to a router's MAC in network `vni`, whose source was checked: returns the VNI of the network that it is in
/// from now on, maybe with [`TO_FRAGMENT`] and [`TO_NEXT_HOP`]; [`TO_GATEWAY`], or the number of a drop reason, negated. A packet that is dropped
/// is left as it was.
///
/// Out of line, since most packets are bridged.
#[inline(never)]
pub fn step(ctx: &TcContext, vni: u32) -> i64 {
    match route(ctx, vni) {
        Ok(next) => next,
        Err(reason) => -(reason as i64),
    }
}

#[inline(always)]
fn route(ctx: &TcContext, vni: u32) -> Result<i64, DropReason> {
    let packet = packet(ctx, vni)?;
    let (route, to) = lookup(vni, &packet.dst).ok_or(DropReason::NoRoute)?;
    if to.is_some_and(|to| to.flags & FLAG_GATEWAY != 0) {
        return Ok(TO_GATEWAY);
    }
    if is_link_local(&packet.ip.src) {
        return Err(DropReason::NoRoute);
    }
    if route.flags & FLAG_WORLD != 0 {
        return Ok(TO_WORLD);
    }
    // An opening is for the networks' own addresses, not for what is behind a next hop: the other side has no record of it.
    if route.vni != vni && endpoint::get(vni, &packet.ip.src).is_none() && is_behind_next_hop(vni, &packet.ip.src) {
        return Err(DropReason::NoRoute);
    }
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    // A node's own address is none that a packet is routed to.
    let to = to.filter(|to| to.flags == 0).ok_or(DropReason::NoRoute)?;
    // A next hop that sends back what it should pass on: it would get it again and again.
    let eth: &EthHdr = header(ctx, 0, DropReason::NoRoute)?;
    if route.vni == vni && same_mac(&eth.src_addr, &to.mac) {
        return Err(DropReason::Hairpin);
    }
    let beside = match encap::check_size(ctx, path_mtu(route, to)?, &packet.ip) {
        Err(DropReason::TooBig) if fragment::is_possible(ctx) => TO_FRAGMENT,
        checked => {
            checked?;
            0
        }
    };
    rewrite(ctx, &packet, to.mac, route.gateway_mac)?;
    let by_next_hop = if route.flags & FLAG_NEXT_HOP != 0 { TO_NEXT_HOP } else { 0 };
    Ok(i64::from(route.vni) | beside | by_next_hop)
}

/// Whether a packet to the gateway's MAC goes to the world: from a container that lives here, which its answers come back to.
/// Returns 0 or the number of a drop reason.
#[inline(never)]
pub fn world(ctx: &TcContext, vni: u32) -> u32 {
    match check_world(ctx, vni) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn check_world(ctx: &TcContext, vni: u32) -> Result<(), DropReason> {
    let packet = packet(ctx, vni)?;
    let route = to_world(vni, &packet.dst).ok_or(DropReason::NoRoute)?;
    if !endpoint::owns(vni, &packet.ip.src, Frame::ifindex(ctx)) {
        return Err(DropReason::NoRoute);
    }
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    encap::check_size(ctx, u32::from(route.mtu), &packet.ip)
}

/// The route from network `vni` to `dst`, if that is in the world and the network may go there.
#[inline(always)]
pub fn to_world(vni: u32, dst: &Addr) -> Option<&'static RouteValue> {
    // IPv4 addresses are mapped ones: the world of IPv6 has them in it.
    let is_in = |route: &RouteValue| route.flags & FLAG_WORLD != 0 && route.next_hop.is_v4() == dst.is_v4();
    let route = find(vni, dst)?;
    if !is_in(route) || dst.is_martian() || is_link_local(dst) || find(NOT_WORLD, dst).is_some() {
        return None;
    }
    Some(route)
}

#[inline(always)]
fn packet(ctx: &TcContext, vni: u32) -> Result<Packet, DropReason> {
    let eth: &EthHdr = header(ctx, 0, DropReason::NoRoute)?;
    // A node's MAC does not route.
    if !same_mac(&eth.dst_addr, &network::get(vni).ok_or(DropReason::NoRoute)?.gateway_mac) {
        return Err(DropReason::NoRoute);
    }
    let ether_type = eth.ether_type;
    let ip = inner::ip(ctx, 0, ether_type)?;
    if ether_type == IPV4 {
        let header: &Ipv4Hdr = header(ctx, ETH_LEN, DropReason::NoRoute)?;
        Ok(Packet { ip, dst: v4(&header.dst_addr), ttl: header.ttl, ether_type })
    } else {
        let header: &Ipv6Hdr = header(ctx, ETH_LEN, DropReason::NoRoute)?;
        let dst = v6(&header.dst_addr);
        // The maps' keys hold IPv4 addresses in this form.
        if dst.is_v4() {
            return Err(DropReason::Malformed);
        }
        Ok(Packet { ip, dst, ttl: header.hop_limit, ether_type })
    }
}

#[inline(always)]
fn find(vni: u32, addr: &Addr) -> Option<&'static RouteValue> {
    ROUTES.get(&Key::new(VniPrefix::BITS, VniPrefix::new(vni, *addr)))
}

/// The route to `dst`, and who has that address or leads there, if anybody does.
#[inline(always)]
fn lookup(vni: u32, dst: &Addr) -> Option<(&'static RouteValue, Option<&'static EndpointValue>)> {
    let route = find(vni, dst)?;
    if route.flags & FLAG_NEXT_HOP == 0 {
        return Some((route, endpoint::get(route.vni, dst)));
    }
    // However wide the prefix is.
    if dst.is_martian() || is_link_local(dst) {
        return None;
    }
    Some((route, endpoint::get(route.vni, &route.next_hop)))
}

/// Whether the port `ifindex` is that of the next hop toward `src`, and may pass on packets from there. The route with the
/// longest prefix decides: addresses of subnets have routes of their own, so that no static route covers them.
///
/// Out of line: containers send their own addresses.
#[inline(never)]
pub fn leads_to(vni: u32, src: &Addr, ifindex: u32) -> bool {
    if src.is_martian() || is_link_local(src) {
        return false;
    }
    match find(vni, src) {
        Some(route) if route.flags & FLAG_NEXT_HOP != 0 => endpoint::owns(vni, &route.next_hop, ifindex),
        _ => false,
    }
}

#[inline(always)]
fn is_behind_next_hop(vni: u32, src: &Addr) -> bool {
    find(vni, src).is_some_and(|route| route.flags & FLAG_NEXT_HOP != 0)
}

/// Link-local addresses are good for their own link (RFC 3927 section 7, RFC 4291 section 2.5.6).
#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    let b = &addr.bytes;
    b[0] == 0xfe && b[1] & 0xc0 == 0x80 || addr.is_v4() && b[12] == 169 && b[13] == 254
}

/// Largest packet that fits the destination's network and the way there.
#[inline(always)]
fn path_mtu(route: &RouteValue, to: &EndpointValue) -> Result<u32, DropReason> {
    let inside = u32::from(route.mtu);
    if to.ifindex != 0 {
        return Ok(inside);
    }
    let way = u32::from(node::get(to.node)?.mtu);
    Ok(if way < inside { way } else { inside })
}

/// The same for the packet in hand, for the answer to one that is too big; 0 if it is not routed.
#[inline(never)]
pub fn mtu(ctx: &TcContext, vni: u32) -> u32 {
    let Ok(packet) = packet(ctx, vni) else { return 0 };
    match lookup(vni, &packet.dst) {
        Some((route, Some(to))) => path_mtu(route, to).unwrap_or(0),
        _ => 0,
    }
}

/// The same of a packet to the world, as far as the uplink knows. On its own, since [`mtu`] has no stack to spare.
#[inline(never)]
pub fn world_mtu(ctx: &TcContext, vni: u32) -> u32 {
    let Ok(packet) = packet(ctx, vni) else { return 0 };
    to_world(vni, &packet.dst).map_or(0, |route| u32::from(route.mtu))
}

/// What of an IPv4 frame changes, and the bytes between.
#[repr(C)]
struct Head {
    eth: EthHdr,
    /// Up to the checksum.
    ip: [u8; 12],
}

/// One hop less, and the MACs of the next one.
#[inline(always)]
fn rewrite(ctx: &TcContext, packet: &Packet, to: Mac, from: Mac) -> Result<(), DropReason> {
    let eth = EthHdr { dst_addr: to.bytes, src_addr: from.bytes, ether_type: packet.ether_type };
    let ttl = packet.ttl - 1;
    if packet.ether_type == IPV4 {
        let old: &[u8; 12] = header(ctx, ETH_LEN, DropReason::Malformed)?;
        let mut ip = *old;
        let check = checksum::replace([ip[10], ip[11]], [ip[8], ip[9]], [ttl, ip[9]]);
        ip[8] = ttl;
        [ip[10], ip[11]] = check;
        return overwrite(ctx, &Head { eth, ip });
    }
    overwrite(ctx, &eth)?;
    // No checksum in the header takes this change back out of what the hardware summed up (CHECKSUM_COMPLETE).
    let (at, flags) = (ETH_LEN as u32 + 7, u64::from(BPF_F_RECOMPUTE_CSUM));
    // SAFETY: the helper reads one byte.
    let failed = unsafe { bpf_skb_store_bytes(skb(ctx), at, (&raw const ttl).cast(), 1, flags) };
    if failed == 0 { Ok(()) } else { Err(DropReason::Malformed) }
}

/// Tells the sender of a packet that was dropped for want of a route. Returns the TC code.
#[inline(never)]
pub fn unreachable(ctx: &TcContext) -> i32 {
    let Ok(port) = port::get(Frame::ifindex(ctx)) else { return TC_ACT_SHOT };
    match error(ctx, port.vni) {
        Some(error) => icmp_error::answer(ctx, error),
        None => TC_ACT_SHOT,
    }
}

/// What to tell the sender of a packet to a router's MAC that found no route, if anything.
#[inline(always)]
pub fn error(ctx: &TcContext, vni: u32) -> Option<Error> {
    let packet = packet(ctx, vni).ok()?;
    let Some((_, to)) = lookup(vni, &packet.dst) else { return Some(Error::NO_ROUTE) };
    if to.is_some_and(|to| to.flags & FLAG_GATEWAY != 0) {
        // The gateway has no ports; of other protocols it says nothing.
        return if matches!(packet.ip.protocol, TCP | UDP) { Some(Error::NO_PORT) } else { None };
    }
    Some(if is_link_local(&packet.ip.src) { Error::BEYOND_SCOPE } else { Error::NO_HOST })
}

const _: () = assert!(size_of::<Head>() == ETH_LEN + 12);
