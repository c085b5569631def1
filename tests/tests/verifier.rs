//! The verifier gate: every program loads in every configuration, within a budget of instructions, and the object holds
//! exactly the maps and programs that both sides agreed on.
//!
//! The budgets are what was measured when they were blessed and a little more. After a change that is worth its cost:
//! `FABRIC_BLESS=1 cargo test -p fabric-tests --test verifier`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapInfo},
    programs::Program,
};
use fabric_agent::dataplane::OBJECT;
use fabric_common::{
    abi::{self, MapKind, MapSpec, program},
    settings::global,
};
use fabric_tests::load::{Globals, load, load_traced};

/// Program, then configuration, to instructions that the verifier may look at.
type Budgets = BTreeMap<String, BTreeMap<String, u32>>;

/// Room above what was measured, in percent: other kernels count a little differently.
const ROOM: u32 = 10;

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/budgets.json"))
}

fn info(ebpf: &Ebpf, name: &str) -> aya::programs::ProgramInfo {
    let program: &Program = ebpf.program(name).expect("it is loaded");
    program.info().expect("the kernel tells about a loaded program")
}

fn measure() -> Budgets {
    let mut measured = Budgets::new();
    for globals in Globals::ALL {
        let ebpf = load(globals);
        let configuration = format!(
            "{}={} {}={}",
            global::CROSS_FAMILY,
            u32::from(globals.cross_family),
            global::DEBUG,
            u32::from(globals.debug)
        );
        for name in program::ALL {
            let count = info(&ebpf, name).verified_instruction_count().expect("Linux 5.16 or later counts");
            measured.entry((*name).to_owned()).or_default().insert(configuration.clone(), count);
        }
    }
    measured
}

#[test]
fn every_configuration_loads_within_its_budget() {
    let measured = measure();
    if std::env::var_os("FABRIC_BLESS").is_some() {
        let mut budgets = measured.clone();
        budgets.values_mut().flat_map(BTreeMap::values_mut).for_each(|count| *count += *count * ROOM / 100);
        let text = serde_json::to_string_pretty(&budgets).expect("numbers and names") + "\n";
        fs::write(path(), text).expect("the file can be written");
    }
    let text = fs::read_to_string(path()).expect("budgets.json is there; FABRIC_BLESS=1 makes it");
    let budgets: Budgets = serde_json::from_str(&text).expect("budgets.json is as this test writes it");
    let mut faults = Vec::new();
    for (name, counts) in &measured {
        for (configuration, count) in counts {
            match budgets.get(name).and_then(|counts| counts.get(configuration)) {
                Some(budget) if count <= budget => {}
                Some(budget) => {
                    faults.push(format!("{name} with {configuration}: {count} instructions, budget {budget}"))
                }
                None => faults.push(format!("{name} with {configuration}: no budget, {count} instructions")),
            }
        }
    }
    let names = |budgets: &Budgets| budgets.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&budgets), names(&measured), "budgets for other programs than there are");
    assert!(faults.is_empty(), "over budget:\n{}\nFABRIC_BLESS=1 accepts it", faults.join("\n"));
}

/// What other kernels are asked (`cargo xtask test kernels`): their verifiers count otherwise, so there is no budget.
#[test]
fn every_configuration_loads() {
    let largest = measure().values().flat_map(|counts| counts.values().copied()).max().unwrap_or(0);
    assert!(largest > 0, "nothing was loaded");
    eprintln!(
        "@fact loaded {} in {} configurations, up to {largest} instructions",
        program::ALL.len(),
        Globals::ALL.len()
    );
}

#[test]
fn the_traced_programs_load_too() {
    // Their instructions are nobody's concern: no traffic meets them.
    Globals::ALL.into_iter().for_each(|globals| drop(load_traced(globals)));
}

#[test]
fn the_object_has_the_agreed_programs_and_maps() {
    let ebpf = EbpfLoader::new().load(OBJECT).expect("the object parses");
    let programs: BTreeSet<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(programs, program::ALL.iter().map(|name| (*name).to_owned()).collect());
    let maps: BTreeSet<_> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
    let agreed: BTreeSet<_> = abi::MAPS.iter().map(|map| map.name.to_owned()).collect();
    let missing: Vec<_> = agreed.difference(&maps).collect();
    assert!(missing.is_empty(), "maps that abi::MAPS has and the object has not: {missing:?}");
    // aya's log, and the section of the load-time globals.
    let other: Vec<_> =
        maps.difference(&agreed).filter(|name| *name != "AYA_LOGS" && !name.starts_with(".rodata")).collect();
    assert!(other.is_empty(), "maps that the object has and abi::MAPS has not: {other:?}");
}

#[test]
fn every_map_is_as_agreed() {
    let ebpf = EbpfLoader::new().load(OBJECT).map(load_all).expect("the object loads");
    let mut seen = BTreeMap::new();
    for name in program::ALL {
        for id in info(&ebpf, name).map_ids().expect("the kernel tells").expect("Linux 4.15 or later tells") {
            let map = MapInfo::from_id(id).expect("a map of a loaded program exists");
            seen.insert(map.name_as_str().expect("a name").to_owned(), map);
        }
    }
    for spec in abi::MAPS {
        // What numbers and addresses stand for is the agent's alone.
        let agents;
        let map = if [abi::NUMBERS.name, abi::NAMES.name].contains(&spec.name) {
            let Some(Map::HashMap(data)) = ebpf.map(spec.name) else {
                panic!("the object has no map {}", spec.name)
            };
            agents = data.info().expect("the kernel tells");
            &agents
        } else {
            seen.get(spec.name).unwrap_or_else(|| panic!("no program uses map {}", spec.name))
        };
        let (key, value) = sizes(spec);
        assert_eq!(
            (map.key_size(), map.value_size()),
            (key, value),
            "map {}: bytes of key and value",
            spec.name
        );
        assert_eq!(map.max_entries(), spec.entries, "map {}: entries", spec.name);
        let kind = map.map_type().expect("a known type");
        assert_eq!(kind, map_type(spec.kind), "map {}: kind", spec.name);
    }
}

fn load_all(mut ebpf: Ebpf) -> Ebpf {
    for name in program::ALL {
        let program = ebpf.program_mut(name).expect("it is in the object");
        if let Program::Xdp(xdp) = program {
            xdp.load().expect("it loads");
        } else if let Program::SchedClassifier(tc) = program {
            tc.load().expect("it loads");
        }
    }
    ebpf
}

/// What the kernel calls the sizes: with the prefix length of a trie, and nothing for a ring buffer.
fn sizes(spec: &MapSpec) -> (u32, u32) {
    let (key, value) = (spec.sizes.0 as u32, spec.sizes.1 as u32);
    match spec.kind {
        MapKind::RingBuf => (0, 0),
        MapKind::LpmTrie => (key + size_of::<u32>() as u32, value),
        MapKind::Hash | MapKind::PerCpuHash | MapKind::LruHash | MapKind::Array | MapKind::PerCpuArray => {
            (key, value)
        }
    }
}

fn map_type(kind: MapKind) -> aya::maps::MapType {
    use aya::maps::MapType;
    match kind {
        MapKind::Hash => MapType::Hash,
        MapKind::PerCpuHash => MapType::PerCpuHash,
        MapKind::LruHash => MapType::LruHash,
        MapKind::Array => MapType::Array,
        MapKind::PerCpuArray => MapType::PerCpuArray,
        MapKind::LpmTrie => MapType::LpmTrie,
        MapKind::RingBuf => MapType::RingBuf,
    }
}
