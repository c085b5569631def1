//! The frame that belongs to the overlay: Ethernet and IP headers, at offset 0 where a container sent it, behind the
//! outer headers where it came through the tunnel.

use fabric_common::{addr::Addr, reason::DropReason};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::packet::{Frame, header, v4, v6};

/// Ethernet header without tags, bytes.
pub const ETH_LEN: usize = EthHdr::LEN;
/// EtherTypes as they stand in the header.
pub const IPV4: u16 = EtherType::Ipv4 as u16;
/// See [`IPV4`].
pub const IPV6: u16 = EtherType::Ipv6 as u16;
/// See [`IPV4`].
pub const ARP: u16 = EtherType::Arp as u16;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// What the bridge needs to know of an IP header.
pub struct Ip {
    /// Source address.
    pub src: Addr,
    /// Protocol, or the first extension header's type.
    pub protocol: u8,
    /// Length of the IP header without extension headers, bytes.
    pub header_len: u32,
}

/// Parses the IP header behind the Ethernet header at `offset`. Lengths must agree with the frame, except in a GSO
/// packet, whose length field is that of no packet on any wire.
#[inline(always)]
pub fn ip(frame: &impl Frame, offset: usize, ether_type: u16) -> Result<Ip, DropReason> {
    let room = frame.len().wrapping_sub((offset + ETH_LEN) as u32);
    if ether_type == IPV4 {
        let ip: &Ipv4Hdr = header(frame, offset + ETH_LEN, DropReason::Malformed)?;
        let header_len = u32::from(ip.vihl & 0xf) * 4;
        let total = u32::from(u16::from_be_bytes(ip.tot_len));
        let fits = total >= header_len && total <= room || frame.gso_size() != 0;
        if ip.vihl >> 4 != 4 || header_len < 20 || header_len > room || !fits {
            return Err(DropReason::Malformed);
        }
        Ok(Ip { src: v4(&ip.src_addr), protocol: ip.proto, header_len })
    } else {
        let ip: &Ipv6Hdr = header(frame, offset + ETH_LEN, DropReason::Malformed)?;
        let payload = u32::from(u16::from_be_bytes(ip.payload_len));
        if ip.vcf[0] >> 4 != 6 || (payload + 40 > room && frame.gso_size() == 0) {
            return Err(DropReason::Malformed);
        }
        let src = v6(&ip.src_addr);
        // The maps' keys hold IPv4 addresses in this form; in an IPv6 packet it would stand for somebody's IPv4 address.
        if src.is_v4() {
            return Err(DropReason::Malformed);
        }
        Ok(Ip { src, protocol: ip.next_hdr, header_len: 40 })
    }
}

/// Destination of the IP packet behind the Ethernet header at `offset`, whose header was looked at before.
#[inline(always)]
pub fn destination(frame: &impl Frame, offset: usize, ether_type: u16) -> Result<Addr, DropReason> {
    Ok(if ether_type == IPV4 {
        v4(&header::<Ipv4Hdr>(frame, offset + ETH_LEN, DropReason::Malformed)?.dst_addr)
    } else {
        v6(&header::<Ipv6Hdr>(frame, offset + ETH_LEN, DropReason::Malformed)?.dst_addr)
    })
}

/// The traffic class (TOS) of an IP header that starts with these bytes: DSCP and ECN.
#[inline(always)]
pub fn class([first, second]: [u8; 2], v6: bool) -> u8 {
    if v6 { first << 4 | second >> 4 } else { second }
}

/// The ECN field of an IP header, whose second byte holds it in both families: at its end, or in its upper half.
#[inline(always)]
pub fn ecn(second: u8, v6: bool) -> u8 {
    (if v6 { second >> 4 } else { second }) & 3
}
