//! A node that was checked: a host of the fabric or a foreign VTEP.

use std::{collections::BTreeMap, net::IpAddr};

use fabric_api::object;
use ipnet::IpNet;

use super::{
    error::{ModelError, refuse},
    name::{check_labels, check_name},
    network::check_version,
    policy::Labels,
};

/// The owner of Node objects that agents register.
pub const REGISTERED: &str = "agent";

/// A node's part in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The node's own addresses there.
    pub addresses: Vec<IpAddr>,
    /// Source addresses that a foreign VTEP may send, canonical.
    pub prefixes: Vec<IpNet>,
}

/// A node that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// VTEP addresses, without duplicates, in the declared order.
    pub vteps: Vec<IpAddr>,
    /// Not one of our agents.
    pub foreign: bool,
    /// A foreign VTEP that wants outer UDP checksums.
    pub udp_checksum: bool,
    /// Takes no endpoints more.
    pub drained: bool,
    /// What it serves, by network name.
    pub networks: BTreeMap<String, NodeNetwork>,
    /// Labels, which policies select by.
    pub labels: Labels,
    /// Its agent registers it, and keeps what it serves up to date.
    pub registered: bool,
}

impl Node {
    /// Checks a declared node.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(object: &object::Node) -> Result<Self, ModelError> {
        check_version(&object.api_version)?;
        check_name("node name", &object.metadata.name)?;
        check_labels(&object.metadata.labels)?;
        let spec = &object.spec;
        if spec.vteps.is_empty() {
            refuse!("the node has no VTEP address: name at least one under vteps");
        }
        for (i, vtep) in spec.vteps.iter().enumerate() {
            check_unicast(*vtep)?;
            if spec.vteps[..i].contains(vtep) {
                refuse!("VTEP address {vtep} is listed twice");
            }
        }
        if spec.udp_checksum && !spec.foreign {
            refuse!(
                "udpChecksum is for foreign VTEPs, hosts of the fabric need none: set foreign, or take it out"
            );
        }
        if spec.drained && spec.foreign {
            refuse!(
                "a foreign VTEP has endpoints as they are declared, it can't be drained: take drained out"
            );
        }
        let mut networks = BTreeMap::new();
        for part in &spec.networks {
            check_name("network name", &part.network)?;
            let checked = check_part(part, spec.foreign)?;
            if networks.insert(part.network.clone(), checked).is_some() {
                refuse!("network {} is listed twice", part.network);
            }
        }
        Ok(Self {
            name: object.metadata.name.clone(),
            vteps: spec.vteps.clone(),
            foreign: spec.foreign,
            udp_checksum: spec.udp_checksum,
            drained: spec.drained,
            networks,
            labels: object.metadata.labels.clone(),
            registered: object.metadata.owner == REGISTERED,
        })
    }
}

fn check_part(part: &object::NodeNetwork, foreign: bool) -> Result<NodeNetwork, ModelError> {
    let network = &part.network;
    if foreign && !part.addresses.is_empty() {
        refuse!(
            "a foreign VTEP has no node address in network {network}: declare an Endpoint with its address and MAC instead"
        );
    }
    if !foreign && !part.prefixes.is_empty() {
        refuse!("prefixes in network {network} are for foreign VTEPs: set foreign, or declare Endpoints");
    }
    for (i, address) in part.addresses.iter().enumerate() {
        if part.addresses[..i].contains(address) {
            refuse!("address {address} is listed twice in network {network}");
        }
    }
    for (i, prefix) in part.prefixes.iter().enumerate() {
        if prefix.addr() != prefix.network() {
            refuse!("prefix {prefix} has host bits set: write {}", prefix.trunc());
        }
        if part.prefixes[..i].contains(prefix) {
            refuse!("prefix {prefix} is listed twice in network {network}");
        }
    }
    Ok(NodeNetwork { addresses: part.addresses.clone(), prefixes: part.prefixes.clone() })
}

pub(crate) fn check_unicast(ip: IpAddr) -> Result<(), ModelError> {
    let bad = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some() || ip.is_unicast_link_local(),
    };
    if bad || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        refuse!("VTEP address {ip} is not a usable unicast address");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: &str) -> Result<Node, ModelError> {
        Node::new(&serde_json::from_str(json).expect("valid JSON"))
    }

    #[test]
    fn a_plain_node() {
        let node = node(
            r#"{"metadata":{"name":"n2"},"spec":{"vteps":["192.0.2.2","2001:db8::2"],"networks":[{"network":"blue","addresses":["10.1.0.9"]}]}}"#,
        )
        .unwrap();
        assert_eq!(node.vteps.len(), 2);
        assert_eq!(node.networks["blue"].addresses.len(), 1);
    }

    #[test]
    fn bad_vteps() {
        for bad in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:1.2.3.4",
        ] {
            let json = format!(r#"{{"metadata":{{"name":"n2"}},"spec":{{"vteps":["{bad}"]}}}}"#);
            assert!(node(&json).is_err(), "{bad}");
        }
        assert!(node(r#"{"metadata":{"name":"n2"},"spec":{"vteps":[]}}"#).is_err());
        assert!(node(r#"{"metadata":{"name":"n2"},"spec":{"vteps":["192.0.2.2","192.0.2.2"]}}"#).is_err());
    }

    #[test]
    fn checksums_are_for_foreign_vteps() {
        let json = |foreign| {
            format!(
                r#"{{"metadata":{{"name":"sw"}},"spec":{{"vteps":["192.0.2.9"],"foreign":{foreign},"udpChecksum":true}}}}"#
            )
        };
        assert!(node(&json(true)).unwrap().udp_checksum);
        assert!(node(&json(false)).unwrap_err().0.contains("udpChecksum is for foreign VTEPs"));
    }

    #[test]
    fn prefixes_are_for_foreign_vteps() {
        let json = |foreign, field, value| {
            format!(
                r#"{{"metadata":{{"name":"sw"}},"spec":{{"vteps":["192.0.2.9"],"foreign":{foreign},"networks":[{{"network":"blue","{field}":["{value}"]}}]}}}}"#
            )
        };
        assert!(node(&json(true, "prefixes", "10.9.0.0/16")).is_ok());
        assert!(node(&json(true, "prefixes", "10.9.0.1/16")).is_err());
        assert!(node(&json(false, "prefixes", "10.9.0.0/16")).is_err());
        assert!(node(&json(true, "addresses", "10.9.0.1")).is_err());
    }
}
