//! The `[maps]` table: sizes of maps.

use std::collections::BTreeMap;

use fabric_common::abi::{MAPS, MapKind, MapSpec};

use super::{ConfigError, fail};

/// Largest number of entries; a map of that many would take gigabytes.
const MAX_ENTRIES: u32 = 1 << 24;
/// Smallest and largest ring buffer, bytes: a page, and what the kernel would still allocate.
const RING_BYTES: (u32, u32) = (4096, 1 << 28);

/// The default size of every map that can be sized.
pub fn default_maps() -> BTreeMap<&'static str, u32> {
    sized().map(|map| (map.name, map.entries)).collect()
}

fn sized() -> impl Iterator<Item = &'static MapSpec> {
    MAPS.iter().filter(|map| map.sized)
}

/// Defaults with the given sizes in their place.
pub(super) fn check(given: &BTreeMap<String, u64>) -> Result<BTreeMap<&'static str, u32>, ConfigError> {
    let mut sizes = default_maps();
    for (name, size) in given {
        let Some(map) = sized().find(|map| map.name == name) else {
            let names: Vec<_> = sized().map(|map| map.name).collect();
            return fail(format!("[maps] has an unknown key {name}: use {}", names.join(", ")));
        };
        sizes.insert(map.name, check_size(map, *size)?);
    }
    Ok(sizes)
}

fn check_size(map: &MapSpec, size: u64) -> Result<u32, ConfigError> {
    let name = map.name;
    let ring = map.kind == MapKind::RingBuf;
    let (least, most) = if ring { RING_BYTES } else { (1, MAX_ENTRIES) };
    match u32::try_from(size) {
        Ok(size) if ring && !size.is_power_of_two() => fail(format!(
            "[maps] {name} = {size} is not a power of two: the ring buffer is sized in bytes, like {}",
            map.entries
        )),
        Ok(size) if (least..=most).contains(&size) => Ok(size),
        _ => fail(format!("[maps] {name} = {size} is out of range: use {least} to {most}")),
    }
}
