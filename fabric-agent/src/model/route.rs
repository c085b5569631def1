//! Static routes of a network, checked: prefixes that an endpoint of the network leads to.

use std::net::IpAddr;

use fabric_api::object;
use fabric_common::addr::Addr;
use ipnet::IpNet;

use super::{
    Network,
    error::{ModelError, refuse},
};

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Canonical, in none of the network's subnets.
    pub prefix: IpNet,
    /// In one of the network's subnets, of the prefix's family, and not its gateway.
    pub next_hop: IpAddr,
}

/// Checks what each route says by itself.
pub(super) fn check(declared: &[object::Route]) -> Result<Vec<Route>, ModelError> {
    let mut routes: Vec<Route> = Vec::new();
    for object::Route { prefix, next_hop } in declared {
        let (prefix, next_hop) = (*prefix, *next_hop);
        if prefix.addr() != prefix.network() {
            refuse!("route {prefix} has host bits set: write {}", prefix.trunc());
        }
        if prefix.addr().is_ipv4() != next_hop.is_ipv4() {
            refuse!(
                "route {prefix} and its next hop {next_hop} are of two families: choose addresses of one"
            );
        }
        if prefix.prefix_len() != 0 && is_reserved(prefix.addr()) {
            refuse!("route {prefix} is for reserved addresses, which are not routed: choose another prefix");
        }
        if let Some(other) = routes.iter().find(|other| other.prefix == prefix) {
            refuse!("prefix {prefix} has two next hops, {} and {next_hop}: name one", other.next_hop);
        }
        routes.push(Route { prefix, next_hop });
    }
    Ok(routes)
}

/// Checks the routes of a network against its subnets.
pub(super) fn check_in(network: &Network) -> Result<(), ModelError> {
    for Route { prefix, next_hop } in &network.routes {
        if let Some(subnet) = network.subnets.iter().find(|subnet| subnet.net.contains(prefix)) {
            refuse!(
                "route {prefix} lies in the network's subnet {}, whose addresses are reached without one: leave it out",
                subnet.net
            );
        }
        if let Err(e) = network.check_host_address(*next_hop) {
            refuse!("next hop of route {prefix}: {e}; name the address of an endpoint in the network");
        }
    }
    Ok(())
}

fn is_reserved(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    link_local || Addr::from(address).is_martian()
}

#[cfg(test)]
mod tests {
    use fabric_api::object::{API_VERSION, Metadata, Network as Declared, NetworkSpec};

    use super::*;

    fn complaint(routes: &[(&str, &str)]) -> String {
        let object = Declared {
            api_version: API_VERSION.to_owned(),
            metadata: Metadata { name: "blue".to_owned(), ..Default::default() },
            spec: NetworkSpec {
                subnets: vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
                vni: Some(7),
                routes: routes
                    .iter()
                    .map(|(prefix, next_hop)| object::Route {
                        prefix: prefix.parse().unwrap(),
                        next_hop: next_hop.parse().unwrap(),
                    })
                    .collect(),
                ..Default::default()
            },
            status: None,
        };
        Network::new(&object).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn routes_lead_out_of_the_network_by_one_of_its_addresses() {
        assert_eq!(
            complaint(&[("10.9.0.0/16", "10.1.0.9"), ("0.0.0.0/0", "10.1.0.8"), ("::/0", "fd00:1::9")]),
            ""
        );
        for (prefix, next_hop, sentence) in [
            ("10.9.0.1/16", "10.1.0.9", "write 10.9.0.0/16"),
            ("10.9.0.0/16", "fd00:1::9", "two families"),
            ("10.1.0.0/24", "10.1.0.9", "lies in the network's subnet 10.1.0.0/24"),
            ("10.1.0.64/26", "10.1.0.9", "lies in the network's subnet 10.1.0.0/24"),
            ("10.9.0.0/16", "10.2.0.9", "10.2.0.9 is in no subnet of network blue"),
            ("10.9.0.0/16", "10.1.0.1", "is the gateway"),
            ("10.9.0.0/16", "10.1.0.0", "is the network address"),
            ("127.0.0.0/8", "10.1.0.9", "reserved"),
            ("169.254.0.0/16", "10.1.0.9", "reserved"),
            ("224.0.0.0/4", "10.1.0.9", "reserved"),
            ("fe80::/10", "fd00:1::9", "reserved"),
            ("ff00::/8", "fd00:1::9", "reserved"),
            ("::ffff:0:0/96", "fd00:1::9", "reserved"),
        ] {
            let text = complaint(&[(prefix, next_hop)]);
            assert!(text.contains(sentence), "{prefix} {next_hop}: {text}");
        }
        let text = complaint(&[("10.9.0.0/16", "10.1.0.9"), ("10.9.0.0/16", "10.1.0.8")]);
        assert!(text.contains("two next hops"), "{text}");
    }
}
