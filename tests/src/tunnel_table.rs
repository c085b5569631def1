//! Tunnel packets for HOST_B and what should become of each: one table for all hooks that a tunnel packet meets
//! (recipes R2, R3 and R4, and the source records).

use fabric_common::{
    addr::Mac,
    reason::{Action, DropReason},
};

use crate::{
    cast::{
        self, BLUE, CA1, CA2, CB1, CB2, Family, GA1, GB1, GREEN, HIGHEST, HOST_A, HOST_B, HOST_C, Host,
        LOWEST, NOBODY_MAC, NOBODY_V4, Network, STATION_V4, STRANGER, SWITCH,
    },
    frame::{self, Arp, BROADCAST, ETH, INNER, IPV4, Outer, Path, VXLAN},
};

/// UDP ports of the inner packets.
pub const PORTS: (u16, u16) = (4000, 5000);
/// What the inner packets carry.
pub const PAYLOAD: &[u8] = b"over the tunnel";
/// Reserved bits and bytes of the VXLAN header (RFC 7348 section 5): byte and bit.
const RESERVED: [(usize, u8); 12] = [
    (0, 0x80),
    (0, 0x40),
    (0, 0x20),
    (0, 0x10),
    (0, 0x04),
    (0, 0x02),
    (0, 0x01),
    (1, 1),
    (2, 0x80),
    (3, 1),
    (7, 1),
    (7, 0x80),
];

/// What should become of a packet at an uplink of HOST_B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// CB1 gets the inner frame.
    Delivered,
    /// The same, and a reserved bit is noted.
    DeliveredReserved,
    /// Dropped.
    Dropped(DropReason),
    /// Left to the stack.
    Stack(Action),
}

/// The case whose outcome is another one at the `vxlan` device, where the stack cuts the packet.
pub const CUT_BY_UDP: &str = "a UDP length that cuts the inner packet";

/// One packet.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// The whole packet, outer headers included.
    pub packet: Vec<u8>,
    /// What should become of it.
    pub fate: Fate,
}

/// A case.
pub fn case(name: impl Into<String>, packet: Vec<u8>, fate: Fate) -> Case {
    Case { name: name.into(), packet, fate }
}

/// From CA1 to CB1, as both are.
pub fn honest() -> Path {
    Path::between(&CA1, &CB1, Family::V4)
}

/// The honest packet.
pub fn inner() -> Vec<u8> {
    honest().udp(PORTS, PAYLOAD)
}

/// Right outer headers from HOST_A in BLUE.
pub fn outer() -> Outer {
    Outer::between(&HOST_A, &HOST_B, BLUE.vni)
}

/// Outer headers from any host in BLUE.
pub fn from(host: &Host) -> Outer {
    Outer::between(host, &HOST_B, BLUE.vni)
}

/// A packet with one byte changed and the outer header checksum right again.
pub fn bent(mut packet: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    packet[at..at + value.len()].copy_from_slice(value);
    frame::fix_ip_checksum(&mut packet, ETH);
    packet
}

/// Recipe R2: header validation.
pub fn header_table() -> Vec<Case> {
    use DropReason as D;
    use Fate::{Delivered, DeliveredReserved, Dropped, Stack};
    let right = outer().around(&inner());
    let vxlan = |bytes: [u8; VXLAN]| Outer { vxlan: bytes, ..outer() }.around(&inner());
    let mut wrong_sum = right.clone();
    wrong_sum[ETH + 10] ^= 1;
    let mut forged_sum = from(&SWITCH).around(&inner());
    forged_sum[ETH + 12..ETH + 16].copy_from_slice(&HOST_A.vtep.octets());
    let mut wrong_checksum = outer().around_with_checksum(&inner());
    wrong_checksum[ETH + IPV4 + 6] ^= 0x55;
    let mut table = vec![
        case("a right packet, checksum 0", right.clone(), Delivered),
        case("a right checksum", outer().around_with_checksum(&inner()), Stack(Action::OuterChecksum)),
        case("a wrong checksum", wrong_checksum, Stack(Action::OuterChecksum)),
        case(
            "a VNI that nobody has",
            Outer::between(&HOST_A, &HOST_B, 0x0a_bcde).around(&inner()),
            Dropped(D::UnknownVni),
        ),
        case(
            "VNI 0, not configured",
            Outer::between(&HOST_A, &HOST_B, LOWEST.vni).around(&inner()),
            Dropped(D::UnknownVni),
        ),
        case(
            "the highest VNI, not configured",
            Outer::between(&HOST_A, &HOST_B, HIGHEST.vni).around(&inner()),
            Dropped(D::UnknownVni),
        ),
        case("no I flag", vxlan([0, 0, 0, 0, 0, 0, 100, 0]), Dropped(D::BadHeader)),
        case("every flag but I", vxlan([0xf7, 0, 0, 0, 0, 0, 100, 0]), Dropped(D::BadHeader)),
        case("source port 0", Outer { src_port: 0, ..outer() }.around(&inner()), Delivered),
        case("source port 1024", Outer { src_port: 1024, ..outer() }.around(&inner()), Delivered),
        case(
            "another destination port",
            Outer { dst_port: 8472, ..outer() }.around(&inner()),
            Stack(Action::NotOurs),
        ),
        case(
            "another destination address",
            Outer { dst: HOST_C.vtep.into(), ..outer() }.around(&inner()),
            Stack(Action::NotOurs),
        ),
        case("an inner frame of 10 bytes", outer().around(&inner()[..10]), Dropped(D::Short)),
        case("an inner frame of 13 bytes", outer().around(&inner()[..13]), Dropped(D::Short)),
        case("an inner frame without a payload", outer().around(&inner()[..ETH]), Dropped(D::Malformed)),
        case("a VXLAN header of 6 bytes", outer().udp(&outer().vxlan[..6]), Dropped(D::Short)),
        case("no VXLAN header", outer().udp(&[]), Dropped(D::Short)),
        case("a first fragment", bent(right.clone(), ETH + 6, &[0x20, 0]), Stack(Action::OuterFragment)),
        case("a later fragment", bent(right.clone(), ETH + 6, &[0, 8]), Stack(Action::OuterFragment)),
        case(
            "a last fragment to somebody else",
            bent(Outer { dst: HOST_C.vtep.into(), ..outer() }.around(&inner()), ETH + 6, &[0, 8]),
            Stack(Action::NotOurs),
        ),
        case("IP options", with_options(&right), Stack(Action::OuterOptions)),
        case(
            "an IP length beyond the frame",
            bent(right.clone(), ETH + 2, &(right.len() as u16 - 13).to_be_bytes()),
            Dropped(D::BadOuter),
        ),
        case(
            "a UDP length beyond the IP length",
            bent(right.clone(), ETH + IPV4 + 4, &(right.len() as u16 - 33).to_be_bytes()),
            Dropped(D::BadOuter),
        ),
        case("a wrong outer IP checksum", wrong_sum, Dropped(D::BadOuter)),
        case("another sender than the outer IP checksum says", forged_sum, Dropped(D::BadOuter)),
        case(CUT_BY_UDP, bent(right.clone(), ETH + IPV4 + 4, &[0, 50]), Dropped(D::BadOuter)),
        case("an IP length of 0", bent(right.clone(), ETH + 2, &[0, 0]), Dropped(D::BadOuter)),
        case("a UDP length of 0", bent(right.clone(), ETH + IPV4 + 4, &[0, 0]), Dropped(D::BadOuter)),
        case(
            "a UDP length that covers no inner frame",
            bent(right.clone(), ETH + IPV4 + 4, &[0, 29]),
            Dropped(D::BadOuter),
        ),
        case("bytes behind the outer packet", [&right[..], b"padding"].concat(), Stack(Action::OuterPadding)),
        case("TCP to the port of VXLAN", bent(right.clone(), ETH + 9, &[6]), Stack(Action::NotOurs)),
        case("a VLAN tag outside", tagged(&right), Stack(Action::NotOurs)),
        case(
            "ARP of the underlay",
            Arp { eth_src: HOST_A.mac, ..Arp::who_has(&CA1, NOBODY_V4) }.frame(),
            Stack(Action::NotOurs),
        ),
        case("an Ethernet header alone", right[..ETH].to_vec(), Stack(Action::NotOurs)),
        case("a cut IP header", right[..ETH + 12].to_vec(), Stack(Action::NotOurs)),
        case("a cut UDP header", right[..ETH + IPV4 + 4].to_vec(), Stack(Action::NotOurs)),
        case("cut in the VXLAN header", right[..INNER - 2].to_vec(), Dropped(D::BadOuter)),
    ];
    for (byte, bit) in RESERVED {
        let mut header = outer().vxlan;
        header[byte] |= bit;
        table.push(case(format!("reserved bit {bit:#04x} of byte {byte}"), vxlan(header), DeliveredReserved));
    }
    table
}

fn with_options(packet: &[u8]) -> Vec<u8> {
    // Router alert (RFC 2113), which is harmless.
    let mut packet = [&packet[..ETH + IPV4], &[0x94, 4, 0, 0], &packet[ETH + IPV4..]].concat();
    let length = (packet.len() - ETH) as u16;
    packet[ETH] = 0x46;
    packet[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
    frame::fix_ip_checksum(&mut packet, ETH);
    packet
}

/// A frame with a VLAN tag.
pub fn tagged(packet: &[u8]) -> Vec<u8> {
    [&packet[..12], &[0x81, 0, 0, 5], &packet[12..]].concat()
}

/// Recipes R2 (inner header), R3 and R4, and the source records.
pub fn sender_table() -> Vec<Case> {
    use DropReason as D;
    use Fate::{Delivered, Dropped};
    let around = |outer: Outer, path: Path| outer.around(&path.udp(PORTS, PAYLOAD));
    let v6 = Path::between(&CA1, &CB1, Family::V6);
    let relabelled = |from: &Network, path: Path| around(Outer::between(&HOST_A, &HOST_B, from.vni), path);
    let own_address = HOST_B.blue_address.expect("it has one");
    let peer_address = HOST_A.blue_address.expect("it has one");
    vec![
        case("an unknown VTEP", around(from(&STRANGER), honest()), Dropped(D::UnknownVtep)),
        case("our own VTEP", around(from(&HOST_B), honest()), Dropped(D::UnknownVtep)),
        case(
            "an unknown VTEP and an unknown VNI",
            around(Outer { vxlan: [8, 0, 0, 0, 9, 9, 9, 0], ..from(&STRANGER) }, honest()),
            Dropped(D::UnknownVtep),
        ),
        case(
            "a host that does not serve the network",
            around(from(&HOST_C), honest()),
            Dropped(D::VtepNotInVni),
        ),
        case(
            "a host that does not serve the network, IPv6",
            around(from(&HOST_C), v6),
            Dropped(D::VtepNotInVni),
        ),
        case(
            "the other network's label, a MAC of this one",
            relabelled(&GREEN, Path::between(&GA1, &CB1, Family::V4)),
            Dropped(D::NotLocal),
        ),
        case(
            "this network's label, a MAC of the other one",
            relabelled(&BLUE, Path::between(&CA1, &GB1, Family::V4)),
            Dropped(D::NotLocal),
        ),
        case(
            "a source that has no record",
            around(outer(), honest().with_src(NOBODY_V4)),
            Dropped(D::SpoofSource),
        ),
        case(
            "an IPv6 source that has no record",
            around(outer(), v6.with_src(cast::NOBODY_V6)),
            Dropped(D::SpoofSource),
        ),
        case(
            "an IPv4 address in an IPv6 packet",
            around(outer(), v6.with_src(CA1.v4.to_ipv6_mapped())),
            Dropped(D::Malformed),
        ),
        case(
            "a source outside the subnet",
            around(outer(), honest().with_src(STRANGER.vtep)),
            Dropped(D::SpoofSource),
        ),
        case(
            "the gateway as source",
            around(outer(), honest().with_src(cast::GATEWAY_V4)),
            Dropped(D::SpoofSource),
        ),
        case("a local container as source", around(outer(), honest().with_src(CB2.v4)), Dropped(D::Loop)),
        case("a local container as IPv6 source", around(outer(), v6.with_src(CB2.v6)), Dropped(D::Loop)),
        case("this host as source", around(outer(), honest().with_src(own_address)), Dropped(D::Loop)),
        case("another host's container as source", around(from(&SWITCH), honest()), Dropped(D::SpoofSource)),
        case(
            "another host's own address as source",
            around(from(&SWITCH), honest().with_src(peer_address)),
            Dropped(D::SpoofSource),
        ),
        case("a host's own address as source", around(outer(), honest().with_src(peer_address)), Delivered),
        case(
            "a station behind the foreign VTEP",
            around(from(&SWITCH), honest().with_src(STATION_V4)),
            Delivered,
        ),
        case(
            "a station of the foreign VTEP from a host",
            around(outer(), honest().with_src(STATION_V4)),
            Dropped(D::SpoofSource),
        ),
        case(
            "a station of the foreign VTEP, routed by a host",
            around(outer(), honest().with_src(STATION_V4).with_src_mac(BLUE.gateway_mac)),
            Delivered,
        ),
        case(
            "nobody, routed by a host",
            around(outer(), honest().with_src(NOBODY_V4).with_src_mac(BLUE.gateway_mac)),
            Dropped(D::SpoofSource),
        ),
        case(
            "a third host's container, routed by a host that does not serve the network",
            around(from(&HOST_C), honest().with_src_mac(BLUE.gateway_mac)),
            Dropped(D::VtepNotInVni),
        ),
        case(
            "below the foreign VTEP's prefix",
            around(from(&SWITCH), honest().with_src([192, 168, 10, 63])),
            Dropped(D::SpoofSource),
        ),
        case(
            "the last of the foreign VTEP's prefix",
            around(from(&SWITCH), honest().with_src([192, 168, 10, 127])),
            Delivered,
        ),
        case(
            "above the foreign VTEP's prefix",
            around(from(&SWITCH), honest().with_src([192, 168, 10, 128])),
            Dropped(D::SpoofSource),
        ),
        case(
            "the link-local address of the sender",
            around(outer(), v6.with_src(CA1.link_local())),
            Delivered,
        ),
        case(
            "this host's MAC as source",
            around(outer(), honest().with_src_mac(fabric_agent::model::ids::node_mac(HOST_B.name))),
            Dropped(D::Loop),
        ),
        case(
            "the gateway's MAC as source: routed there, no loop",
            around(outer(), honest().with_src_mac(BLUE.gateway_mac)),
            Delivered,
        ),
        case(
            "a multicast source MAC",
            around(outer(), honest().with_src_mac(Mac::new([1, 0, 0x5e, 0, 0, 1]))),
            Dropped(D::BadSrcMac),
        ),
        case(
            "a broadcast source MAC",
            around(outer(), honest().with_src_mac(BROADCAST)),
            Dropped(D::BadSrcMac),
        ),
        case("a zero source MAC", around(outer(), honest().with_src_mac(Mac::ZERO)), Dropped(D::BadSrcMac)),
        case(
            "a MAC that nobody has",
            around(outer(), honest().with_dst_mac(NOBODY_MAC)),
            Dropped(D::NotLocal),
        ),
        case("a MAC of a third host", around(outer(), honest().with_dst_mac(CA2.mac)), Dropped(D::NotLocal)),
        case("broadcast", around(outer(), honest().with_dst_mac(BROADCAST)), Dropped(D::MulticastOff)),
        case(
            "the gateway's MAC as destination",
            around(outer(), honest().with_dst_mac(BLUE.gateway_mac)),
            Dropped(D::NoRoute),
        ),
        case("ARP inside", outer().around(&Arp::who_has(&CA1, CB1.v4).frame()), Dropped(D::InnerEthertype)),
        case("a VLAN tag inside", outer().around(&tagged(&inner())), Dropped(D::InnerEthertype)),
        case("a solicitation inside", outer().around(&solicitation()), Dropped(D::InnerNd)),
        case(
            "a solicitation inside, behind a header",
            outer().around(&behind_options(&solicitation())),
            Dropped(D::InnerNd),
        ),
        case(
            "an inner IP version of 5",
            outer().around(&with_byte(inner(), ETH, 0x55)),
            Dropped(D::Malformed),
        ),
        case(
            "an inner header length of 16",
            outer().around(&with_byte(inner(), ETH, 0x44)),
            Dropped(D::Malformed),
        ),
        case(
            "an inner length beyond the frame",
            outer().around(&with_byte(inner(), ETH + 2, 0x10)),
            Dropped(D::Malformed),
        ),
        case(
            "an inner IPv6 version of 4",
            outer().around(&with_byte(v6.udp(PORTS, PAYLOAD), ETH, 0x45)),
            Dropped(D::Malformed),
        ),
        case(
            "an inner IPv6 length beyond the frame",
            outer().around(&with_byte(v6.udp(PORTS, PAYLOAD), ETH + 4, 0x10)),
            Dropped(D::Malformed),
        ),
    ]
}

fn with_byte(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

/// CA1 asks for CB1's MAC, as unicast.
fn solicitation() -> Vec<u8> {
    Path::between(&CA1, &CB1, Family::V6).icmpv6(135, 0, [0; 4], &CB1.v6.octets(), 255)
}

/// Puts a destination options header between the IPv6 header and what follows.
fn behind_options(frame: &[u8]) -> Vec<u8> {
    let at = ETH + frame::IPV6;
    let mut frame = [&frame[..at], &[frame[ETH + 6], 0, 1, 4, 0, 0, 0, 0], &frame[at..]].concat();
    frame[ETH + 6] = 60;
    let length = (frame.len() - at) as u16;
    frame[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    frame
}
