//! What the programs do with a packet: each is run for real.

use std::net::{IpAddr, Ipv4Addr};

use aya::maps::{HashMap, MapData};
use etherparse::{IpNumber, PacketBuilder};
use fabric_agent::{
    model::Cluster,
    plan::desired::{NodeFacts, RouteFacts},
};
use fabric_common::{
    abi,
    addr::{Addr, Mac},
    flow::{FlowKey, FlowValue},
};

use super::{
    generate::{HERE, Packet, ROUTER_MAC, VNI, World},
    rows,
};
use crate::{
    cast::{HOSTS, VXLAN_PORT},
    frame::Outer,
    walk::{Gso, Place, Rig, Stage, Verdict},
};

const OWN_VTEP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OTHER_VTEP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const OTHER_MAC: Mac = Mac::new([2, 0, 0x5e, 0, 0, 2]);
const SOURCE_PORT: u16 = 40_000;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Passed,
    /// It ends.
    Dropped,
    /// It ends, and its sender gets an answer.
    Told,
}

/// A host whose programs are asked.
pub struct Programs {
    rig: Rig,
    facts: NodeFacts,
}

impl Programs {
    /// On a stage of its own.
    pub fn new(stage: &Stage) -> Self {
        let rig = stage.bare_rig(HOSTS[0], rows::PORTS);
        let mut facts = rig.facts.clone();
        facts.uplinks[0].vteps = vec![OWN_VTEP];
        facts.routes = [(OTHER_VTEP, RouteFacts { ifindex: facts.uplinks[0].ifindex, mtu: None })].into();
        Self { rig, facts }
    }

    /// Goes to another world.
    pub fn enter(&mut self, cluster: &Cluster) {
        self.rig.replace(rows::plan_on(cluster, self.facts.clone()));
    }

    /// What becomes of the packet where its sender or, from the tunnel, its receiver lives; absent if neither lives here, or
    /// if nothing in the world could send it.
    pub fn judge(&mut self, world: &World, packet: &Packet) -> Option<Fate> {
        let place = |mac: Mac| {
            let port = self.rig.tables.ports.iter().find(|(_, port)| port.mac == mac);
            port.map(|(ifindex, _)| Place::port(*ifindex))
        };
        let (from, to) = (world.endpoint(packet.from), world.endpoint(packet.to));
        let node = |address: IpAddr| world.nodes.iter().any(|(_, _, node)| *node == address);
        if node(packet.from) || node(packet.to) {
            return None;
        }
        let gateway = self.rig.tables.networks[&VNI].gateway_mac;
        let (place, src, frame) = match (from, to) {
            (Some(from), to) if from.node == HERE => {
                (place(from.mac)?, from.mac, frame(packet, from.mac, to.map_or(gateway, |to| to.mac)))
            }
            (from, Some(to)) if to.node == HERE => {
                let src = from.map_or(ROUTER_MAC, |from| from.mac);
                (self.rig.uplink(), src, self.tunnel(&frame(packet, src, to.mac)))
            }
            _ => return None,
        };
        let (verdict, bytes) = self.rig.run_uncounted(place, &frame, Gso::default());
        self.forget(packet);
        Some(match verdict {
            Verdict::Sent if bytes.starts_with(&src.bytes) => Fate::Told,
            Verdict::Sent => Fate::Passed,
            Verdict::Taken | Verdict::ToStack => Fate::Dropped,
        })
    }

    fn tunnel(&self, inner: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = VNI.to_be_bytes();
        let outer = Outer {
            src_mac: OTHER_MAC,
            dst_mac: self.facts.uplinks[0].mac,
            src: OTHER_VTEP,
            dst: OWN_VTEP,
            flow_label: 0,
            src_port: 50_000,
            dst_port: VXLAN_PORT,
            vxlan: [0x08, 0, 0, 0, a, b, c, 0],
        };
        outer.around(inner)
    }

    /// Takes the packet's flow away, of which the next packet might be an answer.
    fn forget(&mut self, packet: &Packet) {
        let (src, dst) = (Addr::from(packet.from), Addr::from(packet.to));
        let (from, to) = ports(packet);
        let from_high = (src.bytes, from) > (dst.bytes, to);
        let (low, high) = if from_high { ((dst, to), (src, from)) } else { ((src, from), (dst, to)) };
        let key = FlowKey {
            vni: VNI,
            low: low.0,
            high: high.0,
            low_port: low.1.to_be_bytes(),
            high_port: high.1.to_be_bytes(),
            protocol: packet.protocol,
            zero: [0; 3],
        };
        let map = self.rig.ebpf.map_mut(abi::NEW_FLOWS.name).expect("it exists");
        let mut flows = HashMap::<&mut MapData, FlowKey, FlowValue>::try_from(map).expect("a hash");
        // It was denied, or no policy applies: then there is none.
        let _absent = flows.remove(&key);
    }
}

/// Ports of the flow.
fn ports(packet: &Packet) -> (u16, u16) {
    match packet.protocol {
        6 | 17 | 132 => (SOURCE_PORT, packet.port),
        _ => (0, 0),
    }
}

fn frame(packet: &Packet, src: Mac, dst: Mac) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(src.bytes, dst.bytes);
    let network = match (packet.from, packet.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{packet:?} is of two families"),
    };
    let (from, to) = ports(packet);
    let mut message = [from.to_be_bytes(), to.to_be_bytes()].concat();
    message.resize(24, 0);
    if packet.protocol == 6 {
        // Header of five words, SYN.
        (message[12], message[13]) = (0x50, 2);
    }
    let mut frame = Vec::new();
    network.write(&mut frame, IpNumber(packet.protocol), &message).expect("it fits");
    frame
}
