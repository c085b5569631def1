//! Many endpoints and many rules: what `cargo xtask bench policy` loads, and who its packets are for.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// The network, and the namespace of all endpoints in it.
pub const NETWORK: &str = "scale";
/// Its subnet: room for the peers.
pub const SUBNET: &str = "10.64.0.0/12";
/// The endpoint that the rules protect.
pub const SUBJECT: &str = "subject";
/// Its address.
pub const SUBJECT_ADDRESS: &str = "10.64.0.10";
/// The port that rules admit.
pub const OPEN_PORT: u16 = 8080;
/// A port that none does.
pub const SHUT_PORT: u16 = 9;
/// Rules in one NetworkPolicy.
pub const RULES_A_POLICY: usize = 100;

/// Address of a peer.
pub fn peer_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a41_0000 + number)
}

/// MAC of a peer.
pub fn peer_mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [2, 0x5c, a, b, c, d]
}

/// A remote endpoint with labels that nobody else has, which makes it an identity of its own.
pub fn peer(number: u32, node: &str) -> Value {
    let mac = peer_mac(number).map(|byte| format!("{byte:02x}")).join(":");
    json!({
        "apiVersion": "fabric/v1", "kind": "Endpoint",
        "metadata": {"name": format!("peer-{number}"), "labels": {"app": "peer", "id": format!("p{number}")}},
        "spec": {"network": NETWORK, "node": node, "addresses": [peer_address(number).to_string()], "mac": mac},
    })
}

/// NetworkPolicies with this many rules in all, each of which lets the subject reach one peer at one port.
pub fn policies(rules: usize) -> Vec<Value> {
    let rule = |number: usize| {
        json!({
            "to": [{"podSelector": {"matchLabels": {"id": format!("p{number}")}}}],
            "ports": [{"protocol": "UDP", "port": OPEN_PORT}],
        })
    };
    let numbers: Vec<usize> = (0..rules).collect();
    let parts = numbers.chunks(RULES_A_POLICY).enumerate();
    parts
        .map(|(at, part)| {
            let rules: Vec<Value> = part.iter().map(|number| rule(*number)).collect();
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": format!("rules-{at}"), "namespace": NETWORK},
                "spec": {"podSelector": {"matchLabels": {"app": SUBJECT}}, "policyTypes": ["Egress"], "egress": rules},
            })
        })
        .collect()
}

/// One rule more, for the subject and the first peer at another port: its effect is to be seen in the kernel.
pub fn one_more(port: u16) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "one-more", "namespace": NETWORK},
        "spec": {"podSelector": {"matchLabels": {"app": SUBJECT}}, "policyTypes": ["Egress"], "egress": [{
            "to": [{"podSelector": {"matchLabels": {"id": "p0"}}}],
            "ports": [{"protocol": "UDP", "port": port}],
        }]},
    })
}

/// An Ethernet frame with an empty-handed UDP datagram from the subject to a peer.
pub fn frame(mac: [u8; 6], number: u32, source_port: u16, port: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend(peer_mac(number));
    frame.extend(mac);
    frame.extend([8, 0]);
    let source: Ipv4Addr = SUBJECT_ADDRESS.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    let mut ip = [0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&peer_address(number).octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    // The sum of ten words has at most four bits above sixteen.
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !(folded as u16);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(ip);
    frame.extend(source_port.to_be_bytes());
    frame.extend(port.to_be_bytes());
    // Length, and no checksum, which IPv4 allows (RFC 768).
    frame.extend([0, 26, 0, 0]);
    frame.extend([0; 18]);
    frame
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketHeaders, TransportHeader};

    use super::*;

    #[test]
    fn frames_are_what_they_seem() {
        let frame = frame([2; 6], 99_999, 4000, OPEN_PORT);
        let parsed = PacketHeaders::from_ethernet_slice(&frame).expect("headers");
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4") };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(Ipv4Addr::from(ip.destination), peer_address(99_999));
        let Some(TransportHeader::Udp(udp)) = parsed.transport else { panic!("not UDP") };
        assert_eq!((udp.source_port, udp.destination_port, udp.length), (4000, OPEN_PORT, 26));
    }

    #[test]
    fn there_are_as_many_rules_as_asked_for() {
        let count = |policy: &Value| policy["spec"]["egress"].as_array().map_or(0, Vec::len);
        for rules in [10, 1000, 1001] {
            assert_eq!(policies(rules).iter().map(count).sum::<usize>(), rules);
        }
    }
}
