//! Frames to start from: right ones of every kind that a hook knows.

use std::net::IpAddr;

use crate::{
    cast::{
        BLUE, CA1, CA2, CB1, Container, FAMILIES, Family, GA1, GATEWAY_V4, GATEWAY_V6, GB1, GREEN, HOST_A,
        HOST_B, HOSTS, Host, NOBODY_V4, STATION_V4, STRANGER, SWITCH,
    },
    frame::{Arp, ETH, Outer, Path, UDP, multicast_mac, solicited_node},
    tunnel_table::{PAYLOAD, PORTS, header_table, sender_table},
};

/// What a container of HOST_A sends.
pub fn of_container(container: &'static Container) -> Vec<Vec<u8>> {
    let (local, remote) = if *container == GA1 { (&GA1, &GB1) } else { (&CA2, &CB1) };
    let mut seeds = Vec::new();
    for family in FAMILIES {
        for to in [local, remote, remote] {
            let path = Path::between(container, to, family);
            seeds.extend([path.udp(PORTS, PAYLOAD), path.tcp(PORTS, PAYLOAD), path.ping(PAYLOAD)]);
            seeds.extend([path.udp(PORTS, &[]), path.of_length(1464), path.of_length(1465)]);
        }
        let gateway: IpAddr = if family == Family::V4 { GATEWAY_V4.into() } else { GATEWAY_V6.into() };
        let path = Path::between(container, remote, family).with_dst_mac(container.network.gateway_mac);
        seeds.extend([path.with_dst(gateway).ping(PAYLOAD), path.ping(PAYLOAD), path.udp(PORTS, PAYLOAD)]);
    }
    for target in [remote.v4, local.v4, GATEWAY_V4, NOBODY_V4] {
        seeds.push(Arp::who_has(container, target).frame());
    }
    seeds.push(Arp { reply: true, ..Arp::who_has(container, container.v4) }.frame());
    for target in [remote.v6, local.v6, GATEWAY_V6, remote.link_local()] {
        let group = solicited_node(target);
        let path =
            Path::between(container, remote, Family::V6).with_dst(group).with_dst_mac(multicast_mac(group));
        let link_layer = [&target.octets()[..], &[1, 1], &container.mac.bytes].concat();
        seeds.push(path.icmpv6(135, 0, [0; 4], &link_layer, 255));
        seeds.push(path.icmpv6(135, 0, [0; 4], &target.octets(), 255));
    }
    let own = Path::between(container, remote, Family::V6);
    seeds.push(own.icmpv6(136, 0, [0x60, 0, 0, 0], &container.v6.octets(), 255));
    seeds.push(own.icmpv6(133, 0, [0; 4], &[], 255));
    seeds
}

/// What comes in at an uplink of HOST_B. The tables' packets are half of them, plain right ones the other half.
pub fn of_tunnel(underlay: Family) -> Vec<Vec<u8>> {
    let table = header_table().into_iter().chain(sender_table()).map(|case| case.packet);
    let mut seeds: Vec<_> = match underlay {
        Family::V4 => table.collect(),
        Family::V6 => table.filter_map(|packet| over_v6(&packet)).collect(),
    };
    let over = |from: &Host, vni: u32| Outer::over(underlay, from, &HOST_B, vni);
    let outer = over(&HOST_A, BLUE.vni);
    for round in 0..seeds.len() / 8 {
        for family in FAMILIES {
            let path = Path::between(&CA1, &CB1, family);
            seeds.push(outer.around(&path.udp(PORTS, PAYLOAD)));
            seeds.push(outer.around(&path.tcp(PORTS, PAYLOAD)));
            seeds.push(outer.around(&path.ping(PAYLOAD)));
            seeds.push(outer.around_with_checksum(&path.udp(PORTS, PAYLOAD)));
        }
        seeds.push(outer.around(&Path::between(&CA1, &CB1, Family::V4).of_length(100 + 90 * round)));
        let station = Path::between(&CA1, &CB1, Family::V4).with_src(STATION_V4);
        seeds.push(over(&SWITCH, BLUE.vni).around(&station.udp(PORTS, PAYLOAD)));
        let station = station.with_dst_mac(BLUE.gateway_mac);
        seeds.push(over(&SWITCH, BLUE.vni).around(&station.udp(PORTS, PAYLOAD)));
        let green = Path::between(&GA1, &GB1, Family::V4).udp(PORTS, PAYLOAD);
        seeds.push(over(&HOST_A, GREEN.vni).around(&green));
    }
    seeds
}

/// The same tunnel packet over IPv6: between the other addresses of its hosts, with its own UDP payload.
fn over_v6(packet: &[u8]) -> Option<Vec<u8>> {
    let address = |at: usize| packet.get(at..at + 4);
    let host = |at: usize| {
        let all = HOSTS.into_iter().chain([&STRANGER]);
        all.into_iter().find(|host| address(at) == Some(&host.vtep.octets()))
    };
    let (from, to) = (host(ETH + 12)?, host(ETH + 16)?);
    let header = usize::from(packet[ETH] & 0xf) * 4;
    let payload = packet.get(ETH + header + UDP..)?;
    Some(Outer::over(Family::V6, from, to, BLUE.vni).udp(payload))
}
