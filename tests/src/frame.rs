//! Frames: built with one library (etherparse), read and checked with another (smoltcp), so that an error in one of them
//! does not confirm itself.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder, TcpHeader, UdpHeader,
};
use fabric_common::addr::Mac;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, PrettyPrinter, TcpPacket, UdpPacket,
};

use crate::cast::{Container, Family, Host, VXLAN_PORT};

/// Bytes of an Ethernet header.
pub const ETH: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;
/// Bytes of a UDP header.
pub const UDP: usize = 8;
/// Bytes of a VXLAN header (RFC 7348 section 5).
pub const VXLAN: usize = 8;
/// Offset of the inner frame in a tunnel packet.
pub const INNER: usize = ETH + IPV4 + UDP + VXLAN;
/// The same over IPv6.
pub const INNER_OVER_V6: usize = ETH + IPV6 + UDP + VXLAN;
/// Time to live of inner packets in the walks.
pub const TTL: u8 = 17;

/// Who sends to whom: link and network layer.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Source MAC.
    pub src_mac: Mac,
    /// Destination MAC.
    pub dst_mac: Mac,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
}

impl Path {
    /// From one container straight to another.
    pub fn between(from: &Container, to: &Container, family: Family) -> Self {
        Self { src_mac: from.mac, dst_mac: to.mac, src: from.address(family), dst: to.address(family) }
    }

    /// The same with another source address.
    pub fn with_src(self, src: impl Into<IpAddr>) -> Self {
        Self { src: src.into(), ..self }
    }

    /// The same with another source MAC.
    pub fn with_src_mac(self, src_mac: Mac) -> Self {
        Self { src_mac, ..self }
    }

    /// The same with another destination MAC.
    pub fn with_dst_mac(self, dst_mac: Mac) -> Self {
        Self { dst_mac, ..self }
    }

    /// The same with another destination address.
    pub fn with_dst(self, dst: impl Into<IpAddr>) -> Self {
        Self { dst: dst.into(), ..self }
    }

    fn builder(&self, ttl: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let eth = PacketBuilder::ethernet2(self.src_mac.bytes, self.dst_mac.bytes);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => eth.ipv4(src.octets(), dst.octets(), ttl),
            (IpAddr::V6(src), IpAddr::V6(dst)) => eth.ipv6(src.octets(), dst.octets(), ttl),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                panic!("addresses of two families")
            }
        }
    }

    /// A UDP packet.
    pub fn udp(&self, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.builder(TTL).udp(ports.0, ports.1).write(&mut frame, payload).expect("it fits");
        frame
    }

    /// A TCP segment.
    pub fn tcp(&self, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let header = TcpHeader::new(ports.0, ports.1, 1000, 4096);
        self.builder(TTL).tcp_header(header).write(&mut frame, payload).expect("it fits");
        frame
    }

    /// A TCP segment with this header, whose checksum is computed.
    pub fn segment(&self, header: TcpHeader, payload: &[u8], ttl: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        self.builder(ttl).tcp_header(header).write(&mut frame, payload).expect("it fits");
        frame
    }

    /// An echo request.
    pub fn ping(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let ip = self.builder(TTL);
        match self.src {
            IpAddr::V4(_) => ip.icmpv4_echo_request(7, 1).write(&mut frame, payload),
            IpAddr::V6(_) => ip.icmpv6_echo_request(7, 1).write(&mut frame, payload),
        }
        .expect("it fits");
        frame
    }

    /// An ICMPv6 message with a right checksum: type, the four bytes behind the checksum, the rest.
    pub fn icmpv6(&self, kind: u8, code: u8, head: [u8; 4], rest: &[u8], hop_limit: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let ip = self.builder(hop_limit);
        ip.icmpv6_raw(kind, code, head).write(&mut frame, rest).expect("it fits");
        frame
    }

    /// A frame that is as long as asked, Ethernet header included: a UDP packet, filled up.
    pub fn of_length(&self, length: usize) -> Vec<u8> {
        let ip = if self.src.is_ipv4() { IPV4 } else { IPV6 };
        self.udp((4000, 5000), &vec![0xa5; length - ETH - ip - UDP])
    }
}

/// An Ethernet frame of any type.
pub fn ethernet(src: Mac, dst: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.bytes[..], &src.bytes, &ether_type.to_be_bytes(), payload].concat()
}

/// An ARP packet's four addresses and its operation.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// Ethernet source.
    pub eth_src: Mac,
    /// Ethernet destination.
    pub eth_dst: Mac,
    /// Sender MAC.
    pub sender_mac: Mac,
    /// Sender address.
    pub sender: Ipv4Addr,
    /// Target MAC.
    pub target_mac: Mac,
    /// Target address.
    pub target: Ipv4Addr,
    /// A reply, not a request.
    pub reply: bool,
}

/// The broadcast MAC.
pub const BROADCAST: Mac = Mac::new([0xff; 6]);

impl Arp {
    /// `from` asks everybody who has `target`.
    pub fn who_has(from: &Container, target: Ipv4Addr) -> Self {
        Self {
            eth_src: from.mac,
            eth_dst: BROADCAST,
            sender_mac: from.mac,
            sender: from.v4,
            target_mac: Mac::ZERO,
            target,
            reply: false,
        }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let operation = if self.reply { ArpOperation::REPLY } else { ArpOperation::REQUEST };
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &self.sender_mac.bytes,
            &self.sender.octets(),
            &self.target_mac.bytes,
            &self.target.octets(),
        )
        .expect("Ethernet and IPv4");
        ethernet(self.eth_src, self.eth_dst, EtherType::ARP.0, &arp.to_bytes())
    }
}

/// The outer headers of a tunnel packet; the fields that tests bend.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Ethernet source.
    pub src_mac: Mac,
    /// Ethernet destination.
    pub dst_mac: Mac,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination, of the same family.
    pub dst: IpAddr,
    /// IPv6 flow label; without a meaning over IPv4.
    pub flow_label: u32,
    /// UDP source port.
    pub src_port: u16,
    /// UDP destination port.
    pub dst_port: u16,
    /// The eight bytes of the VXLAN header.
    pub vxlan: [u8; VXLAN],
}

impl Outer {
    /// A right one from one host to another, over IPv4.
    pub fn between(from: &Host, to: &Host, vni: u32) -> Self {
        Self::over(Family::V4, from, to, vni)
    }

    /// The same over either family.
    pub fn over(underlay: Family, from: &Host, to: &Host, vni: u32) -> Self {
        let [_, a, b, c] = vni.to_be_bytes();
        Self {
            src_mac: from.mac,
            dst_mac: to.mac,
            src: from.underlay(underlay),
            dst: to.underlay(underlay),
            flow_label: 0,
            src_port: 50_000,
            dst_port: VXLAN_PORT,
            vxlan: [0x08, 0, 0, 0, a, b, c, 0],
        }
    }

    /// The whole packet, UDP checksum 0.
    pub fn around(&self, inner: &[u8]) -> Vec<u8> {
        self.udp(&[&self.vxlan, inner].concat())
    }

    /// The whole packet with a right UDP checksum.
    pub fn around_with_checksum(&self, inner: &[u8]) -> Vec<u8> {
        let payload = [&self.vxlan, inner].concat();
        let path = Path { src_mac: self.src_mac, dst_mac: self.dst_mac, src: self.src, dst: self.dst };
        path.udp((self.src_port, self.dst_port), &payload)
    }

    /// The whole packet with another UDP payload, checksum 0.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).expect("a datagram");
        let mut packet = Vec::new();
        let ether_type = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ip = Ipv4Header::new(length + UDP as u16, 64, IpNumber::UDP, src.octets(), dst.octets());
                let mut ip = ip.expect("it fits");
                ip.dont_fragment = true;
                ip.write(&mut packet).expect("a vector takes all");
                EtherType::IPV4
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::try_new(self.flow_label).expect("20 bits"),
                    payload_length: length + UDP as u16,
                    next_header: IpNumber::UDP,
                    hop_limit: 64,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                ip.write(&mut packet).expect("a vector takes all");
                EtherType::IPV6
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                panic!("addresses of two families")
            }
        };
        // A checksum of 0 in either family.
        let udp = UdpHeader::without_ipv4_checksum(self.src_port, self.dst_port, usize::from(length))
            .expect("it fits");
        packet.extend(udp.to_bytes());
        packet.extend(payload);
        ethernet(self.src_mac, self.dst_mac, ether_type.0, &packet)
    }
}

/// Puts the outer Ethernet header on, as the kernel's neighbour code does behind `from_container`.
pub fn on_the_wire(mut packet: Vec<u8>, from: &Host, to: &Host) -> Vec<u8> {
    let ether_type = if packet[ETH] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 };
    packet.splice(..ETH, ethernet(from.mac, to.mac, ether_type.0, &[]));
    packet
}

/// Writes the header checksum of the IPv4 header at `at` anew, after a test bent the header.
pub fn fix_ip_checksum(frame: &mut [u8], at: usize) {
    let length = usize::from(frame[at] & 0xf) * 4;
    frame[at + 10..at + 12].fill(0);
    let sum = internet_checksum(&frame[at..at + length]);
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071), to be stored in network byte order.
pub fn internet_checksum(data: &[u8]) -> u16 {
    let mut sum: u32 =
        data.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Checks every checksum and length of a frame with the second library; UDP may have checksum 0. Returns the
/// first fault as a sentence.
pub fn fault(frame: &[u8]) -> Option<String> {
    let eth = EthernetFrame::new_checked(frame).ok()?;
    let checked = match eth.ethertype() {
        EthernetProtocol::Ipv4 => ipv4_fault(eth.payload()),
        EthernetProtocol::Ipv6 => ipv6_fault(eth.payload()),
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => Ok(()),
    };
    checked.err()
}

fn ipv4_fault(packet: &[u8]) -> Result<(), String> {
    let ip =
        Ipv4Packet::new_checked(packet).map_err(|_| "the IPv4 header is cut or its lengths are wrong")?;
    if !ip.verify_checksum() {
        return Err("the IPv4 header checksum is wrong".to_owned());
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Ok(());
    }
    transport_fault(ip.next_header(), ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
}

fn ipv6_fault(packet: &[u8]) -> Result<(), String> {
    let ip = Ipv6Packet::new_checked(packet).map_err(|_| "the IPv6 header is cut or its length is wrong")?;
    transport_fault(ip.next_header(), ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
}

fn transport_fault(
    protocol: IpProtocol,
    src: IpAddress,
    dst: IpAddress,
    payload: &[u8],
) -> Result<(), String> {
    let right = match (protocol, src, dst) {
        (IpProtocol::Udp, ..) => {
            let udp = UdpPacket::new_checked(payload)
                .map_err(|_| "the UDP header is cut or its length is wrong")?;
            udp.verify_checksum(&src, &dst)
        }
        (IpProtocol::Tcp, ..) => {
            let tcp = TcpPacket::new_checked(payload).map_err(|_| "the TCP header is cut")?;
            tcp.verify_checksum(&src, &dst)
        }
        (IpProtocol::Icmp, ..) => Icmpv4Packet::new_checked(payload).is_ok_and(|icmp| icmp.verify_checksum()),
        (IpProtocol::Icmpv6, IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) => {
            Icmpv6Packet::new_checked(payload).is_ok_and(|icmp| icmp.verify_checksum(&src, &dst))
        }
        _ => true,
    };
    if right { Ok(()) } else { Err(format!("the {protocol} checksum is wrong")) }
}

/// Panics with an explanation of both frames if they differ in one byte.
#[track_caller]
pub fn assert_same(what: &str, got: &[u8], want: &[u8]) {
    if got == want {
        return;
    }
    let mut text = format!("{what}: the frame is not the expected one\n");
    let _ = write!(
        text,
        "expected, {} bytes:\n{}got, {} bytes:\n{}",
        want.len(),
        explain(want),
        got.len(),
        explain(got)
    );
    text.push_str("bytes that differ:\n");
    for at in 0..got.len().max(want.len()) {
        let (got, want) = (got.get(at), want.get(at));
        if got != want {
            let show = |byte: Option<&u8>| byte.map_or("--".to_owned(), |b| format!("{b:02x}"));
            let _ = writeln!(text, "  {at:5} {:24} expected {} got {}", place(at), show(want), show(got));
        }
    }
    panic!("{text}");
}

/// What a frame says, layer by layer, and its bytes.
pub fn explain(frame: &[u8]) -> String {
    let mut text = String::new();
    if frame.len() >= ETH {
        let _ = writeln!(text, "  {}", PrettyPrinter::<EthernetFrame<&[u8]>>::new("", &frame));
    }
    for (row, bytes) in frame.chunks(16).enumerate() {
        let hex: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "  {:04x}  {}", row * 16, hex.join(" "));
    }
    text
}

fn place(at: usize) -> &'static str {
    match at {
        0..6 => "Ethernet destination",
        6..12 => "Ethernet source",
        12..14 => "EtherType",
        14..34 => "IP header (if IPv4)",
        34..42 => "UDP header (if IPv4)",
        42..50 => "VXLAN header (if tunnel)",
        _ => "payload or inner frame",
    }
}

/// The IPv6 solicited-node multicast address of a target (RFC 4291 section 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let o = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), u16::from_be_bytes([o[14], o[15]]))
}

/// The MAC of an IPv6 multicast address (RFC 2464 section 7).
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    Mac::new([0x33, 0x33, o[12], o[13], o[14], o[15]])
}

/// Source address of an Ethernet frame's IP packet, as the second library reads it.
pub fn source(frame: &[u8]) -> Option<IpAddr> {
    let eth = EthernetFrame::new_checked(frame).ok()?;
    match eth.ethertype() {
        EthernetProtocol::Ipv4 => Some(Ipv4Packet::new_checked(eth.payload()).ok()?.src_addr().into()),
        EthernetProtocol::Ipv6 => Some(Ipv6Packet::new_checked(eth.payload()).ok()?.src_addr().into()),
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => None,
    }
}
