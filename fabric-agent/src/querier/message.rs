//! General queries as frames (RFC 3376 section 4.1, RFC 3810 section 5.1), from the network's gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    checksum::Sum16BitWords,
};
use fabric_common::{
    addr::{Addr, Mac},
    network::NetworkValue,
};

/// Seconds between general queries, as the messages tell.
pub(super) const INTERVAL: u8 = 125;
/// How many queries may go unanswered.
const ROBUSTNESS: u8 = 2;
/// Within which time hosts answer, in tenths of a second (IGMP) and in milliseconds (MLD).
const RESPONSE: (u8, u16) = (100, 10_000);

/// Internetwork control (RFC 2474 section 4.2.2.2).
const CS6: u8 = 0xc0;

/// The queries that a network's ports get: of IGMP with IPv4 subnets, of MLD with IPv6 subnets.
pub(super) fn queries(network: &NetworkValue) -> Vec<Vec<u8>> {
    let mac = network.gateway_mac;
    let mut frames = Vec::new();
    if let IpAddr::V4(gateway) = network.gateway_v4.to_ip()
        && !gateway.is_unspecified()
    {
        frames.extend(igmp(mac, gateway));
    }
    if let (IpAddr::V6(_), IpAddr::V6(link_local)) = (network.gateway_v6.to_ip(), mac.link_local().to_ip())
        && network.gateway_v6 != Addr::UNSPECIFIED
    {
        frames.extend(mld(mac, link_local));
    }
    frames
}

/// Absent only if the libraries find a length that does not fit, which none of these has.
fn igmp(mac: Mac, gateway: Ipv4Addr) -> Option<Vec<u8>> {
    let mut message = [0x11, RESPONSE.0, 0, 0, 0, 0, 0, 0, ROBUSTNESS, INTERVAL, 0, 0];
    let check = Sum16BitWords::new().add_slice(&message).ones_complement();
    message[2..4].copy_from_slice(&check.to_ne_bytes());
    let mut ip = Ipv4Header::new(0, 1, IpNumber::IGMP, gateway.octets(), [224, 0, 0, 1]).ok()?;
    // The router alert (RFC 2113).
    ip.options = Ipv4Options::from([0x94, 4, 0, 0]);
    ip.dscp = etherparse::IpDscp::try_new(CS6 >> 2).ok()?;
    ip.set_payload_len(message.len()).ok()?;
    ip.header_checksum = ip.calc_header_checksum();
    let mut frame = ethernet(mac, [1, 0, 0x5e, 0, 0, 1], 0x0800);
    frame.extend(ip.to_bytes());
    frame.extend(message);
    Some(frame)
}

fn mld(mac: Mac, link_local: Ipv6Addr) -> Option<Vec<u8>> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Hop-by-hop options: the router alert for MLD (RFC 2711), padding.
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let [high, low] = RESPONSE.1.to_be_bytes();
    let kind = Icmpv6Type::Unknown { type_u8: 130, code_u8: 0, bytes5to8: [high, low, 0, 0] };
    let mut rest = [0; 20];
    rest[16..18].copy_from_slice(&[ROBUSTNESS, INTERVAL]);
    let message = Icmpv6Header::with_checksum(kind, link_local.octets(), all_nodes.octets(), &rest).ok()?;
    let length = alert.len() + message.header_len() + rest.len();
    let ip = Ipv6Header {
        traffic_class: CS6,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: u16::try_from(length).ok()?,
        next_header: IpNumber::IPV6_HEADER_HOP_BY_HOP,
        hop_limit: 1,
        source: link_local.octets(),
        destination: all_nodes.octets(),
    };
    let mut frame = ethernet(mac, [0x33, 0x33, 0, 0, 0, 1], 0x86dd);
    frame.extend(ip.to_bytes());
    frame.extend(alert);
    frame.extend(message.to_bytes());
    frame.extend(rest);
    Some(frame)
}

fn ethernet(from: Mac, to: [u8; 6], ether_type: u16) -> Vec<u8> {
    [&to[..], &from.bytes, &ether_type.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use fabric_common::{
        addr::{Addr, Mac},
        network::{FLAG_MULTICAST, NetworkValue},
    };

    use super::queries;

    fn network(gateway_v4: Addr, gateway_v6: Addr) -> NetworkValue {
        let gateway_mac = Mac::new([2, 0xfa, 0, 0, 0, 100]);
        NetworkValue {
            gateway_mac,
            mtu: 1450,
            flags: FLAG_MULTICAST,
            zero: [0; 2],
            id: 1,
            gateway_v4,
            gateway_v6,
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// Put together by hand from the RFCs; checksums by RFC 1071.
    #[test]
    fn the_frames_are_those_of_the_rfcs() {
        let v4 = Addr::v4([192, 168, 10, 1]);
        let v6 = Addr::v6([0xfd, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let igmp =
            hex("01005e000001 02fa00000064 0800 46c00024 00004000 0102 3969 c0a80a01 e0000001 94040000 \
             1164 ec1e 00000000 027d 0000");
        let mld =
            hex("333300000001 02fa00000064 86dd 6c000000 0024 00 01 fe80000000000000 00fa00fffe000064 \
             ff020000000000000000000000000001 3a00050200000100 8200 5639 27100000 \
             00000000000000000000000000000000 027d0000");
        assert_eq!(queries(&network(v4, Addr::UNSPECIFIED)), std::slice::from_ref(&igmp));
        assert_eq!(queries(&network(Addr::UNSPECIFIED, v6)), std::slice::from_ref(&mld));
        assert_eq!(queries(&network(v4, v6)), [igmp, mld]);
        assert!(queries(&network(Addr::UNSPECIFIED, Addr::UNSPECIFIED)).is_empty());
    }
}
