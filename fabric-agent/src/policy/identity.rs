//! Identities: all that policies can tell of who is at the other side.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use fabric_common::addr::Addr;
use ipnet::IpNet;

use crate::{
    model::{
        Cluster, DomainName, Endpoint, Labels,
        policy::{Namespaces, Peer},
    },
    plan::desired::AddrPrefix,
};

/// Bits in front of the address of an IPv4 prefix in mapped form (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// A CIDR that a rule names, with its exceptions.
pub(super) type Block = (IpNet, Vec<IpNet>);

/// Who is at the other side, as far as rules can tell. Two of one identity are treated alike by every policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Neither endpoint nor node, and in no block that a rule names.
    Anyone,
    /// Endpoints.
    Endpoint {
        /// Namespace.
        namespace: String,
        /// Its labels.
        namespace_labels: Labels,
        /// The endpoint's labels.
        labels: Labels,
        /// Its named ports: name and protocol number, and the port.
        ports: BTreeMap<(String, u8), u16>,
    },
    /// A node's own addresses; the gateways of this node.
    Node {
        /// Name.
        name: String,
        /// Labels of the Node object, if there is one, and that of the name.
        labels: Labels,
    },
    /// Addresses in exactly these of the blocks that rules name.
    Blocks(BTreeSet<Block>),
    /// Addresses that an endpoint was told for a name.
    Named {
        /// The blocks that they are in.
        blocks: BTreeSet<Block>,
        /// The names in rules that stand for their names.
        names: BTreeSet<DomainName>,
    },
}

impl Identity {
    /// An endpoint's.
    pub fn of_endpoint(cluster: &Cluster, endpoint: &Endpoint) -> Self {
        let port = |port: &fabric_api::object::NamedPort| {
            Some(((port.name.clone(), protocol_number(&port.protocol)?), port.port))
        };
        Self::Endpoint {
            namespace: endpoint.namespace.clone(),
            namespace_labels: cluster.namespace_labels(&endpoint.namespace),
            labels: endpoint.labels.clone(),
            ports: endpoint.ports.iter().filter_map(port).collect(),
        }
    }

    /// A node's, declared or not.
    pub fn of_node(cluster: &Cluster, name: &str) -> Self {
        Self::Node { name: name.to_owned(), labels: cluster.node_labels(name) }
    }

    /// Of an address that no endpoint and no node has.
    pub fn of_address(address: IpAddr, blocks: &BTreeSet<Block>) -> Self {
        Self::in_blocks(blocks.iter().filter(|block| contains(block, &IpNet::from(address))))
    }

    /// Of an address that no endpoint and no node has, for an endpoint that was told it for a name which `names` stand for.
    pub fn of_named(address: IpAddr, blocks: &BTreeSet<Block>, names: BTreeSet<DomainName>) -> Self {
        let around = blocks.iter().filter(|block| contains(block, &IpNet::from(address)));
        if names.is_empty() {
            Self::in_blocks(around)
        } else {
            Self::Named { blocks: around.cloned().collect(), names }
        }
    }

    /// Of some address that is not known, with a name which `names` stand for. It is in the blocks that every address is in.
    pub(super) fn of_name(blocks: &BTreeSet<Block>, names: BTreeSet<DomainName>) -> Self {
        let blocks = blocks.iter().filter(|(net, except)| net.prefix_len() == 0 && except.is_empty());
        Self::Named { blocks: blocks.cloned().collect(), names }
    }

    fn in_blocks<'a>(blocks: impl Iterator<Item = &'a Block>) -> Self {
        let blocks: BTreeSet<Block> = blocks.cloned().collect();
        if blocks.is_empty() { Self::Anyone } else { Self::Blocks(blocks) }
    }

    /// Whether a rule's peer is this one.
    pub(super) fn is(&self, peer: &Peer) -> bool {
        match (peer, self) {
            (Peer::Anyone, _) => true,
            (
                Peer::Endpoints(namespaces, selector),
                Self::Endpoint { namespace, namespace_labels, labels, .. },
            ) => in_namespace(namespaces, namespace, namespace_labels) && selector.matches(labels),
            (Peer::Nodes(selector), Self::Node { labels, .. }) => selector.matches(labels),
            (Peer::Cidr(net, except), Self::Blocks(blocks) | Self::Named { blocks, .. }) => {
                blocks.contains(&block(net, except))
            }
            (Peer::Name(name), Self::Named { names, .. }) => names.contains(name),
            _ => false,
        }
    }

    /// The port that the name stands for here.
    pub(super) fn named_port(&self, protocol: u8, name: &str) -> Option<u16> {
        match self {
            Self::Endpoint { ports, .. } => ports.get(&(name.to_owned(), protocol)).copied(),
            Self::Anyone | Self::Node { .. } | Self::Blocks(_) | Self::Named { .. } => None,
        }
    }
}

/// Whether a namespace is meant.
pub(super) fn in_namespace(wanted: &Namespaces, name: &str, labels: &Labels) -> bool {
    match wanted {
        Namespaces::Named(wanted) => wanted == name,
        Namespaces::Matching(selector) => selector.matches(labels),
    }
}

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

/// A block without host bits, its exceptions in order.
pub(super) fn block(net: &IpNet, except: &[IpNet]) -> Block {
    let mut except: Vec<IpNet> = except.iter().map(IpNet::trunc).collect();
    except.sort();
    except.dedup();
    (net.trunc(), except)
}

fn contains((net, except): &Block, prefix: &IpNet) -> bool {
    net.contains(prefix) && !except.iter().any(|except| except.contains(prefix))
}

/// Every block that a rule of a policy names.
pub(super) fn blocks(cluster: &Cluster) -> BTreeSet<Block> {
    let network = cluster.network_policies.values();
    let network = network.flat_map(|policy| policy.ingress.iter().chain(&policy.egress).flatten());
    let admin =
        cluster.cluster_policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    let peers = network.chain(admin).flat_map(|rule| &rule.peers);
    peers
        .filter_map(|peer| match peer {
            Peer::Cidr(net, except) => Some(block(net, except)),
            Peer::Anyone | Peer::Endpoints(..) | Peer::Nodes(_) | Peer::Name(_) => None,
        })
        .collect()
}

/// The identity of every prefix that a block or an exception begins or ends with: that of the longest one is the address's.
pub(super) fn prefixes(blocks: &BTreeSet<Block>) -> BTreeMap<AddrPrefix, Identity> {
    let mapped = IpAddr::V6(Addr::v4([0; 4]).bytes.into());
    let nets: BTreeSet<IpNet> = blocks
        .iter()
        .flat_map(|(net, except)| except.iter().copied().chain([*net]))
        .map(|n| n.trunc())
        .collect();
    let mut by_net: HashMap<IpNet, Vec<&Block>> = HashMap::new();
    for block in blocks {
        by_net.entry(block.0).or_default().push(block);
    }
    let lengths: BTreeSet<u8> = by_net.keys().map(IpNet::prefix_len).collect();
    let around = |net: IpNet| {
        let wider = lengths.range(..=net.prefix_len());
        wider.filter_map(move |bits| IpNet::new(net.network(), *bits).ok()).map(|wider| wider.trunc())
    };
    let mut rows = BTreeMap::new();
    for net in nets {
        // No packet of IPv6 has such an address: it would be looked up as one of IPv4.
        if matches!(net, IpNet::V6(v6) if v6.prefix_len() >= MAPPED_BITS && is_mapped(&v6.network().octets()))
        {
            continue;
        }
        // What is around the mapped addresses must not catch those of IPv4.
        if net.contains(&mapped) {
            rows.entry(AddrPrefix { bits: MAPPED_BITS.into(), addr: Addr::v4([0; 4]) })
                .or_insert(Identity::Anyone);
        }
        let candidates = around(net).filter_map(|wider| by_net.get(&wider)).flatten().copied();
        let identity = Identity::in_blocks(candidates.filter(|block| contains(block, &net)));
        rows.insert(AddrPrefix::new(net), identity);
    }
    rows
}

fn is_mapped(octets: &[u8; 16]) -> bool {
    Addr::v6(*octets).is_v4()
}
