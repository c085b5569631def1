//! ICMP messages that the fabric sends in the gateway's name, built by the library.

use std::net::IpAddr;

use etherparse::{Icmpv4Type, IpHeaders, IpNumber, Ipv4Header, PacketBuilder, icmpv4::DestUnreachableHeader};

use crate::{
    cast::{Container, GATEWAY_V4, GATEWAY_V6},
    frame::{ETH, Path},
};

/// Bytes of a packet that an error quotes.
pub const QUOTED: usize = 128;
/// Time to live of what the gateway sends.
pub const TTL: u8 = 64;

/// What the gateway should answer to a frame of `from` that is too big: fragmentation needed or packet too big.
pub fn too_big(from: &Container, frame: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = &frame[ETH..ETH + QUOTED];
    let gateway = from.network.gateway_mac;
    if frame[12..ETH] == [8, 0] {
        let mut ip = Ipv4Header::new(0, TTL, IpNumber::ICMP, GATEWAY_V4.octets(), from.v4.octets())
            .expect("an empty packet fits");
        ip.dscp = 48.try_into().expect("internetwork control");
        let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        let mut answer = Vec::new();
        PacketBuilder::ethernet2(gateway.bytes, from.mac.bytes)
            .ip(IpHeaders::Ipv4(ip, Default::default()))
            .icmpv4(Icmpv4Type::DestinationUnreachable(needed))
            .write(&mut answer, quoted)
            .expect("it fits");
        return answer;
    }
    let back = Path { src_mac: gateway, dst_mac: from.mac, src: GATEWAY_V6.into(), dst: source(frame) };
    back.icmpv6(2, 0, u32::from(mtu).to_be_bytes(), quoted, TTL)
}

fn source(frame: &[u8]) -> IpAddr {
    crate::frame::source(frame).expect("an IP packet")
}

impl Path {
    /// The reply to what [`Path::ping`] makes, back along this path.
    pub fn pong(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let eth = PacketBuilder::ethernet2(self.src_mac.bytes, self.dst_mac.bytes);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                eth.ipv4(src.octets(), dst.octets(), TTL).icmpv4_echo_reply(7, 1).write(&mut frame, payload)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                eth.ipv6(src.octets(), dst.octets(), TTL).icmpv6_echo_reply(7, 1).write(&mut frame, payload)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                panic!("addresses of two families")
            }
        }
        .expect("it fits");
        frame
    }
}
