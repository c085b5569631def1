//! Putting the outer headers on (RFC 7348 section 5), in place.

use aya_ebpf::{
    bindings::{
        BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_DONT_FRAGMENT,
        BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_tunnel_key,
    },
    helpers::{
        bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_set_tunnel_key,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use fabric_common::{
    addr::Addr,
    node::{CLASS_ECN, FLAG_UDP_CHECKSUM, FLAG_V6, FLAG_VIA_DEVICE, NodeValue, OUTER_MAX, OUTER_V4_LEN, OVERHEAD_V4, OVERHEAD_V6},
    reason::{Action, DropReason},
    settings::Settings,
    stage::{Mark, Stage},
};
use fabric_ebpf::{checksum, entropy};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    fragment,
    inner::{self, ETH_LEN, IPV6, Ip},
    outcome::{Outcome, Verdict, pack, unpack},
    packet::{Frame, header, skb, word},
    stage,
};

/// Room for the outer headers. FIXED_GSO: the segments stay as large as the sender made them (its MTU leaves room for
/// the outer header), so no segment is cut again and UDP GSO is not refused. The ENCAP flags make the kernel set inner
/// header offsets and the tunnel GSO type, without which TSO packets are segmented wrongly, and the protocol of the outer
/// header (`net/core/filter.c`, `bpf_skb_net_grow`). L2_ETH needs Linux 5.13.
const FLAGS: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | (ETH_LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;

const TCP: u8 = 6;

/// The outer headers as they are written behind the outer Ethernet header, which the neighbour code fills in. `LEN` is
/// that of the IP, UDP and VXLAN headers.
#[repr(C, align(8))]
struct Outer<const LEN: usize> {
    /// IP, UDP and VXLAN, from the node's template.
    headers: [u8; LEN],
    /// The inner Ethernet header.
    eth: [u8; ETH_LEN],
}

/// Encapsulates the frame toward `node` and sends it.
#[inline(always)]
pub fn send(ctx: &TcContext, settings: &Settings, node: &NodeValue, vni: u32, ip: &Ip) -> Outcome {
    match check_size(ctx, u32::from(node.mtu), ip) {
        Err(DropReason::TooBig) => return unpack(fragment::divert(ctx, settings.frag_ifindex, vni)),
        checked => checked?,
    }
    stage::mark(Mark::Passed(Stage::Size));
    if node.flags & FLAG_VIA_DEVICE != 0 {
        return via_device(ctx, settings, node, vni);
    }
    let eth: &[u8; ETH_LEN] = header(ctx, 0, DropReason::Malformed)?;
    let ip_start: &[u8; 2] = header(ctx, ETH_LEN, DropReason::Malformed)?;
    let v6 = u16::from_ne_bytes([eth[12], eth[13]]) == IPV6;
    // ECN in normal mode (RFC 6040 section 4.1): as it stands inside.
    let class = inner::class(*ip_start, v6) & node.inherit;
    let hash = flow_hash(ctx, v6)?;
    let code = if node.flags & FLAG_V6 == 0 {
        let mut outer = Outer::new(node, eth);
        fill_v4(&mut outer.headers, node, ctx.len(), vni, hash, class);
        outer.put_on(ctx, node, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
    } else {
        over_v6(ctx, node, vni, hash, u32::from(class))
    };
    match code {
        // A packet that is already a tunnel packet inside (the container's own VXLAN): the stack can nest them.
        NO_ROOM => via_device(ctx, settings, node, vni),
        FAILED => Err(DropReason::EncapFailed),
        code => Ok(Verdict::redirect(Action::Remote, code)),
    }
}

/// The kernel makes no room for the outer headers; the packet is as it was.
const NO_ROOM: i64 = -1;
/// A helper failed.
const FAILED: i64 = -2;

/// Out of line: the longer header would take from the stack of every packet.
#[inline(never)]
fn over_v6(ctx: &TcContext, node: &NodeValue, vni: u32, hash: u32, class: u32) -> i64 {
    let Ok(eth) = header::<[u8; ETH_LEN]>(ctx, 0, DropReason::Malformed) else { return FAILED };
    let mut outer = Outer::new(node, eth);
    fill_v6(&mut outer.headers, ctx.len(), vni, hash, class as u8);
    outer.put_on(ctx, node, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)
}

impl<const LEN: usize> Outer<LEN> {
    /// Bytes that are put on.
    const ADDED: u32 = (LEN + ETH_LEN) as u32;

    /// The node's template around an inner Ethernet header.
    #[inline(always)]
    fn new(node: &NodeValue, eth: &[u8; ETH_LEN]) -> Self {
        let mut outer = Self { headers: [0; LEN], eth: *eth };
        outer.headers.copy_from_slice(&node.outer[..LEN]);
        outer
    }

    /// Writes the headers in front of the packet and sends it. Returns the code of the redirect, [`NO_ROOM`] or [`FAILED`].
    #[inline(always)]
    fn put_on(&self, ctx: &TcContext, node: &NodeValue, family: u32) -> i64 {
        // SAFETY: plain helper calls; packet pointers are not used after `bpf_skb_adjust_room`.
        unsafe {
            let flags = FLAGS | u64::from(family);
            if bpf_skb_adjust_room(skb(ctx), Self::ADDED as i32, BPF_ADJ_ROOM_MAC, flags) != 0 {
                return NO_ROOM;
            }
            if bpf_skb_store_bytes(skb(ctx), ETH_LEN as u32, (&raw const *self).cast(), Self::ADDED, 0) != 0 {
                return FAILED;
            }
            stage::mark(Mark::Passed(Stage::Encapsulated));
            // The kernel's routes and neighbours decide, so a next hop that changes while the agent is away is followed.
            bpf_redirect_neigh(node.ifindex, core::ptr::null_mut(), 0, 0)
        }
    }
}

/// The inner flow's hash: the sender's own where the kernel has one (TCP; it changes when a path is given up), else of
/// addresses and ports. Our own arithmetic: the flow dissector behind `bpf_get_hash_recalc` costs as much as two lookups.
#[inline(always)]
fn flow_hash(ctx: &TcContext, v6: bool) -> Result<u32, DropReason> {
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
    let hash = unsafe { (*skb(ctx)).hash };
    if hash != 0 {
        return Ok(hash);
    }
    if !v6 {
        let v4: &Ipv4Hdr = header(ctx, ETH_LEN, DropReason::Malformed)?;
        let hash = entropy::mix(entropy::mix(u32::from(v4.proto), word(&v4.src_addr)), word(&v4.dst_addr));
        // Fragments have no ports but the first, and all of a datagram must go the same way.
        let whole = v4.frags[0] & 0x3f | v4.frags[1] == 0;
        if whole && has_ports(v4.proto) && v4.vihl & 0xf == 5 {
            return Ok(entropy::finish(entropy::mix(hash, ports(ctx, ETH_LEN + 20))));
        }
        return Ok(entropy::finish(hash));
    }
    let v6: &Ipv6Hdr = header(ctx, ETH_LEN, DropReason::Malformed)?;
    // The flow label is the sender's own hash of the flow (RFC 6438), the same in all fragments.
    let mut hash = word(&v6.vcf) & u32::from_be(0x000f_ffff);
    let mut i = 0;
    while i < 16 {
        hash = entropy::mix(entropy::mix(hash, word(&v6.src_addr[i..])), word(&v6.dst_addr[i..]));
        i += 4;
    }
    if has_ports(v6.next_hdr) {
        hash = entropy::mix(hash, ports(ctx, ETH_LEN + 40));
    }
    Ok(entropy::finish(hash))
}

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

/// Both ports as one word; 0 if the packet ends before them.
#[inline(always)]
fn ports(ctx: &TcContext, offset: usize) -> u32 {
    header::<[u8; 4]>(ctx, offset, DropReason::Malformed).map_or(0, |ports| word(ports))
}

/// Fills what depends on the packet into the template. `class`: what the outer traffic class takes over.
#[inline(always)]
fn fill_v4(h: &mut [u8; OUTER_V4_LEN], node: &NodeValue, frame_len: u32, vni: u32, hash: u32, class: u8) {
    let udp_len = frame_len as u16 + 16;
    // Wraps for a GSO packet near 64 KiB, as in the kernel's own tunnels; segmentation writes each segment's length.
    let ip_len = (udp_len.wrapping_add(20)).to_be();
    // The template has none of these bits, so that adding to the byte and to the sum is the same.
    h[1] |= class;
    h[2..4].copy_from_slice(&ip_len.to_ne_bytes());
    let sum = node.ip_sum + u32::from(ip_len) + u32::from(u16::from_ne_bytes([0, class]));
    h[10..12].copy_from_slice(&checksum::finish(sum).to_ne_bytes());
    h[20..22].copy_from_slice(&entropy::source_port(hash).to_be_bytes());
    h[24..26].copy_from_slice(&udp_len.to_be_bytes());
    h[32..36].copy_from_slice(&(vni << 8).to_be_bytes());
}

/// The same over IPv6. The flow's hash is in the flow label as well, for routers that look no further (RFC 6438).
#[inline(always)]
fn fill_v6(h: &mut [u8; OUTER_MAX], frame_len: u32, vni: u32, hash: u32, class: u8) {
    let udp_len = (frame_len as u16).wrapping_add(16);
    h[0] |= class >> 4;
    h[1] |= class << 4 | (hash >> 16) as u8 & 0xf;
    h[2..4].copy_from_slice(&(hash as u16).to_be_bytes());
    h[4..6].copy_from_slice(&udp_len.to_be_bytes());
    h[40..42].copy_from_slice(&entropy::source_port(hash).to_be_bytes());
    h[44..46].copy_from_slice(&udp_len.to_be_bytes());
    h[52..56].copy_from_slice(&(vni << 8).to_be_bytes());
}

/// Refuses what the way, which takes packets of `mtu` bytes, can't carry: nothing is fragmented outside (RFC 7348 section
/// 4.3).
#[inline(always)]
pub fn check_size(ctx: &TcContext, mtu: u32, ip: &Ip) -> Result<(), DropReason> {
    if packet_size(ctx, ip)? > mtu { Err(DropReason::TooBig) } else { Ok(()) }
}

/// Bytes of the frame's IP packet, padding included; of one segment if it stands for several.
#[inline(always)]
pub fn packet_size(ctx: &TcContext, ip: &Ip) -> Result<u32, DropReason> {
    let gso_size = ctx.gso_size();
    if gso_size == 0 {
        return Ok(ctx.len() - ETH_LEN as u32);
    }
    // A segment: IP header, transport header, payload.
    let transport = if ip.protocol == TCP {
        match Frame::load::<1>(ctx, ETH_LEN as u32 + ip.header_len + 12) {
            Some([offset]) => u32::from(offset >> 4) * 4,
            None => return Err(DropReason::Malformed),
        }
    } else {
        8
    };
    Ok(ip.header_len + transport + gso_size)
}

/// Hands the frame to the collect-metadata `vxlan` device with the outer header as metadata.
#[inline(always)]
pub fn via_device(ctx: &TcContext, settings: &Settings, node: &NodeValue, vni: u32) -> Outcome {
    unpack(via_device_packed(ctx, settings, node, vni))
}

/// Out of line: two callers, neither common.
#[inline(never)]
fn via_device_packed(ctx: &TcContext, settings: &Settings, node: &NodeValue, vni: u32) -> i64 {
    pack(to_device(ctx, settings, node, vni))
}

#[inline(always)]
fn to_device(ctx: &TcContext, settings: &Settings, node: &NodeValue, vni: u32) -> Outcome {
    describe_tunnel(ctx, settings.vxlan_ifindex, node, vni)?;
    stage::mark(Mark::Passed(Stage::Device));
    // SAFETY: a plain helper call.
    let code = unsafe { bpf_redirect(settings.vxlan_ifindex, 0) };
    Ok(Verdict::redirect(Action::ViaDevice, code))
}

/// Tells the `vxlan` device, which is `device`, what outer header the frame is to have.
#[inline(always)]
pub fn describe_tunnel(ctx: &TcContext, device: u32, node: &NodeValue, vni: u32) -> Result<(), DropReason> {
    if device == 0 {
        return Err(DropReason::NoVxlanDevice);
    }
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let ip_start: &[u8; 2] = header(ctx, ETH_LEN, DropReason::Malformed)?;
    // The device takes the ECN field over by itself (`ip_tunnel_ecn_encap`).
    let dscp = inner::class(*ip_start, eth.ether_type == IPV6) & node.inherit & !CLASS_ECN;
    // SAFETY: an all-zero key is valid; the helper copies it.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        key.tunnel_id = vni;
        key.tunnel_ttl = 64;
        key.tunnel_tos = node.class | dscp;
        let mut flags = BPF_F_DONT_FRAGMENT;
        if node.flags & FLAG_UDP_CHECKSUM == 0 {
            flags |= BPF_F_ZERO_CSUM_TX;
        }
        if node.flags & FLAG_V6 == 0 {
            // Tunnel keys hold IPv4 addresses in host byte order (`bpf_skb_set_tunnel_key`).
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(node.remote.v4_bytes());
            key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes(node.local.v4_bytes());
        } else {
            key.__bindgen_anon_1.remote_ipv6 = words(&node.remote);
            key.__bindgen_anon_3.local_ipv6 = words(&node.local);
            flags |= BPF_F_TUNINFO_IPV6;
        }
        let flags = u64::from(flags);
        if bpf_skb_set_tunnel_key(skb(ctx), &raw mut key, size_of::<bpf_tunnel_key>() as u32, flags) != 0 {
            return Err(DropReason::EncapFailed);
        }
    }
    Ok(())
}

/// An address as a tunnel key holds it.
#[inline(always)]
fn words(addr: &Addr) -> [u32; 4] {
    // SAFETY: sixteen plain bytes either way.
    unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(addr.bytes) }
}

const _: () = assert!(
    Outer::<OUTER_V4_LEN>::ADDED as usize == OVERHEAD_V4
        && Outer::<OUTER_MAX>::ADDED as usize == OVERHEAD_V6
        && EthHdr::LEN == ETH_LEN
);
