//! Where packets are decided (hooks) and what can become of them (drop reasons, forward actions). Kernel and user
//! space share these enums; counters, events, the CLI and the generated documents all derive from them.
//!
//! Numbers are part of the map format: they are explicit, never reused, and new ones are appended.

macro_rules! numbered {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident = $number:literal $text:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[doc = $doc])+ $variant = $number, )+
        }

        impl $name {
            /// Every value, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that people read, the same in maps, metrics, CLI and documents.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// One or two sentences: when it happens and what to look at.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }

            /// The value of a number found in a map or an event, if it is one of ours.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use numbered;

numbered! {
    /// Where a packet was looked at. Directions are seen from the container.
    pub enum Hook {
        /// TC ingress of a port: what a container sends (container egress).
        FromContainer = 1 "from_container",
        /// TC ingress of an uplink: tunnel packets for our containers (container ingress).
        FromUplink = 2 "from_uplink",
        /// XDP of an uplink: the first stage, before an skb exists (container ingress).
        FromUplinkXdp = 3 "from_uplink_xdp",
        /// TC ingress of the agent's `vxlan` device: tunnel packets that took the stack's slow path (container ingress).
        FromVxlan = 4 "from_vxlan",
        /// TC ingress of the far side of the agent's `fabric_frag`: IPv4 packets that are cut into fragments (container egress).
        FromFrag = 5 "from_frag",
    }
}

numbered! {
    /// Why a packet was dropped. There is no drop without one of these.
    pub enum DropReason {
        /// The agent has not written this node's settings yet.
        NotConfigured = 1 "not_configured",
        /// The packet came from an interface that has no row in `ports`: detached, or not attached yet.
        NoPort = 2 "no_port",
        /// A frame too short for its headers, or an IP header whose version or lengths are wrong.
        Malformed = 3 "malformed",
        /// A container sent from a MAC that is not its own.
        SpoofMac = 4 "spoof_mac",
        /// A container sent from an IP address that is not its own.
        SpoofIp = 5 "spoof_ip",
        /// A container sent ARP whose sender MAC or address is not its own.
        SpoofArp = 6 "spoof_arp",
        /// A container sent neighbour discovery whose source, target or link-layer address is not its own, or with a hop limit other than 255.
        SpoofNd = 7 "spoof_nd",
        /// Neither IPv4, IPv6 nor ARP.
        UnsupportedEthertype = 8 "unsupported_ethertype",
        /// A container sent a frame with a VLAN tag.
        VlanTag = 9 "vlan_tag",
        /// Broadcast or multicast in a network that does not replicate it.
        MulticastOff = 10 "multicast_off",
        /// A packet to the gateway's MAC for an address in no subnet of its network or of those opened to it, or for one that nobody there has; or to a node's MAC. What is no echo request to the gateway itself is counted here as well.
        NoRoute = 11 "no_route",
        /// No endpoint of the network has the destination MAC. Nothing is flooded.
        UnknownDestination = 12 "unknown_destination",
        /// The destination MAC is behind the port that the packet came from.
        Hairpin = 13 "hairpin",
        /// The node where the destination lives has no outer header yet.
        NoNode = 14 "no_node",
        /// The packet is larger than the underlay toward the destination can carry.
        TooBig = 15 "too_big",
        /// The kernel refused to make room for the outer header.
        EncapFailed = 16 "encap_failed",
        /// A tunnel packet too short for a VXLAN header and an inner Ethernet frame.
        Short = 17 "short",
        /// A VXLAN header without the I flag (RFC 7348 section 5).
        BadHeader = 18 "bad_header",
        /// A VNI that no network on this node has.
        UnknownVni = 19 "unknown_vni",
        /// A tunnel packet from an address that is no known VTEP.
        UnknownVtep = 20 "unknown_vtep",
        /// A tunnel packet from a node that is not a member of the network.
        VtepNotInVni = 21 "vtep_not_in_vni",
        /// An inner source MAC that is a group address or zero.
        BadSrcMac = 22 "bad_src_mac",
        /// A tunnel packet whose inner source is this node itself.
        Loop = 23 "loop",
        /// The inner source address has no source record that names the VTEP it came from.
        SpoofSource = 24 "spoof_source",
        /// A tunnel packet for a MAC that does not live on this node.
        NotLocal = 25 "not_local",
        /// The kernel refused to take the outer header off.
        DecapFailed = 26 "decap_failed",
        /// An outer IP or UDP length that disagrees with the frame, or a wrong outer IP header checksum.
        BadOuter = 27 "bad_outer",
        /// The slow path is needed but the agent's `vxlan` device is missing.
        NoVxlanDevice = 28 "no_vxlan_device",
        /// A tunnel packet with an inner frame type that the tunnel does not carry: VLAN tags, non-IP, and ARP from other than foreign VTEPs.
        InnerEthertype = 29 "inner_ethertype",
        /// Neighbour discovery inside the tunnel: every node answers its own containers, nothing is learned. From a foreign VTEP, whose questions are answered: router advertisements, redirects, and what is wrong or behind extension headers.
        InnerNd = 30 "inner_nd",
        /// The underlay marked the tunnel packet as having met congestion, and the inner packet's sender does not know such marks (RFC 6040 section 4.2).
        Ecn = 31 "ecn",
        /// A packet to be routed whose time to live or hop limit is used up.
        TtlExceeded = 32 "ttl_exceeded",
        /// IGMP or MLD from a container that is no valid report: a query, a wrong length, checksum, group or source, a fragment, MLD without its hop limit of 1 or its router alert, or behind other extension headers.
        BadMembership = 33 "bad_membership",
        /// A membership report joins a group that there is no room for: the endpoint has joined 64 already, or the map `groups` is full. What else is in the report counts.
        GroupLimit = 34 "group_limit",
        /// A frame to a group MAC whose packet is for somebody alone, or for another group than the MAC stands for.
        BadGroup = 40 "bad_group",
        /// The endpoint sends more than 1000 broadcast and multicast packets a second.
        FloodLimit = 41 "flood_limit",
        /// The kernel did not take a copy of a broadcast or multicast frame: the receiver's queue is full, or its interface is down.
        CopyFailed = 42 "copy_failed",
        /// A policy does not admit the packet; the event names the rule.
        PolicyDenied = 43 "policy_denied",
        /// The endpoint has a policy of which the programs know nothing: the map was full, or its content is lost.
        PolicyUnknown = 44 "policy_unknown",
        /// Policies could not be asked: the packet's ports are not in it, as with a later fragment whose first one did not pass, or a header that is cut off.
        PolicyNoPorts = 45 "policy_no_ports",
        /// To the world: the kernel took no row for the flow into its translation table.
        NatFull = 50 "nat_full",
        /// To the world: no port of the host was found free toward this destination, whose own port has to be another than that of every other flow there.
        NatNoPort = 51 "nat_no_port",
        /// To the world: what can't be translated. A protocol other than TCP, UDP, SCTP and ICMP echo, a later fragment without its first, or an ICMP error about no translated flow.
        NatUnsupported = 52 "nat_unsupported",
        /// To the world: the kernel refused to change the packet.
        NatFailed = 53 "nat_failed",
        /// At an uplink: the source lies in a prefix that a deny set names; the event says which set. `fabric deny ls` lists them.
        DeniedPrefix = 60 "denied_prefix",
    }
}

numbered! {
    /// What became of a packet that was not dropped.
    pub enum Action {
        /// Delivered to a container on this node, or to the host itself.
        Local = 1 "local",
        /// Encapsulated and sent out of an uplink.
        Remote = 2 "remote",
        /// Answered by the program itself: ARP, neighbour discovery, or an echo request to the gateway.
        Answered = 3 "answered",
        /// Taken off the wire because nobody needs it: announcements (nothing is learned from packets), requests for unknown addresses, multicast that nobody has joined; and membership reports, which are taken note of.
        Absorbed = 4 "absorbed",
        /// Not a tunnel packet of ours: left to the stack untouched.
        NotOurs = 5 "not_ours",
        /// Left to the stack: the outer packet is a fragment.
        OuterFragment = 6 "outer_fragment",
        /// Left to the stack: the outer header has options, or extension headers.
        OuterOptions = 7 "outer_options",
        /// Left to the stack: the outer UDP checksum is not zero and must be verified.
        OuterChecksum = 8 "outer_checksum",
        /// Left to the stack: this kernel can't take off an outer header of another family than the inner packet.
        CrossFamily = 9 "cross_family",
        /// Sent through the agent's `vxlan` device.
        ViaDevice = 10 "via_device",
        /// XDP found nothing wrong; TC decides.
        Checked = 11 "checked",
        /// A reserved bit of the VXLAN header was set; ignored, as RFC 7348 section 5 asks. Counted beside the packet's own outcome.
        ReservedBits = 12 "reserved_bits",
        /// Left to the stack: a UDP_SEGMENT packet, whose tunnel marks no helper can take off; its receiver could not cut it.
        UdpGso = 13 "udp_gso",
        /// An ICMP or ICMPv6 error sent to whoever sent the packet that was dropped. Counted beside the drop, with the bytes of the error.
        IcmpError = 14 "icmp_error",
        /// Routed into another subnet or network. Counted beside the packet's own outcome.
        Routed = 15 "routed",
        /// Left to the stack: a tunnel packet to the host itself, or to a group, that stands for several segments and has to lose its tunnel marks.
        HostGso = 16 "host_gso",
        /// Left to the stack: ARP, neighbour discovery or a packet to the gateway's MAC that comes from a foreign VTEP and is answered or routed behind the `vxlan` device.
        Foreign = 17 "foreign",
        /// IPv4 that is too big and may be fragmented: sent through `fabric_frag`. There: a fragment was cut off, counted beside it, with the bytes of the packet.
        Fragment = 18 "fragment",
        /// Left to the stack: bytes behind the outer packet, which it cuts off.
        OuterPadding = 19 "outer_padding",
        /// Left to the stack: a tunnel packet that a policy rejects, which is dropped and answered behind the `vxlan` device.
        RejectStack = 22 "reject_stack",
        /// A DNS answer, handed to the agent, which reads it for a policy with domain names and then delivers it.
        Held = 23 "held",
        /// Broadcast or multicast, of which every receiver got a copy.
        Replicated = 24 "replicated",
        /// A copy of a replicated frame, delivered on this node. Counted beside the frame's own outcome.
        CopyLocal = 25 "copy_local",
        /// A copy of a replicated frame, sent to another node. Counted beside the frame's own outcome.
        CopyRemote = 26 "copy_remote",
        /// A packet passed a policy, but its flow found no room in the map: its answers may be dropped. Counted beside the packet's own outcome.
        Untracked = 27 "untracked",
        /// Relayed: it came for an endpoint that has moved, and was sent on to the node where that lives now.
        Relayed = 28 "relayed",
        /// Left to the stack: it is to be relayed to a node whose outer header is of another family, or built by the `vxlan` device.
        RelayStack = 29 "relay_stack",
        /// Sent to the world outside of the fabric with the host's address.
        Masqueraded = 30 "masqueraded",
        /// A TCP reset sent to whoever sent a packet that a policy rejects. Counted beside the drop, with the bytes of the reset.
        Reset = 31 "reset",
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, DropReason, Hook};
    use crate::counters;

    #[test]
    fn numbers_fit_the_counter_maps_and_are_unique() {
        for pair in DropReason::ALL.windows(2) {
            assert!((pair[0] as u8) < (pair[1] as u8));
        }
        for pair in Action::ALL.windows(2) {
            assert!((pair[0] as u8) < (pair[1] as u8));
        }
        assert!(DropReason::ALL.iter().all(|r| u32::from(*r as u8) < counters::DROP_SLOTS));
        assert!(Action::ALL.iter().all(|a| u32::from(*a as u8) < counters::ACTION_SLOTS));
        assert!(Hook::ALL.iter().all(|h| u32::from(*h as u8) < counters::HOOK_SLOTS));
    }

    #[test]
    fn numbers_come_back() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(*reason as u8), Some(*reason));
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
