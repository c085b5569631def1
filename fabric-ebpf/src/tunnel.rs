//! Tunnel packets: is it ours, is its header right, may its sender send it, and who gets it. One set of stages for the
//! uplink's TC and XDP programs and for the `vxlan` device.

use fabric_common::{
    addr::Addr,
    fdb::{FLAG_HOST, FLAG_LEFT, FLAG_ROUTER, FdbValue},
    node::FLAG_FOREIGN,
    policy::NO_POLICY,
    port::NO_SLOT,
    reason::{Action, DropReason},
    stage::Stage,
};
use fabric_ebpf::{checksum, ecn};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vxlan::VxlanHdr,
};

use crate::{
    conntrack::{self, Sides},
    counters, fdb, group, host,
    inner::{self, ARP, ETH_LEN, IPV4, IPV6, Ip, ip},
    foreign, nd, network, node,
    outcome::Trace,
    packet::{Frame, header, mac, same_mac, v4, v6, word},
    settings, source, uplink,
};

/// Protocol number of TCP.
pub const TCP: u8 = 6;
const UDP: u8 = 17;
const IP_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const VXLAN_LEN: usize = 8;
/// Offset of the inner Ethernet header of a packet over IPv4 without options.
pub const INNER_V4: usize = ETH_LEN + IP_LEN + UDP_LEN + VXLAN_LEN;
/// The same over IPv6 without extension headers.
pub const INNER_V6: usize = ETH_LEN + IPV6_LEN + UDP_LEN + VXLAN_LEN;
/// The fragment header's number, and those of the extension headers that may stand in front of UDP (RFC 8200 section 4):
/// hop-by-hop options, routing, destination options, authentication.
const FRAGMENT: u8 = 44;
const EXTENSIONS: [u8; 4] = [0, 43, 60, 51];
/// The I flag: a VNI is there.
const FLAG_VNI: u8 = 0x08;

/// What an uplink's packet turned out to be.
pub enum Outer {
    /// Left to the stack, for this reason.
    Stack(Action),
    /// A VXLAN packet to us with a right header.
    Tunnel(Tunnel),
}

/// What a tunnel packet's outer headers say.
pub struct Tunnel {
    /// Network, host byte order.
    pub vni: u32,
    /// Outer source.
    pub vtep: Addr,
    /// Outer ECN field; 0 where it was dealt with.
    pub ecn: u8,
}

/// What a tunnel packet that was admitted wants.
pub enum Arrival {
    /// To somebody here.
    Receiver(Receiver),
    /// ARP of the foreign VTEP with this number.
    Arp(u32),
    /// Neighbour discovery of the foreign VTEP with this number.
    Nd(u32),
    /// To the gateway's MAC, from the foreign VTEP with this number.
    Router(u32),
    /// To somebody who has moved from here to the node with this number.
    Moved(u32),
}

/// A local receiver.
pub struct Receiver {
    /// Its port.
    pub ifindex: u32,
    /// Slot of the port.
    pub slot: u32,
    /// EtherType of the inner frame, as it stands in the header.
    pub ether_type: u16,
    /// Protocol of the inner packet, or the first extension header's type.
    pub protocol: u8,
    /// The host itself, behind its access port.
    pub host: bool,
    /// Every port of the network that wants a copy; then there is no one port.
    pub group: bool,
    /// Policy of the endpoint.
    pub policy: u32,
}

const NOT_OURS: Result<Outer, DropReason> = Ok(Outer::Stack(Action::NotOurs));

/// EtherType of a frame at an uplink, as it stands in the header; 0 if the frame has none.
#[inline(always)]
pub fn ether_type(frame: &impl Frame) -> u16 {
    header::<EthHdr>(frame, 0, DropReason::Short).map_or(0, |eth| eth.ether_type)
}

/// Outer headers of an IPv4 packet at an uplink. What is not surely ours passes untouched.
#[inline(always)]
pub fn outer_v4(frame: &impl Frame, trace: &Trace) -> Result<Outer, DropReason> {
    let Ok(ip) = header::<Ipv4Hdr>(frame, ETH_LEN, DropReason::Short) else { return NOT_OURS };
    if ip.proto != UDP {
        return NOT_OURS;
    }
    let fragment = u16::from_be_bytes(ip.frags) & 0x3fff != 0;
    if ip.vihl != 0x45 || fragment {
        let ours = uplink::is_ours(&v4(&ip.dst_addr), frame.ifindex());
        return odd_outer(ours, fragment);
    }
    let Ok(udp) = header::<UdpHdr>(frame, ETH_LEN + IP_LEN, DropReason::Short) else { return NOT_OURS };
    let Ok(settings) = settings::get() else { return NOT_OURS };
    if udp.dst != settings.vxlan_port || !uplink::is_ours(&v4(&ip.dst_addr), frame.ifindex()) {
        return NOT_OURS;
    }
    if !checksum_is_right(frame) {
        return Err(DropReason::BadOuter);
    }
    let total = u32::from(u16::from_be_bytes(ip.tot_len));
    check_lengths(frame, total.wrapping_sub(IP_LEN as u32), udp, IP_LEN)?;
    vxlan(frame, trace, udp, INNER_V4, v4(&ip.src_addr), ip.tos & 3)
}

/// The same of an IPv6 packet. The zero UDP checksum is that of RFC 6935; nothing then protects the header but that both
/// addresses must be known (RFC 6936 section 4).
#[inline(always)]
pub fn outer_v6(frame: &impl Frame, trace: &Trace) -> Result<Outer, DropReason> {
    let Ok(ip) = header::<Ipv6Hdr>(frame, ETH_LEN, DropReason::Short) else { return NOT_OURS };
    let (fragment, extension) = (ip.next_hdr == FRAGMENT, EXTENSIONS.contains(&ip.next_hdr));
    let dst = v6(&ip.dst_addr);
    // The maps' keys hold IPv4 addresses in this form; on the wire it is nobody's (`ip6_rcv_core` drops such sources).
    if ip.vcf[0] >> 4 != 6 || dst.is_v4() || !(ip.next_hdr == UDP || fragment || extension) {
        return NOT_OURS;
    }
    if fragment || extension {
        return odd_outer(uplink::is_ours(&dst, frame.ifindex()), fragment);
    }
    let Ok(udp) = header::<UdpHdr>(frame, ETH_LEN + IPV6_LEN, DropReason::Short) else { return NOT_OURS };
    let Ok(settings) = settings::get() else { return NOT_OURS };
    if udp.dst != settings.vxlan_port || !uplink::is_ours(&dst, frame.ifindex()) {
        return NOT_OURS;
    }
    let src = v6(&ip.src_addr);
    if src.is_v4() {
        return Err(DropReason::BadOuter);
    }
    check_lengths(frame, u32::from(u16::from_be_bytes(ip.payload_len)), udp, IPV6_LEN)?;
    vxlan(frame, trace, udp, INNER_V6, src, inner::ecn(ip.vcf[1], true))
}

/// Lengths must agree with the frame, except in a GSO packet. `payload` is what the IP header says is behind it.
#[inline(always)]
fn check_lengths(frame: &impl Frame, payload: u32, udp: &UdpHdr, ip_len: usize) -> Result<(), DropReason> {
    if frame.gso_size() != 0 {
        return Ok(());
    }
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    // A datagram shorter than its packet is legal, but no VTEP sends it, and the inner frame would reach beyond it.
    if udp_len != payload || udp_len + (ETH_LEN + ip_len) as u32 > frame.len() {
        return Err(DropReason::BadOuter);
    }
    if (udp_len as usize) < UDP_LEN + VXLAN_LEN + ETH_LEN { Err(DropReason::Short) } else { Ok(()) }
}

/// The UDP checksum and the VXLAN header, which ends at `inner`.
#[inline(always)]
fn vxlan(
    frame: &impl Frame,
    trace: &Trace,
    udp: &UdpHdr,
    inner: usize,
    vtep: Addr,
    ecn: u8,
) -> Result<Outer, DropReason> {
    // Bytes behind the datagram would be taken for a part of the inner frame.
    let end = u32::from(u16::from_be_bytes(udp.len)) + (inner - UDP_LEN - VXLAN_LEN) as u32;
    if frame.gso_size() == 0 && end < frame.len() {
        return Ok(Outer::Stack(Action::OuterPadding));
    }
    if udp.check != [0, 0] {
        return Ok(Outer::Stack(Action::OuterChecksum));
    }
    let vxlan: &[u8; VXLAN_LEN] = header(frame, inner - VXLAN_LEN, DropReason::Short)?;
    if vxlan[0] & FLAG_VNI == 0 {
        return Err(DropReason::BadHeader);
    }
    if (vxlan[0] & !FLAG_VNI) | vxlan[1] | vxlan[2] | vxlan[3] | vxlan[7] != 0 {
        counters::action_beside(trace.hook, Action::ReservedBits, trace.segments, trace.length);
    }
    let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
    trace.mark(Stage::Outer);
    Ok(Outer::Tunnel(Tunnel { vni, vtep, ecn }))
}

/// The outer header's checksum (RFC 1122 section 3.2.1.2: a host verifies it). It is all that protects the sender's
/// address, since the UDP checksum is zero.
#[inline(always)]
fn checksum_is_right(frame: &impl Frame) -> bool {
    let Ok(ip) = header::<[u8; IP_LEN]>(frame, ETH_LEN, DropReason::Short) else { return false };
    let sum = checksum::add(0, word(ip));
    let sum = checksum::add(sum, word(&ip[4..]));
    let sum = checksum::add(sum, word(&ip[8..]));
    let sum = checksum::add(sum, word(&ip[12..]));
    checksum::finish(checksum::add(sum, word(&ip[16..]))) == 0
}

/// Fragments, options and extension headers: the stack puts them right and hands the packet to the `vxlan` device, if it
/// is ours.
#[inline(always)]
fn odd_outer(ours: bool, fragment: bool) -> Result<Outer, DropReason> {
    Ok(Outer::Stack(match (ours, fragment) {
        (false, _) => Action::NotOurs,
        (true, true) => Action::OuterFragment,
        (true, false) => Action::OuterOptions,
    }))
}

/// Checks the inner frame at `offset` and its right to come from its VTEP, and finds its receiver.
#[inline(always)]
pub fn admit(frame: &impl Frame, trace: &mut Trace, tunnel: &Tunnel, offset: usize) -> Result<Arrival, DropReason> {
    let vni = tunnel.vni;
    trace.vni = vni;
    trace.inner = offset as u32;
    let sender = node::of_vtep(&tunnel.vtep)?;
    trace.mark(Stage::Vtep);
    let eth: &EthHdr = header(frame, offset, DropReason::Short)?;
    if !mac(&eth.src_addr).is_valid_source() {
        return Err(DropReason::BadSrcMac);
    }
    if same_mac(&eth.src_addr, &settings::get()?.node_mac) {
        return Err(DropReason::Loop);
    }
    // Our own nodes answer their containers themselves; who is behind a foreign VTEP has to ask.
    let foreign = sender.flags & u32::from(FLAG_FOREIGN) != 0;
    if eth.ether_type == ARP && foreign {
        trace.mark(Stage::InnerFrame);
        foreign::check_arp(frame, offset as u32, vni, sender.node)?;
        trace.mark(Stage::SourceRecord);
        return Ok(Arrival::Arp(sender.node));
    }
    if eth.ether_type != IPV4 && eth.ether_type != IPV6 {
        return Err(DropReason::InnerEthertype);
    }
    let ip = ip(frame, offset, eth.ether_type)?;
    trace.mark(Stage::InnerFrame);
    let more = || {
        if foreign {
            return 0;
        }
        let routed = network::get(vni).is_some_and(|network| same_mac(&eth.src_addr, &network.gateway_mac));
        source::OWN | if routed { source::ROUTED } else { 0 }
    };
    let source = source::check(vni, &ip.src, sender.node, &mac(&eth.dst_addr), more);
    if eth.ether_type == IPV6 {
        match nd::kind(frame, offset, &ip) {
            nd::Kind::None => {}
            nd::Kind::Plain if foreign => {
                foreign::unless_probe(source.map(|_| ()), &ip.src)?;
                trace.mark(Stage::SourceRecord);
                return Ok(Arrival::Nd(sender.node));
            }
            nd::Kind::Plain | nd::Kind::Hidden => {
                source?;
                return Err(DropReason::InnerNd);
            }
        }
    }
    trace.identity = source?;
    trace.mark(Stage::SourceRecord);
    let dst = mac(&eth.dst_addr);
    if dst.is_group() {
        group::check(frame, offset, eth.ether_type, vni)?;
        combines(frame, tunnel.ecn, offset, eth.ether_type)?;
        let (ether_type, protocol) = (eth.ether_type, ip.protocol);
        let nobody = Receiver { ifindex: 0, slot: NO_SLOT, ether_type, protocol, host: false, group: true, policy: NO_POLICY };
        return Ok(Arrival::Receiver(nobody));
    }
    let entry = fdb::get(vni, dst).ok_or(DropReason::NotLocal)?;
    if entry.flags & FLAG_ROUTER != 0 {
        // Our own nodes route what they send.
        return if foreign { Ok(Arrival::Router(sender.node)) } else { Err(DropReason::NoRoute) };
    }
    if entry.ifindex == 0 {
        return if entry.flags & FLAG_LEFT != 0 { Ok(Arrival::Moved(entry.node)) } else { Err(DropReason::NotLocal) };
    }
    let to_host = entry.flags & FLAG_HOST != 0;
    if to_host {
        host::check(frame, offset, eth.ether_type, vni, entry)?;
    }
    trace.slot = entry.slot;
    trace.mark(Stage::Receiver);
    let sides = Sides {
        vni,
        offset: offset as u32,
        src_identity: trace.identity,
        src_policy: NO_POLICY,
        dst_identity: entry.identity,
        dst_policy: entry.policy,
        to_host,
    };
    conntrack::judge(frame, trace, sides)?;
    combines(frame, tunnel.ecn, offset, eth.ether_type)?;
    let Ip { protocol, .. } = ip;
    let ether_type = eth.ether_type;
    let FdbValue { ifindex, slot, .. } = *entry;
    Ok(Arrival::Receiver(Receiver { ifindex, slot, ether_type, protocol, host: to_host, group: false, policy: entry.policy }))
}

/// Refuses a mark of congestion on the outer header that the inner packet can't carry on.
#[inline(always)]
fn combines(frame: &impl Frame, outer: u8, offset: usize, ether_type: u16) -> Result<(), DropReason> {
    if ecn::matters(outer) {
        let [_, second]: &[u8; 2] = header(frame, offset + ETH_LEN, DropReason::Malformed)?;
        ecn::combine(outer, inner::ecn(*second, ether_type == IPV6)).ok_or(DropReason::Ecn)?;
    }
    Ok(())
}

const _: () = assert!(
    size_of::<VxlanHdr>() == VXLAN_LEN && size_of::<Ipv4Hdr>() == IP_LEN && size_of::<Ipv6Hdr>() == IPV6_LEN
);
