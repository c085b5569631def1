//! The rows of a rig's maps.

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, lpm_trie},
};
use fabric_agent::plan::desired::{Rows, Tables};
use fabric_common::{
    abi, addr::Addr, denied::DeniedValue, prefix::VniPrefix, route::RouteValue, settings::Settings,
    source::SourceValue,
};

use crate::walk::Rig;

impl Rig {
    /// Writes rows into the maps, beside or over those that are there.
    pub fn write(&mut self, tables: Tables) {
        let ebpf = &mut self.ebpf;
        let map = ebpf.map_mut(abi::SETTINGS.name).expect("it exists");
        let mut settings = Array::<&mut MapData, Settings>::try_from(map).expect("an array");
        for (key, value) in &tables.settings {
            settings.set(*key, value, 0).expect("the row can be written");
        }
        fill(ebpf, abi::UPLINKS.name, &tables.uplinks);
        fill(ebpf, abi::LOCAL_VTEPS.name, &tables.local_vteps);
        fill(ebpf, abi::NETWORKS.name, &tables.networks);
        fill(ebpf, abi::NODES.name, &tables.nodes);
        fill(ebpf, abi::VTEPS.name, &tables.vteps);
        fill(ebpf, abi::MEMBERS.name, &tables.members);
        fill(ebpf, abi::NUMBERS.name, &tables.numbers);
        fill(ebpf, abi::POLICY_PORTS.name, &tables.policy_ports);
        fill(ebpf, abi::POLICIES.name, &tables.policies);
        let map = ebpf.map_mut(abi::CIDRS.name).expect("it exists");
        let mut cidrs = LpmTrie::<&mut MapData, Addr, u32>::try_from(map).expect("a trie");
        for (key, value) in &tables.cidrs {
            cidrs.insert(&lpm_trie::Key::new(key.bits, key.addr), value, 0).expect("the row can be written");
        }
        let map = ebpf.map_mut(abi::DENIED.name).expect("it exists");
        let mut denied = LpmTrie::<&mut MapData, Addr, DeniedValue>::try_from(map).expect("a trie");
        for (key, value) in &tables.denied {
            denied.insert(&lpm_trie::Key::new(key.bits, key.addr), value, 0).expect("the row can be written");
        }
        fill(ebpf, abi::NAMED.name, &tables.named);
        fill(ebpf, abi::SOURCES.name, &tables.sources);
        fill(ebpf, abi::PORTS.name, &tables.ports);
        fill(ebpf, abi::ENDPOINTS.name, &tables.endpoints);
        fill(ebpf, abi::FDB.name, &tables.fdb);
        fill(ebpf, abi::FLOOD.name, &tables.flood);
        fill(ebpf, abi::ADVERTISEMENTS.name, &tables.advertisements);
        let map = ebpf.map_mut(abi::SOURCE_PREFIXES.name).expect("it exists");
        let mut prefixes = LpmTrie::<&mut MapData, VniPrefix, SourceValue>::try_from(map).expect("a trie");
        for (key, value) in &tables.source_prefixes {
            prefixes
                .insert(&lpm_trie::Key::new(key.bits, key.prefix), value, 0)
                .expect("the row can be written");
        }
        let map = ebpf.map_mut(abi::ROUTES.name).expect("it exists");
        let mut routes = LpmTrie::<&mut MapData, VniPrefix, RouteValue>::try_from(map).expect("a trie");
        for (key, value) in &tables.routes {
            routes
                .insert(&lpm_trie::Key::new(key.bits, key.prefix), value, 0)
                .expect("the row can be written");
        }
        self.tables = tables;
    }

    /// Writes the rows of policies and of who is who, and takes those away that are not among them.
    pub fn replace(&mut self, tables: Tables) {
        let old = std::mem::take(&mut self.tables);
        let ebpf = &mut self.ebpf;
        clear(ebpf, abi::POLICY_PORTS.name, &old.policy_ports, &tables.policy_ports);
        clear(ebpf, abi::POLICIES.name, &old.policies, &tables.policies);
        clear(ebpf, abi::NAMED.name, &old.named, &tables.named);
        clear(ebpf, abi::SOURCES.name, &old.sources, &tables.sources);
        clear(ebpf, abi::PORTS.name, &old.ports, &tables.ports);
        clear(ebpf, abi::ENDPOINTS.name, &old.endpoints, &tables.endpoints);
        clear(ebpf, abi::FDB.name, &old.fdb, &tables.fdb);
        let map = ebpf.map_mut(abi::CIDRS.name).expect("it exists");
        let mut cidrs = LpmTrie::<&mut MapData, Addr, u32>::try_from(map).expect("a trie");
        for key in old.cidrs.keys().filter(|key| !tables.cidrs.contains_key(key)) {
            cidrs.remove(&lpm_trie::Key::new(key.bits, key.addr)).expect("it has the row");
        }
        self.write(tables);
    }
}

fn fill<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, rows: &Rows<K, V>) {
    let map = ebpf.map_mut(name).unwrap_or_else(|| panic!("the object has no map {name}"));
    let mut map =
        HashMap::<&mut MapData, K, V>::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"));
    for (key, value) in rows {
        map.insert(key, value, 0).unwrap_or_else(|error| panic!("map {name}: {error}"));
    }
}

fn clear<K: Pod + Ord, V: Pod>(ebpf: &mut Ebpf, name: &str, old: &Rows<K, V>, new: &Rows<K, V>) {
    let map = ebpf.map_mut(name).unwrap_or_else(|| panic!("the object has no map {name}"));
    let mut map =
        HashMap::<&mut MapData, K, V>::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"));
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        map.remove(key).unwrap_or_else(|error| panic!("map {name}: {error}"));
    }
}
