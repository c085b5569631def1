//! Frames to start from: right ones of every kind that a hook knows.

use std::net::IpAddr;

use crate::{
    cast::{CA1, CA2, CB1, Container, FAMILIES, Family, GA1, GATEWAY_V4, GATEWAY_V6, GB1, NOBODY_V4, SWITCH},
    frame::{Arp, Outer, Path, multicast_mac, solicited_node},
    tunnel_table::{PAYLOAD, PORTS, from, header_table, outer, sender_table},
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
pub fn of_tunnel() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> =
        header_table().into_iter().chain(sender_table()).map(|case| case.packet).collect();
    for round in 0..seeds.len() / 8 {
        for family in FAMILIES {
            let path = Path::between(&CA1, &CB1, family);
            seeds.push(outer().around(&path.udp(PORTS, PAYLOAD)));
            seeds.push(outer().around(&path.tcp(PORTS, PAYLOAD)));
            seeds.push(outer().around(&path.ping(PAYLOAD)));
        }
        seeds.push(outer().around(&Path::between(&CA1, &CB1, Family::V4).of_length(100 + 90 * round)));
        let station = Path::between(&CA1, &CB1, Family::V4).with_src(crate::cast::STATION_V4);
        seeds.push(from(&SWITCH).around(&station.udp(PORTS, PAYLOAD)));
        let green = Outer { vxlan: [8, 0, 0, 0, 0, 0, 200, 0], ..outer() };
        seeds.push(green.around(&Path::between(&GA1, &GB1, Family::V4).udp(PORTS, PAYLOAD)));
    }
    seeds
}
