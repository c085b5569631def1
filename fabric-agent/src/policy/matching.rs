//! Which rules may match whom, found from the rules' side: no rule is held against an identity that has nothing of what it asks
//! for. With as many rules as identities everything else takes the product of the two.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{
    DomainName,
    policy::{Namespaces, Peer, Ports, Requirement, Rule, Selector},
};

use super::{
    effective::Effective,
    identity::{Block, Identity, block},
};

/// Identities by what rules ask for. They are told by their place in the list.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    identities: Vec<&'a Identity>,
    endpoints: Vec<usize>,
    nodes: Vec<usize>,
    namespaces: HashMap<&'a str, Vec<usize>>,
    namespace_labels: HashMap<(&'a str, &'a str), Vec<usize>>,
    labels: HashMap<(&'a str, &'a str), Vec<usize>>,
    blocks: HashMap<&'a Block, Vec<usize>>,
    names: HashMap<&'a DomainName, Vec<usize>>,
}

impl<'a> Index<'a> {
    /// Of these identities.
    pub(super) fn new(identities: impl IntoIterator<Item = &'a Identity>) -> Self {
        let mut index = Self::default();
        for (at, identity) in identities.into_iter().enumerate() {
            index.identities.push(identity);
            match identity {
                Identity::Anyone => {}
                Identity::Endpoint { namespace, namespace_labels, labels, .. } => {
                    index.endpoints.push(at);
                    index.namespaces.entry(namespace).or_default().push(at);
                    for (key, value) in namespace_labels {
                        index.namespace_labels.entry((key, value)).or_default().push(at);
                    }
                    for (key, value) in labels {
                        index.labels.entry((key, value)).or_default().push(at);
                    }
                }
                Identity::Node { .. } => index.nodes.push(at),
                Identity::Blocks(blocks) => index.add_blocks(blocks, at),
                Identity::Named { blocks, names } => {
                    index.add_blocks(blocks, at);
                    for name in names {
                        index.names.entry(name).or_default().push(at);
                    }
                }
            }
        }
        index
    }

    fn add_blocks(&mut self, blocks: &'a BTreeSet<Block>, at: usize) {
        for block in blocks {
            self.blocks.entry(block).or_default().push(at);
        }
    }

    /// The identities, in the order in which they were given.
    pub(super) fn identities(&self) -> &[&'a Identity] {
        &self.identities
    }

    /// Places of all that `peer` is about; it is not [`Peer::Anyone`].
    fn matching<'b>(&'b self, peer: &'b Peer) -> impl Iterator<Item = usize> + 'b {
        let lists: Vec<&Vec<usize>> = match peer {
            Peer::Anyone => Vec::new(),
            Peer::Cidr(net, except) => self.blocks.get(&block(net, except)).into_iter().collect(),
            Peer::Name(name) => self.names.get(name).into_iter().collect(),
            Peer::Nodes(_) => vec![&self.nodes],
            Peer::Endpoints(namespaces, selector) => self.endpoints(namespaces, selector),
        };
        lists.into_iter().flatten().copied().filter(|at| self.identities[*at].is(peer))
    }

    /// The lists that together have all these endpoints, by the requirement that the fewest fulfil.
    fn endpoints<'b>(&'b self, namespaces: &'b Namespaces, selector: &'b Selector) -> Vec<&'b Vec<usize>> {
        let by_labels = selector.requirements.iter().filter_map(|r| labelled(&self.labels, r));
        let mut ways: Vec<Vec<&Vec<usize>>> = by_labels.collect();
        match namespaces {
            Namespaces::Named(name) => ways.push(self.namespaces.get(name.as_str()).into_iter().collect()),
            Namespaces::Matching(selector) => {
                let requirements = selector.requirements.iter();
                ways.extend(requirements.filter_map(|r| labelled(&self.namespace_labels, r)));
            }
        }
        let fewest = ways.into_iter().min_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>());
        fewest.unwrap_or_else(|| vec![&self.endpoints])
    }
}

/// Those that have one of the values; absent for a requirement that says what a label is not.
fn labelled<'a>(
    labels: &'a HashMap<(&'a str, &'a str), Vec<usize>>,
    requirement: &'a Requirement,
) -> Option<Vec<&'a Vec<usize>>> {
    let Requirement::In(key, values) = requirement else { return None };
    Some(values.iter().filter_map(|value| labels.get(&(key.as_str(), value.as_str()))).collect())
}

/// The rules that may match one identity, each list in the order in which it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Matched<'a> {
    /// Of the Admin tier.
    pub(super) admin: Vec<&'a Rule>,
    /// Of NetworkPolicies.
    pub(super) isolated: Vec<&'a Rule>,
    /// Of the Baseline tier.
    pub(super) baseline: Vec<&'a Rule>,
}

/// A rule's list and place in it.
type Place = (usize, usize);

/// Who is matched by the rules of one direction.
#[derive(Debug)]
pub(super) struct Matching<'a> {
    lists: [&'a [Rule]; 3],
    everybody: Vec<Place>,
    /// By place of the identity.
    own: BTreeMap<usize, Vec<Place>>,
}

impl<'a> Matching<'a> {
    /// Of the rules in `effective`, among the identities of `index`.
    pub(super) fn new(effective: &'a Effective, index: &Index<'_>) -> Self {
        let isolated = effective.isolation.as_ref().map_or(&[][..], |isolation| &isolation.rules);
        let lists = [effective.admin.as_slice(), isolated, effective.baseline.as_slice()];
        let (mut everybody, mut own) = (Vec::new(), BTreeMap::<usize, Vec<Place>>::new());
        for (list, rules) in lists.iter().enumerate() {
            for (at, rule) in rules.iter().enumerate() {
                let place = (list, at);
                if rule.peers.contains(&Peer::Anyone) {
                    everybody.push(place);
                    continue;
                }
                for identity in rule.peers.iter().flat_map(|peer| index.matching(peer)) {
                    let places = own.entry(identity).or_default();
                    // Two peers of a rule may be the same one's.
                    if places.last() != Some(&place) {
                        places.push(place);
                    }
                }
            }
        }
        // A port's name stands for something else at each of them.
        let named =
            |place: &Place| lists[place.0][place.1].ports.iter().any(|p| matches!(p, Ports::Named(..)));
        if everybody.iter().any(named) {
            for at in &index.endpoints {
                own.entry(*at).or_default();
            }
        }
        if effective.own_node.is_some() {
            for at in &index.nodes {
                own.entry(*at).or_default();
            }
        }
        Self { lists, everybody, own }
    }

    /// Places of the identities of which the rules may say something else than of anyone.
    pub(super) fn special(&self) -> impl Iterator<Item = usize> {
        self.own.keys().copied()
    }

    /// The rules that match anyone, and those that match the identity at a place, if one is given.
    pub(super) fn of(&self, identity: Option<usize>) -> Matched<'a> {
        let own = identity.and_then(|at| self.own.get(&at)).map_or(&[][..], Vec::as_slice);
        let mut places: Vec<Place> = self.everybody.iter().chain(own).copied().collect();
        places.sort_unstable();
        let of = |list: usize| {
            let own = places.iter().filter(|(of, _)| *of == list);
            own.map(|(_, at)| &self.lists[list][*at]).collect()
        };
        Matched { admin: of(0), isolated: of(1), baseline: of(2) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::policy::{Treatment, Verdict},
        policy::{
            effective::Isolation,
            ruling::{self, Ranges},
        },
    };

    fn requirement() -> impl Strategy<Value = Requirement> {
        let key = || prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned);
        let values = prop::collection::btree_set(0..3u8, 1..3);
        let values = move || values.clone().prop_map(|set| set.iter().map(u8::to_string).collect::<Vec<_>>());
        prop_oneof![
            4 => (key(), values()).prop_map(|(key, values)| Requirement::In(key, values)),
            1 => (key(), values()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
            1 => key().prop_map(Requirement::Exists),
            1 => key().prop_map(Requirement::DoesNotExist),
        ]
    }

    fn selector() -> impl Strategy<Value = Selector> {
        prop::collection::vec(requirement(), 0..3).prop_map(|requirements| Selector { requirements })
    }

    fn net(number: u8) -> ipnet::IpNet {
        format!("10.{number}.0.0/16").parse().expect("a prefix")
    }

    fn domain(number: u8) -> DomainName {
        let text = ["example.com", "*.example.com", "www.example.com"][usize::from(number)];
        text.parse().expect("a name")
    }

    fn blocks() -> impl Strategy<Value = BTreeSet<Block>> {
        let numbers = prop::collection::btree_set(0..3u8, 0..3);
        numbers.prop_map(|numbers| numbers.into_iter().map(|number| (net(number), Vec::new())).collect())
    }

    fn peer() -> impl Strategy<Value = Peer> {
        let namespaces = prop_oneof![
            (0..2u8).prop_map(|number| Namespaces::Named(format!("n{number}"))),
            selector().prop_map(Namespaces::Matching),
        ];
        prop_oneof![
            1 => Just(Peer::Anyone),
            6 => (namespaces, selector()).prop_map(|(namespaces, pods)| Peer::Endpoints(namespaces, pods)),
            2 => (0..3u8).prop_map(|number| Peer::Cidr(net(number), Vec::new())),
            2 => (0..3u8).prop_map(|number| Peer::Name(domain(number))),
            1 => selector().prop_map(Peer::Nodes),
        ]
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let ports = prop_oneof![
            Just(Ports::All),
            (0..3u16).prop_map(|port| Ports::Range(6, port + 1, port + 2)),
            Just(Ports::Named(6, "http".to_owned())),
        ];
        let verdict = prop::sample::select(vec![Verdict::Accept, Verdict::Deny, Verdict::Pass]);
        let parts = (prop::collection::vec(peer(), 1..3), prop::collection::vec(ports, 1..3), verdict);
        prop::collection::vec(parts, 0..5).prop_map(|all| {
            let rule = |(at, (peers, ports, verdict))| Rule {
                name: format!("r{at}"),
                verdict,
                peers,
                ports,
                treatment: Treatment::default(),
            };
            all.into_iter().enumerate().map(rule).collect()
        })
    }

    fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        let one = (prop::sample::select(vec!["a", "b"]), 0..3u8);
        prop::collection::vec(one, 0..3)
            .prop_map(|all| all.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect())
    }

    fn identity() -> impl Strategy<Value = Identity> {
        let port = prop::option::of(1..3u16);
        prop_oneof![
            5 => (0..2u8, labels(), labels(), port).prop_map(|(namespace, namespace_labels, labels, port)| {
                let port = port.map(|port| (("http".to_owned(), 6), port));
                let ports = port.into_iter().collect();
                Identity::Endpoint { namespace: format!("n{namespace}"), namespace_labels, labels, ports }
            }),
            1 => ((0..2u8), labels()).prop_map(|(n, labels)| Identity::Node { name: format!("h{n}"), labels }),
            2 => blocks().prop_filter("of anyone", |blocks| !blocks.is_empty()).prop_map(Identity::Blocks),
            2 => (blocks(), prop::collection::btree_set(0..3u8, 1..3)).prop_map(|(blocks, names)| {
                Identity::Named { blocks, names: names.into_iter().map(domain).collect() }
            }),
        ]
    }

    fn effective() -> impl Strategy<Value = Effective> {
        (any::<bool>(), rules(), prop::option::of(rules()), rules()).prop_map(
            |(ingress, admin, isolated, baseline)| Effective {
                own_node: ingress.then(|| "h0".to_owned()),
                admin,
                isolation: isolated.map(|rules| Isolation {
                    rules,
                    deny: "deny".to_owned(),
                    treatment: Treatment::default(),
                }),
                baseline,
            },
        )
    }

    /// As the definition of a peer reads: every rule is held against the identity.
    fn one_by_one(effective: &Effective, other: &Identity) -> Ranges {
        fn of<'a>(rules: &'a [Rule], other: &Identity) -> Vec<&'a Rule> {
            rules.iter().filter(|rule| rule.peers.iter().any(|peer| other.is(peer))).collect()
        }
        let isolated = effective.isolation.as_ref().map_or(&[][..], |isolation| &isolation.rules);
        let matched = Matched {
            admin: of(&effective.admin, other),
            isolated: of(isolated, other),
            baseline: of(&effective.baseline, other),
        };
        ruling::rule(effective, &matched, other)
    }

    proptest! {
        /// What is found from the rules' side is what a look at every rule for every identity finds, and whoever is not special
        /// is treated as anyone.
        #[test]
        fn found_as_one_by_one(effective in effective(), all in prop::collection::btree_set(identity(), 0..8)) {
            let index = Index::new(&all);
            let matching = Matching::new(&effective, &index);
            let anyone = ruling::rule(&effective, &matching.of(None), &Identity::Anyone);
            prop_assert_eq!(&anyone, &one_by_one(&effective, &Identity::Anyone));
            let special: BTreeSet<usize> = matching.special().collect();
            for (at, other) in all.iter().enumerate() {
                let expected = one_by_one(&effective, other);
                prop_assert_eq!(&ruling::rule(&effective, &matching.of(Some(at)), other), &expected);
                prop_assert!(special.contains(&at) || expected == anyone, "{:?}", other);
            }
        }
    }
}
