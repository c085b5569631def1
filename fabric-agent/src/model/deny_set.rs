//! Deny sets that were checked, and what they must not cover.

use std::{collections::BTreeSet, net::IpAddr};

use fabric_api::object;
use ipnet::IpNet;

use super::{
    error::{ModelError, refuse},
    name::{check_labels, check_name},
    network::check_version,
    policy::Selector,
    selector::{self, at},
};

/// Most prefixes of a set.
const MOST: usize = 10_000;
/// Bits in front of the address of an IPv4 prefix in mapped form (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Source prefixes that are dropped at the uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenySet {
    /// Name.
    pub name: String,
    /// Denied, but for what the fabric depends on; canonical.
    pub prefixes: BTreeSet<IpNet>,
    /// Denied whatever they cover; canonical.
    pub forced: BTreeSet<IpNet>,
    /// Nodes that drop them.
    pub nodes: Selector,
}

impl DenySet {
    /// Checks a declared deny set.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(object: &object::DenySet) -> Result<Self, ModelError> {
        check_version(&object.api_version)?;
        let name = object.metadata.name.clone();
        check_name("deny set name", &name)?;
        check_labels(&object.metadata.labels)?;
        let spec = &object.spec;
        let count = spec.prefixes.len() + spec.forced.len();
        if count == 0 {
            refuse!("it has no prefix: list at least one under spec.prefixes");
        }
        if count > MOST {
            refuse!("{count} prefixes are too many: at most {MOST}, make two sets of it");
        }
        let prefixes = at("spec.prefixes", canonical(&spec.prefixes))?;
        let forced = at("spec.forced", canonical(&spec.forced))?;
        let nodes = spec.nodes.as_ref().map(selector::selector).transpose();
        let nodes = at("spec.nodes", nodes)?.unwrap_or_default();
        Ok(Self { name, prefixes, forced, nodes })
    }

    /// The prefix that denies an address without being forced to, if one does and none is forced.
    pub fn spares(&self, address: IpAddr) -> Option<&IpNet> {
        let covers = |net: &&IpNet| net.contains(&address);
        if self.forced.iter().any(|net| net.contains(&address)) {
            return None;
        }
        self.prefixes.iter().find(covers)
    }
}

fn canonical(nets: &[IpNet]) -> Result<BTreeSet<IpNet>, ModelError> {
    let mut all = BTreeSet::new();
    for net in nets {
        if let IpNet::V6(v6) = net
            && v6.prefix_len() >= MAPPED_BITS
            && v6.addr().to_ipv4_mapped().is_some()
        {
            refuse!(
                "{net} is a prefix of IPv4 addresses in mapped form, which no packet has: write it as one of IPv4"
            );
        }
        all.insert(net.trunc());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(spec: &Value) -> Result<DenySet, String> {
        let value = json!({"metadata": {"name": "bad"}, "spec": spec});
        DenySet::new(&serde_json::from_value(value).expect("a deny set")).map_err(|e| e.0)
    }

    #[test]
    fn prefixes_are_canonical_and_counted() {
        let found =
            set(&json!({"prefixes": ["192.0.2.77/24", "192.0.2.0/24"], "forced": ["2001:db8::1/32"]}))
                .unwrap();
        assert_eq!(found.prefixes, BTreeSet::from(["192.0.2.0/24".parse().unwrap()]));
        assert_eq!(found.forced, BTreeSet::from(["2001:db8::/32".parse().unwrap()]));
        assert!(set(&json!({})).unwrap_err().contains("no prefix"));
        assert!(
            set(&json!({"prefixes": vec!["192.0.2.0/24"; 10_001]})).unwrap_err().contains("10001 prefixes")
        );
        assert!(
            set(&json!({"prefixes": ["::ffff:192.0.2.0/120"]}))
                .unwrap_err()
                .starts_with("spec.prefixes: ::ffff:")
        );
        let nodes = json!({"prefixes": ["192.0.2.0/24"], "nodes": {"matchLabels": {"-": "x"}}});
        assert!(set(&nodes).unwrap_err().starts_with("spec.nodes: "));
    }

    #[test]
    fn what_is_forced_spares_nobody() {
        let found = set(&json!({"prefixes": ["10.0.0.0/8"], "forced": ["10.1.0.0/16"]})).unwrap();
        let spared = |address: &str| found.spares(address.parse().unwrap()).is_some();
        assert!(spared("10.2.0.1") && !spared("10.1.0.1") && !spared("192.0.2.1"));
    }
}
