//! Counters as the programs keep them, summed over the CPUs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use fabric_api::status::{Counter, EndpointCounters, MapStatus};
use fabric_common::{
    abi::{self, MAPS, MapSpec},
    counters::{DropKey, Tally, action_index},
    port::PortCounters,
    reason::{Action, DropReason, Hook},
};

use super::{
    error::DataplaneError,
    maps::{self, OpenMaps, aya_error},
    resize,
    sys::RawMap,
};

/// A reader of every counter. Cheap to clone; works as long as it lives, also while a pass is running.
#[derive(Clone)]
pub struct Counters {
    maps: Arc<Opened>,
}

struct Opened {
    drops: PerCpuHashMap<MapData, DropKey, Tally>,
    actions: PerCpuArray<MapData, Tally>,
    rules: PerCpuHashMap<MapData, u32, Tally>,
    ports: Map,
    all: Vec<(&'static MapSpec, MapData)>,
}

impl Counters {
    pub(super) fn open(open: &OpenMaps) -> Result<Self, DataplaneError> {
        let drops = Map::PerCpuHashMap(open.reopen(&abi::DROPS)?);
        let actions = Map::PerCpuArray(open.reopen(&abi::ACTIONS)?);
        let rules = Map::PerCpuHashMap(open.reopen(&abi::RULE_COUNTERS)?);
        let ports = Map::PerCpuArray(open.reopen(&abi::PORT_COUNTERS)?);
        let all =
            MAPS.iter().map(|spec| Ok((spec, open.reopen(spec)?))).collect::<Result<_, DataplaneError>>()?;
        let opened = Opened {
            drops: drops.try_into().map_err(failed(&abi::DROPS, "open it"))?,
            actions: actions.try_into().map_err(failed(&abi::ACTIONS, "open it"))?,
            rules: rules.try_into().map_err(failed(&abi::RULE_COUNTERS, "open it"))?,
            ports,
            all,
        };
        Ok(Self { maps: Arc::new(opened) })
    }

    /// Makes a row of `drops` for every pair, so that the programs only count; values that are there stay. Returns the
    /// pairs whose row was missing.
    pub(super) fn fill_drops(&self) -> Result<Vec<(Hook, DropReason)>, DataplaneError> {
        let Some(raw) = self.raw(&abi::DROPS)? else { return Ok(Vec::new()) };
        let error = DataplaneError::map(abi::DROPS.name, "fill it");
        let mut missing = Vec::new();
        for (hook, reason) in pairs(Hook::ALL, DropReason::ALL) {
            let key = DropKey::new(hook, reason);
            if raw.lookup(zerocopy::IntoBytes::as_bytes(&key)).map_err(&error)?.is_none() {
                let zero = vec![0; raw.value_size()];
                raw.update(zerocopy::IntoBytes::as_bytes(&key), &zero).map_err(&error)?;
                missing.push((hook, reason));
            }
        }
        Ok(missing)
    }

    fn raw(&self, wanted: &MapSpec) -> Result<Option<RawMap<'_>>, DataplaneError> {
        let map = self.maps.all.iter().find(|(spec, _)| spec.name == wanted.name);
        map.map(|(spec, data)| maps::raw(spec, data)).transpose()
    }

    /// Makes a row of `rule_counters` for each of these rules that has none, so that the programs only count. Rules beyond the
    /// map's room have none and are not counted; returns how many.
    pub(super) fn add_rules(&self, rules: &BTreeSet<u32>) -> Result<usize, DataplaneError> {
        let Some(raw) = self.raw(&abi::RULE_COUNTERS)? else { return Ok(rules.len()) };
        let error = DataplaneError::map(abi::RULE_COUNTERS.name, "fill it");
        let zero = vec![0; raw.value_size()];
        let mut left = 0;
        for rule in rules {
            let key = rule.to_ne_bytes();
            if raw.lookup(&key).map_err(&error)?.is_some() {
                continue;
            }
            match raw.update(&key, &zero) {
                Ok(()) => {}
                Err(full) if full.raw_os_error() == Some(nix::libc::E2BIG) => left += 1,
                Err(other) => return Err(error(other)),
            }
        }
        Ok(left)
    }

    /// As [`Self::add_rules`], and takes the rows of all other rules away: what else gets such a number begins at zero.
    pub(super) fn keep_rules(&self, rules: &BTreeSet<u32>) -> Result<usize, DataplaneError> {
        let Some(raw) = self.raw(&abi::RULE_COUNTERS)? else { return Ok(rules.len()) };
        let error = DataplaneError::map(abi::RULE_COUNTERS.name, "tidy it");
        let mut missing = rules.clone();
        for key in raw.keys().map_err(&error)? {
            let number = <[u8; 4]>::try_from(key.as_slice()).map(u32::from_ne_bytes);
            if !number.is_ok_and(|number| missing.remove(&number) || rules.contains(&number)) {
                raw.delete(&key).map_err(&error)?;
            }
        }
        self.add_rules(&missing)
    }

    /// What each rule that is counted has decided on, by its number.
    pub fn rules(&self) -> Result<BTreeMap<u32, Tally>, DataplaneError> {
        let rows = self.maps.rules.iter();
        let rows = rows.map(|row| row.map(|(rule, values)| (rule, sum(&values))));
        rows.collect::<Result<_, _>>().map_err(failed(&abi::RULE_COUNTERS, "read it"))
    }

    /// Every drop and action of every hook, zeros included, in the order of hooks and then numbers.
    pub fn all(&self) -> Result<Vec<Counter>, DataplaneError> {
        let mut counters = Vec::new();
        for (hook, reason) in pairs(Hook::ALL, DropReason::ALL) {
            let tally = self.drop_tally(hook, reason)?;
            counters.push(counter(hook, "drop", reason.as_str(), tally));
        }
        for (hook, action) in pairs(Hook::ALL, Action::ALL) {
            let values = self.maps.actions.get(&action_index(hook, action), 0);
            let tally = sum(&values.map_err(failed(&abi::ACTIONS, "read it"))?);
            counters.push(counter(hook, "action", action.as_str(), tally));
        }
        Ok(counters)
    }

    /// Drops of one reason at one hook.
    pub fn drop_tally(&self, hook: Hook, reason: DropReason) -> Result<Tally, DataplaneError> {
        match self.maps.drops.get(&DropKey::new(hook, reason), 0) {
            Ok(values) => Ok(sum(&values)),
            // A row removed by hand: nothing is counted until the next repair.
            Err(MapError::KeyNotFound) => Ok(Tally { packets: 0, bytes: 0 }),
            Err(error) => Err(failed(&abi::DROPS, "read it")(error)),
        }
    }

    /// Counters of a local endpoint, by slot.
    pub fn port(&self, slot: u32) -> Result<EndpointCounters, DataplaneError> {
        let ports = PerCpuArray::<_, PortCounters>::try_from(&self.maps.ports)
            .map_err(failed(&abi::PORT_COUNTERS, "open it"))?;
        let values = ports.get(&slot, 0).map_err(failed(&abi::PORT_COUNTERS, "read it"))?;
        Ok(values.iter().fold(EndpointCounters::default(), |sum, cpu| EndpointCounters {
            egress_packets: sum.egress_packets + cpu.egress_packets,
            egress_bytes: sum.egress_bytes + cpu.egress_bytes,
            ingress_packets: sum.ingress_packets + cpu.ingress_packets,
            ingress_bytes: sum.ingress_bytes + cpu.ingress_bytes,
            egress_drops: sum.egress_drops + cpu.egress_drops,
            ingress_drops: sum.ingress_drops + cpu.ingress_drops,
        }))
    }

    /// Sets a slot to zero, before another endpoint gets it.
    pub fn reset_port(&self, slot: u32) -> Result<(), DataplaneError> {
        let Some(raw) = self.raw(&abi::PORT_COUNTERS)? else { return Ok(()) };
        raw.update(&slot.to_ne_bytes(), &vec![0; raw.value_size()])
            .map_err(DataplaneError::map(abi::PORT_COUNTERS.name, "reset a slot"))
    }

    /// Entries in use and room of every map, in the order of `abi::MAPS`. Of arrays: entries that are not zero.
    pub fn map_use(&self) -> Result<Vec<MapStatus>, DataplaneError> {
        self.maps
            .all
            .iter()
            .map(|(spec, data)| {
                let (entries, max_entries) = resize::usage(spec, data)?;
                Ok(MapStatus { name: spec.name.to_owned(), entries, max_entries })
            })
            .collect()
    }
}

fn pairs<A: Copy, B: Copy>(first: &'static [A], second: &'static [B]) -> impl Iterator<Item = (A, B)> {
    first.iter().flat_map(|a| second.iter().map(|b| (*a, *b)))
}

fn failed(spec: &'static MapSpec, what: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |error| aya_error(spec.name, what, &error)
}

fn counter(hook: Hook, kind: &str, name: &str, tally: Tally) -> Counter {
    Counter {
        hook: hook.as_str().to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        packets: tally.packets,
        bytes: tally.bytes,
    }
}

fn sum(values: &PerCpuValues<Tally>) -> Tally {
    values.iter().fold(Tally { packets: 0, bytes: 0 }, |sum, cpu| Tally {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    })
}
