//! Addresses: which one is free, which one a node takes for itself. Pure; the service does the bookkeeping.
//!
//! Reserved in every subnet: the network address, the broadcast address (IPv4) and the gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fabric_common::layout::{FNV_BASIS, fnv};
use ipnet::IpNet;

use super::{
    error::{ModelError, refuse},
    network::{Network, Subnet},
};

/// First and last host address of a subnet, as numbers.
fn host_range(net: IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            (u128::from(first) + 1, u128::from(last) - 1)
        }
        IpNet::V6(net) => (u128::from(net.network()) + 1, u128::from(net.broadcast())),
    }
}

fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn to_address(net: IpNet, number: u128) -> IpAddr {
    match net {
        // Numbers come from the subnet's own range, which fits.
        IpNet::V4(_) => IpAddr::V4((number as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

/// How many addresses of a subnet can be given away: all but the reserved ones.
pub fn capacity(subnet: &Subnet) -> u128 {
    let (first, last) = host_range(subnet.net);
    last - first
}

/// The first free address at or after `start`, round the range once.
fn probe(
    subnet: &Subnet,
    (first, last): (u128, u128),
    start: u128,
    taken: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let free = |number: &u128| {
        let address = to_address(subnet.net, *number);
        address != subnet.gateway && !taken(address)
    };
    (start..=last).chain(first..start).find(free).map(|number| to_address(subnet.net, number))
}

/// A free address of `subnet`: the next one after `last`, which is the address that was given away last, so that an
/// address that was given back is used again as late as possible.
///
/// # Errors
/// None is free; the sentence names the subnet and the counts.
pub fn allocate(
    network: &Network,
    subnet: &Subnet,
    used: &BTreeMap<IpAddr, String>,
    last: Option<IpAddr>,
) -> Result<IpAddr, ModelError> {
    let (first, end) = host_range(subnet.net);
    match probe(subnet, (first, end), start(first, end, last), |a| used.contains_key(&a)) {
        Some(address) => Ok(address),
        None => {
            let inside = used.keys().filter(|a| subnet.net.contains(*a)).count();
            refuse!(
                "subnet {} of network {} is exhausted: {inside} of {} usable addresses are in use; detach an endpoint or add a subnet",
                subnet.net,
                network.name,
                capacity(subnet)
            )
        }
    }
}

/// As [`allocate`], from the part `range` of the subnet alone.
///
/// # Errors
/// As [`allocate`].
pub fn allocate_within(
    network: &Network,
    subnet: &Subnet,
    range: IpNet,
    used: &BTreeMap<IpAddr, String>,
    last: Option<IpAddr>,
) -> Result<IpAddr, ModelError> {
    if range == subnet.net {
        return allocate(network, subnet, used, last);
    }
    let (first, end) = host_range(subnet.net);
    let first = first.max(to_number(range.network()));
    let end = end.min(to_number(range.broadcast()));
    if first > end || !subnet.net.contains(&range) {
        refuse!("range {range} has no usable address of subnet {}: choose another one", subnet.net);
    }
    match probe(subnet, (first, end), start(first, end, last), |a| used.contains_key(&a)) {
        Some(address) => Ok(address),
        None => refuse!(
            "range {range} of network {} is exhausted: all of its addresses are in use; remove a container, or create the network with a larger range",
            network.name
        ),
    }
}

/// A block of a subnet: the part of it that one node takes addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(pub IpNet);

impl Block {
    /// The block that an address is in.
    pub fn of(subnet: IpNet, address: IpAddr) -> Option<Self> {
        let block = IpNet::new(address, block_len(subnet)).ok()?.trunc();
        subnet.contains(&block).then_some(Self(block))
    }
}

/// Prefix length of a subnet's blocks: 64 addresses, 16 where there are few, the whole subnet where there are very few.
fn block_len(subnet: IpNet) -> u8 {
    let bits = subnet.max_prefix_len() - subnet.prefix_len();
    subnet.max_prefix_len()
        - match bits {
            0..=6 => bits,
            7..=12 => 4,
            _ => 6,
        }
}

/// Every block of a subnet, round from the one that `seed` chooses.
pub fn blocks(subnet: IpNet, seed: u32) -> impl Iterator<Item = IpNet> {
    let len = block_len(subnet);
    let (count, step) = (1u128 << (len - subnet.prefix_len()), 1u128 << (subnet.max_prefix_len() - len));
    let base = to_number(subnet.network());
    let start = u128::from(seed) % count;
    let block = move |n: u128| IpNet::new(to_address(subnet, base + n * step), len).ok();
    (start..count).chain(0..start).filter_map(block)
}

/// Where to look first: behind the address that was given away last.
fn start(first: u128, end: u128, last: Option<IpAddr>) -> u128 {
    match last.map(to_number) {
        Some(last) if (first..end).contains(&last) => last + 1,
        _ => first,
    }
}

/// Checks a chosen address against those in use.
///
/// # Errors
/// It is no host address of the network, or somebody has it; the sentence says who.
pub fn check_chosen(
    network: &Network,
    address: IpAddr,
    used: &BTreeMap<IpAddr, String>,
) -> Result<(), ModelError> {
    network.check_host_address(address)?;
    if let Some(owner) = used.get(&address) {
        refuse!(
            "address {address} in network {} belongs to {owner}: choose another one, or leave it out",
            network.name
        );
    }
    Ok(())
}

/// The address that node `node` takes for itself in a subnet: a hash of its name over the host addresses, past those in
/// `used` and the gateway. None if the subnet is full.
pub fn node_address(subnet: &Subnet, node: &str, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let (first, last) = host_range(subnet.net);
    let start = first + u128::from(fnv(FNV_BASIS, node.as_bytes())) % (last - first + 1);
    probe(subnet, (first, last), start, |a| used.contains(&a))
}

#[cfg(test)]
mod tests {
    use fabric_common::vni::Vni;
    use proptest::prelude::*;

    use super::*;

    fn network(cidr: &str) -> Network {
        let net: IpNet = cidr.parse().unwrap();
        let gateway = net.hosts().next().unwrap();
        let gateway =
            if net.addr().is_ipv6() { to_address(net, to_number(net.network()) + 1) } else { gateway };
        Network {
            name: "blue".to_owned(),
            vni: Vni::new(1).unwrap(),
            subnets: vec![Subnet { net, gateway }],
            mtu: None,
            allow_from: BTreeSet::new(),
            host_access: false,
            masquerade: false,
            routes: Vec::new(),
            multicast: false,
            keep: false,
            router_advertisement: false,
        }
    }

    #[test]
    fn small_subnet_is_used_up_and_says_so() {
        let network = network("10.0.0.0/29");
        let subnet = network.subnets[0];
        assert_eq!(capacity(&subnet), 5);
        let mut used = BTreeMap::new();
        let mut last = None;
        for i in 2..=6 {
            let got = allocate(&network, &subnet, &used, last).unwrap();
            assert_eq!(got.to_string(), format!("10.0.0.{i}"));
            used.insert(got, "endpoint x".to_owned());
            last = Some(got);
        }
        let text = allocate(&network, &subnet, &used, last).unwrap_err().to_string();
        assert!(text.contains("10.0.0.0/29") && text.contains("5 of 5"), "{text}");
    }

    #[test]
    fn a_range_is_kept_to_and_walked_round() {
        let network = network("10.0.0.0/24");
        let subnet = network.subnets[0];
        let range = "10.0.0.252/30".parse().unwrap();
        let mut used = BTreeMap::new();
        let last =
            |used: &BTreeMap<IpAddr, String>, last| allocate_within(&network, &subnet, range, used, last);
        // 255 is the broadcast address.
        for (after, got) in [(None, 252), (Some(252), 253), (Some(253), 254), (Some(254), 252)] {
            let after = after.map(|n: u8| IpAddr::from([10, 0, 0, n]));
            assert_eq!(last(&used, after).unwrap(), IpAddr::from([10, 0, 0, got]));
        }
        used.extend((252..255).map(|n: u8| (IpAddr::from([10, 0, 0, n]), "x".to_owned())));
        let text = last(&used, None).unwrap_err().to_string();
        assert!(text.contains("range 10.0.0.252/30 of network blue is exhausted"), "{text}");
        let outside = allocate_within(&network, &subnet, "10.0.1.0/30".parse().unwrap(), &used, None);
        assert!(outside.unwrap_err().to_string().contains("no usable address"));
    }

    #[test]
    fn blocks_are_apart_and_cover_the_subnet() {
        for (cidr, count) in [
            ("10.0.0.0/24", 16),
            ("10.0.0.0/26", 1),
            ("10.0.0.0/29", 1),
            ("10.0.0.0/16", 1024),
            ("10.1.0.0/25", 8),
        ] {
            let subnet: IpNet = cidr.parse().unwrap();
            let all: BTreeSet<IpNet> = blocks(subnet, 77).collect();
            assert_eq!(all.len(), count, "{cidr}");
            for address in subnet.hosts() {
                let Block(block) = Block::of(subnet, address).unwrap();
                assert!(all.contains(&block) && block.contains(&address), "{address}");
            }
        }
        let v6: IpNet = "fd00::/64".parse().unwrap();
        let first = blocks(v6, 3).next().unwrap();
        assert_eq!(first.to_string(), "fd00::c0/122");
        assert_eq!(Block::of(v6, "fd00::c7".parse().unwrap()), Some(Block(first)));
        assert_eq!(Block::of(v6, "fd01::1".parse().unwrap()), None);
        assert_eq!(Block::of(v6, "10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn reuse_is_delayed_until_the_range_was_walked() {
        let network = network("10.0.0.0/29");
        let subnet = network.subnets[0];
        let none = BTreeMap::new();
        let mut last = None;
        let mut seen = Vec::new();
        for _ in 0..6 {
            let got = allocate(&network, &subnet, &none, last).unwrap();
            seen.push(got.to_string());
            last = Some(got);
        }
        assert_eq!(seen, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
    }

    #[test]
    fn chosen_addresses_name_their_owner() {
        let network = network("10.0.0.0/24");
        let used = BTreeMap::from([("10.0.0.9".parse().unwrap(), "endpoint web".to_owned())]);
        let complaint =
            |ip: &str| check_chosen(&network, ip.parse().unwrap(), &used).unwrap_err().to_string();
        assert!(complaint("10.0.0.9").contains("endpoint web"));
        assert!(complaint("10.0.0.1").contains("gateway"));
        assert!(complaint("10.0.0.255").contains("broadcast"));
        assert!(complaint("10.0.1.1").contains("no subnet"));
        assert!(check_chosen(&network, "10.0.0.10".parse().unwrap(), &used).is_ok());
    }

    fn subnets() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["10.0.0.0/29", "10.0.0.0/27", "192.168.4.0/24", "fd00::/125", "fd00::/64"])
    }

    proptest! {
        #[test]
        fn allocation_is_free_usable_and_fails_only_when_full(
            cidr in subnets(),
            taken in prop::collection::btree_set(0u128..256, 0..300),
            last in prop::option::of(0u128..256),
        ) {
            let network = network(cidr);
            let subnet = network.subnets[0];
            let base = to_number(subnet.net.network());
            let inside = |n: &u128| subnet.net.contains(&to_address(subnet.net, base + n)).then(|| to_address(subnet.net, base + n));
            let used: BTreeMap<IpAddr, String> = taken.iter().filter_map(inside).map(|a| (a, "x".to_owned())).collect();
            let last = last.as_ref().and_then(inside);
            match allocate(&network, &subnet, &used, last) {
                Ok(got) => {
                    prop_assert!(network.check_host_address(got).is_ok());
                    prop_assert!(!used.contains_key(&got));
                }
                Err(_) => {
                    let (first, end) = host_range(subnet.net);
                    prop_assert!((first..=end).map(|n| to_address(subnet.net, n)).all(|a| a == subnet.gateway || used.contains_key(&a)));
                }
            }
        }

        #[test]
        fn node_addresses_are_usable_and_repeatable(cidr in subnets(), name in "[a-z]{1,12}", taken in prop::collection::btree_set(0u128..32, 0..32)) {
            let network = network(cidr);
            let subnet = network.subnets[0];
            let base = to_number(subnet.net.network());
            let used: BTreeSet<IpAddr> = taken.iter().map(|n| to_address(subnet.net, base + n)).collect();
            let got = node_address(&subnet, &name, &used);
            prop_assert_eq!(got, node_address(&subnet, &name, &used));
            if let Some(got) = got {
                prop_assert!(network.check_host_address(got).is_ok());
                prop_assert!(!used.contains(&got));
            }
        }
    }
}
