//! A network that was checked: one VNI, subnets that do not overlap, one gateway each.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use fabric_api::object::{self, API_VERSION};
use fabric_common::vni::Vni;
use ipnet::IpNet;

use super::{
    error::{ModelError, refuse},
    name::{check_labels, check_name},
    route::{self, Route},
};

/// Smallest MTU of a network with IPv6 (RFC 8200 section 5).
pub const MTU_MIN_V6: u16 = 1280;
/// Smallest MTU of a network without IPv6 (what every IPv4 host must be able to take, RFC 791).
pub const MTU_MIN_V4: u16 = 576;

/// One subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Canonical: no host bits.
    pub net: IpNet,
    /// The anycast gateway, inside `net`.
    pub gateway: IpAddr,
}

/// A network that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Name.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// At least one, in the declared order, without overlap.
    pub subnets: Vec<Subnet>,
    /// Largest IP packet, bytes, if it was chosen.
    pub mtu: Option<u16>,
    /// Names of the networks that it lets in; not its own.
    pub allow_from: BTreeSet<String>,
    /// Whether the hosts themselves are in it.
    pub host_access: bool,
    /// Whether its endpoints reach the world through their host, with its address.
    pub masquerade: bool,
    /// No two for one prefix.
    pub routes: Vec<Route>,
    /// Whether broadcast and multicast are replicated to its members.
    pub multicast: bool,
    /// Whether answered connections go on that policies admit no more.
    pub keep: bool,
    /// Whether the gateway sends router advertisements. Only with an IPv6 subnet.
    pub router_advertisement: bool,
}

impl Network {
    /// Checks a declared network. Its VNI must have been chosen by now.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(object: &object::Network) -> Result<Self, ModelError> {
        check_version(&object.api_version)?;
        check_name("network name", &object.metadata.name)?;
        check_labels(&object.metadata.labels)?;
        let spec = &object.spec;
        let allow_from = check_allow_from(&object.metadata.name, &spec.allow_from)?;
        let Some(vni) = spec.vni else { refuse!("the network has no VNI") };
        let vni =
            Vni::new(vni).map_err(|e| ModelError(format!("{e}; choose a smaller one, or leave it out")))?;
        let subnets = check_subnets(&spec.subnets, &spec.gateways)?;
        check_mtu(spec.mtu, subnets.iter().any(|s| s.net.addr().is_ipv6()))?;
        let checked = Self {
            name: object.metadata.name.clone(),
            vni,
            subnets,
            mtu: spec.mtu,
            allow_from,
            host_access: spec.host_access,
            masquerade: spec.masquerade,
            multicast: spec.multicast,
            keep: spec.keep,
            router_advertisement: spec.router_advertisement,
            routes: route::check(&spec.routes)?,
        };
        route::check_in(&checked)?;
        if checked.router_advertisement && !checked.has_v6() {
            refuse!(
                "router advertisements are IPv6 and the network has no IPv6 subnet: add one, or leave out routerAdvertisement"
            );
        }
        Ok(checked)
    }

    /// The subnet that holds `address`.
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|s| s.net.contains(&address))
    }

    /// The first two subnets of this network and of another one that overlap.
    pub fn overlap(&self, other: &Self) -> Option<(IpNet, IpNet)> {
        let pairs =
            self.subnets.iter().flat_map(|own| other.subnets.iter().map(|theirs| (own.net, theirs.net)));
        pairs.into_iter().find(|(own, theirs)| own.contains(theirs) || theirs.contains(own))
    }

    /// Why the host can't be in this network beside `holder`, where it is already; absent if it can.
    pub fn host_access_clash(&self, holder: &Self) -> Option<String> {
        let (own, theirs) = self.overlap(holder)?;
        Some(format!(
            "subnet {own} overlaps {theirs} of network {}, and both have host access: choose another subnet, or leave out hostAccess",
            holder.name
        ))
    }

    /// Whether any subnet is IPv6.
    pub fn has_v6(&self) -> bool {
        self.subnets.iter().any(|s| s.net.addr().is_ipv6())
    }

    /// Checks that a host of this network may have `address`.
    ///
    /// # Errors
    /// It is outside of every subnet, or the network, broadcast or gateway address.
    pub fn check_host_address(&self, address: IpAddr) -> Result<(), ModelError> {
        let Some(subnet) = self.subnet_of(address) else {
            refuse!("address {address} is in no subnet of network {} ({})", self.name, join(&self.subnets));
        };
        if address == subnet.gateway {
            refuse!("address {address} is the gateway of subnet {} of network {}", subnet.net, self.name);
        }
        check_usable(subnet.net, address, "address")
    }
}

fn join(subnets: &[Subnet]) -> String {
    subnets.iter().map(|s| s.net.to_string()).collect::<Vec<_>>().join(", ")
}

fn check_allow_from(network: &str, names: &[String]) -> Result<BTreeSet<String>, ModelError> {
    let mut all = BTreeSet::new();
    for name in names {
        check_name("network name", name)?;
        if name == network {
            refuse!("{name} lets itself in, which needs no opening: take it out of allowFrom");
        }
        if !all.insert(name.clone()) {
            refuse!("network {name} is listed twice in allowFrom");
        }
    }
    Ok(all)
}

/// Checks the object format's version.
pub(super) fn check_version(version: &str) -> Result<(), ModelError> {
    if version != API_VERSION {
        refuse!("apiVersion {version:?} is not known: use {API_VERSION:?}");
    }
    Ok(())
}

fn check_mtu(mtu: Option<u16>, v6: bool) -> Result<(), ModelError> {
    let least = if v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
    match mtu {
        Some(mtu) if mtu < least => {
            refuse!("mtu {mtu} is below {least}, the least that {} needs", if v6 { "IPv6" } else { "IPv4" })
        }
        _ => Ok(()),
    }
}

fn check_subnets(declared: &[IpNet], gateways: &[IpAddr]) -> Result<Vec<Subnet>, ModelError> {
    if declared.is_empty() {
        refuse!("the network has no subnet: name at least one, like 192.168.10.0/24");
    }
    for (i, net) in declared.iter().enumerate() {
        check_subnet(*net)?;
        if let Some(other) = declared[..i].iter().find(|o| o.contains(net) || net.contains(*o)) {
            refuse!("subnets {other} and {net} overlap: a network's subnets must be apart");
        }
    }
    for (i, gateway) in gateways.iter().enumerate() {
        let Some(net) = declared.iter().find(|net| net.contains(gateway)) else {
            refuse!("gateway {gateway} is in no subnet of the network");
        };
        check_usable(*net, *gateway, "gateway")?;
        if let Some(other) = gateways[..i].iter().find(|o| net.contains(*o)) {
            refuse!("subnet {net} has two gateways, {other} and {gateway}: name one");
        }
    }
    let gateway_of = |net: &IpNet| {
        gateways.iter().copied().find(|g| net.contains(g)).unwrap_or_else(|| first_usable(*net))
    };
    Ok(declared.iter().map(|net| Subnet { net: *net, gateway: gateway_of(net) }).collect())
}

/// Checks that a network may have such a subnet.
///
/// # Errors
/// It has host bits, is too small or too large, or reserved.
pub fn check_subnet(net: IpNet) -> Result<(), ModelError> {
    if net.addr() != net.network() {
        refuse!("subnet {net} has host bits set: write {}", net.trunc());
    }
    // A gateway, a node address and one endpoint have to fit.
    let longest = if net.addr().is_ipv4() { 29 } else { 125 };
    if net.prefix_len() > longest {
        refuse!("subnet {net} is too small: use /{longest} or shorter");
    }
    if net.prefix_len() == 0 {
        refuse!("subnet {net} is the whole address space: use a longer prefix");
    }
    let bad = match net {
        IpNet::V4(net) => {
            let first = net.network();
            first.octets()[0] == 0
                || first.is_loopback()
                || first.is_multicast()
                || first.is_link_local()
                || first.octets()[0] >= 240
        }
        IpNet::V6(net) => {
            let first = net.network();
            // Longer prefixes of ::/8 hold the mapped and unspecified addresses.
            first.segments()[0] == 0 || first.is_multicast() || first.is_unicast_link_local()
        }
    };
    if bad {
        refuse!(
            "subnet {net} is reserved (loopback, multicast, link-local or unassigned): use unicast addresses"
        );
    }
    Ok(())
}

/// Refuses the network and, of IPv4, the broadcast address; of IPv6 the network address is the subnet-router anycast
/// address (RFC 4291 section 2.6.1).
fn check_usable(net: IpNet, address: IpAddr, what: &str) -> Result<(), ModelError> {
    if address == net.network() {
        refuse!("{what} {address} is the network address of {net}: choose another one");
    }
    if net.addr().is_ipv4() && address == net.broadcast() {
        refuse!("{what} {address} is the broadcast address of {net}: choose another one");
    }
    Ok(())
}

/// The first address after the network address.
pub fn first_usable(net: IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + 1).into()),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnets: &[&str], gateways: &[&str]) -> Result<Network, ModelError> {
        Network::new(&object::Network {
            api_version: API_VERSION.to_owned(),
            metadata: object::Metadata { name: "blue".to_owned(), ..Default::default() },
            spec: object::NetworkSpec {
                subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
                gateways: gateways.iter().map(|s| s.parse().unwrap()).collect(),
                vni: Some(7),
                ..Default::default()
            },
            status: None,
        })
    }

    fn complaint(subnets: &[&str], gateways: &[&str]) -> String {
        network(subnets, gateways).expect_err("must be refused").to_string()
    }

    #[test]
    fn both_families_and_default_gateways() {
        let net = network(&["10.1.0.0/24", "fd00:1::/64"], &["10.1.0.254"]).unwrap();
        assert_eq!(net.subnets[0].gateway.to_string(), "10.1.0.254");
        assert_eq!(net.subnets[1].gateway.to_string(), "fd00:1::1");
        assert!(net.has_v6());
    }

    #[test]
    fn router_advertisements_need_ipv6() {
        let advertising = |subnet: &str| {
            Network::new(&object::Network {
                api_version: API_VERSION.to_owned(),
                metadata: object::Metadata { name: "blue".to_owned(), ..Default::default() },
                spec: object::NetworkSpec {
                    subnets: vec![subnet.parse().unwrap()],
                    vni: Some(7),
                    router_advertisement: true,
                    ..Default::default()
                },
                status: None,
            })
        };
        assert!(advertising("fd00:1::/64").unwrap().router_advertisement);
        let text = advertising("10.1.0.0/24").expect_err("must be refused").to_string();
        assert!(text.contains("no IPv6 subnet"), "{text}");
    }

    #[test]
    fn host_bits_are_refused_with_the_right_form() {
        assert!(complaint(&["10.1.0.5/24"], &[]).contains("write 10.1.0.0/24"));
        assert!(complaint(&["fd00::5/64"], &[]).contains("write fd00::/64"));
    }

    #[test]
    fn overlap_is_refused_both_ways() {
        assert!(complaint(&["10.1.0.0/16", "10.1.2.0/24"], &[]).contains("overlap"));
        assert!(complaint(&["10.1.2.0/24", "10.1.0.0/16"], &[]).contains("overlap"));
    }

    #[test]
    fn gateways_must_be_usable() {
        assert!(complaint(&["10.1.0.0/24"], &["10.2.0.1"]).contains("in no subnet"));
        assert!(complaint(&["10.1.0.0/24"], &["10.1.0.0"]).contains("network address"));
        assert!(complaint(&["10.1.0.0/24"], &["10.1.0.255"]).contains("broadcast address"));
        assert!(complaint(&["fd00::/64"], &["fd00::"]).contains("network address"));
        assert!(complaint(&["10.1.0.0/24"], &["10.1.0.1", "10.1.0.2"]).contains("two gateways"));
    }

    #[test]
    fn unusable_subnets() {
        for bad in [
            "127.0.0.0/8",
            "224.0.0.0/8",
            "169.254.0.0/16",
            "0.0.0.0/0",
            "10.0.0.0/30",
            "fe80::/64",
            "ff00::/8",
            "::/64",
        ] {
            assert!(network(&[bad], &[]).is_err(), "{bad}");
        }
        assert!(complaint(&[], &[]).contains("no subnet"));
    }

    #[test]
    fn mtu_floor_depends_on_the_family() {
        let mut object = object::Network {
            api_version: API_VERSION.to_owned(),
            metadata: object::Metadata { name: "blue".to_owned(), ..Default::default() },
            spec: object::NetworkSpec {
                subnets: vec!["fd00::/64".parse().unwrap()],
                vni: Some(7),
                mtu: Some(1000),
                ..Default::default()
            },
            status: None,
        };
        assert!(Network::new(&object).unwrap_err().to_string().contains("1280"));
        object.spec.subnets = vec!["10.0.0.0/24".parse().unwrap()];
        assert!(Network::new(&object).is_ok());
    }

    #[test]
    fn openings_name_other_networks_once() {
        let mut object = object::Network {
            api_version: API_VERSION.to_owned(),
            metadata: object::Metadata { name: "blue".to_owned(), ..Default::default() },
            spec: object::NetworkSpec {
                subnets: vec!["10.0.0.0/24".parse().unwrap()],
                vni: Some(7),
                ..Default::default()
            },
            status: None,
        };
        let mut complaint = |names: &[&str]| {
            object.spec.allow_from = names.iter().map(|name| (*name).to_owned()).collect();
            Network::new(&object).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(complaint(&["green", "red"]), "");
        assert!(complaint(&["blue"]).contains("lets itself in"));
        assert!(complaint(&["green", "green"]).contains("listed twice"));
        assert!(complaint(&["Green"]).contains("network name"));
    }
}
