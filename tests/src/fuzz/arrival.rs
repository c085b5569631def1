//! The model's part for what comes through the tunnel, over either family.

use std::net::IpAddr;

use fabric_common::addr::Mac;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};

use super::model::{Fate, Judged, Seen, ecn, is_nd, mac_at, owner, require, source};
use crate::{
    cast::{self, BLUE, Family, HOSTS, Host, STATION, STATION_V4, SWITCH, VXLAN_PORT},
    frame::{ETH, IPV4, IPV6, UDP, VXLAN},
};

/// A tunnel packet whose outer headers are right.
struct Opened<'a> {
    vtep: IpAddr,
    vni: u32,
    ecn: u8,
    inner: &'a [u8],
}

/// Judges a delivery.
pub(super) fn from_tunnel(seen: &Seen<'_>, host: &'static Host, underlay: Family) -> Judged {
    let outer = opened(seen, host, underlay)?;
    let (vni, inner) = (outer.vni, outer.inner);
    let source = source(inner, seen.gso).ok_or("delivered, and no IP packet")?;
    let mac = mac_at(inner, 6);
    require(
        may_send(host, outer.vtep, vni, source, mac),
        format!("{source} was delivered from {} in {vni}", outer.vtep),
    )?;
    require(mac.is_valid_source(), "delivered from a MAC that nobody can have")?;
    require(mac != fabric_agent::model::ids::node_mac(host.name), "delivered from this node's own MAC")?;
    require(!is_nd(inner), "neighbour discovery was delivered")?;
    let to = owner(vni, mac_at(inner, 0)).ok_or("delivered to a MAC that nobody has")?;
    require(to.host == host, "delivered here, and lives elsewhere")?;
    let (mut want, mut got) = (inner.to_vec(), seen.out.to_vec());
    if outer.ecn & 1 != 0 {
        require(
            combined(outer.ecn, ecn(inner)) == Some(ecn(seen.out)),
            format!("ECN {} around {} became {}", outer.ecn, ecn(inner), ecn(seen.out)),
        )?;
        without_ecn(&mut want);
        without_ecn(&mut got);
    }
    require(want == got, "the inner frame was changed")?;
    Ok(Fate::Local(to))
}

/// The outer headers. The length fields of a packet that is to be segmented are those of no packet on any wire.
fn opened<'a>(seen: &Seen<'a>, host: &Host, underlay: Family) -> Result<Opened<'a>, String> {
    let gso = seen.gso.size != 0;
    let eth = EthernetFrame::new_checked(seen.frame).map_err(|_| "no Ethernet header")?;
    let whole = eth.payload();
    let (vtep, ecn, header) = match (eth.ethertype(), underlay) {
        (EthernetProtocol::Ipv4, Family::V4) => {
            if !gso {
                Ipv4Packet::new_checked(whole).map_err(|_| "delivered with wrong IP lengths")?;
            }
            let ip = Ipv4Packet::new_unchecked(whole);
            require(
                ip.version() == 4 && ip.header_len() == 20,
                "delivered with another version, or options",
            )?;
            require(ip.verify_checksum(), "delivered with a wrong outer header checksum")?;
            require(!ip.more_frags() && ip.frag_offset() == 0, "a fragment was delivered")?;
            require(ip.next_header() == IpProtocol::Udp, "delivered, and not UDP")?;
            require(ip.dst_addr() == host.vtep, "delivered, and not to us")?;
            require(gso || usize::from(ip.total_len()) == whole.len(), "bytes behind the outer packet")?;
            (ip.src_addr().into(), ip.ecn(), IPV4)
        }
        (EthernetProtocol::Ipv6, Family::V6) => {
            if !gso {
                Ipv6Packet::new_checked(whole).map_err(|_| "delivered with wrong IP lengths")?;
            }
            let ip = Ipv6Packet::new_unchecked(whole);
            require(ip.version() == 6 && ip.next_header() == IpProtocol::Udp, "delivered, and not UDP")?;
            require(ip.dst_addr() == host.vtep_v6(), "delivered, and not to us")?;
            require(gso || ip.total_len() == whole.len(), "bytes behind the outer packet")?;
            (ip.src_addr().into(), ip.traffic_class() & 3, IPV6)
        }
        _ => return Err("delivered, and not in the underlay's family".to_owned()),
    };
    let datagram = &whole[header..];
    let udp = UdpPacket::new_unchecked(datagram);
    require(udp.dst_port() == VXLAN_PORT, "delivered from another port")?;
    require(udp.checksum() == 0, "delivered with a UDP checksum that nobody looked at")?;
    require(gso || usize::from(udp.len()) == datagram.len(), "the UDP length is not that of the packet")?;
    let payload = &datagram[UDP..];
    require(payload.len() >= VXLAN + ETH, "delivered without an inner frame")?;
    require(payload[0] & 8 != 0, "delivered without the I flag")?;
    require(is_declared(host, vtep), format!("delivered from {vtep}, which is no VTEP"))?;
    let vni = u32::from_be_bytes([0, payload[4], payload[5], payload[6]]);
    Ok(Opened { vtep, vni, ecn, inner: &payload[VXLAN..] })
}

/// Whether an address is a VTEP of somebody that `host` knows.
pub fn is_declared(host: &Host, vtep: IpAddr) -> bool {
    HOSTS.iter().any(|h| has(h, vtep) && *h != host)
}

fn has(host: &Host, vtep: IpAddr) -> bool {
    let family = if vtep.is_ipv4() { Family::V4 } else { Family::V6 };
    host.underlay(family) == vtep
}

/// What the cast says of who may send what to `to`, and from which MAC.
pub fn may_send(to: &Host, vtep: IpAddr, vni: u32, source: IpAddr, mac: Mac) -> bool {
    let containers =
        cast::CONTAINERS.iter().filter(|c| has(c.host, vtep) && c.host != to && c.network.vni == vni);
    let mut own = containers.flat_map(|c| [c.v4.into(), c.v6.into(), IpAddr::from(c.link_local())]);
    let host =
        HOSTS.iter().any(|h| has(h, vtep) && vni == BLUE.vni && h.blue_address.is_some_and(|a| source == a));
    let in_prefix = match (source, STATION_V4.octets(), STATION.v6.segments()) {
        (IpAddr::V4(a), [x, y, z, _], _) => {
            a.octets()[..3] == [x, y, z] && (64..128).contains(&a.octets()[3])
        }
        (IpAddr::V6(a), _, station) => {
            a.segments()[..7] == station[..7] && (0x40..0x80).contains(&a.segments()[7])
        }
    };
    // A host of ours routes what the switch sent to its gateway.
    let ours = || HOSTS.iter().any(|h| has(h, vtep) && !h.foreign && *h != to);
    let relayed = mac == BLUE.gateway_mac && ours();
    let station = vni == BLUE.vni && in_prefix && (has(&SWITCH, vtep) || relayed);
    own.any(|a| a == source) || host || station
}

/// The table of RFC 6040 section 4.2, rows by the inner and columns by the outer field; nothing for a drop.
fn combined(outer: u8, inner: u8) -> Option<u8> {
    const DROP: u8 = 9;
    // Not-ECT, ECT(1), ECT(0), CE, as they are numbered.
    const TABLE: [[u8; 4]; 4] = [[0, 0, 0, DROP], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    let field = TABLE[usize::from(inner)][usize::from(outer)];
    (field != DROP).then_some(field)
}

/// Takes the ECN field out, and the IPv4 checksum, which may follow it.
fn without_ecn(frame: &mut [u8]) {
    if frame[12] == 8 {
        frame[ETH + 1] &= !3;
        frame[ETH + 10..ETH + 12].fill(0);
    } else {
        frame[ETH + 1] &= !0x30;
    }
}
