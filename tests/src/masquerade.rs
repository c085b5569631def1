//! The world outside of the fabric, as masqueraded networks meet it: BLUE is one, GREEN is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, MapData};
use fabric_api::Object;
use fabric_common::{
    abi,
    addr::Mac,
    nat::{NatKey, NatValue},
};

use crate::{
    cast::{self, BLUE, Container, Family, HOST_A},
    frame::{ETH, IPV4, IPV6, Path},
    load::Globals,
    walk::{Rig, Stage},
};

/// Somebody in the world.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The same.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
/// The router between the host and the world.
pub const ROUTER_MAC: Mac = Mac::new([2, 0, 0xee, 0, 0, 1]);

/// The server's address.
pub fn server(family: Family) -> IpAddr {
    match family {
        Family::V4 => SERVER_V4.into(),
        Family::V6 => SERVER_V6.into(),
    }
}

/// HOST_A with BLUE masqueraded.
pub fn rig() -> Rig {
    let mut objects = cast::objects(&HOST_A);
    for object in &mut objects {
        if let Object::Network(network) = object {
            network.spec.masquerade = network.metadata.name == BLUE.name;
        }
    }
    let rig = Stage::enter().rig_with(&HOST_A, &objects, Globals::default());
    rig.stay_on_this_cpu();
    rig
}

/// What a container sends to the server.
pub fn out(from: &Container, family: Family) -> Path {
    let (src_mac, dst_mac) = (from.mac, from.network.gateway_mac);
    Path { src_mac, dst_mac, src: from.address(family), dst: server(family) }
}

/// What somebody in the world sends to the host.
pub fn back(from: impl Into<IpAddr>, family: Family) -> Path {
    Path { src_mac: ROUTER_MAC, dst_mac: HOST_A.mac, src: from.into(), dst: HOST_A.underlay(family) }
}

/// Where the transport header of a frame without options begins.
pub fn transport_at(family: Family) -> usize {
    ETH + if family == Family::V4 { IPV4 } else { IPV6 }
}

/// Two bytes of a frame as a number.
pub fn number(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

impl Rig {
    /// Rows of translations: of flows that were answered, and of those that were not.
    pub fn translations(&mut self) -> [Vec<(NatKey, NatValue)>; 2] {
        [abi::NAT.name, abi::NEW_NAT.name].map(|name| {
            let map = self.ebpf.map_mut(name).expect("it exists");
            let map = HashMap::<&mut MapData, NatKey, NatValue>::try_from(map).expect("a hash");
            map.iter().map(|row| row.expect("it can be read")).collect()
        })
    }

    /// How many rows of each kind there are.
    pub fn count_translations(&mut self) -> (usize, usize) {
        let [answered, new] = self.translations();
        (answered.len(), new.len())
    }

    /// Lets all translations have been quiet for so long.
    pub fn age_translations(&mut self, by: std::time::Duration) {
        for name in [abi::NAT.name, abi::NEW_NAT.name] {
            let map = self.ebpf.map_mut(name).expect("it exists");
            let mut map = HashMap::<&mut MapData, NatKey, NatValue>::try_from(map).expect("a hash");
            let rows: Vec<_> = map.iter().map(|row| row.expect("it can be read")).collect();
            for (key, mut value) in rows.into_iter().filter(|(_, value)| value.seen != 0) {
                value.seen = value.seen.saturating_sub(by.as_nanos() as u64);
                map.insert(key, value, 0).expect("the row can be written");
            }
        }
    }
}
