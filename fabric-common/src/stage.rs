//! Stages of the walks: what a traced walk leaves behind, for `fabric trace`. Only the traced build of the object (feature
//! `trace` of `fabric-ebpf`) has the map; the programs that carry traffic know nothing of it.

use crate::reason::{Action, DropReason, numbered};

/// Name of the map of marks in the traced object: an array of `u32`. The first entry counts the marks of the walk, the others
/// are the marks in their order. Whoever runs a program sets the first entry to zero before.
pub const MAP: &str = "stages";
/// Entries of the map; marks that find no room are counted and lost.
pub const ENTRIES: u32 = 64;

const DROPPED: u32 = 0x100;
const DONE: u32 = 0x200;

numbered! {
    /// A stage that a packet has passed.
    pub enum Stage {
        /// The interface is a port of this node.
        Port = 1 "port",
        /// The source MAC is the container's own.
        SourceMac = 2 "source_mac",
        /// ARP: it is answered here, from the node's own tables.
        Arp = 3 "arp",
        /// Neighbour discovery: it is answered here, from the node's own tables.
        NeighbourDiscovery = 4 "neighbour_discovery",
        /// The IP header is right.
        IpHeader = 5 "ip_header",
        /// The source address is the container's own.
        SourceAddress = 6 "source_address",
        /// The destination MAC has an entry in the forwarding database.
        Fdb = 7 "fdb",
        /// The destination MAC is a router's: the gateway's or a node's own.
        Router = 8 "router",
        /// The destination lives on another node, which has an outer header.
        Node = 9 "node",
        /// The packet fits the underlay toward that node.
        Size = 10 "size",
        /// The outer header is on.
        Encapsulated = 11 "encapsulated",
        /// The packet goes to the agent's vxlan device, which puts the outer header on.
        Device = 12 "device",
        /// The destination lives behind a port of this node.
        LocalPort = 13 "local_port",
        /// The outer headers are right, and it is a tunnel packet to this node.
        Outer = 14 "outer",
        /// The outer source is a known VTEP.
        Vtep = 15 "vtep",
        /// The inner frame is right.
        InnerFrame = 16 "inner_frame",
        /// The source record of the inner source address names the sending node.
        SourceRecord = 17 "source_record",
        /// The inner destination MAC is behind a port of this node.
        Receiver = 18 "receiver",
        /// The outer header is off.
        Decapsulated = 19 "decapsulated",
        /// The gateway routed it: into the destination's network, with the destination's MAC.
        Routed = 20 "routed",
        /// Broadcast or multicast, in a network that replicates it.
        Group = 30 "group",
        /// A port of this node gets a copy.
        CopyLocal = 31 "copy_local",
        /// Another node gets a copy.
        CopyRemote = 32 "copy_remote",
        /// The sender's policy admits it.
        PolicyEgress = 33 "policy_egress",
        /// The receiver's policy admits it.
        PolicyIngress = 34 "policy_ingress",
        /// To the world outside of the fabric, where the network's packets may go.
        World = 40 "world",
        /// Its address and port were translated.
        Translated = 41 "translated",
    }
}

/// An entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A stage was passed.
    Passed(Stage),
    /// The walk ended with a drop.
    Dropped(DropReason),
    /// The walk ended well.
    Done(Action),
}

impl Mark {
    /// As it stands in the map.
    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        match self {
            Self::Passed(stage) => stage as u32,
            Self::Dropped(reason) => DROPPED | reason as u32,
            Self::Done(action) => DONE | action as u32,
        }
    }

    /// From the map; absent if this version knows no such mark.
    pub const fn from_word(word: u32) -> Option<Self> {
        let number = (word & 0xff) as u8;
        match word & !0xff {
            0 => match Stage::from_number(number) {
                Some(stage) => Some(Self::Passed(stage)),
                None => None,
            },
            DROPPED => match DropReason::from_number(number) {
                Some(reason) => Some(Self::Dropped(reason)),
                None => None,
            },
            DONE => match Action::from_number(number) {
                Some(action) => Some(Self::Done(action)),
                None => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mark, Stage};
    use crate::reason::{Action, DropReason};

    #[test]
    fn marks_come_back() {
        let stages = Stage::ALL.iter().map(|stage| Mark::Passed(*stage));
        let drops = DropReason::ALL.iter().map(|reason| Mark::Dropped(*reason));
        let actions = Action::ALL.iter().map(|action| Mark::Done(*action));
        for mark in stages.chain(drops).chain(actions) {
            assert_eq!(Mark::from_word(mark.to_word()), Some(mark));
        }
        assert_eq!(Mark::from_word(0), None);
        assert_eq!(Mark::from_word(0x3_01), None);
    }
}
