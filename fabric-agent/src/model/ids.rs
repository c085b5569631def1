//! Numbers and MACs that every node computes for itself from names and addresses, so that no database of numbers is
//! needed and all nodes agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fabric_common::{
    addr::Mac,
    layout::{FNV_BASIS, fnv},
    vni::Vni,
};

/// FNV-1a over a text's bytes, 64 bits folded to 32.
pub fn hash32(text: &str) -> u32 {
    let hash = fnv(FNV_BASIS, text.as_bytes());
    ((hash >> 32) ^ (hash & 0xffff_ffff)) as u32
}

/// A number for each name: its hash, never 0; a collision goes to the next free number, the names taken in order, so
/// that the result depends on the set of names alone.
pub fn number<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u32> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for name in names {
        let mut number = hash32(name).max(1);
        while !taken.insert(number) {
            number = number.wrapping_add(1).max(1);
        }
        numbers.insert(name.to_owned(), number);
    }
    numbers
}

/// The MAC of an endpoint that chose none: 02:fc and the last four bytes of its first IPv4 address; without one, four
/// bytes of a hash of its first address; without any address, of a hash of `name`.
pub fn endpoint_mac(addresses: &[IpAddr], name: &str) -> Mac {
    let v4 = addresses.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip.octets()),
        IpAddr::V6(_) => None,
    });
    let tail = v4.unwrap_or_else(|| match addresses.first() {
        Some(ip) => hash32(&ip.to_string()).to_be_bytes(),
        None => hash32(name).to_be_bytes(),
    });
    Mac::new([0x02, 0xfc, tail[0], tail[1], tail[2], tail[3]])
}

/// The MAC of a network's anycast gateway, the same on all nodes: 02:fa:00 and the VNI.
pub fn gateway_mac(vni: Vni) -> Mac {
    let v = vni.get().to_be_bytes();
    Mac::new([0x02, 0xfa, 0, v[1], v[2], v[3]])
}

/// The MAC of a node's own addresses, in every network: 02:fd and four bytes of a hash of its name.
pub fn node_mac(node: &str) -> Mac {
    let h = hash32(node).to_be_bytes();
    Mac::new([0x02, 0xfd, h[0], h[1], h[2], h[3]])
}

/// The name of the host side of an endpoint's veth: `fab` and 12 hexadecimal digits of a hash of the endpoint's name.
pub fn host_ifname(endpoint: &str) -> String {
    format!("fab{:012x}", fnv(FNV_BASIS, endpoint.as_bytes()) & 0xffff_ffff_ffff)
}

/// The name under which the other side of such a veth waits for a container engine: `fap` and the same digits.
pub fn waiting_ifname(endpoint: &str) -> String {
    format!("fap{:012x}", fnv(FNV_BASIS, endpoint.as_bytes()) & 0xffff_ffff_ffff)
}

/// The name of the port side of a network's access port: `fah` and 12 hexadecimal digits of a hash of the network's name.
pub fn access_port_ifname(network: &str) -> String {
    format!("fah{:012x}", fnv(FNV_BASIS, network.as_bytes()) & 0xffff_ffff_ffff)
}

/// The name of the host's own interface in a network: `fac` and the same digits.
pub fn access_ifname(network: &str) -> String {
    format!("fac{:012x}", fnv(FNV_BASIS, network.as_bytes()) & 0xffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_independent_of_order() {
        let names: Vec<String> = (0..5000).map(|i| format!("node-{i}")).collect();
        let forward = number(names.iter().map(String::as_str));
        let backward = number(names.iter().rev().map(String::as_str));
        assert_eq!(forward, backward);
        let distinct: BTreeSet<u32> = forward.values().copied().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(!distinct.contains(&0));
    }

    #[test]
    fn macs_follow_the_rules() {
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        let v6: IpAddr = "fd00::3".parse().unwrap();
        assert_eq!(endpoint_mac(&[v6, v4], "x").to_string(), "02:fc:0a:01:02:03");
        assert_eq!(&endpoint_mac(&[v6], "x").bytes[..2], &[0x02, 0xfc]);
        assert_ne!(endpoint_mac(&[v6], "x"), endpoint_mac(&["fd00::4".parse().unwrap()], "x"));
        assert_eq!(gateway_mac(Vni::new(0x0a_0b_0c).unwrap()).to_string(), "02:fa:00:0a:0b:0c");
        assert!(node_mac("n1").is_valid_source());
    }

    #[test]
    fn interface_names_fit() {
        assert_eq!(host_ifname("web").len(), 15);
        assert_ne!(host_ifname("web"), host_ifname("web2"));
        assert_eq!(waiting_ifname("web").len(), 15);
        assert_eq!((access_ifname("blue").len(), access_port_ifname("blue").len()), (15, 15));
    }
}
