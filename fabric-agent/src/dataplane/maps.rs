//! Pinned maps: which are reused, which are replaced, and how their content comes along.
//!
//! A map is reused only if its kind, key size, value size and number of entries are the wanted ones (aya takes a pin
//! as it is). A map that differs gets a successor under the pin name with [`SUCCESSOR`]; while content is being copied
//! the pin ends in [`COPYING`]. The successor takes the predecessor's name in [`OpenMaps::retire`], once the
//! programs use it. After a crash a `COPYING` pin is worthless; a `SUCCESSOR` is complete and was in use, so it takes
//! the name at once.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapType};
use fabric_common::abi::{MAPS, MapContent, MapKind, MapSpec};

use super::{
    bpffs::{self, Directory},
    error::{DataplaneError, chain},
    ownership::{COPYING, SUCCESSOR, is_map_pin, known_map, map_pin},
    resize::{Predecessor, carry_over, check_room, copy},
    sys::{self, RawMap},
};

/// What must agree before a pinned map is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
}

/// What to do about a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is none: create it under its own name.
    Create,
    /// It is as wanted.
    Reuse,
    /// Only the number of entries differs: a successor takes the content over.
    Resize,
    /// It is no map of ours, or one that a wrong hand made: an empty successor takes its place.
    Replace,
}

fn decide(found: Option<Shape>, wanted: Shape, kind: MapKind) -> Decision {
    match found {
        None => Decision::Create,
        Some(found) if found == wanted => Decision::Reuse,
        Some(found) if found == (Shape { entries: found.entries, ..wanted }) && kind != MapKind::RingBuf => {
            Decision::Resize
        }
        Some(_) => Decision::Replace,
    }
}

fn map_type(kind: MapKind) -> MapType {
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

/// Entries that a map has room for.
pub(super) fn room(spec: &'static MapSpec, data: &MapData) -> Result<u32, DataplaneError> {
    Ok(shape(data, spec.name)?.entries)
}

/// Whether every CPU has its own value.
fn per_cpu(kind: MapKind) -> bool {
    matches!(kind, MapKind::PerCpuHash | MapKind::PerCpuArray)
}

/// Bytes of a key and a value as the kernel counts them.
pub(super) fn kernel_sizes(spec: &MapSpec) -> (usize, usize) {
    match spec.kind {
        MapKind::RingBuf => (0, 0),
        MapKind::LpmTrie => (spec.sizes.0 + size_of::<u32>(), spec.sizes.1),
        MapKind::Hash | MapKind::PerCpuHash | MapKind::LruHash | MapKind::Array | MapKind::PerCpuArray => {
            spec.sizes
        }
    }
}

/// The number of entries that the kernel will have for a wanted one: a ring buffer is a power of two of pages, as
/// aya rounds it.
fn rounded(kind: MapKind, entries: u32, page: u32) -> u32 {
    if kind != MapKind::RingBuf {
        return entries;
    }
    page.saturating_mul(entries.div_ceil(page).checked_next_power_of_two().unwrap_or(u32::MAX / page))
}

fn wanted_shape(spec: &MapSpec, entries: u32) -> Shape {
    let (key, value) = kernel_sizes(spec);
    Shape {
        kind: map_type(spec.kind) as u32,
        key: key as u32,
        value: value as u32,
        entries: rounded(spec.kind, entries, sys::page_size()),
    }
}

fn shape(data: &MapData, map: &'static str) -> Result<Shape, DataplaneError> {
    let info = data.info().map_err(|error| aya_error(map, "read its shape", &error))?;
    // A kind that aya does not know is none that is wanted.
    let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
    Ok(Shape { kind, key: info.key_size(), value: info.value_size(), entries: info.max_entries() })
}

pub(super) fn aya_error(
    map: &'static str,
    what: &'static str,
    error: &dyn std::error::Error,
) -> DataplaneError {
    DataplaneError::Map { map, what, source: io::Error::other(chain(error)) }
}

/// Refuses names that are no map's, maps whose size is fixed, and sizes that no map can have.
pub(super) fn check_sizes(sizes: &BTreeMap<String, u32>) -> Result<(), DataplaneError> {
    for (name, entries) in sizes {
        let spec = known_map(name).ok_or_else(|| {
            let known: Vec<_> = MAPS.iter().filter(|spec| spec.sized).map(|spec| spec.name).collect();
            DataplaneError::Sizes(format!(
                "there is no map `{name}`; sizes can be set of {}",
                known.join(", ")
            ))
        })?;
        if !spec.sized {
            return Err(DataplaneError::Sizes(format!("the size of `{name}` is fixed; remove the key")));
        }
        // 2^26 entries of the smallest map are gigabytes; a larger number is a slip of the finger.
        if *entries == 0 || *entries > 1 << 26 {
            return Err(DataplaneError::Sizes(format!(
                "`{name}` must be between 1 and {}, not {entries}",
                1 << 26
            )));
        }
    }
    Ok(())
}

/// Entries of a map: the setting, or the default.
pub(super) fn entries(spec: &MapSpec, sizes: &BTreeMap<String, u32>) -> u32 {
    sizes.get(spec.name).copied().unwrap_or(spec.entries)
}

/// What was decided about one map before the object is loaded.
pub(super) struct Planned {
    pub(super) spec: &'static MapSpec,
    pub(super) decision: Decision,
    pub(super) entries: u32,
    /// Where aya opens or creates the map.
    pub(super) pin: PathBuf,
    old: Option<MapData>,
}

/// Looks at the pins and decides about every map. Changes nothing but what a crashed predecessor left half done.
pub(super) fn plan(
    directory: &Directory,
    sizes: &BTreeMap<String, u32>,
) -> Result<Vec<Planned>, DataplaneError> {
    MAPS.iter().map(|spec| plan_one(directory, spec, entries(spec, sizes))).collect()
}

fn plan_one(directory: &Directory, spec: &'static MapSpec, entries: u32) -> Result<Planned, DataplaneError> {
    let (own, successor, copying) = pins(directory, spec);
    bpffs::unpin(&copying)?;
    if successor.exists() {
        fs::rename(&successor, &own).map_err(DataplaneError::path("rename", &successor))?;
    }
    let old = open_pin(&own, spec.name)?;
    let found = old.as_ref().map(|data| shape(data, spec.name)).transpose()?;
    let decision = decide(found, wanted_shape(spec, entries), spec.kind);
    if let (Decision::Resize, Some(old)) = (decision, &old) {
        check_room(spec, old, entries)?;
    }
    let pin = match decision {
        Decision::Create | Decision::Reuse => own,
        Decision::Resize | Decision::Replace => copying,
    };
    Ok(Planned { spec, decision, entries, pin, old })
}

fn pins(directory: &Directory, spec: &MapSpec) -> (PathBuf, PathBuf, PathBuf) {
    let own = map_pin(spec);
    let path = |suffix: &str| directory.maps().join(format!("{own}{suffix}"));
    (path(""), path(SUCCESSOR), path(COPYING))
}

fn open_pin(path: &Path, map: &'static str) -> Result<Option<MapData>, DataplaneError> {
    // Asked first, so that an absent pin and one that can't be opened are told apart.
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataplaneError::Path { what: "look at", path: path.into(), source }),
        Ok(_) => {}
    }
    MapData::from_pin(path).map(Some).map_err(|error| aya_error(map, "open its pin", &error))
}

/// The map as bytes.
pub(super) fn raw<'a>(spec: &MapSpec, data: &'a MapData) -> Result<RawMap<'a>, DataplaneError> {
    let (key, value) = kernel_sizes(spec);
    let value = if per_cpu(spec.kind) { value.next_multiple_of(8) * cpus()? } else { value };
    Ok(RawMap::new(data.fd().as_fd(), key, value))
}

fn cpus() -> Result<usize, DataplaneError> {
    aya::util::nr_cpus().map_err(|(_, source)| DataplaneError::Kernel { what: "count the CPUs", source })
}

struct OpenMap {
    spec: &'static MapSpec,
    data: MapData,
    pin: PathBuf,
    own_pin: PathBuf,
    predecessor: Option<Predecessor>,
}

/// Every map, open.
pub(super) struct OpenMaps {
    maps: BTreeMap<&'static str, OpenMap>,
}

impl OpenMaps {
    /// Opens the maps that aya has just created or reused, and copies content to the successors.
    pub(super) fn open(directory: &Directory, planned: Vec<Planned>) -> Result<Self, DataplaneError> {
        let mut maps = BTreeMap::new();
        for Planned { spec, decision, pin, old, entries } in planned {
            let data = open_pin(&pin, spec.name)?
                .ok_or_else(|| DataplaneError::Object(format!("it has no map `{}`", spec.name)))?;
            let found = shape(&data, spec.name)?;
            if found != wanted_shape(spec, entries) {
                let text =
                    format!("its map `{}` is {found:?}, not {:?}", spec.name, wanted_shape(spec, entries));
                return Err(DataplaneError::Object(text));
            }
            let predecessor = match (decision, old) {
                (Decision::Resize, Some(old)) => Some(copy(spec, old, &data)?),
                (Decision::Replace, Some(old)) => Some(Predecessor::empty(old)),
                _ => None,
            };
            let own_pin = directory.maps().join(map_pin(spec));
            maps.insert(spec.name, OpenMap { spec, data, pin, own_pin, predecessor });
        }
        Ok(Self { maps })
    }

    /// Names the copies as complete. Called when the programs are loaded: from now on they may be used.
    pub(super) fn complete(&mut self) -> Result<(), DataplaneError> {
        for map in self.maps.values_mut().filter(|map| map.predecessor.is_some()) {
            let successor = map.own_pin.with_file_name(format!("{}{SUCCESSOR}", map_pin(map.spec)));
            fs::rename(&map.pin, &successor).map_err(DataplaneError::path("rename", &map.pin))?;
            map.pin = successor;
        }
        Ok(())
    }

    pub(super) fn get(&self, spec: &'static MapSpec) -> Result<&MapData, DataplaneError> {
        let map = self
            .maps
            .get(spec.name)
            .ok_or_else(|| DataplaneError::Object(format!("it has no map `{}`", spec.name)))?;
        Ok(&map.data)
    }

    /// A second descriptor of a map, for a reader or writer of its own.
    pub(super) fn reopen(&self, spec: &'static MapSpec) -> Result<MapData, DataplaneError> {
        let map = self.get(spec)?;
        let id = map.info().map_err(|error| aya_error(spec.name, "read its id", &error))?.id();
        MapData::from_id(id).map_err(|error| aya_error(spec.name, "open it", &error))
    }

    /// Pins again what was unpinned by hand, or pinned over with another map.
    pub(super) fn repair(&mut self) -> Result<Vec<String>, DataplaneError> {
        let mut done = Vec::new();
        for map in self.maps.values() {
            let pinned =
                open_pin(&map.pin, map.spec.name)?.map(|data| id(&data, map.spec.name)).transpose()?;
            if pinned == Some(id(&map.data, map.spec.name)?) {
                continue;
            }
            bpffs::unpin(&map.pin)?;
            ensure_parent(&map.pin)?;
            sys::obj_pin(&map.pin, map.data.fd().as_fd()).map_err(DataplaneError::path("pin", &map.pin))?;
            done.push(format!("map {} pinned again", map.spec.name));
        }
        Ok(done)
    }

    /// Lets successors take their predecessors' names and removes pins of other layouts.
    pub(super) fn retire(&mut self, directory: &Directory) -> Result<Vec<String>, DataplaneError> {
        let mut done = Vec::new();
        for map in self.maps.values_mut() {
            let Some(predecessor) = &map.predecessor else { continue };
            if map.spec.content == MapContent::Kernel && per_cpu(map.spec.kind) {
                carry_over(map.spec, predecessor, &map.data)?;
            }
            fs::rename(&map.pin, &map.own_pin).map_err(DataplaneError::path("rename", &map.pin))?;
            map.pin.clone_from(&map.own_pin);
            map.predecessor = None;
            done.push(format!("map {} replaced by one of another size", map.spec.name));
        }
        for file in bpffs::files(&directory.maps())? {
            let path = directory.maps().join(&file);
            if is_map_pin(&file) && !self.maps.values().any(|map| map.pin == path) {
                bpffs::unpin(&path)?;
                done.push(format!("map {file} of another version removed"));
            }
        }
        Ok(done)
    }
}

/// Makes the directory of a pin again if it was removed by hand.
pub(super) fn ensure_parent(pin: &Path) -> Result<(), DataplaneError> {
    let parent = pin.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(DataplaneError::path("create", parent))
}

fn id(data: &MapData, map: &'static str) -> Result<u32, DataplaneError> {
    Ok(data.info().map_err(|error| aya_error(map, "read its id", &error))?.id())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fabric_common::abi::{ENDPOINTS, EVENTS, MapKind, SOURCE_PREFIXES};

    use super::{Decision, Shape, check_sizes, decide, rounded, wanted_shape};

    #[test]
    fn a_pin_is_reused_only_if_everything_agrees() {
        let wanted = wanted_shape(&ENDPOINTS, 100);
        assert_eq!(wanted, Shape { kind: 1, key: 20, value: 32, entries: 100 });
        assert_eq!(decide(None, wanted, MapKind::Hash), Decision::Create);
        assert_eq!(decide(Some(wanted), wanted, MapKind::Hash), Decision::Reuse);
        assert_eq!(decide(Some(Shape { entries: 99, ..wanted }), wanted, MapKind::Hash), Decision::Resize);
        for other in [Shape { kind: 5, ..wanted }, Shape { key: 16, ..wanted }, Shape { value: 40, ..wanted }]
        {
            assert_eq!(decide(Some(other), wanted, MapKind::Hash), Decision::Replace);
            let also_smaller = Shape { entries: 1, ..other };
            assert_eq!(decide(Some(also_smaller), wanted, MapKind::Hash), Decision::Replace);
        }
    }

    #[test]
    fn a_ring_buffer_has_no_content_to_copy() {
        let wanted = wanted_shape(&EVENTS, 1 << 20);
        assert_eq!((wanted.key, wanted.value), (0, 0));
        assert_eq!(decide(Some(Shape { entries: 4096, ..wanted }), wanted, EVENTS.kind), Decision::Replace);
    }

    #[test]
    fn an_lpm_key_counts_its_prefix_length() {
        assert_eq!(wanted_shape(&SOURCE_PREFIXES, 1).key as usize, SOURCE_PREFIXES.sizes.0 + 4);
    }

    #[test]
    fn ring_buffers_are_powers_of_two_of_pages() {
        assert_eq!(rounded(MapKind::RingBuf, 1, 4096), 4096);
        assert_eq!(rounded(MapKind::RingBuf, 4097, 4096), 8192);
        assert_eq!(rounded(MapKind::RingBuf, 3 * 4096, 4096), 4 * 4096);
        assert_eq!(rounded(MapKind::Hash, 3, 4096), 3);
    }

    #[test]
    fn sizes_are_checked_by_name_and_range() {
        let check = |name: &str, entries| check_sizes(&BTreeMap::from([(name.to_owned(), entries)]));
        assert!(check("endpoints", 1000).is_ok());
        assert!(check("endpoint", 1000).unwrap_err().to_string().contains("no map `endpoint`"));
        assert!(check("drops", 1000).unwrap_err().to_string().contains("fixed"));
        assert!(check("endpoints", 0).is_err());
        assert!(check("endpoints", u32::MAX).is_err());
    }
}
