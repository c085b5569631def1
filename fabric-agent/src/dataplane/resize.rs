//! Content of maps as a whole: what it needs, and how it moves to a map of another size.

use std::collections::BTreeMap;

use aya::maps::MapData;
use fabric_common::abi::{MapKind, MapSpec};

use super::{
    error::DataplaneError,
    maps::{raw, room},
};

/// A key and a value as bytes.
type Entry = (Vec<u8>, Vec<u8>);

/// Entries of an array that hold something; all of a hash.
fn used(spec: &MapSpec, data: &MapData) -> Result<Vec<Entry>, DataplaneError> {
    let mut entries = raw(spec, data)?.entries().map_err(DataplaneError::map(spec.name, "read it"))?;
    if matches!(spec.kind, MapKind::Array | MapKind::PerCpuArray) {
        entries.retain(|(_, value)| value.iter().any(|byte| *byte != 0));
    }
    Ok(entries)
}

/// Room that the content needs: of a hash its entries, of an array everything up to the last used index.
fn needed(spec: &MapSpec, used: &[Entry]) -> u64 {
    match spec.kind {
        MapKind::Array | MapKind::PerCpuArray => {
            used.iter().map(|(key, _)| index(key) + 1).max().unwrap_or(0)
        }
        MapKind::Hash | MapKind::PerCpuHash | MapKind::LruHash | MapKind::LpmTrie => used.len() as u64,
        MapKind::RingBuf => 0,
    }
}

fn index(key: &[u8]) -> u64 {
    key.try_into().map_or(0, |bytes| u64::from(u32::from_ne_bytes(bytes)))
}

pub(super) fn check_room(spec: &'static MapSpec, old: &MapData, wanted: u32) -> Result<(), DataplaneError> {
    let content = needed(spec, &used(spec, old)?);
    if content > u64::from(wanted) {
        return Err(DataplaneError::TooSmall { map: spec.name, content, wanted });
    }
    Ok(())
}

/// A map that is replaced, kept until the programs use its successor.
pub(super) struct Predecessor {
    data: MapData,
    /// What was copied, to carry over what was counted since.
    copied: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Predecessor {
    /// One whose content is of no use.
    pub(super) fn empty(data: MapData) -> Self {
        Self { data, copied: BTreeMap::new() }
    }
}

/// Copies the content and keeps both, the old map and what was copied.
pub(super) fn copy(
    spec: &'static MapSpec,
    old: MapData,
    new: &MapData,
) -> Result<Predecessor, DataplaneError> {
    let content = used(spec, &old)?;
    let target = raw(spec, new)?;
    for (key, value) in &content {
        target.update(key, value).map_err(DataplaneError::map(spec.name, "copy its content"))?;
    }
    Ok(Predecessor { data: old, copied: content.into_iter().collect() })
}

/// Adds what the old programs counted between the copy and their replacement. A count of the new programs at that very
/// moment and CPU can be lost; without this, all of that time's would be.
pub(super) fn carry_over(
    spec: &'static MapSpec,
    old: &Predecessor,
    new: &MapData,
) -> Result<(), DataplaneError> {
    let target = raw(spec, new)?;
    for (key, now) in used(spec, &old.data)? {
        let before = old.copied.get(&key);
        if before == Some(&now) {
            continue;
        }
        let current = target.lookup(&key).map_err(DataplaneError::map(spec.name, "read it"))?;
        let sum = add_growth(current.as_deref(), &now, before.map(Vec::as_slice));
        target.update(&key, &sum).map_err(DataplaneError::map(spec.name, "write it"))?;
    }
    Ok(())
}

/// `current + (now - before)` by 64-bit counters.
fn add_growth(current: Option<&[u8]>, now: &[u8], before: Option<&[u8]>) -> Vec<u8> {
    let word = |bytes: Option<&[u8]>, at: usize| {
        bytes.and_then(|b| b.get(at..at + 8)).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
    };
    (0..now.len() / 8)
        .flat_map(|i| {
            let growth = word(Some(now), i * 8).saturating_sub(word(before, i * 8));
            word(current, i * 8).wrapping_add(growth).to_ne_bytes()
        })
        .collect()
}

/// How many entries a map holds, and its room.
pub(super) fn usage(spec: &'static MapSpec, data: &MapData) -> Result<(u64, u64), DataplaneError> {
    let room = u64::from(room(spec, data)?);
    let count = match spec.kind {
        MapKind::RingBuf => 0,
        MapKind::Array | MapKind::PerCpuArray => used(spec, data)?.len() as u64,
        MapKind::Hash | MapKind::PerCpuHash | MapKind::LruHash | MapKind::LpmTrie => {
            raw(spec, data)?.count().map_err(DataplaneError::map(spec.name, "count its entries"))?
        }
    };
    Ok((count, room))
}

#[cfg(test)]
mod tests {
    use fabric_common::abi::{DROPS, PORT_COUNTERS};

    use super::{add_growth, needed};

    #[test]
    fn arrays_need_room_up_to_the_last_used_index() {
        let used = [(3u32.to_ne_bytes().to_vec(), vec![1]), (9u32.to_ne_bytes().to_vec(), vec![1])];
        assert_eq!(needed(&PORT_COUNTERS, &used), 10);
        assert_eq!(needed(&DROPS, &used), 2);
        assert_eq!(needed(&PORT_COUNTERS, &[]), 0);
    }

    #[test]
    fn growth_since_the_copy_is_added() {
        let words = |w: &[u64]| w.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
        let sum = add_growth(Some(&words(&[10, 20])), &words(&[7, 5]), Some(&words(&[4, 5])));
        assert_eq!(sum, words(&[13, 20]));
        assert_eq!(add_growth(None, &words(&[3]), None), words(&[3]));
        // A counter that was reset meanwhile grew by nothing.
        assert_eq!(add_growth(Some(&words(&[1])), &words(&[0]), Some(&words(&[9]))), words(&[1]));
    }
}
