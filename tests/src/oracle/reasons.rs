//! Where our programs and the kernel's `vxlan` device may differ, one name each. `docs/wire.md` explains them. They are
//! judged from the frame, from what the device delivered, and from the cast; our programs and counters are not asked.

use std::net::IpAddr;

use fabric_common::addr::Mac;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

use super::sides::Delivered;
use crate::{
    cast::{BLUE, CONTAINERS, Container, GREEN, HOST_B, SWITCH, VXLAN_PORT},
    frame::{ETH, IPV4, IPV6, UDP, VXLAN, source},
    fuzz::{
        arrival::{is_declared, may_send},
        model,
    },
};

/// A name, and whether it holds for outer headers and what was delivered.
type Reason = (&'static str, fn(&Outer<'_>, &Delivered) -> bool);

/// What only the device delivers. The first that holds is the reason.
pub const ONLY_KERNEL: [Reason; 9] = [
    ("odd_udp_length", |outer, _| outer.udp_length_is_odd()),
    ("unknown_vtep", |outer, _| !is_declared(&HOST_B, outer.vtep)),
    ("bad_src_mac", |_, got| got.inner[6] & 1 != 0 || got.inner[6..12] == [0; 6]),
    ("foreign_arp_or_nd", |outer, got| {
        SWITCH.underlay(outer.family()) == outer.vtep && (ether_type(got) == ARP || is_nd(&got.inner))
    }),
    ("no_ip_inside", |_, got| ![V4, V6].contains(&ether_type(got))),
    ("malformed_inside", |_, got| source(&got.inner).is_none_or(is_mapped) || version_is_wrong(&got.inner)),
    ("not_its_source", |outer, got| {
        source(&got.inner).is_some_and(|source| !may_send(&HOST_B, outer.vtep, got.vni, source, mac(got, 6)))
    }),
    ("nd_inside", |_, got| is_nd(&got.inner)),
    ("nobody_here", |_, got| receiver(got).is_none()),
];

/// What both deliver, but ours behind its gateway: the same checks as for a container's packet.
pub const ROUTED: &str = "routed_for_a_foreign_vtep";

/// Who should get the frame that our programs deliver where the device delivers `got`, a packet to the gateway's MAC.
pub fn routed(outer: &Outer<'_>, got: &Delivered, left: &[u8]) -> Option<&'static Container> {
    let network = [&BLUE, &GREEN].into_iter().find(|network| network.vni == got.vni)?;
    if SWITCH.underlay(outer.family()) == outer.vtep {
        model::routed(&got.inner, left, network)
    } else {
        None
    }
}

/// What only our programs deliver.
pub const ONLY_OURS: [Reason; 1] = [("reserved_bits", |outer, _| outer.has_reserved_bits())];

const V4: [u8; 2] = [8, 0];
const V6: [u8; 2] = [0x86, 0xdd];
const ARP: [u8; 2] = [8, 6];

/// Outer headers, as far as they are there.
pub struct Outer<'a> {
    /// Outer source.
    pub vtep: IpAddr,
    /// Behind the IP header, without options.
    datagram: &'a [u8],
    /// Bytes behind the header, as the IP header says.
    payload: usize,
}

impl<'a> Outer<'a> {
    /// Of an IP frame, behind priority tags (VLAN 0), which the stack takes off.
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let mut at = 12;
        while [[0x81, 0], [0x88, 0xa8]].contains(frame.get(at..)?.first_chunk()?) {
            at += 4;
        }
        let (kind, packet) = (frame.get(at..at + 2)?, frame.get(at + 2..)?);
        if kind == V4 && packet.len() >= IPV4 {
            let ip = Ipv4Packet::new_unchecked(packet);
            let header = usize::from(ip.header_len());
            let payload = usize::from(ip.total_len()).checked_sub(header)?;
            // What is in a fragment is not looked at.
            let whole = !ip.more_frags() && ip.frag_offset() == 0;
            let datagram = if whole { packet.get(header..)? } else { &[] };
            return Some(Self { vtep: ip.src_addr().into(), datagram, payload });
        }
        if kind == V6 && packet.len() >= IPV6 {
            let ip = Ipv6Packet::new_unchecked(packet);
            let (mut next, mut header) = (packet[6], IPV6);
            while let (0 | 43 | 60, Some([then, words])) = (next, packet.get(header..)?.first_chunk()) {
                (next, header) = (*then, header + 8 * (usize::from(*words) + 1));
            }
            let payload = (IPV6 + usize::from(ip.payload_len())).saturating_sub(header);
            let datagram = if next == 17 { packet.get(header..)? } else { &[] };
            return Some(Self { vtep: ip.src_addr().into(), datagram, payload });
        }
        None
    }

    fn family(&self) -> crate::cast::Family {
        if self.vtep.is_ipv4() { crate::cast::Family::V4 } else { crate::cast::Family::V6 }
    }

    fn udp_length_is_odd(&self) -> bool {
        let Some([_, _, a, b, high, low]) = self.datagram.first_chunk() else { return false };
        [*a, *b] == VXLAN_PORT.to_be_bytes() && usize::from(u16::from_be_bytes([*high, *low])) != self.payload
    }

    fn has_reserved_bits(&self) -> bool {
        let header = self.datagram.get(UDP..UDP + VXLAN);
        header.is_some_and(|h| h[0] != 8 || h[1..4] != [0; 3] || h[7] != 0)
    }
}

fn mac(got: &Delivered, at: usize) -> Mac {
    Mac::new(*got.inner[at..].first_chunk().expect("a delivered frame has a header"))
}

fn ether_type(got: &Delivered) -> [u8; 2] {
    [got.inner[12], got.inner[13]]
}

fn is_mapped(source: IpAddr) -> bool {
    matches!(source, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn version_is_wrong(frame: &[u8]) -> bool {
    let [version, header] = [frame[ETH] >> 4, frame[ETH] & 0xf];
    match [frame[12], frame[13]] {
        V4 => version != 4 || header < 5,
        _ => version != 6,
    }
}

/// Neighbour discovery, also behind extension headers. More than five of them, or a chain that is cut, may hide it.
fn is_nd(frame: &[u8]) -> bool {
    if [frame[12], frame[13]] != V6 || frame.len() < ETH + IPV6 {
        return false;
    }
    let (mut next, mut at) = (frame[ETH + 6], ETH + IPV6);
    for passed in 0..6 {
        let rest = frame.get(at..).unwrap_or_default();
        at += match (next, rest) {
            (0 | 43 | 60, [_, words, ..]) => 8 * (usize::from(*words) + 1),
            (51, [_, words, ..]) => 4 * (usize::from(*words) + 2),
            (44, [_, _, high, low, ..]) if u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 => return false,
            (44, [_, _, _, _, ..]) => 8,
            (58, []) => return passed > 0,
            (58, [kind, ..]) => return (133..=137).contains(kind),
            // An extension header that is cut, or what is none.
            (other, _) => return [0, 43, 44, 51, 60].contains(&other),
        };
        next = rest[0];
    }
    true
}

/// The container of HOST_B that a delivered frame is to.
pub fn receiver(got: &Delivered) -> Option<&'static Container> {
    CONTAINERS
        .into_iter()
        .find(|c| c.host == &HOST_B && c.network.vni == got.vni && got.inner[..6] == c.mac.bytes)
}
