//! Addresses that endpoints were told for domain names: whose they open, and which ones never.

use std::sync::Arc;

use fabric_common::{
    names::NamedKey,
    policy::{EGRESS, IDENTITY_ANYONE, POLICY_NAMES, PolicyKey, verdict},
};

use super::*;

const POLICY: &str = r#"{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
    "metadata": {"name": "names"}, "spec": {"tier": "Admin", "priority": 1,
    "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}}, "egress": [
        {"name": "known", "action": "Accept", "to": [{"domainNames": ["*.example.com", "www.example.com"]}]},
        {"name": "rest", "action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]}}"#;

/// Two endpoints with the policy at ports 17 and 18, one without at 19.
fn objects() -> Vec<Object> {
    let mut objects = networks();
    let endpoints = [("web", "10.1.0.10", "web"), ("web2", "10.1.0.11", "web"), ("db", "10.1.0.12", "db")];
    for (slot, (name, addr, app)) in endpoints.into_iter().enumerate() {
        let mut endpoint = local(name, "blue", &format!("\"{addr}\""), slot as u32);
        if let Object::Endpoint(endpoint) = &mut endpoint {
            endpoint.metadata.labels = [("app".to_owned(), app.to_owned())].into();
        }
        objects.push(endpoint);
    }
    objects.push(object(POLICY));
    objects
}

fn told(port: u32, addresses: &[(&str, &str)]) -> NodeFacts {
    let mut facts = facts(&[("web", 17), ("web2", 18), ("db", 19)]);
    let mut known = desired::KnownNames::new();
    for (address, name) in addresses {
        let names = known.entry(port).or_default().entry(ip(address)).or_default();
        names.insert((*name).to_owned());
    }
    facts.names = Arc::new(known);
    facts
}

fn named(desired: &Desired) -> Vec<(u32, String)> {
    desired.tables.named.keys().map(|key| (key.ifindex, key.addr.to_string())).collect()
}

#[test]
fn an_address_has_an_identity_of_its_own_for_whoever_was_told_it() {
    let desired = compile(&objects(), &told(17, &[("198.51.100.7", "www.example.com")]));
    assert_eq!(named(&desired), [(17, "198.51.100.7".to_owned())]);
    let policy = desired.tables.ports[&17].policy;
    assert_ne!(policy & POLICY_NAMES, 0);
    assert_eq!(desired.tables.ports[&19].policy & POLICY_NAMES, 0);
    let says = |identity| {
        let key = PolicyKey { policy, direction: EGRESS, identity };
        desired.tables.policies.get(&key).map(|row| row.verdict & verdict::KIND)
    };
    let key = NamedKey { ifindex: 17, addr: addr("198.51.100.7") };
    let identity = desired.tables.named[&key];
    assert_ne!(identity, IDENTITY_ANYONE);
    // It is in the row of that identity, or what the policy says of everybody.
    assert_eq!(says(identity).or_else(|| says(IDENTITY_ANYONE)), Some(verdict::ALLOW));
    let around = desired.tables.cidrs.values().find_map(|identity| says(*identity));
    assert_eq!(around, Some(verdict::DENY));
    // Only ports whose policies have names are watched, and with all of their names.
    let watched: Vec<_> =
        desired.watched.iter().map(|(port, w)| (*port, w.names.len(), w.addresses.clone())).collect();
    assert_eq!(watched, [(17, 2, vec![ip("10.1.0.10")]), (18, 2, vec![ip("10.1.0.11")])]);
}

#[test]
fn names_that_no_rule_has_and_addresses_of_the_fabric_open_nothing() {
    let addresses = [
        ("198.51.100.7", "www.example.org"),
        ("198.51.100.8", "example.com"),
        ("10.1.0.12", "in.example.com"),
        ("192.0.2.1", "vtep.example.com"),
        ("192.0.2.2", "other-vtep.example.com"),
    ];
    assert_eq!(named(&compile(&objects(), &told(17, &addresses))), []);
    // Nor does anything for an endpoint whose policy has no names.
    assert_eq!(named(&compile(&objects(), &told(19, &[("198.51.100.7", "www.example.com")]))), []);
}

#[test]
fn addresses_that_rules_treat_alike_share_an_identity() {
    let many: Vec<(String, String)> = (0..200)
        .map(|n| (format!("198.51.100.{n}"), format!("{}.example.com", if n % 2 == 0 { "www" } else { "x" })))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(addr, name)| (addr.as_str(), name.as_str())).collect();
    let desired = compile(&objects(), &told(17, &many));
    assert_eq!(desired.tables.named.len(), 200);
    let identities: BTreeSet<u32> = desired.tables.named.values().copied().collect();
    assert_eq!(identities.len(), 1, "both names are let in by the same peer of the same rule");
}
