//! Frames of a trace: put together as a container's stack would, and read far enough to talk about them.

use std::net::IpAddr;

use fabric_common::addr::{Addr, Mac};

const TTL: u8 = 64;
const SOURCE_PORT: u16 = 40_000;
/// Ethernet header, bytes.
pub(super) const ETH: usize = 14;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Echo,
    Tcp(u16),
    Udp(u16),
}

/// The first packet of a conversation; both addresses are of one family.
pub(super) fn build(src_mac: Mac, dst_mac: Mac, src: IpAddr, dst: IpAddr, payload: Payload) -> Vec<u8> {
    let v4 = src.is_ipv4();
    let (protocol, mut segment) = match payload {
        Payload::Echo if v4 => (1, vec![8, 0, 0, 0, 0, 1, 0, 1]),
        Payload::Echo => (58, vec![128, 0, 0, 0, 0, 1, 0, 1]),
        // SYN, no options, window 65535.
        Payload::Tcp(port) => {
            (6, [&ports(port)[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat())
        }
        Payload::Udp(port) => (17, [&ports(port)[..], &[0, 8, 0, 0]].concat()),
    };
    let at = match payload {
        Payload::Echo => 2,
        Payload::Tcp(_) => 16,
        Payload::Udp(_) => 6,
    };
    let length = segment.len() as u16;
    let mut pseudo = Vec::new();
    if protocol != 1 {
        pseudo = [bytes(src), bytes(dst), length.to_be_bytes().to_vec(), vec![0, protocol]].concat();
    }
    let sum = checksum(&[&pseudo[..], &segment].concat());
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let header = if v4 {
        let total = (length + 20).to_be_bytes();
        let mut header = [
            &[0x45, 0, total[0], total[1], 0, 1, 0x40, 0, TTL, protocol, 0, 0][..],
            &bytes(src),
            &bytes(dst),
        ]
        .concat();
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    } else {
        let length = length.to_be_bytes();
        [&[0x60, 0, 0, 0, length[0], length[1], protocol, TTL][..], &bytes(src), &bytes(dst)].concat()
    };
    let ether_type: [u8; 2] = if v4 { [8, 0] } else { [0x86, 0xdd] };
    [&dst_mac.bytes[..], &src_mac.bytes, &ether_type, &header, &segment].concat()
}

/// An ICMP error (RFC 792, RFC 1191, RFC 4443) in words: what it says, and whose word it is. As the programs write it: no IP
/// options, no extension headers.
pub(super) fn error(frame: &[u8]) -> Option<String> {
    let (from, _) = addresses(frame, ETH)?;
    let icmp = frame.get(ETH + if from.is_v4() { 20 } else { 40 }..)?.first_chunk::<8>()?;
    let mtu = u16::from_be_bytes([icmp[6], icmp[7]]);
    let (name, says) = match (from.is_v4(), icmp[0], icmp[1]) {
        (true, 3, 4) => ("ICMP", format!("fragmentation needed, MTU {mtu}")),
        (true, 3, code) => ("ICMP", format!("destination unreachable, code {code}")),
        (true, 11, _) => ("ICMP", "time exceeded".to_owned()),
        (false, 1, code) => ("ICMPv6", format!("destination unreachable, code {code}")),
        (false, 2, _) => ("ICMPv6", format!("packet too big, MTU {mtu}")),
        (false, 3, _) => ("ICMPv6", "time exceeded".to_owned()),
        (v4, kind, code) => (if v4 { "ICMP" } else { "ICMPv6" }, format!("type {kind}, code {code}")),
    };
    Some(format!("{name} {says}, from {from}"))
}

fn ports(to: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (SOURCE_PORT.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d]
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

/// A MAC of the Ethernet header, or no MAC if the frame is too short.
pub(super) fn mac(frame: &[u8], at: usize) -> Mac {
    frame.get(at..at + 6).and_then(|bytes| bytes.try_into().ok()).map_or(Mac::ZERO, Mac::new)
}

/// Addresses of the IP header that begins at `at`.
pub(super) fn addresses(frame: &[u8], at: usize) -> Option<(Addr, Addr)> {
    fn take<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
        frame.get(at..at + N)?.try_into().ok()
    }
    match frame.get(at)? >> 4 {
        4 => Some((Addr::v4(take(frame, at + 12)?), Addr::v4(take(frame, at + 16)?))),
        6 => Some((Addr::v6(take(frame, at + 8)?), Addr::v6(take(frame, at + 24)?))),
        _ => None,
    }
}

/// An encapsulated frame's outer header.
pub(super) struct Outer {
    /// In words.
    pub(super) text: String,
    pub(super) vni: u32,
    /// Where the inner frame begins.
    pub(super) inner: usize,
}

/// Reads the outer header of an encapsulated frame.
pub(super) fn outer(frame: &[u8]) -> Option<Outer> {
    let (src, dst) = addresses(frame, ETH)?;
    let udp = ETH + if frame.get(ETH)? >> 4 == 4 { 20 } else { 40 };
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let vni = u32::from_be_bytes([0, *frame.get(udp + 12)?, *frame.get(udp + 13)?, *frame.get(udp + 14)?]);
    let text = format!("{src} > {dst}, UDP {} > {}, VNI {vni}", word(udp)?, word(udp + 2)?);
    Some(Outer { text, vni, inner: udp + 16 })
}

/// Hexadecimal digits, blanks and line ends between them allowed.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(2) || digits.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits.chunks(2).map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)).collect()
}

/// The reverse of [`from_hex`].
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use fabric_common::addr::Mac;

    use super::{ETH, Payload, addresses, build, checksum, from_hex, to_hex};

    #[test]
    fn packets_have_right_checksums() {
        let ip = |text: &str| text.parse().expect("an address");
        for (src, dst) in [("192.168.10.11", "192.168.10.12"), ("fd00::1", "fd00::2")] {
            for payload in [Payload::Echo, Payload::Tcp(80), Payload::Udp(53)] {
                let frame = build(Mac::new([2; 6]), Mac::new([4; 6]), ip(src), ip(dst), payload);
                let (from, to) = addresses(&frame, ETH).expect("an IP header");
                assert_eq!((from.to_ip(), to.to_ip()), (ip(src), ip(dst)));
                let v4 = from.is_v4();
                let transport = ETH + if v4 { 20 } else { 40 };
                if v4 {
                    assert_eq!(checksum(&frame[ETH..transport]), 0);
                }
                let mut sum = frame[transport..].to_vec();
                if !(v4 && payload == Payload::Echo) {
                    let addresses = if v4 { &frame[ETH + 12..ETH + 20] } else { &frame[ETH + 8..ETH + 40] };
                    let protocol = if v4 { frame[ETH + 9] } else { frame[ETH + 6] };
                    sum.extend([addresses, &[0, (frame.len() - transport) as u8, 0, protocol]].concat());
                }
                assert_eq!(checksum(&sum), 0, "{src} {payload:?}");
            }
        }
    }

    #[test]
    fn hexadecimal_text_comes_back() {
        assert_eq!(from_hex("02 fF\n10"), Some(vec![2, 0xff, 0x10]));
        assert_eq!(to_hex(&[2, 0xff]), "02ff");
        assert_eq!((from_hex("0"), from_hex("zz"), from_hex("")), (None, None, None));
    }
}
