//! A rig with policies: rows as the planner writes them, but with numbers that a test chooses, and a look at the flows.

use std::{collections::BTreeMap, time::Duration};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, MapData, PerCpuHashMap, PerCpuValues, lpm_trie},
    util::nr_cpus,
};
use fabric_common::{
    abi,
    addr::Addr,
    counters::Tally,
    flow::{FlowKey, FlowValue},
    network::FLAG_KEEP,
    policy::{IDENTITY_ANYONE, PolicyKey, PolicyPorts, PolicyValue, verdict},
};

use crate::{cast::Container, walk::Rig};

/// A verdict that admits, by this rule.
pub const fn allow(rule: u32) -> u32 {
    verdict::ALLOW | rule
}

/// A verdict that denies, by this rule.
pub const fn deny(rule: u32) -> u32 {
    verdict::DENY | rule
}

/// A verdict that denies, by this rule, and tells the sender.
pub const fn reject(rule: u32) -> u32 {
    verdict::DENY | verdict::REJECT | rule
}

/// A verdict that is in this table.
pub const fn table(number: u32) -> u32 {
    verdict::TABLE | number
}

/// A table of ranges, whose first one starts at 0.
pub fn ranges(ranges: &[(u32, u32)]) -> PolicyPorts {
    let mut ports = PolicyPorts { starts: [0; 16], verdicts: [0; 16] };
    for at in 0..16 {
        (ports.starts[at], ports.verdicts[at]) = ranges[at.min(ranges.len() - 1)];
    }
    ports
}

impl Rig {
    /// Gives containers identities, and none of them a policy.
    pub fn identify(&mut self, containers: &[(&Container, u32)]) {
        for (container, identity) in containers {
            self.police(container, *identity, 0);
        }
    }

    /// Gives a container an identity and, where it lives on this host, a policy.
    pub fn police(&mut self, container: &Container, identity: u32, policy: u32) {
        let mut tables = self.tables.clone();
        let local = if container.host == self.host { policy } else { 0 };
        for port in tables.ports.values_mut().filter(|port| port.mac == container.mac) {
            (port.identity, port.policy) = (identity, local);
        }
        for (key, entry) in &mut tables.fdb {
            if key.vni == container.network.vni && key.mac == container.mac {
                (entry.identity, entry.policy) = (identity, local);
            }
        }
        for (key, endpoint) in &mut tables.endpoints {
            if key.vni == container.network.vni && endpoint.mac == container.mac {
                endpoint.identity = identity;
            }
        }
        let own =
            [Addr::from(std::net::IpAddr::V4(container.v4)), Addr::from(std::net::IpAddr::V6(container.v6))];
        for (_, source) in tables.sources.iter_mut().filter(|(key, _)| own.contains(&key.addr)) {
            source.identity = identity;
        }
        for target in tables.flood.values_mut() {
            if tables.ports.get(&target.ifindex).is_some_and(|port| port.mac == container.mac) {
                target.policy = local;
            }
        }
        self.write(tables);
    }

    /// What a policy says in a direction: of everybody, and of some.
    pub fn say(&mut self, policy: u32, direction: u32, default: u32, of: &[(u32, u32)]) {
        let rows = [(IDENTITY_ANYONE, default)].into_iter().chain(of.iter().copied());
        let mut map = self.hash::<PolicyKey, PolicyValue>(abi::POLICIES.name);
        for (identity, verdict) in rows {
            let key = PolicyKey { policy, direction, identity };
            map.insert(key, PolicyValue { verdict }, 0).expect("the row can be written");
        }
    }

    /// Lets answered flows of a network go on when policies admit them no more.
    pub fn keep(&mut self, vni: u32) {
        let mut tables = self.tables.clone();
        tables.networks.get_mut(&vni).expect("it has a row").flags |= FLAG_KEEP;
        self.write(tables);
    }

    /// Takes one row of a policy away.
    pub fn forget_policy(&mut self, policy: u32, direction: u32, identity: u32) {
        let key = PolicyKey { policy, direction, identity };
        self.hash::<PolicyKey, PolicyValue>(abi::POLICIES.name).remove(&key).expect("it has a row");
    }

    /// Writes a table of ports.
    pub fn set_table(&mut self, number: u32, ports: PolicyPorts) {
        let mut map = self.hash::<u32, PolicyPorts>(abi::POLICY_PORTS.name);
        map.insert(number, ports, 0).expect("the row can be written");
    }

    /// Gives a prefix (IPv4 has 96 bits more than on paper) an identity.
    pub fn set_cidr(&mut self, addr: Addr, bits: u32, identity: u32) {
        let map = self.ebpf.map_mut(abi::CIDRS.name).expect("it exists");
        let mut trie = LpmTrie::<&mut MapData, Addr, u32>::try_from(map).expect("a trie");
        trie.insert(&lpm_trie::Key::new(bits, addr), identity, 0).expect("the row can be written");
    }

    /// Flows that were answered, and those that were not.
    pub fn flows(&mut self) -> [BTreeMap<FlowKey, FlowValue>; 2] {
        [abi::FLOWS.name, abi::NEW_FLOWS.name].map(|name| {
            self.hash::<FlowKey, FlowValue>(name).iter().map(|row| row.expect("it can be read")).collect()
        })
    }

    /// Gives rules a row to be counted in, as the agent does.
    pub fn count_rules(&mut self, rules: &[u32]) {
        let cpus = nr_cpus().expect("the kernel tells how many CPUs it has");
        let mut map = self.rule_counters();
        for rule in rules {
            let zero = PerCpuValues::try_from(vec![Tally { packets: 0, bytes: 0 }; cpus]);
            map.insert(rule, zero.expect("one for each CPU"), 0).expect("the row can be written");
        }
    }

    /// Packets and bytes of each rule that is counted, and decided on any.
    pub fn counted(&mut self) -> BTreeMap<u32, (u64, u64)> {
        let rows = self.rule_counters();
        let rows = rows.iter().map(|row| row.expect("it can be read"));
        let sums = rows.map(|(rule, values)| {
            (rule, (values.iter().map(|v| v.packets).sum(), values.iter().map(|v| v.bytes).sum()))
        });
        sums.filter(|(_, counted)| *counted != (0, 0)).collect()
    }

    fn rule_counters(&mut self) -> PerCpuHashMap<&mut MapData, u32, Tally> {
        let map = self.ebpf.map_mut(abi::RULE_COUNTERS.name).expect("it exists");
        PerCpuHashMap::try_from(map).expect("a per-CPU hash")
    }

    /// How many flows there are of each kind.
    pub fn count_flows(&mut self) -> (usize, usize) {
        let [answered, new] = self.flows();
        (answered.len(), new.len())
    }

    /// Lets all flows have been quiet for so long.
    pub fn age(&mut self, by: Duration) {
        for name in [abi::FLOWS.name, abi::NEW_FLOWS.name] {
            let mut map = self.hash::<FlowKey, FlowValue>(name);
            let rows: Vec<_> = map.iter().map(|row| row.expect("it can be read")).collect();
            for (key, mut flow) in rows {
                flow.seen = flow.seen.saturating_sub(by.as_nanos() as u64);
                map.insert(key, flow, 0).expect("the row can be written");
            }
        }
    }

    pub(crate) fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        let map = self.ebpf.map_mut(name).unwrap_or_else(|| panic!("the object has no map {name}"));
        HashMap::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"))
    }
}
