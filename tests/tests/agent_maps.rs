//! The agent's maps on the real kernel: what is reused, resized, refused and repaired. Needs root.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use aya::maps::{HashMap, Map, MapData, MapInfo, PerCpuArray, PerCpuHashMap, PerCpuValues};
use fabric_agent::{
    dataplane::{
        Dataplane, DataplaneError, Row,
        ownership::{self, map_pin},
    },
    plan::desired::{PrefixKey, Tables},
    policy::{Change, State},
};
use fabric_common::{
    abi,
    addr::{Addr, Mac},
    counters::{DropKey, Tally},
    endpoint::{EndpointKey, EndpointValue},
    fdb::{FdbKey, FdbValue},
    flow::{FlowKey, FlowValue},
    policy::{EGRESS, IDENTITY_ANYONE, KIND_RULE, NumberKey, NumberValue, PolicyKey, PolicyValue, verdict},
    port::PortCounters,
    prefix::VniPrefix,
    reason::{DropReason, Hook},
    source::SourceValue,
};
use fabric_tests::world::{Result, World};

const VNI: u32 = 100;

fn endpoint(number: u8) -> (EndpointKey, EndpointValue) {
    let key = EndpointKey { vni: VNI, addr: Addr::v4([10, 0, 0, number]) };
    let mac = Mac::new([2, 0xfc, 10, 0, 0, number]);
    let value = EndpointValue { mac, flags: 0, ifindex: 7, node: 1, identity: 0, slot: 3, generation: 1 };
    (key, value)
}

/// Counts on one CPU as a program would.
fn count(pin: &Path, slot: u32, packets: u64) -> Result {
    let mut ports: PerCpuArray<_, PortCounters> = Map::PerCpuArray(MapData::from_pin(pin)?).try_into()?;
    let mut values = ports.get(&slot, 0)?.to_vec();
    values[0].egress_packets += packets;
    ports.set(slot, PerCpuValues::try_from(values)?, 0)?;
    Ok(())
}

#[test]
fn reopening_keeps_maps_rows_and_counters() {
    World::run(|world| {
        let mut first = world.open()?;
        let (key, value) = endpoint(1);
        first.tables().endpoints.insert(&key, &value)?;
        count(&world.pin(&abi::PORT_COUNTERS), 3, 11)?;
        let id = MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.id();
        drop(first);

        let mut second = world.open()?;
        assert_eq!(MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.id(), id);
        assert_eq!(second.tables().endpoints.dump()?, BTreeMap::from([(key, value)]));
        assert_eq!(second.counters()?.port(3)?.egress_packets, 11);
        second.counters()?.reset_port(3)?;
        assert_eq!(second.counters()?.port(3)?.egress_packets, 0);
        assert_eq!(second.retire()?, Vec::<String>::new());
        Ok(())
    });
}

#[test]
fn drops_has_a_row_for_every_pair_and_keeps_its_values() {
    World::run(|world| {
        let first = world.open()?;
        let pairs = Hook::ALL.len() * DropReason::ALL.len();
        let used = first.counters()?.map_use()?;
        let drops = used.iter().find(|map| map.name == abi::DROPS.name).ok_or("no drops")?;
        assert_eq!(drops.entries as usize, pairs);
        assert_eq!(first.counters()?.all()?.iter().filter(|counter| counter.kind == "drop").count(), pairs);
        assert!(first.counters()?.all()?.iter().all(|counter| counter.packets == 0));
        Ok(())
    });
}

#[test]
fn another_size_keeps_the_content() {
    World::run(|world| {
        let mut options = world.options();
        let mut first = Dataplane::open(&options)?;
        for number in 1..=60 {
            let (key, value) = endpoint(number);
            first.tables().endpoints.insert(&key, &value)?;
        }
        let prefix = PrefixKey { bits: 128, prefix: VniPrefix::new(VNI, Addr::v4([0; 4])) };
        let source = SourceValue { nodes: [5, 0, 0, 0], identity: 0, flags: 0, generation: 2 };
        first.tables().source_prefixes.insert(&prefix, &source)?;
        count(&world.pin(&abi::PORT_COUNTERS), 9, 5)?;
        drop(first);

        for name in ["endpoints", "port_counters", "source_prefixes"] {
            options.sizes.insert(name.to_owned(), 100);
        }
        let mut second = Dataplane::open(&options)?;
        assert_eq!(second.tables().endpoints.dump()?.len(), 60);
        assert_eq!(second.tables().source_prefixes.dump()?, BTreeMap::from([(prefix, source)]));
        assert_eq!(second.counters()?.port(9)?.egress_packets, 5);
        // The old programs count on until they are replaced.
        count(&world.pin(&abi::PORT_COUNTERS), 9, 2)?;
        assert_eq!(second.retire()?.len(), 3);
        assert_eq!(second.counters()?.port(9)?.egress_packets, 7);
        assert_eq!(MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.max_entries(), 100);
        assert_eq!(world.files(ownership::MAPS_DIR)?.len(), abi::MAPS.len());
        drop(second);

        let before = world.files(ownership::MAPS_DIR)?;
        options.sizes.insert("endpoints".to_owned(), 59);
        let refused = Dataplane::open(&options).err().ok_or("a map shrank below its content")?;
        assert!(matches!(refused, DataplaneError::TooSmall { content: 60, wanted: 59, .. }), "{refused}");
        assert_eq!(world.files(ownership::MAPS_DIR)?, before);
        Ok(())
    });
}

#[test]
fn a_crash_during_a_resize_loses_nothing() {
    World::run(|world| {
        let mut options = world.options();
        let (key, value) = endpoint(1);
        Dataplane::open(&options)?.tables().endpoints.insert(&key, &value)?;
        options.sizes.insert("endpoints".to_owned(), 100);
        // Gone before `retire`: the successor is complete and takes the name at the next start.
        drop(Dataplane::open(&options)?);
        let successor =
            world.bpffs().join("maps").join(format!("{}{}", map_pin(&abi::ENDPOINTS), ownership::SUCCESSOR));
        assert!(successor.exists());
        // Gone while copying: what is there is worthless.
        let copying =
            world.bpffs().join("maps").join(format!("{}{}", map_pin(&abi::FDB), ownership::COPYING));
        HashMap::<MapData, u32, u32>::create(1, 0)?.pin(&copying)?;
        let mut dataplane = Dataplane::open(&options)?;
        assert!(!successor.exists() && !copying.exists());
        assert_eq!(MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.max_entries(), 100);
        assert_eq!(dataplane.tables().endpoints.dump()?, BTreeMap::from([(key, value)]));
        assert!(dataplane.retire()?.is_empty());
        Ok(())
    });
}

#[test]
fn maps_of_another_layout_go_only_when_the_programs_are_replaced() {
    World::run(|world| {
        drop(world.open()?);
        let old = world.bpffs().join("maps").join("fdb@0123456789abcdef");
        fs::rename(world.pin(&abi::FDB), &old)?;
        let mut dataplane = world.open()?;
        assert!(dataplane.repair()?.is_empty() && old.exists());
        assert_eq!(dataplane.retire()?.len(), 1);
        assert!(!old.exists() && world.pin(&abi::FDB).exists());
        Ok(())
    });
}

#[test]
fn a_map_of_another_shape_under_our_name_is_not_reused() {
    World::run(|world| {
        drop(world.open()?);
        let pin = world.pin(&abi::FDB);
        fs::remove_file(&pin)?;
        HashMap::<MapData, [u8; 12], u64>::create(64, 0)?.pin(&pin)?;
        let mut dataplane = world.open()?;
        let key = FdbKey::new(VNI, Mac::new([2, 0, 0, 0, 0, 1]));
        let value =
            FdbValue { ifindex: 1, node: 2, slot: 3, flags: 0, generation: 4, identity: 5, policy: 6 };
        dataplane.tables().fdb.insert(&key, &value)?;
        assert_eq!(dataplane.retire()?.len(), 1);
        assert_eq!(MapInfo::from_pin(&pin)?.value_size() as usize, size_of::<FdbValue>());
        assert_eq!(dataplane.tables().fdb.dump()?, BTreeMap::from([(key, value)]));
        Ok(())
    });
}

#[test]
fn a_full_map_names_its_setting_and_the_row_and_other_rows_are_written() {
    World::run(|world| {
        let mut options = world.options();
        options.sizes.insert("endpoints".to_owned(), 3);
        let mut dataplane = Dataplane::open(&options)?;
        let rows: BTreeMap<_, _> = (1..=5).map(endpoint).collect();
        let failure =
            dataplane.tables().endpoints.upsert(&rows).err().ok_or("five rows in a map of three")?;
        assert!(
            matches!(failure.error, DataplaneError::Full { map: "endpoints", limit: 3, .. }),
            "{}",
            failure.error
        );
        let row = "row {vni 100, address 10.0.0.4} did not fit";
        assert!(failure.error.to_string().contains(row), "{}", failure.error);
        assert_eq!(failure.keys.len(), 2);
        assert_eq!(dataplane.tables().endpoints.dump()?.len(), 3);
        // Absent keys are success.
        dataplane.tables().endpoints.delete(rows.keys()).map_err(|failure| failure.error)?;
        assert!(dataplane.tables().endpoints.dump()?.is_empty());
        Ok(())
    });
}

#[test]
fn a_policy_that_does_not_fit_admits_only_what_its_rows_say() {
    World::run(|world| {
        let mut options = world.options();
        options.sizes.insert("policies".to_owned(), 2);
        let mut dataplane = Dataplane::open(&options)?;
        let row = |identity, verdict| {
            (PolicyKey { policy: 1, direction: EGRESS, identity }, PolicyValue { verdict })
        };
        let everybody = row(IDENTITY_ANYONE, verdict::ALLOW | 1);
        let policies =
            |denied: u32| [everybody].into_iter().chain((1..=denied).map(|i| row(i, verdict::DENY | 2)));
        let mut actual = Tables::default();
        for (denied, fits) in [(1, true), (3, false), (1, true)] {
            let wanted = Tables { policies: policies(denied).collect(), ..Tables::default() };
            let change = Change { actual: State::from(&actual), wanted: State::from(&wanted) };
            let errors = dataplane.tables().upsert(&wanted, change);
            assert_eq!(errors.is_empty(), fits, "{errors:?}");
            let found = dataplane.tables().policies.dump()?;
            assert_eq!(found.contains_key(&everybody.0), fits, "{found:?}");
            let surplus =
                found.iter().filter(|(key, _)| key.identity > 1).map(|(key, value)| (*key, *value)).collect();
            assert!(dataplane.tables().delete(&Tables { policies: surplus, ..Tables::default() }).is_empty());
            actual.policies = dataplane.tables().policies.dump()?;
        }
        Ok(())
    });
}

#[test]
fn tables_come_back_as_they_were_written() {
    World::run(|world| {
        let mut dataplane = world.open()?;
        assert_eq!(dataplane.tables().dump()?, Tables::default());
        let mut rows = Tables { endpoints: (1..=50).map(endpoint).collect(), ..Tables::default() };
        rows.settings.insert(
            0,
            fabric_common::settings::Settings {
                node: 7,
                vxlan_ifindex: 3,
                frag_ifindex: 4,
                events_per_second: 10,
                vxlan_port: 4789u16.to_be_bytes(),
                nat_first: 61000u16.to_be_bytes(),
                node_mac: Mac::new([2, 0xfd, 0, 0, 0, 7]),
                nat_last: 65535u16.to_be_bytes(),
                flags: 0,
            },
        );
        let nothing = Tables::default();
        let change = Change { actual: State::from(&nothing), wanted: State::from(&rows) };
        assert!(dataplane.tables().upsert(&rows, change).is_empty());
        assert_eq!(dataplane.tables().dump()?, rows);
        assert!(dataplane.tables().delete(&rows).is_empty());
        assert_eq!(dataplane.tables().dump()?, Tables::default());
        Ok(())
    });
}

#[test]
fn a_drop_counter_that_is_removed_by_hand_counts_again() {
    World::run(|world| {
        let mut dataplane = world.open()?;
        let key = DropKey::new(Hook::ALL[0], DropReason::ALL[0]);
        let map = Map::PerCpuHashMap(MapData::from_pin(world.pin(&abi::DROPS))?);
        let mut drops = PerCpuHashMap::<_, DropKey, Tally>::try_from(map)?;
        drops.remove(&key)?;
        let done = dataplane.repair()?;
        assert_eq!(done.len(), 1, "{done:?}");
        assert!(done[0].starts_with("map row drops {hook "), "{done:?}");
        assert!(drops.get(&key, 0)?.iter().all(|tally| tally.packets == 0));
        assert!(dataplane.repair()?.is_empty());
        Ok(())
    });
}

#[test]
fn rules_are_counted_for_as_long_as_their_numbers_are_taken() {
    World::run(|world| {
        let mut dataplane = world.open()?;
        let numbers = |rules: &[u32]| -> BTreeMap<_, _> {
            let row = |number: &u32| {
                (NumberKey { kind: KIND_RULE, number: *number }, NumberValue { digest: [*number as u8; 16] })
            };
            rules.iter().map(row).collect()
        };
        let nothing = Tables::default();
        let rows = Tables { numbers: numbers(&[1, 2]), ..Tables::default() };
        let change = Change { actual: State::from(&nothing), wanted: State::from(&rows) };
        assert!(dataplane.upsert(&rows, change).is_empty());
        let map = Map::PerCpuHashMap(MapData::from_pin(world.pin(&abi::RULE_COUNTERS))?);
        let mut counters = PerCpuHashMap::<_, u32, Tally>::try_from(map)?;
        let mut values = counters.get(&2, 0)?.to_vec();
        values[0].packets = 7;
        counters.insert(2, PerCpuValues::try_from(values)?, 0)?;
        counters.remove(&1)?;
        assert_eq!(dataplane.dump()?, rows);
        let packets = |dataplane: &Dataplane| -> Result<Vec<(u32, u64)>> {
            Ok(dataplane
                .counters()?
                .rules()?
                .into_iter()
                .map(|(rule, tally)| (rule, tally.packets))
                .collect())
        };
        assert_eq!(packets(&dataplane)?, [(1, 0), (2, 7)], "what was removed by hand is back");
        // Another agent finds them, and what its number is taken from begins anew.
        drop(dataplane);
        let mut dataplane = world.open()?;
        dataplane.dump()?;
        assert_eq!(packets(&dataplane)?, [(1, 0), (2, 7)]);
        assert!(
            dataplane.tables().delete(&Tables { numbers: numbers(&[2]), ..Tables::default() }).is_empty()
        );
        dataplane.dump()?;
        assert_eq!(packets(&dataplane)?, [(1, 0)]);
        Ok(())
    });
}

#[test]
fn more_rules_than_can_be_counted_are_in_force_all_the_same() {
    World::run(|world| {
        let mut options = world.options();
        options.sizes.insert("rule_counters".to_owned(), 4);
        let mut dataplane = Dataplane::open(&options)?;
        let row =
            |number| (NumberKey { kind: KIND_RULE, number }, NumberValue { digest: [number as u8; 16] });
        let rows = Tables { numbers: (1..=9).map(row).collect(), ..Tables::default() };
        let nothing = Tables::default();
        let change = Change { actual: State::from(&nothing), wanted: State::from(&rows) };
        assert!(dataplane.upsert(&rows, change).is_empty());
        assert_eq!(dataplane.dump()?, rows);
        assert_eq!(dataplane.counters()?.rules()?.len(), 4);
        Ok(())
    });
}

#[test]
fn all_flows_are_read_in_parts_also_while_they_come_and_go() {
    World::run(|world| {
        let mut options = world.options();
        options.sizes.insert("flows".to_owned(), 20_000);
        let dataplane = Dataplane::open(&options)?;
        let key = |number: u16, vni| FlowKey {
            vni,
            low: Addr::v4([10, 0, 0, 1]),
            high: Addr::v4([10, 0, 0, 2]),
            low_port: number.to_be_bytes(),
            high_port: [0, 80],
            protocol: 17,
            zero: [0; 3],
        };
        let map = |spec| -> Result<HashMap<MapData, FlowKey, FlowValue>> {
            Ok(Map::LruHashMap(MapData::from_pin(world.pin(spec))?).try_into()?)
        };
        let (mut flows, mut new) = (map(&abi::FLOWS)?, map(&abi::NEW_FLOWS)?);
        let value = FlowValue::from_row(&[0; size_of::<FlowValue>()]).expect("any bits are a row");
        for number in 0..10_000 {
            flows.insert(key(number, 1), value, 0)?;
        }
        new.insert(key(1, 2), value, 0)?;
        let mut cursor = dataplane.flows()?.cursor();
        let (mut found, mut parts) = (BTreeSet::new(), 0);
        while let Some(rows) = cursor.next_rows()? {
            assert!(rows.len() <= 4096, "{} rows at once", rows.len());
            found.extend(rows.iter().map(|(key, _)| (key.vni, u16::from_be_bytes(key.low_port))));
            parts += 1;
            // What was just read is removed: the reading goes on where it was.
            for (gone, _) in rows.iter().filter(|(key, _)| key.vni == 1) {
                flows.remove(gone)?;
            }
        }
        assert_eq!(found.len(), 10_001);
        assert!(parts >= 4, "{parts} parts");
        Ok(())
    });
}
