//! What the underlay interfaces are and which VTEP addresses they have.

use std::net::IpAddr;

use fabric_common::addr::Mac;

use super::{KernelError, Netlink, address::Address, link::Link, route::DefaultRoute};
use crate::{
    dataplane::ownership::{FRAG_ALIAS, PORT_ALIAS, VXLAN_ALIAS},
    plan::desired::UplinkFacts,
};

impl Netlink {
    /// Facts of the underlay interfaces: those named, or the one with the default route, or the only one with a global
    /// address. VTEPs are those named, or every global address of these interfaces that can be used now and is there to stay:
    /// other hosts are told of it.
    ///
    /// # Errors
    /// If an interface or a VTEP address does not exist, or no interface stands out.
    pub async fn uplinks(&self, names: &[String], vteps: &[IpAddr]) -> Result<Vec<UplinkFacts>, KernelError> {
        let links = self.links().await?;
        let addresses = self.addresses().await?;
        let routes = if names.is_empty() { self.default_routes().await? } else { Vec::new() };
        choose(&links, &addresses, &routes, names, vteps)
    }
}

fn choose(
    links: &[Link],
    addresses: &[Address],
    routes: &[DefaultRoute],
    names: &[String],
    vteps: &[IpAddr],
) -> Result<Vec<UplinkFacts>, KernelError> {
    let chosen: Vec<&Link> = if names.is_empty() {
        vec![stands_out(links, addresses, routes)?]
    } else {
        names.iter().map(|name| named(links, name)).collect::<Result<_, _>>()?
    };
    let facts: Vec<UplinkFacts> = chosen.into_iter().map(|link| facts_of(link, addresses, vteps)).collect();
    if let Some(missing) = vteps.iter().find(|vtep| !facts.iter().any(|uplink| uplink.vteps.contains(vtep))) {
        return Err(KernelError::VtepNotFound(*missing));
    }
    match facts.iter().find(|uplink| uplink.mac == Mac::ZERO) {
        Some(uplink) => Err(KernelError::Unusable(format!(
            "the interface {} is not an Ethernet interface; name another one with --underlay",
            uplink.name
        ))),
        None => Ok(facts),
    }
}

fn named<'a>(links: &'a [Link], name: &str) -> Result<&'a Link, KernelError> {
    links
        .iter()
        .find(|link| link.name == name)
        .ok_or_else(|| KernelError::NoSuchInterface { name: name.to_owned() })
}

fn stands_out<'a>(
    links: &'a [Link],
    addresses: &[Address],
    routes: &[DefaultRoute],
) -> Result<&'a Link, KernelError> {
    let default =
        routes.iter().filter(|route| route.ifindex != 0).min_by_key(|route| (route.ipv6, route.metric));
    if let Some(link) = default.and_then(|route| links.iter().find(|link| link.index == route.ifindex)) {
        return Ok(link);
    }
    let mut candidates = links.iter().filter(|link| {
        let ours =
            link.alias.starts_with(PORT_ALIAS) || [FRAG_ALIAS, VXLAN_ALIAS].contains(&link.alias.as_str());
        let global = addresses.iter().any(|address| address.ifindex == link.index && address.global);
        !ours && !link.loopback && global
    });
    match (candidates.next(), candidates.next()) {
        (Some(link), None) => Ok(link),
        (None, _) => Err(KernelError::NoUplink(
            "no interface has a default route or a global address to send tunnel packets from".to_owned(),
        )),
        (Some(one), Some(other)) => Err(KernelError::NoUplink(format!(
            "there is no default route, and several interfaces have global addresses ({}, {}, …)",
            one.name, other.name
        ))),
    }
}

fn facts_of(link: &Link, addresses: &[Address], vteps: &[IpAddr]) -> UplinkFacts {
    let mut own: Vec<IpAddr> = addresses
        .iter()
        .filter(|address| address.ifindex == link.index)
        .filter(|address| match vteps {
            [] => address.global && !address.temporary,
            named => named.contains(&address.net.addr()),
        })
        .map(|address| address.net.addr())
        .collect();
    if vteps.is_empty() {
        // The kernel lists what was added last first in some families; a stable order keeps outer headers stable.
        own.sort_by_key(|vtep| (vtep.is_ipv6(), *vtep));
    } else {
        own.sort_by_key(|vtep| vteps.iter().position(|named| named == vtep));
    }
    UplinkFacts { name: link.name.clone(), ifindex: link.index, mac: link.mac, mtu: link.mtu, vteps: own }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), mtu: 1500, mac: Mac::new([2, 0, 0, 0, 0, 1]), ..Link::default() }
    }

    fn address(ifindex: u32, net: &str) -> Address {
        Address { ifindex, net: net.parse().unwrap(), global: true, temporary: false }
    }

    fn pick(
        links: &[Link],
        addresses: &[Address],
        names: &[&str],
        vteps: &[&str],
    ) -> Result<Vec<UplinkFacts>, String> {
        let names: Vec<String> = names.iter().map(|&n| n.into()).collect();
        let vteps: Vec<IpAddr> = vteps.iter().map(|v| v.parse().unwrap()).collect();
        choose(links, addresses, &[], &names, &vteps).map_err(|e| e.to_string())
    }

    #[test]
    fn the_default_route_decides_before_addresses_do() {
        let links = [link(2, "eth0"), link(3, "eth1")];
        let addresses = [address(2, "192.0.2.1/24"), address(3, "198.51.100.1/24")];
        let route = DefaultRoute { ipv6: false, ifindex: 3, metric: 0, advertised: false };
        let facts = choose(&links, &addresses, &[route], &[], &[]).unwrap();
        assert_eq!(facts[0].name, "eth1");
        assert_eq!(facts[0].vteps, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_sole_interface_with_an_address_is_taken_and_two_are_refused() {
        let links = [link(2, "eth0"), link(3, "eth1")];
        assert_eq!(pick(&links, &[address(2, "192.0.2.1/24")], &[], &[]).unwrap()[0].name, "eth0");
        let both = [address(2, "192.0.2.1/24"), address(3, "198.51.100.1/24")];
        assert!(pick(&links, &both, &[], &[]).unwrap_err().contains("--underlay"));
        assert!(pick(&links, &[], &[], &[]).unwrap_err().contains("--underlay"));
    }

    #[test]
    fn our_own_links_are_never_the_underlay() {
        let ours = Link { alias: "fabric:endpoint:x".into(), ..link(9, "fab0123456789ab") };
        let addresses = [address(9, "192.0.2.9/24"), address(2, "192.0.2.1/24")];
        assert_eq!(pick(&[ours, link(2, "eth0")], &addresses, &[], &[]).unwrap()[0].name, "eth0");
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let links = [link(2, "eth0")];
        assert!(pick(&links, &[], &["eth7"], &[]).unwrap_err().contains("eth7"));
        assert!(pick(&links, &[], &["eth0"], &["192.0.2.77"]).unwrap_err().contains("192.0.2.77"));
    }

    #[test]
    fn named_vteps_keep_their_order_and_others_are_left_out() {
        let addresses =
            [address(2, "2001:db8::1/64"), address(2, "192.0.2.1/24"), address(2, "192.0.2.2/24")];
        let facts = pick(&[link(2, "eth0")], &addresses, &["eth0"], &["192.0.2.2", "2001:db8::1"]).unwrap();
        assert_eq!(
            facts[0].vteps.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.2", "2001:db8::1"]
        );
        let facts = pick(&[link(2, "eth0")], &addresses, &["eth0"], &[]).unwrap();
        assert_eq!(facts[0].vteps.len(), 3);
        assert!(facts[0].vteps[0].is_ipv4());
    }
}
