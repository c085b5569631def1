//! What a program may do with a frame: an independent reading of the promises, from the cast and with the second library,
//! without the planner, its tables or the programs' own code. It answers for what was done, not for what should have been:
//! a drop is never wrong here (the walks say which drops are), a delivery, an encapsulation or an answer must be right.
//!
//! A new action, or a new way to change a packet on its way, is declared here: [`class`] and [`judge`].

use std::net::{IpAddr, Ipv4Addr};

use fabric_common::{
    addr::Mac,
    event::DropEvent,
    reason::{Action, DropReason, Hook},
};
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, UdpPacket};

use super::arrival;
use crate::{
    cast::{self, BLUE, Container, Family, HOSTS, Host, Network, VXLAN_PORT},
    frame::{self, ETH, IPV4, IPV6, UDP, VXLAN},
    walk::{Gso, Verdict},
};

/// What an action means for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The packet ends this way: delivered, encapsulated or answered.
    Sent,
    /// Taken off the wire without a drop.
    Absorbed,
    /// Left to the stack as it is.
    Stack,
    /// A note beside the packet's own outcome.
    Beside,
}

/// The class of every action.
pub fn class(action: Action) -> Class {
    match action {
        Action::Local
        | Action::Remote
        | Action::Answered
        | Action::ViaDevice
        | Action::Fragment
        | Action::Relayed
        | Action::Masqueraded => Class::Sent,
        Action::Absorbed | Action::Replicated | Action::Held => Class::Absorbed,
        Action::NotOurs
        | Action::OuterFragment
        | Action::OuterOptions
        | Action::OuterChecksum
        | Action::OuterPadding
        | Action::CrossFamily
        | Action::Checked
        | Action::UdpGso
        | Action::HostGso
        | Action::RelayStack
        | Action::RejectStack
        | Action::Foreign => Class::Stack,
        Action::ReservedBits
        | Action::IcmpError
        | Action::Reset
        | Action::Routed
        | Action::CopyLocal
        | Action::CopyRemote
        | Action::Untracked => Class::Beside,
    }
}

/// Where a frame met a program.
#[derive(Clone, Copy, Debug)]
pub enum Spot {
    /// The port of a container.
    Port(&'static Container),
    /// An uplink's TC hook, where all hosts have their addresses in this family.
    Uplink(&'static Host, Family),
    /// An uplink's XDP hook, likewise.
    Xdp(&'static Host, Family),
    /// The `vxlan` device, without the metadata that only the kernel can give a packet.
    Vxlan(&'static Host),
    /// The far side of the veth for fragments, without the mark that only `from_container` gives a packet.
    Frag(&'static Host),
}

impl Spot {
    /// Its hook.
    pub fn hook(self) -> Hook {
        match self {
            Self::Port(_) => Hook::FromContainer,
            Self::Uplink(..) => Hook::FromUplink,
            Self::Xdp(..) => Hook::FromUplinkXdp,
            Self::Vxlan(_) => Hook::FromVxlan,
            Self::Frag(_) => Hook::FromFrag,
        }
    }
}

/// What was done with a frame.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// Where.
    pub spot: Spot,
    /// The frame.
    pub frame: &'a [u8],
    /// Segmentation that it asked for.
    pub gso: Gso,
    /// The decision.
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub out: &'a [u8],
    /// Events that came.
    pub events: &'a [DropEvent],
}

/// How a frame ended, as far as its verdict, its bytes and its event tell. Counters must tell the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Dropped.
    Dropped(DropReason),
    /// Taken off the wire.
    Absorbed,
    /// Left to the stack.
    Stack,
    /// Delivered on this node.
    Local(&'static Container),
    /// Encapsulated.
    Remote,
    /// Given to the `vxlan` device.
    Device,
    /// Sent to be cut into fragments.
    Fragmented,
    /// Answered.
    Answered,
}

/// A broken promise, as a sentence.
pub type Judged = Result<Fate, String>;

/// How the frame ended, or which promise that broke.
pub fn judge(seen: &Seen<'_>) -> Judged {
    match (seen.verdict, seen.events) {
        (Verdict::Taken, [event]) => {
            let reason = DropReason::from_number(event.reason).ok_or("an unknown reason")?;
            if event.hook != seen.spot.hook() as u8 || event.length as usize != seen.frame.len() {
                return Err(format!("the event tells of another frame: {event:?}"));
            }
            Ok(Fate::Dropped(reason))
        }
        (Verdict::Taken, []) if matches!(seen.spot, Spot::Port(_)) => Ok(Fate::Absorbed),
        (Verdict::Taken, []) => Err("dropped without an event".to_owned()),
        (Verdict::ToStack, []) => to_stack(seen),
        // An error of the gateway goes back in the dropped packet's place.
        (Verdict::Sent, [event]) => {
            let Spot::Port(container) = seen.spot else {
                return Err("a drop with a packet of its own, and no container asked".to_owned());
            };
            let reason = DropReason::from_number(event.reason).ok_or("an unknown reason")?;
            let error = match seen.out[12..ETH] {
                [8, 0] => seen.out[ETH + 9] == 1 && [3, 11].contains(&seen.out[ETH + IPV4]),
                [0x86, 0xdd] => seen.out[ETH + 6] == 58 && (1..=3).contains(&seen.out[ETH + IPV6]),
                _ => false,
            };
            require(error, format!("{reason}, and what went back is no ICMP error"))?;
            answer(seen, container).map(|()| Fate::Dropped(reason))
        }
        (Verdict::Sent, []) => match seen.spot {
            Spot::Port(container) => from_container(seen, container),
            Spot::Uplink(host, underlay) => arrival::from_tunnel(seen, host, underlay),
            Spot::Xdp(..) => Err("XDP only passes and drops".to_owned()),
            Spot::Vxlan(_) => Err("delivered without a tunnel key".to_owned()),
            Spot::Frag(_) => Err("cut without a mark".to_owned()),
        },
        (verdict, events) => Err(format!("{verdict:?} with {} drop events", events.len())),
    }
}

fn to_stack(seen: &Seen<'_>) -> Judged {
    match seen.spot {
        Spot::Port(_) => Err("a container's frame reached the host's stack".to_owned()),
        Spot::Vxlan(_) => Err("a tunnel's frame reached the host's stack".to_owned()),
        Spot::Frag(_) => Err("a packet that is to be cut reached the host's stack".to_owned()),
        Spot::Uplink(..) | Spot::Xdp(..) if seen.out != seen.frame => {
            Err("it was changed on its way to the stack".to_owned())
        }
        Spot::Uplink(..) | Spot::Xdp(..) => Ok(Fate::Stack),
    }
}

pub(super) fn require(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

pub(super) fn mac_at(frame: &[u8], at: usize) -> Mac {
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&frame[at..at + 6]);
    Mac::new(bytes)
}

/// Who has a MAC in the network.
pub fn owner(vni: u32, mac: Mac) -> Option<&'static Container> {
    cast::CONTAINERS.into_iter().find(|c| c.network.vni == vni && c.mac == mac)
}

/// Source address of an Ethernet frame's IP packet. The length field of a packet that is to be segmented is that of no
/// packet on any wire.
pub(super) fn source(frame: &[u8], gso: Gso) -> Option<IpAddr> {
    if gso.size == 0 {
        return frame::source(frame);
    }
    let packet = frame.get(ETH..)?;
    match frame[12..ETH] {
        [8, 0] if packet.len() >= IPV4 => Some(Ipv4Packet::new_unchecked(packet).src_addr().into()),
        [0x86, 0xdd] if packet.len() >= IPV6 => Some(Ipv6Packet::new_unchecked(packet).src_addr().into()),
        _ => None,
    }
}

/// Whether it is neighbour discovery right behind the IPv6 header.
pub(super) fn is_nd(frame: &[u8]) -> bool {
    frame[12..ETH] == [0x86, 0xdd]
        && frame[ETH + 6] == 58
        && frame.get(ETH + IPV6).is_some_and(|kind| (133..=137).contains(kind))
}

// --- what a container sends ---

fn from_container(seen: &Seen<'_>, container: &'static Container) -> Judged {
    let (frame, out) = (seen.frame, seen.out);
    require(mac_at(frame, 6) == container.mac, "a container sent from a MAC that is not its own")?;
    let outer = ETH + IPV4 + UDP + VXLAN;
    for (inner, encapsulated) in [(Some(out), false), (out.get(outer..), true)] {
        let Some(inner) = inner.filter(|inner| inner.len() == frame.len()) else { continue };
        let (to, is_routed) = if inner == frame {
            (addressee(seen, container)?, false)
        } else if let Some(to) = routed(frame, inner, container.network) {
            own_source(seen, container)?;
            (to, true)
        } else {
            continue;
        };
        if !encapsulated && (is_routed || to.host != container.host) && must_be_cut(seen) {
            return Ok(Fate::Fragmented);
        }
        if encapsulated {
            require(to.host != container.host, "encapsulated for a container of this node")?;
            return outer_is_right(seen, inner, container, to).map(|()| Fate::Remote);
        }
        return Ok(if to.host == container.host { Fate::Local(to) } else { Fate::Device });
    }
    answer(seen, container).map(|()| Fate::Answered)
}

/// Who should get a frame for the gateway that left as `left`: the owner of its destination address in the sender's
/// network, the only one that is open to it; from the gateway's MAC, with one hop less and nothing else changed.
pub fn routed(frame: &[u8], left: &[u8], network: &Network) -> Option<&'static Container> {
    // `own_source` looks at the lengths.
    if frame.len() < ETH + if frame[12] == 8 { IPV4 } else { IPV6 } {
        return None;
    }
    let (hops, sum, dst): (usize, _, IpAddr) = match frame[12..ETH] {
        [8, 0] => (ETH + 8, ETH + 10..ETH + 12, Ipv4Packet::new_unchecked(&frame[ETH..]).dst_addr().into()),
        [0x86, 0xdd] => (ETH + 7, 0..0, Ipv6Packet::new_unchecked(&frame[ETH..]).dst_addr().into()),
        _ => return None,
    };
    let to = cast::CONTAINERS
        .into_iter()
        .find(|c| c.network == network && [IpAddr::from(c.v4), c.v6.into()].contains(&dst))?;
    let mut want = frame.to_vec();
    want[..6].copy_from_slice(&to.mac.bytes);
    want[6..12].copy_from_slice(&network.gateway_mac.bytes);
    want[hops] = frame[hops].checked_sub(1).filter(|left| *left > 0)?;
    let mut got = left.to_vec();
    // It follows from the old one, right or wrong; a right packet must stay one.
    want[sum.clone()].fill(0);
    got[sum].fill(0);
    let right = frame::fault(frame).is_some() || frame::fault(left).is_none();
    (mac_at(frame, 0) == network.gateway_mac && want == got && right).then_some(to)
}

/// Whether a frame of a container is an IPv4 packet that is too big for any way out of its subnet, and may be fragmented. Of
/// one that is to be segmented that is asked of its segments.
fn must_be_cut(seen: &Seen<'_>) -> bool {
    let frame = seen.frame;
    let header = usize::from(frame[ETH] & 0xf) * 4;
    let length = if seen.gso.size == 0 {
        frame.len() - ETH
    } else {
        let is_tcp = frame[ETH + 9] == 6;
        let transport = if is_tcp {
            frame.get(ETH + header + 12).map_or(0, |offset| usize::from(offset >> 4) * 4)
        } else {
            UDP
        };
        header + transport + seen.gso.size as usize
    };
    frame[12..ETH] == [8, 0] && frame[ETH + 6] & 0x40 == 0 && length > cast::OVERLAY_MTU
}

/// Who should get a frame that a container may send.
fn addressee(seen: &Seen<'_>, container: &'static Container) -> Result<&'static Container, String> {
    own_source(seen, container)?;
    let to =
        owner(container.network.vni, mac_at(seen.frame, 0)).ok_or("forwarded to a MAC that nobody has")?;
    require(to != container, "sent back to its sender")?;
    Ok(to)
}

/// A packet from one of the container's own addresses, that may be forwarded.
fn own_source(seen: &Seen<'_>, container: &Container) -> Result<(), String> {
    let source = source(seen.frame, seen.gso).ok_or("forwarded, and no IP packet")?;
    let own = [container.v4.into(), container.v6.into(), IpAddr::from(container.link_local())];
    require(own.contains(&source), format!("forwarded from {source}, which is not the container's"))?;
    require(!is_nd(seen.frame), "neighbour discovery was forwarded")
}

fn outer_is_right(seen: &Seen<'_>, inner: &[u8], from: &Container, to: &Container) -> Result<(), String> {
    let packet = frame::on_the_wire(seen.out.to_vec(), from.host, to.host);
    if let Some(fault) = frame::fault(&packet) {
        return Err(format!("the outer packet is wrong: {fault}"));
    }
    let ip = Ipv4Packet::new_checked(&packet[ETH..]).map_err(|_| "no outer IPv4 header")?;
    require(ip.src_addr() == from.host.vtep, "the outer source is not this host's VTEP")?;
    require(ip.dst_addr() == to.host.vtep, "the outer destination is not where the receiver lives")?;
    require(ip.dont_frag() && ip.hop_limit() == 64 && ip.dscp() == 0, "outer DF, TTL or DSCP")?;
    require(ip.ecn() == ecn(inner), "the outer ECN field is not the inner one")?;
    let udp = UdpPacket::new_checked(ip.payload()).map_err(|_| "no outer UDP header")?;
    require(udp.dst_port() == VXLAN_PORT && udp.src_port() >= 49152, "outer ports")?;
    require(udp.checksum() == 0, "an outer UDP checksum that nobody asked for")?;
    let [_, a, b, c] = from.network.vni.to_be_bytes();
    require(udp.payload()[..VXLAN] == [8, 0, 0, 0, a, b, c, 0], "the VXLAN header")?;
    require(udp.payload()[VXLAN..] == *inner, "another inner frame")?;
    require(
        seen.gso.size != 0 || packet.len() - ETH <= cast::UNDERLAY_MTU as usize,
        "larger than the underlay carries",
    )
}

/// An answer goes back to who asked, and speaks for somebody else of the network, or for its gateway.
fn answer(seen: &Seen<'_>, container: &'static Container) -> Result<(), String> {
    let out = seen.out;
    let all_nodes = Mac::new([0x33, 0x33, 0, 0, 0, 1]);
    require([container.mac, all_nodes].contains(&mac_at(out, 0)), "an answer to somebody else")?;
    let was_right = frame::fault(seen.frame).is_none();
    if let Some(fault) = frame::fault(out).filter(|_| was_right) {
        return Err(format!("the answer is wrong: {fault}"));
    }
    let speaks_for: IpAddr = match out[12..ETH] {
        [8, 6] => Ipv4Addr::new(out[28], out[29], out[30], out[31]).into(),
        _ => source(out, seen.gso).ok_or("an answer that is no packet")?,
    };
    let vni = container.network.vni;
    let of_host = |h: &&Host| vni == BLUE.vni && h.blue_address.is_some_and(|a| speaks_for == a);
    let mac = if speaks_for == cast::GATEWAY_V4 || speaks_for == cast::GATEWAY_V6 {
        container.network.gateway_mac
    } else if let Some(host) = HOSTS.iter().find(|h| of_host(h)) {
        fabric_agent::model::ids::node_mac(host.name)
    } else {
        let has = |c: &&&Container| {
            c.network.vni == vni
                && [c.v4.into(), c.v6.into(), IpAddr::from(c.link_local())].contains(&speaks_for)
        };
        let owner = cast::CONTAINERS.iter().find(has).ok_or(format!("an answer for {speaks_for}"))?;
        require(*owner != container, "an answer for the container's own address")?;
        owner.mac
    };
    require(mac_at(out, 6) == mac, format!("{speaks_for} has another MAC"))
}

/// The ECN field of the IP packet in an Ethernet frame.
pub(super) fn ecn(frame: &[u8]) -> u8 {
    let second = frame[ETH + 1];
    (if frame[12] == 8 { second } else { second >> 4 }) & 3
}

#[cfg(test)]
mod tests {
    use super::owner;
    use crate::cast::CONTAINERS;

    #[test]
    fn a_mac_belongs_to_one_container_of_a_network() {
        for container in CONTAINERS {
            assert_eq!(owner(container.network.vni, container.mac), Some(container));
        }
    }
}
