//! What planning consumes of this node and what it produces: plain, comparable values.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use fabric_common::{
    addr::{Addr, Mac},
    advertisement::AdvertisementValue,
    denied::DeniedValue,
    endpoint::{EndpointKey, EndpointValue},
    fdb::{FdbKey, FdbValue},
    flood::{FloodKey, FloodValue},
    names::NamedKey,
    network::{MemberKey, MemberValue, NetworkValue},
    node::{NodeValue, VtepValue},
    policy::{NumberKey, NumberValue, PolicyKey, PolicyPorts, PolicyValue},
    port::PortValue,
    prefix::VniPrefix,
    route::RouteValue,
    settings::Settings,
    source::SourceValue,
    uplink::{LocalVtepValue, UplinkValue},
};
use ipnet::IpNet;

use crate::{
    model::{DomainName, Dscp, Guard},
    policy::RuleNames,
};

/// What the kernel tells about this node. Collected by the reconciler before each plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// This node's name.
    pub node: String,
    /// Underlay interfaces, in the order of the settings.
    pub uplinks: Vec<UplinkFacts>,
    /// Interface index of the agent's `vxlan` device, once it exists.
    pub vxlan_ifindex: Option<u32>,
    /// Interface indices of the pair of veths for fragments, once it exists: where packets enter and where they leave.
    pub frag: Option<(u32, u32)>,
    /// Interface index of the host side of each local endpoint's veth, by endpoint name, once it exists.
    pub ports: BTreeMap<String, u32>,
    /// Local endpoints whose container side is not in the host's namespace.
    pub plugged: BTreeSet<String>,
    /// Interface index of the port side of each network's access port, by network name, once it exists.
    pub access: BTreeMap<String, u32>,
    /// For each remote VTEP address: the route that the kernel chooses, absent if there is none.
    pub routes: BTreeMap<IpAddr, RouteFacts>,
    /// What probes of remote VTEP addresses found out.
    pub peers: BTreeMap<IpAddr, PeerFacts>,
    /// Whether XDP was chosen for an uplink, by interface index.
    pub xdp: BTreeSet<u32>,
    /// What local endpoints were told for domain names.
    pub names: Arc<KnownNames>,
    /// What the map `numbers` holds: these numbers are taken.
    pub numbers: Arc<Rows<NumberKey, NumberValue>>,
    /// What this node depends on.
    pub guard: Guard,
}

/// The names that each address of the world has for an endpoint, by the endpoint's port. Names are in lower case, without the dot of
/// the root.
pub type KnownNames = BTreeMap<u32, BTreeMap<IpAddr, BTreeSet<String>>>;

/// What the kernel says of the way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// Index of the interface that it leaves through.
    pub ifindex: u32,
    /// MTU of the path where the kernel knows one, bytes: that of the route, or what routers have said since.
    pub mtu: Option<u32>,
}

/// What probes found out about another VTEP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// MTU of the path there, bytes.
    pub path_mtu: Option<u32>,
    /// MTU of the uplink at the other side, bytes, as that node's agent says.
    pub uplink_mtu: Option<u32>,
}

/// One underlay interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkFacts {
    /// Name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// MAC.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
    /// VTEP addresses on it: those named by `--vtep`, or its global addresses.
    pub vteps: Vec<IpAddr>,
}

/// Settings that planning needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSettings {
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Drop events a second and CPU.
    pub events_per_second: u32,
    /// DSCP of outer headers.
    pub dscp: Dscp,
    /// First and last port of the host that translated flows are given.
    pub nat_ports: (u16, u16),
}

/// The rows of one map.
pub type Rows<K, V> = BTreeMap<K, V>;

/// A key of `source_prefixes` or `routes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixKey {
    /// Bits of `prefix` that count, from the VNI's first.
    pub bits: u32,
    /// VNI and address.
    pub prefix: VniPrefix,
}

impl PrefixKey {
    /// The key of `net` in network `vni`: VNI first, so that a prefix never reaches into another network; IPv4 behind its 96
    /// mapped bits.
    pub fn new(vni: u32, net: IpNet) -> Self {
        let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
        Self {
            bits: 32 + mapped + u32::from(net.prefix_len()),
            prefix: VniPrefix::new(vni, Addr::from(net.network())),
        }
    }
}

/// A key of `cidrs` or `denied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrPrefix {
    /// Bits of `addr` that count.
    pub bits: u32,
    /// IPv4 mapped.
    pub addr: Addr,
}

impl AddrPrefix {
    /// The key of `net`: IPv4 behind its 96 mapped bits.
    pub fn new(net: IpNet) -> Self {
        let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
        Self { bits: mapped + u32::from(net.prefix_len()), addr: Addr::from(net.network()) }
    }
}

/// The wanted content of every map that the agent fills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Row 0 of `settings`.
    pub settings: Rows<u32, Settings>,
    /// `uplinks`.
    pub uplinks: Rows<u32, UplinkValue>,
    /// `local_vteps`.
    pub local_vteps: Rows<Addr, LocalVtepValue>,
    /// `networks`.
    pub networks: Rows<u32, NetworkValue>,
    /// `nodes`.
    pub nodes: Rows<u32, NodeValue>,
    /// `vteps`.
    pub vteps: Rows<Addr, VtepValue>,
    /// `members`.
    pub members: Rows<MemberKey, MemberValue>,
    /// `numbers`.
    pub numbers: Rows<NumberKey, NumberValue>,
    /// `policy_ports`.
    pub policy_ports: Rows<u32, PolicyPorts>,
    /// `policies`.
    pub policies: Rows<PolicyKey, PolicyValue>,
    /// `cidrs`.
    pub cidrs: Rows<AddrPrefix, u32>,
    /// `denied`.
    pub denied: Rows<AddrPrefix, DeniedValue>,
    /// `named`.
    pub named: Rows<NamedKey, u32>,
    /// `sources`.
    pub sources: Rows<EndpointKey, SourceValue>,
    /// `source_prefixes`.
    pub source_prefixes: Rows<PrefixKey, SourceValue>,
    /// `ports`.
    pub ports: Rows<u32, PortValue>,
    /// `endpoints`.
    pub endpoints: Rows<EndpointKey, EndpointValue>,
    /// `fdb`.
    pub fdb: Rows<FdbKey, FdbValue>,
    /// `routes`.
    pub routes: Rows<PrefixKey, RouteValue>,
    /// `flood`.
    pub flood: Rows<FloodKey, FloodValue>,
    /// `advertisements`.
    pub advertisements: Rows<u32, AdvertisementValue>,
}

/// A program at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// Interface index.
    pub ifindex: u32,
    /// Name of the program, from `fabric_common::abi::program`.
    pub program: &'static str,
}

/// A local endpoint whose policy has domain names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// The names in its rules.
    pub names: BTreeSet<DomainName>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The veth of a local endpoint, both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLink {
    /// Endpoint name.
    pub endpoint: String,
    /// Host side: name, at most 15 bytes, from a hash of the endpoint's name.
    pub host_ifname: String,
    /// Whether a container engine moves the container side out of the host's namespace, where it is made, and sets it up.
    pub engine: bool,
    /// Path of the container's namespace.
    pub netns: String,
    /// Its inode number when it was attached.
    pub netns_inode: u64,
    /// Container side: name.
    pub ifname: String,
    /// Container side: MAC.
    pub mac: Mac,
    /// Both sides: MTU, bytes.
    pub mtu: u16,
    /// Container side: addresses with their subnets' prefix lengths.
    pub addresses: Vec<IpNet>,
    /// One a family at most: default routes of the container, where it has none yet.
    pub gateways: Vec<IpAddr>,
    /// Container side: whether it takes router advertisements.
    pub router_advertisement: bool,
}

/// The host's own place in a network: a veth with both sides in the host's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLink {
    /// Network name.
    pub network: String,
    /// Port side, where the program sits: name.
    pub port_ifname: String,
    /// Access side, the host's interface: name.
    pub ifname: String,
    /// Access side: MAC.
    pub mac: Mac,
    /// Both sides: MTU, bytes.
    pub mtu: u16,
    /// Access side: addresses with their subnets' prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// The agent's `vxlan` device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Name.
    pub name: String,
    /// UDP port.
    pub port: u16,
    /// MTU, bytes.
    pub mtu: u32,
}

/// Everything that the kernel should hold for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The `vxlan` device.
    pub vxlan: Option<VxlanDevice>,
    /// Local endpoints' veths, by endpoint name.
    pub ports: BTreeMap<String, PortLink>,
    /// The host's access ports, by network name.
    pub access: BTreeMap<String, AccessLink>,
    /// Programs at interfaces that exist.
    pub attachments: BTreeSet<Attachment>,
    /// Map content.
    pub tables: Tables,
    /// Names of the policies' rules by number.
    pub rules: RuleNames,
    /// Local endpoints whose policies have domain names, by port.
    pub watched: BTreeMap<u32, Watched>,
    /// Objects that can't be realised as declared: (kind, name) and one sentence each.
    pub problems: BTreeMap<(&'static str, String), String>,
}
