//! Router advertisements.

use etherparse::checksum::Sum16BitWords;
use fabric_common::advertisement::AdvertisementValue;

use super::*;

fn advertising(more: &[&str]) -> Vec<Object> {
    let mut objects = scene();
    for object in &mut objects {
        if let Object::Network(network) = object
            && network.metadata.name == "blue"
        {
            network.spec.router_advertisement = true;
            network
                .spec
                .subnets
                .extend(more.iter().map(|subnet| subnet.parse::<ipnet::IpNet>().expect("a subnet")));
        }
    }
    objects
}

/// The frame, with its lengths and its checksum checked.
#[track_caller]
fn frame(value: &AdvertisementValue) -> &[u8] {
    let frame = &value.frame[..value.len as usize];
    assert!(value.frame[frame.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame.len() - 54);
    let sum = Sum16BitWords::new()
        .add_slice(&frame[22..54])
        .add_2bytes([frame[18], frame[19]])
        .add_2bytes([0, 58])
        .add_slice(&frame[54..]);
    assert_eq!(sum.ones_complement(), 0, "checksum");
    frame
}

#[test]
fn a_network_that_asks_for_it_has_one() {
    let desired = compile(&advertising(&["10.7.0.0/24", "fd00:7::/56"]), &facts(&[("web", 17)]));
    assert!(desired.problems.is_empty(), "{:?}", desired.problems);
    assert_eq!(desired.tables.advertisements.keys().collect::<Vec<_>>(), [&5000]);
    let frame = frame(&desired.tables.advertisements[&5000]);
    assert_eq!(frame.len(), 86 + 2 * 32, "one prefix for each IPv6 subnet");
    assert_eq!(frame[86..90], [3, 4, 64, 0x80]);
    assert_eq!(frame[102..110], [0xfd, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(frame[118..122], [3, 4, 56, 0x80]);
    assert_eq!(frame[134..142], [0xfd, 0, 0, 7, 0, 0, 0, 0]);
    // Its source can be asked for.
    let mac = ids::gateway_mac(fabric_common::vni::Vni::new(5000).expect("valid"));
    let key = EndpointKey { vni: 5000, addr: mac.link_local() };
    let gateway = desired.tables.endpoints[&key];
    assert_eq!((gateway.mac, gateway.flags), (mac, endpoint::FLAG_GATEWAY));
    assert_eq!(frame[22..38], key.addr.bytes);
    assert!(desired.ports["web"].router_advertisement);
}

#[test]
fn others_have_none() {
    let desired = compile(&scene(), &facts(&[("web", 17)]));
    assert!(desired.tables.advertisements.is_empty() && !desired.ports["web"].router_advertisement);
    let mac = ids::gateway_mac(fabric_common::vni::Vni::new(5000).expect("valid"));
    let key = EndpointKey { vni: 5000, addr: mac.link_local() };
    assert!(!desired.tables.endpoints.contains_key(&key));
}

#[test]
fn the_last_one_differs_in_the_lifetime_alone() {
    let desired = compile(&advertising(&[]), &facts(&[]));
    let mut value = desired.tables.advertisements[&5000];
    for lifetime in [[0xff, 0xff], [0x07, 0x08], [0, 1]] {
        value.frame[60..62].copy_from_slice(&lifetime);
        value.frame[56..58].copy_from_slice(&[0, 0]);
        let bytes = &value.frame[..value.len as usize];
        let sum = Sum16BitWords::new()
            .add_slice(&bytes[22..54])
            .add_2bytes([bytes[18], bytes[19]])
            .add_2bytes([0, 58])
            .add_slice(&bytes[54..]);
        value.frame[56..58].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        frame(&value);
        let mut last = crate::plan::advertisement::last(&value);
        assert_eq!(frame(&last)[60..62], [0, 0]);
        last.frame[60..62].copy_from_slice(&lifetime);
        last.frame[56..58].copy_from_slice(&value.frame[56..58]);
        assert_eq!(last, value);
    }
}

#[test]
fn subnets_that_there_is_no_room_for_are_said() {
    let more: Vec<String> = (10..23).map(|n| format!("fd00:{n}::/64")).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let desired = compile(&advertising(&more[..12]), &facts(&[]));
    assert!(desired.problems.is_empty(), "{:?}", desired.problems);
    assert_eq!(frame(&desired.tables.advertisements[&5000]).len(), 86 + 13 * 32);
    let desired = compile(&advertising(&more), &facts(&[]));
    let problem = &desired.problems[&("Network", "blue".to_owned())];
    assert!(problem.starts_with("it has 14 IPv6 subnets"), "{problem}");
    assert_eq!(frame(&desired.tables.advertisements[&5000]).len(), 86 + 13 * 32);
}
