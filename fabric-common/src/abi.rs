//! Every map and program by name: what the agent loads, pins, sizes and documents.

use crate::{
    addr::Addr,
    advertisement::AdvertisementValue,
    capture::CapturedDrop,
    counters::{ACTION_SLOTS, DropKey, HOOK_SLOTS, Tally},
    denied::DeniedValue,
    endpoint::{EndpointKey, EndpointValue},
    event::DropEvent,
    fdb::{FdbKey, FdbValue},
    flood::{FloodKey, FloodValue},
    flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
    layout::{FNV_BASIS, Fields, Layout, fnv},
    membership::{GroupCount, GroupKey, GroupValue},
    names::{DnsPacket, NameKey, NameValue, NamedKey},
    nat::{NatKey, NatValue},
    network::{MemberKey, MemberValue, NetworkValue},
    node::{NodeValue, VtepValue},
    policy::{NumberKey, NumberValue, PolicyKey, PolicyPorts, PolicyValue},
    port::{PortCounters, PortValue},
    prefix::VniPrefix,
    route::RouteValue,
    settings::Settings,
    source::SourceValue,
    uplink::{LocalVtepValue, UplinkValue},
};

/// The kind of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_PERCPU_HASH`.
    PerCpuHash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_LPM_TRIE`; the key is behind a `u32` prefix length.
    LpmTrie,
    /// `BPF_MAP_TYPE_RINGBUF`; sized in bytes.
    RingBuf,
}

/// Who keeps a map's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapContent {
    /// The agent, from desired state; it can be rebuilt at any time.
    Desired,
    /// The programs: counters, flow state. It must survive a restart, and a change of size.
    Kernel,
    /// In transit only: events.
    Transient,
}

/// What is fixed about a map.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// Name in the object and in `bpftool map`.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Who fills it.
    pub content: MapContent,
    /// Default number of entries (bytes for a ring buffer), a setting where `sized` is true.
    pub entries: u32,
    /// Whether `[maps]` in the agent's file can change the size.
    pub sized: bool,
    /// Hash over kind and the layouts of key and value.
    pub layout: u64,
    /// Type of the key, for the documents.
    pub key: &'static str,
    /// Type of the value, for the documents.
    pub value: &'static str,
    /// Bytes of the key (without an LPM key's prefix length) and of the value.
    pub sizes: (usize, usize),
    /// Fields of the key and of the value, where those are structs.
    pub fields: (Fields, Fields),
    /// What it is for, one sentence.
    pub about: &'static str,
}

macro_rules! maps {
    ($( $const:ident: $name:literal $kind:ident<$key:ty, $value:ty> $content:ident, $entries:expr, $sized:literal, $about:literal; )+) => {
        $(
            #[doc = $about]
            pub const $const: MapSpec = MapSpec {
                name: $name,
                kind: MapKind::$kind,
                content: MapContent::$content,
                entries: $entries,
                sized: $sized,
                layout: fnv(
                    fnv(fnv(FNV_BASIS, stringify!($kind).as_bytes()), &<$key as Layout>::HASH.to_le_bytes()),
                    &<$value as Layout>::HASH.to_le_bytes(),
                ),
                key: stringify!($key),
                value: stringify!($value),
                sizes: (size_of::<$key>(), size_of::<$value>()),
                fields: (<$key as Layout>::FIELDS, <$value as Layout>::FIELDS),
                about: $about,
            };
        )+

        /// Every map, in the order in which the agent fills them: what is referred to comes first.
        pub const MAPS: &[MapSpec] = &[$($const),+];
    };
}

maps! {
    SETTINGS: "settings" Array<u32, Settings> Desired, 1, false, "What the programs need to know of this node.";
    UPLINKS: "uplinks" Hash<u32, UplinkValue> Desired, 64, false, "Underlay interfaces of this node, by interface index.";
    LOCAL_VTEPS: "local_vteps" Hash<Addr, LocalVtepValue> Desired, 64, false, "VTEP addresses of this node.";
    NETWORKS: "networks" Hash<u32, NetworkValue> Desired, 4096, true, "Networks by VNI.";
    NODES: "nodes" Hash<u32, NodeValue> Desired, 4096, true, "The outer header toward each other node, by node number.";
    VTEPS: "vteps" Hash<Addr, VtepValue> Desired, 8192, true, "The node that a remote VTEP address belongs to.";
    MEMBERS: "members" Hash<MemberKey, MemberValue> Desired, 65536, true, "Which nodes serve a network.";
    NUMBERS: "numbers" Hash<NumberKey, NumberValue> Desired, 131072, true, "What the numbers of identities, policies, port tables and rules stand for.";
    POLICY_PORTS: "policy_ports" Hash<u32, PolicyPorts> Desired, 16384, true, "Verdicts that depend on protocol and port, by table number.";
    POLICIES: "policies" Hash<PolicyKey, PolicyValue> Desired, 131072, true, "Verdicts by policy, direction and identity of the other side.";
    CIDRS: "cidrs" LpmTrie<Addr, u32> Desired, 16384, true, "Identities of addresses that rules name by prefix; looked at only where no endpoint has the address.";
    DENIED: "denied" LpmTrie<Addr, DeniedValue> Desired, 131072, true, "Source prefixes that are dropped at the uplinks, and addresses in them that are not.";
    NAMED: "named" Hash<NamedKey, u32> Desired, 65536, true, "Identities of addresses of the world that one endpoint was told for a domain name of its policy.";
    SOURCES: "sources" Hash<EndpointKey, SourceValue> Desired, 131072, true, "Source records of single addresses: which nodes may send them.";
    SOURCE_PREFIXES: "source_prefixes" LpmTrie<VniPrefix, SourceValue> Desired, 4096, true, "Source records by prefix, for foreign VTEPs; looked at only where `sources` has no record.";
    PORTS: "ports" Hash<u32, PortValue> Desired, 4096, true, "Host sides of the containers' veths, by interface index.";
    ENDPOINTS: "endpoints" Hash<EndpointKey, EndpointValue> Desired, 131072, true, "Who has an address in a network: local, remote, gateway or node.";
    FDB: "fdb" Hash<FdbKey, FdbValue> Desired, 131072, true, "Destination MAC to local port or remote node.";
    ROUTES: "routes" LpmTrie<VniPrefix, RouteValue> Desired, 16384, true, "Where packets to a gateway's MAC go: subnets of the sender's network and of those that are opened to it.";
    FLOOD: "flood" Hash<FloodKey, FloodValue> Desired, 65536, true, "Who gets copies of broadcast and multicast, in networks that replicate it: ports of this node (list 0) and other nodes (list 1).";
    ADVERTISEMENTS: "advertisements" Hash<u32, AdvertisementValue> Desired, 4096, true, "Router advertisements of the networks that have them, by VNI.";
    DROPS: "drops" PerCpuHash<DropKey, Tally> Kernel, 2048, false, "Dropped packets and bytes by hook and reason.";
    ACTIONS: "actions" PerCpuArray<u32, Tally> Kernel, HOOK_SLOTS * ACTION_SLOTS, false, "Packets and bytes by hook and action: index = hook * 32 + action.";
    RULE_COUNTERS: "rule_counters" PerCpuHash<u32, Tally> Kernel, 16384, true, "Packets and bytes that each policy rule decided on, by rule number.";
    PORT_COUNTERS: "port_counters" PerCpuArray<u32, PortCounters> Kernel, 4096, true, "Packets, bytes and drops of each local endpoint, by slot.";
    EVENT_BUDGET: "event_budget" PerCpuArray<u32, [u64; 4]> Transient, 1, false, "Rate limit of the events, per CPU: window start (ns), events in it, suppressed since the last event, unused.";
    ICMP_ERRORS: "icmp_errors" PerCpuArray<u32, [u64; 25]> Transient, 1, false, "ICMP errors, per CPU: the time (ns) up to which the rate limit is used up, and room to put one together.";
    REJECTS: "rejects" PerCpuArray<u32, [u64; 25]> Transient, 1, false, "Answers to what policies reject, per CPU: the time (ns) up to which the rate limit is used up, and room to put one together.";
    FLOOD_BUDGET: "flood_budget" LruHash<u32, u64> Transient, 4096, false, "Rate limit of what a port may have replicated, by interface index: the time (ns) up to which it is used up.";
    GROUPS: "groups" Hash<GroupKey, GroupValue> Kernel, 65536, true, "Groups that ports of this node have joined, as their own IGMP and MLD reports say.";
    GROUP_COUNTS: "group_counts" Hash<u32, GroupCount> Kernel, 4096, true, "How many groups each port has joined, and how many joins were refused, by interface index.";
    FLOWS: "flows" LruHash<FlowKey, FlowValue> Kernel, 131072, true, "Connection tracking: flows of endpoints with a policy that have seen an answer.";
    NEW_FLOWS: "new_flows" LruHash<FlowKey, FlowValue> Kernel, 32768, true, "Connection tracking: flows that nobody has answered yet. Whoever begins many of them pushes out no other.";
    FRAGMENTS: "fragments" LruHash<FragmentKey, FragmentValue> Kernel, 4096, true, "Ports of IP packets in fragments, from their first fragment.";
    NAT: "nat" LruHash<NatKey, NatValue> Kernel, 131072, true, "Address translation: flows with the world that have seen an answer, two rows each.";
    NEW_NAT: "new_nat" LruHash<NatKey, NatValue> Kernel, 32768, true, "Address translation: flows with the world that nobody has answered yet, two rows each.";
    NAT_ROOM: "nat_room" PerCpuArray<u32, [u64; 32]> Transient, 1, false, "Room to put a translation together, per CPU.";
    QUESTION: "question" PerCpuArray<u32, [u64; 35]> Transient, 1, false, "Room to put together what policies are asked, per CPU.";
    NAMES: "names" Hash<NameKey, NameValue> Kernel, 65536, true, "Which names an endpoint's addresses were told for, and until when. The agent's alone, for the next one.";
    DNS: "dns" RingBuf<u32, DnsPacket> Transient, 1 << 20, true, "DNS queries of endpoints whose policies have domain names, and the answers, which the agent delivers.";
    DNS_WATCH: "dns_watch" PerCpuArray<u32, u64> Transient, 2, false, "Per CPU: 0 is the time since boot (ns) up to which an agent reads `dns`, 1 counts packets that found no room.";
    EVENTS: "events" RingBuf<u32, DropEvent> Transient, 1 << 20, true, "Sampled drop events.";
    CAPTURE: "capture" PerCpuArray<u32, u64> Transient, 2, false, "While somebody captures, per CPU: 0 is the time since boot (ns) up to which dropped packets are copied, 1 counts those that found no room.";
    CAPTURED: "captured" RingBuf<u32, CapturedDrop> Transient, 1 << 20, true, "Dropped packets, while somebody captures.";
}

/// Names of the programs in the object. Each is at most 15 bytes, the kernel's limit for a program name.
pub mod program {
    /// TC ingress of every port.
    pub const FROM_CONTAINER: &str = "from_container";
    /// TC ingress of every uplink.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// XDP of an uplink.
    pub const FROM_UPLINK_XDP: &str = "from_uplink_xdp";
    /// TC ingress of the agent's `vxlan` device.
    pub const FROM_VXLAN: &str = "from_vxlan";
    /// TC ingress of the far side of the agent's veth for fragments.
    pub const FROM_FRAG: &str = "from_frag";

    /// All of them.
    pub const ALL: &[&str] = &[FROM_CONTAINER, FROM_UPLINK, FROM_UPLINK_XDP, FROM_VXLAN, FROM_FRAG];
}

#[cfg(test)]
mod tests {
    use super::{MAPS, program};

    #[test]
    fn names_fit_the_kernel() {
        assert!(MAPS.iter().all(|map| map.name.len() <= 15));
        assert!(program::ALL.iter().all(|name| name.len() <= 15));
    }

    #[test]
    fn maps_have_distinct_names() {
        for (i, map) in MAPS.iter().enumerate() {
            assert!(MAPS[i + 1..].iter().all(|other| other.name != map.name));
        }
    }
}
