//! `advertisements`: what the gateway says of itself in networks that have router advertisements.
//!
//! Addresses come from the fabric, so prefixes are on-link and not for making addresses of (the A flag is 0). No DHCPv6 server gives any,
//! nor anything else, so the M and O flags are 0 too: with them hosts would wait for one that does not answer. The router's lifetime is the
//! longest that there is (RFC 8319), since the programs answer while no agent runs, but repeat nothing.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use etherparse::{Icmpv6Header, Icmpv6Type, IpNumber, Ipv6FlowLabel, Ipv6Header};
use fabric_common::{
    addr::Mac,
    advertisement::{AdvertisementValue, ROOM},
};

use super::{Context, desired::Desired};
use crate::model::{Network, ids};

/// ICMPv6 type.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Seconds that the router stays one.
const LIFETIME: u16 = u16::MAX;
/// Hop limit that hosts are told to send with.
const HOP_LIMIT: u8 = 64;
/// Ethernet (14), IPv6 (40), the message (16), MTU (8), the router's MAC (8).
const BASE: usize = 86;
/// Bytes of a prefix.
const PREFIX: usize = 32;

/// Comes behind `networks`.
pub(super) fn compile(context: &mut Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    for network in
        cluster.networks.values().filter(|network| network.router_advertisement && network.has_v6())
    {
        let most = (ROOM - BASE) / PREFIX;
        let prefixes = network.subnets.iter().filter(|subnet| subnet.net.addr().is_ipv6()).count();
        if prefixes > most {
            let text = format!(
                "it has {prefixes} IPv6 subnets, and router advertisements tell of the first {most}: split the network"
            );
            context.problem("Network", &network.name, text);
        }
        let mac = ids::gateway_mac(network.vni);
        let mtu = context.mtus[&network.name];
        if let Some(value) = advertisement(network, mac, mtu) {
            desired.tables.advertisements.insert(network.vni.get(), value);
        }
        super::networks::add_gateway(context, network, mac.link_local().to_ip(), desired);
    }
}

/// The last advertisement of a network that had this one: the same with a router lifetime of 0 (RFC 4861 section 6.2.5).
pub fn last(value: &AdvertisementValue) -> AdvertisementValue {
    const LIFETIME: Range<usize> = 60..62;
    const CHECKSUM: Range<usize> = 56..58;
    let word =
        |range: Range<usize>| u16::from_be_bytes([value.frame[range.start], value.frame[range.start + 1]]);
    // RFC 1624: HC' = ~(~HC + ~m + m'), with m' = 0.
    let sum = u32::from(!word(CHECKSUM)) + u32::from(!word(LIFETIME));
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    let mut last = *value;
    last.frame[LIFETIME].copy_from_slice(&[0, 0]);
    last.frame[CHECKSUM].copy_from_slice(&check.to_be_bytes());
    last
}

/// The frame. Absent only if it did not fit, which is not so.
fn advertisement(network: &Network, mac: Mac, mtu: u16) -> Option<AdvertisementValue> {
    let IpAddr::V6(source) = mac.link_local().to_ip() else { return None };
    let mut rest = vec![0; 8];
    // Source link-layer address, MTU (RFC 4861 sections 4.6.1 and 4.6.4).
    rest.extend([1, 1]);
    rest.extend(mac.bytes);
    rest.extend([5, 1, 0, 0]);
    rest.extend(u32::from(mtu).to_be_bytes());
    let most = (ROOM - BASE) / PREFIX;
    let v6 = network.subnets.iter().filter_map(|subnet| match subnet.net {
        ipnet::IpNet::V6(net) => Some(net),
        ipnet::IpNet::V4(_) => None,
    });
    for net in v6.take(most) {
        // Section 4.6.2: on-link, for ever.
        rest.extend([3, 4, net.prefix_len(), 0x80]);
        rest.extend([0xff; 8]);
        rest.extend([0; 4]);
        rest.extend(net.network().octets());
    }
    frame(mac, source, &rest)
}

fn frame(mac: Mac, source: Ipv6Addr, rest: &[u8]) -> Option<AdvertisementValue> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let [high, low] = LIFETIME.to_be_bytes();
    let kind = Icmpv6Type::Unknown {
        type_u8: ROUTER_ADVERTISEMENT,
        code_u8: 0,
        bytes5to8: [HOP_LIMIT, 0, high, low],
    };
    let message = Icmpv6Header::with_checksum(kind, source.octets(), all_nodes.octets(), rest).ok()?;
    let ip = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: u16::try_from(message.header_len() + rest.len()).ok()?,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: 255,
        source: source.octets(),
        destination: all_nodes.octets(),
    };
    let mut bytes = vec![0x33, 0x33, 0, 0, 0, 1];
    bytes.extend(mac.bytes);
    bytes.extend([0x86, 0xdd]);
    bytes.extend(ip.to_bytes());
    bytes.extend(message.to_bytes());
    bytes.extend(rest);
    let mut frame = [0; ROOM];
    frame.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    Some(AdvertisementValue { len: u32::try_from(bytes.len()).ok()?, zero: 0, frame })
}
