//! From policies to rows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use fabric_common::{
    denied::DeniedValue,
    names::NamedKey,
    policy::{
        EGRESS, IDENTITY_ANYONE, IDENTITY_NODE, INGRESS, KIND_IDENTITY, KIND_POLICY, NO_POLICY, NumberKey,
        NumberValue, POLICY_NAMES, PolicyKey, PolicyPorts, PolicyValue, verdict,
    },
};

use crate::{
    model::{Cluster, DomainName, Endpoint, policy::Direction},
    plan::desired::{AddrPrefix, NodeFacts, Watched},
};

use super::{
    denied,
    effective::Policy,
    identity::{self, Block, Identity},
    matching::{Index, Matching},
    numbers::{Numbers, RuleNames, digest},
    ports::Writer,
    ruling::{self, Ranges},
};

/// What policies are on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Rows of `numbers`.
    pub numbers: BTreeMap<NumberKey, NumberValue>,
    /// Rows of `policy_ports`.
    pub policy_ports: BTreeMap<u32, PolicyPorts>,
    /// Rows of `policies`.
    pub policies: BTreeMap<PolicyKey, PolicyValue>,
    /// Rows of `cidrs`.
    pub cidrs: BTreeMap<AddrPrefix, u32>,
    /// Rows of `denied`.
    pub denied: BTreeMap<AddrPrefix, DeniedValue>,
    /// Rows of `named`.
    pub named: BTreeMap<NamedKey, u32>,
    /// Local endpoints whose policies have domain names, by port.
    pub watched: BTreeMap<u32, Watched>,
    /// Names of rules.
    pub rules: RuleNames,
    /// Local endpoints whose rules name more ranges of ports than tables hold, with one sentence each.
    pub problems: BTreeMap<String, String>,
    /// Deny sets that cover what they must not, with one sentence each.
    pub deny_problems: BTreeMap<String, String>,
    endpoints: BTreeMap<String, (u32, u32)>,
    nodes: BTreeMap<String, u32>,
}

impl Compiled {
    /// An endpoint's identity.
    pub fn identity(&self, endpoint: &str) -> u32 {
        self.endpoints.get(endpoint).map_or(IDENTITY_ANYONE, |(identity, _)| *identity)
    }

    /// An endpoint's policy; [`NO_POLICY`] if it lives elsewhere.
    pub fn policy(&self, endpoint: &str) -> u32 {
        self.endpoints.get(endpoint).map_or(NO_POLICY, |(_, policy)| *policy)
    }

    /// The identity of a node's addresses.
    pub fn node(&self, name: &str) -> u32 {
        self.nodes.get(name).copied().unwrap_or(IDENTITY_ANYONE)
    }
}

/// Compiles for the node that `facts` tell of. Without any policy or deny set there is nothing.
pub fn compile(cluster: &Cluster, facts: &NodeFacts) -> Compiled {
    let local = facts.node.as_str();
    let mut compiled = Compiled::default();
    let mut numbers = Numbers::new(&facts.numbers);
    let denied = denied::compile(cluster, local, &facts.guard, &mut numbers, &mut compiled.rules);
    (compiled.denied, compiled.deny_problems) = (denied.rows, denied.problems);
    if cluster.network_policies.is_empty() && cluster.cluster_policies.is_empty() {
        compiled.numbers = numbers.into_used();
        return compiled;
    }
    let mut identities: BTreeMap<Identity, u32> = BTreeMap::new();
    let mut policies: BTreeMap<u32, Policy> = BTreeMap::new();
    let mut of_subject: BTreeMap<Identity, u32> = BTreeMap::new();
    for endpoint in cluster.endpoints.values() {
        let content = Identity::of_endpoint(cluster, endpoint);
        let identity = number(&mut numbers, &mut identities, &content);
        let policy = if endpoint.seat(local).is_some() {
            *of_subject.entry(content).or_insert_with_key(|subject| {
                let policy = Policy::new(cluster, subject, local);
                if policy.is_empty() {
                    return NO_POLICY;
                }
                let flag = if policy.names().is_empty() { 0 } else { POLICY_NAMES };
                let number = numbers.number(KIND_POLICY, digest(&policy), !POLICY_NAMES, flag);
                policies.insert(number, policy);
                number
            })
        } else {
            NO_POLICY
        };
        compiled.endpoints.insert(endpoint.name.clone(), (identity, policy));
    }
    for name in cluster.nodes.keys().map(String::as_str).chain([local]) {
        let identity = number(&mut numbers, &mut identities, &Identity::of_node(cluster, name));
        compiled.nodes.insert(name.to_owned(), identity);
    }
    let blocks = identity::blocks(cluster);
    for (prefix, content) in identity::prefixes(&blocks) {
        compiled.cidrs.insert(prefix, number(&mut numbers, &mut identities, &content));
    }
    for (name, ifindex) in &facts.ports {
        let Some(policy) = policies.get(&compiled.policy(name)) else { continue };
        let watched: BTreeSet<DomainName> = policy.names().into_iter().cloned().collect();
        let Some(endpoint) = cluster.endpoints.get(name).filter(|_| !watched.is_empty()) else { continue };
        let told = facts
            .names
            .get(ifindex)
            .into_iter()
            .flatten()
            .filter(|(addr, _)| !is_fabric(cluster, facts, **addr));
        for (addr, content) in named(policy, &blocks, told) {
            let key = NamedKey { ifindex: *ifindex, addr: addr.into() };
            compiled.named.insert(key, number(&mut numbers, &mut identities, &content));
        }
        let addresses = endpoint.addresses.clone();
        compiled.watched.insert(*ifindex, Watched { names: watched, addresses });
    }
    identities.remove(&Identity::Anyone);
    let index = Index::new(identities.keys());
    let of_index: Vec<u32> = identities.values().copied().collect();
    let mut full = BTreeSet::new();
    let mut writer =
        Writer { numbers: &mut numbers, ports: &mut compiled.policy_ports, rules: &mut compiled.rules };
    for (number, policy) in &policies {
        let rows = rows(*number, policy, (&index, &of_index), &mut writer);
        match rows {
            Some(rows) => compiled.policies.extend(rows),
            None => {
                full.insert(*number);
            }
        }
    }
    let local = |endpoint: &&Endpoint| full.contains(&compiled.policy(&endpoint.name));
    let problem = |endpoint: &Endpoint| {
        let text = "its policies name more than 4096 ranges of ports for one peer, so everything is dropped: name fewer";
        (endpoint.name.clone(), text.to_owned())
    };
    compiled.problems = cluster.endpoints.values().filter(local).map(problem).collect();
    compiled.numbers = numbers.into_used();
    compiled
}

/// The most identities that the addresses which one endpoint was told make: each costs rows of policies. Addresses beyond stay what
/// they are without a name, which no rule about names admits.
const MOST_NAMED: usize = 64;

/// Whether an address is one of the fabric's networks, or a VTEP: no name opens these. The programs never send such packets to the
/// world either.
fn is_fabric(cluster: &Cluster, facts: &NodeFacts, addr: IpAddr) -> bool {
    let subnets = cluster.networks.values().flat_map(|network| &network.subnets);
    let vteps = facts.uplinks.iter().flat_map(|uplink| &uplink.vteps);
    subnets.into_iter().any(|subnet| subnet.net.contains(&addr))
        || vteps.chain(facts.routes.keys()).any(|vtep| *vtep == addr)
}

/// The identities of the addresses that an endpoint with `policy` was told.
fn named<'a>(
    policy: &Policy,
    blocks: &BTreeSet<Block>,
    told: impl Iterator<Item = (&'a IpAddr, &'a BTreeSet<String>)>,
) -> BTreeMap<IpAddr, Identity> {
    let mut known = BTreeMap::new();
    let mut contents = BTreeSet::new();
    for (addr, names) in told {
        let names = policy.first_names(names);
        if names.is_empty() {
            continue;
        }
        let content = Identity::of_named(*addr, blocks, names);
        if contents.len() < MOST_NAMED || contents.contains(&content) {
            contents.insert(content.clone());
            known.insert(*addr, content);
        }
    }
    known
}

fn number(numbers: &mut Numbers, known: &mut BTreeMap<Identity, u32>, content: &Identity) -> u32 {
    if let Some(number) = known.get(content) {
        return *number;
    }
    let flag = match content {
        Identity::Anyone => return IDENTITY_ANYONE,
        Identity::Node { .. } => IDENTITY_NODE,
        Identity::Endpoint { .. } | Identity::Blocks(_) | Identity::Named { .. } => 0,
    };
    let number = numbers.number(KIND_IDENTITY, digest(content), !IDENTITY_NODE, flag);
    known.insert(content.clone(), number);
    number
}

/// The rows of a policy: those for identities that are not treated as everybody, and the one for everybody. Absent if one
/// has too many ranges; without any row, everything is dropped.
fn rows(
    policy: u32,
    content: &Policy,
    (index, numbers): (&Index<'_>, &[u32]),
    writer: &mut Writer<'_>,
) -> Option<BTreeMap<PolicyKey, PolicyValue>> {
    let mut rows = BTreeMap::new();
    for (direction, word) in [(Direction::Egress, EGRESS), (Direction::Ingress, INGRESS)] {
        let rules = content.direction(direction);
        let mut verdicts: HashMap<Ranges, u32> = HashMap::new();
        let mut verdict = |ranges: Ranges, writer: &mut Writer<'_>| {
            if let Some(verdict) = verdicts.get(&ranges) {
                return Some(*verdict);
            }
            let verdict = writer.verdict(&ranges)?;
            verdicts.insert(ranges, verdict);
            Some(verdict)
        };
        let enforced = Matching::new(&rules.enforced, index);
        let all = rules.audited.as_ref().map(|all| (all, Matching::new(all, index)));
        let ranges = |at: Option<usize>| {
            let other = at.map_or(&Identity::Anyone, |at| index.identities()[at]);
            let now = ruling::rule(&rules.enforced, &enforced.of(at), other);
            match &all {
                Some((all, matching)) => ruling::audited(&now, &ruling::rule(all, &matching.of(at), other)),
                None => now,
            }
        };
        let special: BTreeSet<usize> =
            enforced.special().chain(all.iter().flat_map(|(_, matching)| matching.special())).collect();
        let default = verdict(ranges(None), writer)?;
        let key = |identity| PolicyKey { policy, direction: word, identity };
        rows.insert(key(IDENTITY_ANYONE), PolicyValue { verdict: default });
        for at in special {
            let verdict = verdict(ranges(Some(at)), writer)?;
            if verdict != default {
                rows.insert(key(numbers[at]), PolicyValue { verdict });
            }
        }
    }
    debug_assert!(rows.values().all(|row| row.verdict & verdict::KIND != verdict::KIND));
    Some(rows)
}
