//! ICMP messages that the fabric sends in the gateway's name, built by the library.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpHeaders, IpNumber, Ipv4Header, PacketBuilder};

use crate::{
    cast::{Container, GATEWAY_V4, GATEWAY_V6},
    frame::{ETH, IPV6, Path},
};

/// Bytes of a packet that an error quotes at most.
pub const QUOTED: usize = 128;
/// Time to live of what the gateway sends.
pub const TTL: u8 = 64;

/// What the gateway should answer to a frame of `from` that is too big: fragmentation needed or packet too big.
pub fn too_big(from: &Container, frame: &[u8], mtu: u16) -> Vec<u8> {
    error(from, frame, Kind { v4: (3, 4), v6: (2, 0), mtu })
}

/// An error's type and code in each family, and its MTU (0 where there is none).
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// ICMP.
    pub v4: (u8, u8),
    /// ICMPv6.
    pub v6: (u8, u8),
    /// Bytes.
    pub mtu: u16,
}

/// What the gateway should answer to a frame of `from`, which has the first gateways that are usual.
pub fn error(from: &Container, frame: &[u8], kind: Kind) -> Vec<u8> {
    error_by((GATEWAY_V4, GATEWAY_V6), from, frame, kind)
}

/// The same of a network with other gateways.
pub fn error_by(
    (v4, v6): (Ipv4Addr, Ipv6Addr),
    from: &Container,
    frame: &[u8],
    Kind { v4: icmp, v6: icmpv6, mtu }: Kind,
) -> Vec<u8> {
    let field = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let ip = if frame[12..ETH] == [8, 0] { field(ETH + 2) } else { field(ETH + 4) + IPV6 };
    let quoted = &frame[ETH..ETH + ip.min(QUOTED).min(frame.len() - ETH)];
    let gateway = from.network.gateway_mac;
    if frame[12..ETH] == [8, 0] {
        let mut ip = Ipv4Header::new(0, TTL, IpNumber::ICMP, v4.octets(), from.v4.octets())
            .expect("an empty packet fits");
        ip.dscp = 48.try_into().expect("internetwork control");
        let [high, low] = mtu.to_be_bytes();
        let mut answer = Vec::new();
        PacketBuilder::ethernet2(gateway.bytes, from.mac.bytes)
            .ip(IpHeaders::Ipv4(ip, Default::default()))
            .icmpv4_raw(icmp.0, icmp.1, [0, 0, high, low])
            .write(&mut answer, quoted)
            .expect("it fits");
        return answer;
    }
    let back = Path { src_mac: gateway, dst_mac: from.mac, src: v6.into(), dst: source(frame) };
    back.icmpv6(icmpv6.0, icmpv6.1, u32::from(mtu).to_be_bytes(), quoted, TTL)
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
