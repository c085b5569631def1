//! Typed tables: the maps that the agent fills. Absent at a delete is success; a full map is an error that names the
//! setting to raise.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    marker::PhantomData,
};

use aya::maps::MapData;
use fabric_common::{
    abi::{self, MapKind, MapSpec},
    addr::Addr,
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
use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    describe::Describe,
    error::DataplaneError,
    maps::{self, OpenMaps},
    policy_rows::{self, PolicyTables},
    sys::RawMap,
};
use crate::{
    plan::desired::{AddrPrefix, PrefixKey, Tables},
    policy::Change,
};

/// Rows that one system call writes at most: the kernel copies keys and values one by one, so more gains nothing.
const BATCH: usize = 1024;
/// The kernel's own "not supported", which is no POSIX error.
const ENOTSUPP: i32 = 524;

/// A key or value of a table as the kernel has it.
pub trait Row: Copy + Ord {
    /// Bytes of every row.
    const SIZE: usize;
    /// The bytes in the map.
    fn to_row(&self) -> Vec<u8>;
    /// From the bytes in the map; absent if there are more or fewer than [`Self::SIZE`].
    fn from_row(bytes: &[u8]) -> Option<Self>;
}

impl<T: Copy + Ord + FromBytes + IntoBytes + Immutable> Row for T {
    const SIZE: usize = size_of::<T>();

    fn to_row(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_row(bytes: &[u8]) -> Option<Self> {
        Self::read_from_bytes(bytes).ok()
    }
}

impl Row for PrefixKey {
    const SIZE: usize = size_of::<u32>() + size_of::<VniPrefix>();

    fn to_row(&self) -> Vec<u8> {
        [self.bits.as_bytes(), self.prefix.as_bytes()].concat()
    }

    fn from_row(bytes: &[u8]) -> Option<Self> {
        let (bits, prefix) = bytes.split_at_checked(size_of::<u32>())?;
        Some(Self {
            bits: u32::read_from_bytes(bits).ok()?,
            prefix: VniPrefix::read_from_bytes(prefix).ok()?,
        })
    }
}

impl Row for AddrPrefix {
    const SIZE: usize = size_of::<u32>() + size_of::<Addr>();

    fn to_row(&self) -> Vec<u8> {
        [self.bits.as_bytes(), self.addr.as_bytes()].concat()
    }

    fn from_row(bytes: &[u8]) -> Option<Self> {
        let (bits, addr) = bytes.split_at_checked(size_of::<u32>())?;
        Some(Self { bits: u32::read_from_bytes(bits).ok()?, addr: Addr::read_from_bytes(addr).ok()? })
    }
}

/// Rows that could not be written or removed.
#[derive(Debug)]
pub struct Failure<K> {
    /// Why the first of them failed.
    pub error: DataplaneError,
    /// Their keys. Every other row was done.
    pub keys: BTreeSet<K>,
}

/// One map, written by this process alone.
pub struct Table<K, V> {
    spec: &'static MapSpec,
    data: MapData,
    limit: u32,
    row: PhantomData<(K, V)>,
}

impl<K: Row + Describe, V: Row> Table<K, V> {
    fn open(maps: &OpenMaps, spec: &'static MapSpec) -> Result<Self, DataplaneError> {
        if (K::SIZE, V::SIZE) != maps::kernel_sizes(spec) {
            return Err(DataplaneError::Object(format!(
                "its map `{}` has keys or values of another size",
                spec.name
            )));
        }
        let data = maps.reopen(spec)?;
        let limit =
            data.info().map_err(|error| maps::aya_error(spec.name, "read its size", &error))?.max_entries();
        Ok(Self { spec, data, limit, row: PhantomData })
    }

    /// Name of the map.
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Everything that is in the map. The one row of an array is left out while it is all zero: nothing was written.
    pub fn dump(&self) -> Result<BTreeMap<K, V>, DataplaneError> {
        let entries = self.raw()?.entries().map_err(DataplaneError::map(self.spec.name, "read it"))?;
        let array = self.spec.kind == MapKind::Array;
        entries
            .iter()
            .filter(|(_, value)| !(array && value.iter().all(|byte| *byte == 0)))
            .map(|(key, value)| K::from_row(key).zip(V::from_row(value)))
            .collect::<Option<_>>()
            .ok_or_else(|| {
                DataplaneError::Object(format!("map `{}` has rows of another size", self.spec.name))
            })
    }

    /// Writes one row, new or changed.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), DataplaneError> {
        self.raw()?.update(&key.to_row(), &value.to_row()).map_err(|error| self.explain(key, error))
    }

    /// Removes one row. Absent is success.
    pub fn remove(&mut self, key: &K) -> Result<(), DataplaneError> {
        self.remove_raw(&self.raw()?, &key.to_row())
    }

    /// Writes many rows. Those that can be written are, whatever happens to others.
    pub fn upsert<'a>(&mut self, rows: impl IntoIterator<Item = (&'a K, &'a V)>) -> Result<(), Failure<K>>
    where
        K: 'a,
        V: 'a,
    {
        let rows: Vec<(K, V)> = rows.into_iter().map(|(key, value)| (*key, *value)).collect();
        let mut failed = Failed::default();
        for chunk in rows.chunks(BATCH) {
            let done = self.upsert_batch(chunk);
            for (key, value) in &chunk[done..] {
                failed.note(key, self.insert(key, value));
            }
        }
        failed.into_result()
    }

    /// Removes many rows. Absent ones are success; those that can be removed are, whatever happens to others.
    pub fn delete<'a>(&mut self, keys: impl IntoIterator<Item = &'a K>) -> Result<(), Failure<K>>
    where
        K: 'a,
    {
        let keys: Vec<K> = keys.into_iter().copied().collect();
        let mut failed = Failed::default();
        for chunk in keys.chunks(BATCH) {
            let done = self.delete_batch(chunk);
            for key in &chunk[done..] {
                failed.note(key, self.remove(key));
            }
        }
        failed.into_result()
    }

    /// How many of the chunk's first rows one system call wrote; the rest is for single calls, which say what is wrong.
    fn upsert_batch(&self, chunk: &[(K, V)]) -> usize {
        if chunk.len() < 2 || self.spec.kind == MapKind::Array {
            return 0;
        }
        let keys: Vec<u8> = chunk.iter().flat_map(|(key, _)| key.to_row()).collect();
        let values: Vec<u8> = chunk.iter().flat_map(|(_, value)| value.to_row()).collect();
        self.raw().map_or(0, |raw| raw.update_batch(&keys, &values).0)
    }

    fn delete_batch(&self, chunk: &[K]) -> usize {
        if chunk.len() < 2 || self.spec.kind == MapKind::Array {
            return 0;
        }
        let keys: Vec<u8> = chunk.iter().flat_map(Row::to_row).collect();
        self.raw().map_or(0, |raw| raw.delete_batch(&keys).0)
    }

    fn remove_raw(&self, raw: &RawMap<'_>, key: &[u8]) -> Result<(), DataplaneError> {
        // Nothing can be removed from an array: zero is its "not there".
        let result = match self.spec.kind {
            MapKind::Array => raw.update(key, &vec![0; V::SIZE]),
            MapKind::Hash
            | MapKind::PerCpuHash
            | MapKind::LruHash
            | MapKind::PerCpuArray
            | MapKind::LpmTrie
            | MapKind::RingBuf => raw.delete(key).map(drop),
        };
        result.map_err(DataplaneError::map(self.spec.name, "remove a row"))
    }

    fn raw(&self) -> Result<RawMap<'_>, DataplaneError> {
        maps::raw(self.spec, &self.data)
    }

    fn explain(&self, key: &K, error: io::Error) -> DataplaneError {
        explain_write(self.spec, self.limit, key.describe(), error)
    }
}

fn explain_write(spec: &'static MapSpec, limit: u32, row: String, error: io::Error) -> DataplaneError {
    match error.raw_os_error() {
        // A hash says E2BIG, a trie ENOSPC.
        Some(libc::E2BIG | libc::ENOSPC) if spec.sized => DataplaneError::Full { map: spec.name, limit, row },
        Some(libc::E2BIG | libc::ENOSPC) => DataplaneError::FullFixed { map: spec.name, limit, row },
        Some(ENOTSUPP) => DataplaneError::Map {
            map: spec.name,
            what: "write a row",
            source: io::ErrorKind::Unsupported.into(),
        },
        _ => DataplaneError::Map { map: spec.name, what: "write a row", source: error },
    }
}

struct Failed<K>(Option<Failure<K>>);

impl<K> Default for Failed<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Row> Failed<K> {
    fn note(&mut self, key: &K, result: Result<(), DataplaneError>) {
        if let Err(error) = result {
            self.0.get_or_insert_with(|| Failure { error, keys: BTreeSet::new() }).keys.insert(*key);
        }
    }

    fn into_result(self) -> Result<(), Failure<K>> {
        self.0.map_or(Ok(()), Err)
    }
}

type Step<'a> = (&'static str, Box<dyn FnOnce() -> Option<DataplaneError> + 'a>);

macro_rules! table_set {
    (
        first { $( $first:ident: $first_spec:ident<$first_key:ty, $first_value:ty>, )+ }
        policy { $( $policy:ident: $policy_spec:ident<$policy_key:ty, $policy_value:ty>, )+ }
        rest { $( $rest:ident: $rest_spec:ident<$rest_key:ty, $rest_value:ty>, )+ }
    ) => {
        table_set! {
            struct
            $( $first: $first_spec<$first_key, $first_value>, )+
            $( $policy: $policy_spec<$policy_key, $policy_value>, )+
            $( $rest: $rest_spec<$rest_key, $rest_value>, )+
        }

        impl TableSet {
            /// Writes rows, first table first. Goes on after an error; returns the first error of each step. `change`: what
            /// policies are and should be; while a row of them can't be written, they admit less.
            pub fn upsert(&mut self, rows: &Tables, change: Change<'_>) -> Vec<DataplaneError> {
                let mut errors = Vec::new();
                $( errors.extend(self.$first.upsert(&rows.$first).err().map(|failure| failure.error)); )+
                let policies = PolicyTables { $( $policy: &mut self.$policy, )+ };
                errors.extend(policy_rows::write(policies, rows, change));
                $( errors.extend(self.$rest.upsert(&rows.$rest).err().map(|failure| failure.error)); )+
                errors
            }
        }
    };
    (struct $( $field:ident: $spec:ident<$key:ty, $value:ty>, )+) => {
        /// Every table that the agent fills, in the order in which rows are written: what is referred to comes first.
        /// Rows are removed in the opposite order. The fields have the names of those of [`Tables`].
        pub struct TableSet {
            $( #[doc = concat!("`", stringify!($field), "`.")] pub $field: Table<$key, $value>, )+
        }

        impl TableSet {
            /// Names of the tables in the order of writing.
            pub const ORDER: &'static [&'static str] = &[$(abi::$spec.name),+];

            pub(super) fn open(maps: &OpenMaps) -> Result<Self, DataplaneError> {
                Ok(Self { $( $field: Table::open(maps, &abi::$spec)?, )+ })
            }

            /// Everything that is in the maps.
            pub fn dump(&self) -> Result<Tables, DataplaneError> {
                Ok(Tables { $( $field: self.$field.dump()?, )+ })
            }

            /// Removes rows, last table first; values do not matter. Goes on after an error, but a row of `numbers` stays
            /// while something that was to go before it may still hold its number. Returns the first error of each table.
            pub fn delete(&mut self, rows: &Tables) -> Vec<DataplaneError> {
                let mut steps: Vec<Step<'_>> = Vec::new();
                let Self { $( $field, )+ } = self;
                $( steps.push((
                    abi::$spec.name,
                    Box::new(|| $field.delete(rows.$field.keys()).err().map(|failure| failure.error)),
                )); )+
                let mut errors = Vec::new();
                for (table, step) in steps.into_iter().rev() {
                    if table != abi::NUMBERS.name || errors.is_empty() {
                        errors.extend(step());
                    }
                }
                errors
            }
        }
    };
}

table_set! {
    first {
        settings: SETTINGS<u32, Settings>,
        uplinks: UPLINKS<u32, UplinkValue>,
        local_vteps: LOCAL_VTEPS<Addr, LocalVtepValue>,
        networks: NETWORKS<u32, NetworkValue>,
        nodes: NODES<u32, NodeValue>,
        vteps: VTEPS<Addr, VtepValue>,
        members: MEMBERS<MemberKey, MemberValue>,
    }
    policy {
        numbers: NUMBERS<NumberKey, NumberValue>,
        policy_ports: POLICY_PORTS<u32, PolicyPorts>,
        policies: POLICIES<PolicyKey, PolicyValue>,
        cidrs: CIDRS<AddrPrefix, u32>,
    }
    rest {
        denied: DENIED<AddrPrefix, DeniedValue>,
        named: NAMED<NamedKey, u32>,
        sources: SOURCES<EndpointKey, SourceValue>,
        source_prefixes: SOURCE_PREFIXES<PrefixKey, SourceValue>,
        ports: PORTS<u32, PortValue>,
        endpoints: ENDPOINTS<EndpointKey, EndpointValue>,
        fdb: FDB<FdbKey, FdbValue>,
        routes: ROUTES<PrefixKey, RouteValue>,
        flood: FLOOD<FloodKey, FloodValue>,
        advertisements: ADVERTISEMENTS<u32, AdvertisementValue>,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use fabric_common::{
        abi::{self, MapContent},
        addr::Addr,
        endpoint::EndpointKey,
        prefix::VniPrefix,
    };

    use super::{Describe, Row, TableSet, explain_write};
    use crate::plan::desired::PrefixKey;

    #[test]
    fn the_order_is_that_of_the_abi_and_complete() {
        let filled: Vec<_> =
            abi::MAPS.iter().filter(|map| map.content == MapContent::Desired).map(|map| map.name).collect();
        assert_eq!(TableSet::ORDER, filled);
    }

    #[test]
    fn a_prefix_key_is_the_length_and_the_data() {
        let prefix = VniPrefix::new(0x102, Addr::v4([192, 0, 2, 0]));
        let key = PrefixKey { bits: 32 + 96 + 24, prefix };
        let row = key.to_row();
        assert_eq!(row.len(), PrefixKey::SIZE);
        assert_eq!(row[..4], 152u32.to_ne_bytes());
        assert_eq!(row[4..8], [0, 0, 1, 2]);
        assert_eq!(row[20..24], [192, 0, 2, 0]);
        assert_eq!(PrefixKey::from_row(&row), Some(key));
        assert_eq!(PrefixKey::from_row(&row[1..]), None);
    }

    #[test]
    fn a_full_map_names_its_setting_if_it_has_one() {
        let error = || io::Error::from_raw_os_error(nix::libc::E2BIG);
        let key = EndpointKey { vni: 100, addr: Addr::v4([10, 0, 0, 4]) };
        let full = |spec, row| explain_write(spec, 64, row, error()).to_string();
        assert_eq!(
            full(&abi::ENDPOINTS, key.describe()),
            "map `endpoints` is full (64 entries), row {vni 100, address 10.0.0.4} did not fit: set `endpoints` under \
             [maps] in the agent's file higher and restart the agent"
        );
        assert_eq!(
            full(&abi::UPLINKS, 7.describe()),
            "map `uplinks` is full, row {7} did not fit: it has room for 64 entries, which is fixed"
        );
    }
}
