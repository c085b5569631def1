//! Messages of IGMP and MLD as hosts send them, and what the programs have noted.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use etherparse::{IpNumber, Ipv4Header, Ipv4Options};
use fabric_common::{
    abi,
    membership::{GroupCount, GroupKey, GroupValue},
};

use crate::{
    cast::Container,
    frame::{ethernet, internet_checksum, multicast_mac},
    walk::Rig,
};

/// Where reports of IGMPv3 go.
pub const IGMP_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
/// Where reports of MLDv2 go.
pub const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// A frame with a message of IGMP, whose checksum is made right: TTL 1, router alert.
pub fn igmp(from: &Container, src: Ipv4Addr, dst: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let check = internet_checksum(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let mut header = Ipv4Header::new(0, 1, IpNumber::IGMP, src.octets(), dst.octets()).expect("it fits");
    header.options = Ipv4Options::from([0x94, 4, 0, 0]);
    // With the options.
    header.set_payload_len(message.len()).expect("it is short");
    header.header_checksum = header.calc_header_checksum();
    let mut packet = Vec::new();
    header.write(&mut packet).expect("there is room");
    packet.extend(message);
    let [_, b, c, d] = dst.octets();
    ethernet(from.mac, fabric_common::addr::Mac::new([1, 0, 0x5e, b & 0x7f, c, d]), 0x0800, &packet)
}

/// A message of IGMP version 1 or 2.
pub fn igmp_of(kind: u8, group: Ipv4Addr) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &group.octets()].concat()
}

/// A report of IGMPv3: type, group and sources of each record.
pub fn igmp_v3(records: &[(u8, Ipv4Addr, &[Ipv4Addr])]) -> Vec<u8> {
    let mut message = vec![0x22, 0, 0, 0, 0, 0];
    message.extend((records.len() as u16).to_be_bytes());
    for (kind, group, sources) in records {
        message.extend([*kind, 0]);
        message.extend((sources.len() as u16).to_be_bytes());
        message.extend(group.octets());
        message.extend(sources.iter().flat_map(Ipv4Addr::octets));
    }
    message
}

/// The hop-by-hop header that MLD has.
pub const ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];

/// A frame with a message of MLD, whose checksum is made right, behind a hop-by-hop header (or what else is given).
pub fn mld(
    from: &Container,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    (next, before): (u8, &[u8]),
    message: &[u8],
) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let length = message.len() as u32;
    let pseudo = [&src.octets()[..], &dst.octets(), &length.to_be_bytes(), &[0, 0, 0, 58], &message].concat();
    let check = internet_checksum(&pseudo);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let payload = [before, &message].concat();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 1]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    ethernet(from.mac, multicast_mac(dst), 0x86dd, &packet)
}

/// A message of MLD version 1.
pub fn mld_of(kind: u8, group: Ipv6Addr) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat()
}

/// A report of MLDv2: type, group and sources of each record.
pub fn mld_v2(records: &[(u8, Ipv6Addr, &[Ipv6Addr])]) -> Vec<u8> {
    let mut message = vec![143, 0, 0, 0, 0, 0];
    message.extend((records.len() as u16).to_be_bytes());
    for (kind, group, sources) in records {
        message.extend([*kind, 0]);
        message.extend((sources.len() as u16).to_be_bytes());
        message.extend(group.octets());
        message.extend(sources.iter().flat_map(Ipv6Addr::octets));
    }
    message
}

impl Rig {
    /// Version of the last report for each group that a container of this host has joined.
    pub fn groups(&mut self, of: &Container) -> BTreeMap<IpAddr, u32> {
        let ifindex = self.port(of).ifindex();
        let rows = self.hash::<GroupKey, GroupValue>(abi::GROUPS.name);
        let rows = rows.iter().map(|row| row.expect("it can be read"));
        let own = rows.filter(|(key, _)| key.ifindex == ifindex);
        own.map(|(key, value)| {
            assert_eq!(key.vni, of.network.vni, "the port's network");
            (key.group.to_ip(), value.version)
        })
        .collect()
    }

    /// How many groups the programs count for a container, and how many joins they refused it.
    pub fn group_count(&mut self, of: &Container) -> (u32, u32) {
        let ifindex = self.port(of).ifindex();
        let count = self.hash::<u32, GroupCount>(abi::GROUP_COUNTS.name).get(&ifindex, 0);
        count.map_or((0, 0), |count| (count.groups, count.refused))
    }
}
