//! Deny sets as rows of `denied`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fabric_common::{
    addr::Addr,
    denied::{DeniedValue, EXEMPT},
    policy::{KIND_RULE, verdict},
};
use ipnet::IpNet;

use crate::{
    model::{Cluster, DenySet, Guard},
    plan::desired::AddrPrefix,
};

use super::numbers::{Numbers, RuleNames, digest};

/// Deny sets on a node.
#[derive(Debug, Default)]
pub(super) struct Denied {
    /// Rows of `denied`.
    pub(super) rows: BTreeMap<AddrPrefix, DeniedValue>,
    /// Sets that cover what they must not, by name, one sentence each.
    pub(super) problems: BTreeMap<String, String>,
}

/// What deny sets spare unless they are forced, and what each is to the fabric: VTEP addresses of nodes, and the store.
pub fn spared(cluster: &Cluster, guard: &Guard) -> BTreeMap<IpAddr, String> {
    let nodes = cluster.nodes.values();
    let vteps = nodes.flat_map(|node| {
        node.vteps.iter().map(|vtep| (*vtep, format!("the VTEP address of node {}", node.name)))
    });
    vteps.chain(guard.store.iter().map(|address| (*address, "an address of the store".to_owned()))).collect()
}

/// The rows of the sets that are for the node `local`. Of several that name one prefix the first by name has it.
pub(super) fn compile(
    cluster: &Cluster,
    local: &str,
    guard: &Guard,
    numbers: &mut Numbers,
    rules: &mut RuleNames,
) -> Denied {
    let labels = cluster.node_labels(local);
    let sets: Vec<&DenySet> = cluster.deny_sets.values().filter(|set| set.nodes.matches(&labels)).collect();
    let mut denied = Denied::default();
    for set in &sets {
        let rule = format!("DenySet/{}", set.name);
        let number = numbers.number(KIND_RULE, digest(&rule), verdict::NUMBER, 0);
        rules.insert(number, rule);
        for net in set.prefixes.iter().chain(&set.forced) {
            denied.rows.entry(AddrPrefix::new(*net)).or_insert(DeniedValue { rule: number });
        }
    }
    let exempt = DeniedValue { rule: EXEMPT };
    // A wide prefix of IPv6 must not catch the addresses of IPv4, which the map holds in mapped form.
    let mapped = IpAddr::V6(Addr::v4([0; 4]).bytes.into());
    if sets.iter().flat_map(|set| set.prefixes.iter().chain(&set.forced)).any(|net| net.contains(&mapped)) {
        let v4 = AddrPrefix { bits: Addr::BITS - 32, addr: Addr::v4([0; 4]) };
        denied.rows.entry(v4).or_insert(exempt);
    }
    let forced: BTreeSet<&IpNet> = sets.iter().flat_map(|set| &set.forced).collect();
    for (address, what) in spared(cluster, guard) {
        let Some((set, net)) = sets.iter().find_map(|set| Some((set, set.spares(address)?))) else {
            continue;
        };
        if forced.iter().any(|net| net.contains(&address)) {
            continue;
        }
        denied.rows.insert(AddrPrefix::new(IpNet::from(address)), exempt);
        denied.problems.entry(set.name.clone()).or_insert_with(|| {
            format!("prefix {net} covers {address}, {what}, which is let in: deny narrower prefixes, or put it under forced")
        });
    }
    denied
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use fabric_api::Object;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn cluster(sets: &[(&str, &[&str], &[&str])]) -> Cluster {
        let nodes = [("h1", "10.0.0.1"), ("h2", "10.0.0.2")];
        let nodes = nodes.iter().map(|(name, vtep)| {
            json!({"kind": "Node", "metadata": {"name": name, "labels": {"rack": name}}, "spec": {"vteps": [vtep]}})
        });
        let sets = sets.iter().map(|(name, prefixes, forced)| {
            json!({"kind": "DenySet", "metadata": {"name": name}, "spec": {"prefixes": prefixes, "forced": forced}})
        });
        let objects: Vec<Object> =
            nodes.chain(sets).map(|value| serde_json::from_value(value).expect("an object")).collect();
        let cluster = Cluster::from_objects(&objects);
        assert!(cluster.problems.is_empty(), "{:?}", cluster.problems);
        cluster
    }

    fn of(cluster: &Cluster, guard: &Guard) -> (Denied, RuleNames) {
        let (mut numbers, mut rules) = (Numbers::new(&BTreeMap::new()), RuleNames::new());
        let denied = compile(cluster, "h1", guard, &mut numbers, &mut rules);
        (denied, rules)
    }

    /// What the trie says of an address: the longest prefix wins.
    fn rule(denied: &Denied, address: IpAddr) -> u32 {
        let addr = u128::from_be_bytes(Addr::from(address).bytes);
        let matches = denied.rows.iter().filter(|(prefix, _)| {
            let shift = Addr::BITS - prefix.bits;
            let shifted = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
            shifted(addr) == shifted(u128::from_be_bytes(prefix.addr.bytes))
        });
        matches.max_by_key(|(prefix, _)| prefix.bits).map_or(EXEMPT, |(_, value)| value.rule)
    }

    fn denies(denied: &Denied, address: &str) -> bool {
        rule(denied, address.parse().expect("an address")) != EXEMPT
    }

    #[test]
    fn a_set_names_its_rule() {
        let (denied, rules) = of(&cluster(&[("bad", &["192.0.2.0/24"], &[])]), &Guard::default());
        assert_eq!(rules[&rule(&denied, "192.0.2.9".parse().unwrap())], "DenySet/bad");
        assert!(!denies(&denied, "192.0.3.9") && denied.problems.is_empty());
    }

    #[test]
    fn what_the_fabric_depends_on_is_let_in() {
        let guard = Guard { store: BTreeSet::from(["10.9.9.9".parse().unwrap()]) };
        let (denied, _) = of(&cluster(&[("all", &["0.0.0.0/0"], &[])]), &guard);
        assert!(denies(&denied, "10.0.0.3") && !denies(&denied, "10.0.0.2") && !denies(&denied, "10.9.9.9"));
        assert!(
            denied.problems["all"].contains("prefix 0.0.0.0/0 covers 10.0.0.1, the VTEP address of node h1")
        );
        let (denied, _) = of(&cluster(&[("all", &[], &["0.0.0.0/0"])]), &guard);
        assert!(denies(&denied, "10.0.0.2") && denies(&denied, "10.9.9.9") && denied.problems.is_empty());
        let both: [(&str, &[&str], &[&str]); 2] = [("a", &["10.0.0.0/8"], &[]), ("b", &[], &["10.0.0.2/32"])];
        let (denied, _) = of(&cluster(&both), &guard);
        assert!(!denies(&denied, "10.0.0.1") && denies(&denied, "10.0.0.2"));
    }

    #[test]
    fn a_family_does_not_catch_the_other() {
        let (denied, _) = of(&cluster(&[("six", &["::/0"], &[])]), &Guard::default());
        assert!(denies(&denied, "2001:db8::1") && !denies(&denied, "192.0.2.1"));
        let (denied, _) = of(&cluster(&[("both", &["::/0", "0.0.0.0/0"], &[])]), &Guard::default());
        assert!(denies(&denied, "2001:db8::1") && denies(&denied, "192.0.2.1"));
    }

    #[test]
    fn a_set_is_for_its_nodes() {
        let mut cluster = cluster(&[("bad", &["192.0.2.0/24"], &[])]);
        let set = cluster.deny_sets.get_mut("bad").unwrap();
        set.nodes.requirements = vec![crate::model::policy::Requirement::In(
            "kubernetes.io/hostname".to_owned(),
            vec!["h2".to_owned()],
        )];
        assert!(of(&cluster, &Guard::default()).0.rows.is_empty());
    }

    proptest! {
        #[test]
        fn the_trie_says_what_the_sets_say(
            prefixes in proptest::collection::vec((0u32..16, 24u8..=32), 1..6),
            forced in proptest::collection::vec((0u32..16, 24u8..=32), 0..3),
            last in 0u32..16,
        ) {
            let net = |(last, len): &(u32, u8)| IpNet::new(Ipv4Addr::from(0x0a00_0000 + last).into(), *len).expect("a prefix").trunc();
            let text = |nets: &[(u32, u8)]| nets.iter().map(|n| net(n).to_string()).collect::<Vec<_>>();
            let (prefixes, forced) = (text(&prefixes), text(&forced));
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let forced: Vec<&str> = forced.iter().map(String::as_str).collect();
            let cluster = cluster(&[("s", &prefixes, &forced)]);
            let (denied, _) = of(&cluster, &Guard::default());
            let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + last));
            let set = &cluster.deny_sets["s"];
            let vtep = cluster.nodes.values().any(|node| node.vteps.contains(&address));
            let forced = set.forced.iter().any(|n| n.contains(&address));
            let plain = set.prefixes.iter().any(|n| n.contains(&address));
            prop_assert_eq!(rule(&denied, address) != EXEMPT, forced || plain && !vtep);
        }
    }
}
