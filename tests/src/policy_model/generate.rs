//! Worlds at random: few labels, few ports and few prefixes, so that rules meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_agent::model::{
    Cluster, ClusterPolicy, Endpoint, Labels, Network, NetworkPolicy, Node,
    policy::{
        NAMESPACE_NAME_LABEL, Namespaces, Peer, Ports, Requirement, Rule, Selector, Tier, Treatment, Verdict,
    },
};
use fabric_api::object::{Attachment, NamedPort};
use fabric_common::addr::Mac;
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::random::Random;

/// The network that everybody is in.
pub const NETWORK: &str = "blue";
/// Its VNI.
pub const VNI: u32 = 5000;
/// The node whose rows are looked at.
pub const HERE: &str = "n1";

/// The other node.
pub const THERE: &str = "n2";
/// Addresses of the endpoint, on the other node, behind which the strangers are.
pub const ROUTER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 1, 200, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0xc8))];
/// Its MAC.
pub const ROUTER_MAC: Mac = Mac::new([2, 0xfc, 10, 1, 200, 1]);

fn everything(of: IpAddr) -> &'static str {
    if of.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
}

/// Everything that policies can tell apart.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Namespaces and their labels.
    pub namespaces: Vec<(String, Labels)>,
    /// Nodes, their labels and their addresses in the network.
    pub nodes: Vec<(String, Labels, IpAddr)>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// NetworkPolicies.
    pub network_policies: Vec<NetworkPolicy>,
    /// ClusterNetworkPolicies.
    pub cluster_policies: Vec<ClusterPolicy>,
}

/// A packet that begins a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; 0 if the protocol has none.
    pub port: u16,
}

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the object is valid")
}

impl World {
    /// As the agent has it once it was declared and checked.
    pub fn cluster(&self) -> Cluster {
        let routes = ROUTER.map(|address| json!({"prefix": everything(address), "nextHop": address}));
        let network = json!({
            "metadata": {"name": NETWORK},
            "spec": {"vni": VNI, "subnets": ["10.1.0.0/16", "fd00:1::/64"], "routes": routes},
        });
        let network = Network::new(&parse(network)).expect("the network is valid");
        let node = |(at, (name, labels, address)): (usize, &(String, Labels, IpAddr))| {
            let node = json!({
                "metadata": {"name": name, "labels": labels},
                "spec": {"vteps": [format!("192.0.2.{}", at + 1)], "networks": [{"network": NETWORK, "addresses": [address]}]},
            });
            (name.clone(), Node::new(&parse(node)).expect("the node is valid"))
        };
        let router = Endpoint {
            name: "router".to_owned(),
            network: NETWORK.to_owned(),
            node: THERE.to_owned(),
            namespace: "routers".to_owned(),
            labels: Labels::new(),
            addresses: ROUTER.to_vec(),
            mac: ROUTER_MAC,
            ports: Vec::new(),
            generation: 1,
            attachment: None,
            slot: None,
            movement: None,
        };
        let endpoints = self.endpoints.iter().chain([&router]);
        Cluster {
            networks: [(NETWORK.to_owned(), network)].into(),
            nodes: self.nodes.iter().enumerate().map(node).collect(),
            endpoints: endpoints.map(|e| (e.name.clone(), e.clone())).collect(),
            namespaces: self.namespaces.iter().cloned().collect(),
            network_policies: self
                .network_policies
                .iter()
                .map(|p| ((p.namespace.clone(), p.name.clone()), p.clone()))
                .collect(),
            cluster_policies: self.cluster_policies.iter().map(|p| (p.name.clone(), p.clone())).collect(),
            ..Cluster::default()
        }
    }

    /// The endpoint that has an address.
    pub fn endpoint(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.addresses.contains(&address))
    }
}

const KEYS: [&str; 3] = ["app", "tier", "env"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["shop", "bank", "lab"];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
const PORTS: [u16; 7] = [1, 53, 80, 443, 8080, 30000, 65535];
const BLOCKS: [&str; 12] = [
    "0.0.0.0/0",
    "198.51.100.0/24",
    "198.51.100.128/25",
    "198.51.100.7/32",
    "203.0.113.0/24",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::7/128",
    "fd00:1::/64",
];
const STRANGERS: [&str; 9] = [
    "198.51.100.7",
    "198.51.100.200",
    "198.51.100.1",
    "203.0.113.9",
    "10.9.0.1",
    "192.0.2.77",
    "2001:db8:1::7",
    "2001:db8:2::1",
    "2001:4860::1",
];

fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len())]
}

fn some<T>(random: &mut Random, most: usize, mut make: impl FnMut(&mut Random, usize) -> T) -> Vec<T> {
    let count = random.below(most + 1);
    (0..count).map(|at| make(random, at)).collect()
}

fn labels(random: &mut Random) -> Labels {
    some(random, 2, |random, _| (pick(random, &KEYS).to_owned(), pick(random, &VALUES).to_owned()))
        .into_iter()
        .collect()
}

fn selector(random: &mut Random) -> Selector {
    let values = |random: &mut Random| {
        let mut values = vec![pick(random, &VALUES).to_owned(), pick(random, &VALUES).to_owned()];
        values.sort();
        values.dedup();
        values
    };
    let requirements = some(random, 2, |random, _| {
        let key = pick(random, &KEYS).to_owned();
        match random.below(5) {
            0 | 1 => Requirement::In(key, values(random)),
            2 => Requirement::NotIn(key, values(random)),
            3 => Requirement::Exists(key),
            _ => Requirement::DoesNotExist(key),
        }
    });
    Selector { requirements }
}

fn namespaces(random: &mut Random) -> Namespaces {
    match random.below(3) {
        0 => Namespaces::Matching(Selector {
            requirements: vec![Requirement::In(
                NAMESPACE_NAME_LABEL.to_owned(),
                vec![pick(random, &NAMES).to_owned()],
            )],
        }),
        _ => Namespaces::Matching(selector(random)),
    }
}

fn peer(random: &mut Random, own: Option<&str>, egress: bool) -> Peer {
    match (random.below(8), own) {
        (0, _) => Peer::Anyone,
        (1 | 2, Some(namespace)) => {
            Peer::Endpoints(Namespaces::Named(namespace.to_owned()), selector(random))
        }
        (3, _) => block(random),
        (4, None) if egress => Peer::Nodes(selector(random)),
        (5, Some(_)) => block(random),
        _ => Peer::Endpoints(namespaces(random), selector(random)),
    }
}

fn block(random: &mut Random) -> Peer {
    let net: IpNet = pick(random, &BLOCKS).parse().expect("a prefix");
    let inner: Vec<IpNet> = BLOCKS.iter().map(|b| b.parse().expect("a prefix")).collect();
    let inner: Vec<IpNet> = inner.into_iter().filter(|b| *b != net && net.contains(b)).collect();
    let except =
        if inner.is_empty() { Vec::new() } else { some(random, 2, |random, _| pick(random, &inner)) };
    Peer::Cidr(net, except)
}

fn ports(random: &mut Random) -> Ports {
    let protocol = pick(random, &[6, 6, 17, 132]);
    match random.below(5) {
        0 => Ports::All,
        1 => Ports::Named(protocol, pick(random, &PORT_NAMES).to_owned()),
        2 => Ports::Range(protocol, 0, 65535),
        3 => {
            let (a, b) = (pick(random, &PORTS), pick(random, &PORTS));
            Ports::Range(protocol, a.min(b), a.max(b))
        }
        _ => {
            let port = pick(random, &PORTS);
            Ports::Range(protocol, port, port)
        }
    }
}

fn rule(random: &mut Random, name: String, verdict: Verdict, own: Option<&str>, egress: bool) -> Rule {
    let mut rule = Rule {
        name,
        verdict,
        peers: vec![peer(random, own, egress)],
        ports: vec![ports(random)],
        treatment: Treatment::default(),
    };
    rule.peers.extend(some(random, 2, |random, _| peer(random, own, egress)));
    // Sometimes many, so that tables get deep.
    let most = if random.below(12) == 0 { 40 } else { 2 };
    rule.ports.extend(some(random, most, |random, at| {
        if most < 40 {
            return ports(random);
        }
        let port = u16::try_from(at * 7 + 1).unwrap_or(u16::MAX);
        Ports::Range(6, port, port + 2)
    }));
    rule
}

fn network_policy(random: &mut Random, at: usize) -> NetworkPolicy {
    let namespace = pick(random, &NAMES).to_owned();
    let name = format!("np{at}");
    let mut side = |word: &str, egress: bool| {
        (random.below(3) > 0).then(|| {
            some(random, 3, |random, at| {
                let name = format!("NetworkPolicy/{namespace}/{name}/{word}/{at}");
                rule(random, name, Verdict::Accept, Some(&namespace), egress)
            })
        })
    };
    let (ingress, egress) = (side("ingress", false), side("egress", true));
    let mut policy = NetworkPolicy {
        selector: selector(random),
        namespace,
        name,
        ingress,
        egress,
        treatment: treatment(random),
    };
    for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
        rule.treatment = policy.treatment;
    }
    policy
}

/// That of a policy and its rules.
fn treatment(random: &mut Random) -> Treatment {
    Treatment { reject: random.below(3) == 0, audit: random.below(5) == 0, log: random.below(3) == 0 }
}

fn cluster_policy(random: &mut Random, at: usize) -> ClusterPolicy {
    let name = format!("cnp{at}");
    let mut side = |word: &str, egress: bool| {
        some(random, 3, |random, at| {
            let verdict = pick(random, &[Verdict::Accept, Verdict::Deny, Verdict::Deny, Verdict::Pass]);
            rule(random, format!("ClusterNetworkPolicy/{name}/{word}/{at}"), verdict, None, egress)
        })
    };
    let (mut ingress, mut egress) = (side("ingress", false), side("egress", true));
    let treatment = treatment(random);
    ingress.iter_mut().chain(&mut egress).for_each(|rule| rule.treatment = treatment);
    ClusterPolicy {
        tier: pick(random, &[Tier::Admin, Tier::Admin, Tier::Baseline]),
        priority: pick(random, &[0, 1, 1, 1000]),
        namespaces: namespaces(random),
        endpoints: selector(random),
        name,
        ingress,
        egress,
    }
}

fn endpoint(random: &mut Random, at: usize) -> Endpoint {
    let low = u8::try_from(at + 10).expect("few endpoints");
    let protocol = |random: &mut Random| pick(random, &["TCP", "UDP", "SCTP"]).to_owned();
    let named = some(random, 2, |random, at| NamedPort {
        name: PORT_NAMES[at].to_owned(),
        port: pick(random, &PORTS),
        protocol: protocol(random),
    });
    Endpoint {
        name: format!("e{at}"),
        network: NETWORK.to_owned(),
        node: pick(random, &[HERE, HERE, THERE]).to_owned(),
        namespace: pick(random, &NAMES).to_owned(),
        labels: labels(random),
        addresses: vec![
            format!("10.1.0.{low}").parse().expect("an address"),
            format!("fd00:1::{low:x}").parse().expect("an address"),
        ],
        mac: Mac::new([2, 0xfc, 10, 1, 0, low]),
        ports: named,
        generation: 1,
        attachment: Some(Attachment {
            netns: "/run/netns/x".to_owned(),
            ..parse(json!({"netns": "/run/netns/x", "ifname": "eth0"}))
        }),
        slot: Some(low.into()),
        movement: None,
    }
}

/// A world.
pub fn world(random: &mut Random) -> World {
    let mut named = Vec::new();
    for name in NAMES {
        if random.below(4) > 0 {
            let mut labels = labels(random);
            labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
            named.push((name.to_owned(), labels));
        }
    }
    let nodes = [(HERE, "10.1.255.1"), (THERE, "10.1.255.2")];
    let nodes = nodes.map(|(name, at)| (name.to_owned(), labels(random), at.parse().expect("an address")));
    let count = 2 + random.below(8);
    World {
        namespaces: named,
        nodes: nodes.into(),
        endpoints: (0..count).map(|at| endpoint(random, at)).collect(),
        network_policies: some(random, 5, network_policy),
        cluster_policies: some(random, 4, cluster_policy),
    }
}

/// A packet of a world: both sides of one family, one of them an endpoint.
pub fn packet(random: &mut Random, world: &World) -> Packet {
    let one = pick(random, &world.endpoints.iter().collect::<Vec<_>>());
    let own = one.addresses[random.below(2)];
    let mut others: Vec<IpAddr> = Vec::new();
    if random.below(2) == 0 {
        others.extend(world.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()));
    } else {
        others.extend(STRANGERS.iter().map(|text| text.parse::<IpAddr>().expect("an address")));
        others.extend(world.nodes.iter().map(|(_, _, address)| *address));
    }
    others.retain(|other| other.is_ipv4() == own.is_ipv4() && *other != own);
    let other = pick(random, &others);
    let (from, to) = if random.below(2) == 0 { (own, other) } else { (other, own) };
    let protocol = pick(random, &[6, 6, 6, 17, 132, 1, 47]);
    let port = match protocol {
        6 | 17 | 132 if random.below(3) == 0 => u16::try_from(random.below(300)).unwrap_or(1).max(1),
        6 | 17 | 132 => pick(random, &PORTS),
        _ => 0,
    };
    Packet { from, to, protocol, port }
}
