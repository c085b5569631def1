//! The rows of `groups` and `group_counts`, which the programs write: read for people, and tidied for the querier, with the ports that
//! they are about.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use aya::maps::MapData;
use fabric_common::{
    abi::{self, MapSpec},
    membership::{GroupCount, GroupKey, GroupValue},
    network::{FLAG_MULTICAST, NetworkValue},
    port::PortValue,
};
use zerocopy::IntoBytes;

use super::{
    error::DataplaneError,
    maps::{self, OpenMaps},
    sys::{Batch, RawMap},
    tables::Row,
};

/// Rows that one system call reads.
const CHUNK: usize = 4096;

/// What a port has joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// The groups, in order.
    pub groups: Vec<IpAddr>,
    /// Joins that found no room.
    pub refused: u32,
}

/// Ports in networks that replicate multicast, by interface index, with their network's VNI and row.
pub type Listeners = BTreeMap<u32, (u32, NetworkValue)>;

/// A reader and tidier of memberships. Cheap to clone; works as long as it lives, also while a pass is running.
#[derive(Clone)]
pub struct Groups {
    maps: Arc<[(&'static MapSpec, MapData); 4]>,
}

impl Groups {
    pub(super) fn open(open: &OpenMaps) -> Result<Self, DataplaneError> {
        let map = |spec| Ok::<_, DataplaneError>((spec, open.reopen(spec)?));
        let maps = [map(&abi::GROUPS)?, map(&abi::GROUP_COUNTS)?, map(&abi::PORTS)?, map(&abi::NETWORKS)?];
        Ok(Self { maps: Arc::new(maps) })
    }

    /// What each port has joined, by interface index. Ports that never joined anything are left out.
    ///
    /// # Errors
    /// The maps can't be read.
    pub fn all(&self) -> Result<BTreeMap<u32, Joined>, DataplaneError> {
        let counts: BTreeMap<u32, GroupCount> = self.rows(1)?;
        let mut all: BTreeMap<u32, Joined> = counts
            .into_iter()
            .map(|(ifindex, count)| (ifindex, Joined { refused: count.refused, ..Joined::default() }))
            .collect();
        // In the order of addresses, since keys are.
        for key in self.rows::<GroupKey, GroupValue>(0)?.into_keys() {
            all.entry(key.ifindex).or_default().groups.push(key.group.to_ip());
        }
        Ok(all)
    }

    /// Who is to be asked what it has joined.
    ///
    /// # Errors
    /// The maps can't be read.
    pub fn listeners(&self) -> Result<Listeners, DataplaneError> {
        let networks: BTreeMap<u32, NetworkValue> = self.rows(3)?;
        if networks.values().all(|network| network.flags & FLAG_MULTICAST == 0) {
            return Ok(Listeners::new());
        }
        let ports = self.rows::<u32, PortValue>(2)?.into_iter();
        Ok(ports
            .filter_map(|(ifindex, port)| {
                let network =
                    networks.get(&port.vni).filter(|network| network.flags & FLAG_MULTICAST != 0)?;
                Some((ifindex, (port.vni, *network)))
            })
            .collect())
    }

    /// Takes away what ports other than `listeners` have joined, and what nobody has reported since `before` (nanoseconds since boot).
    /// Returns how many memberships that were.
    ///
    /// A port's count is made right where rows of it were removed. A join in between may not be counted until it happens again.
    ///
    /// # Errors
    /// The maps can't be read or written.
    pub fn tidy(&self, listeners: &Listeners, before: Option<u64>) -> Result<usize, DataplaneError> {
        let rows: BTreeMap<GroupKey, GroupValue> = self.rows(0)?;
        let stale = stale(&rows, listeners, before);
        let (spec, _) = self.maps[0];
        for key in &stale {
            self.raw(0)?.delete(key.as_bytes()).map_err(DataplaneError::map(spec.name, "remove a row"))?;
        }
        let (spec, _) = self.maps[1];
        let error = DataplaneError::map(spec.name, "tidy it");
        let touched: BTreeSet<u32> = stale.iter().map(|key| key.ifindex).collect();
        let counts: BTreeMap<u32, GroupCount> = self.rows(1)?;
        for (ifindex, count) in counts {
            if !listeners.contains_key(&ifindex) {
                self.raw(1)?.delete(ifindex.as_bytes()).map_err(&error)?;
            } else if touched.contains(&ifindex) {
                let left = rows.keys().filter(|key| key.ifindex == ifindex && !stale.contains(key)).count();
                let count = GroupCount { groups: u32::try_from(left).unwrap_or(u32::MAX), ..count };
                self.raw(1)?.update(ifindex.as_bytes(), count.as_bytes()).map_err(&error)?;
            }
        }
        Ok(stale.len())
    }

    fn raw(&self, map: usize) -> Result<RawMap<'_>, DataplaneError> {
        let (spec, data) = &self.maps[map];
        maps::raw(spec, data)
    }

    fn rows<K: Row, V: Row>(&self, map: usize) -> Result<BTreeMap<K, V>, DataplaneError> {
        let (spec, data) = &self.maps[map];
        read_all(spec, data)
    }
}

/// Every row of a map, by key.
pub(super) fn read_all<K: Row, V: Row>(
    spec: &MapSpec,
    data: &MapData,
) -> Result<BTreeMap<K, V>, DataplaneError> {
    let raw = maps::raw(spec, data)?;
    let (mut rows, mut at, mut more) = (BTreeMap::new(), Batch::default(), true);
    while more {
        let (entries, rest) =
            raw.lookup_batch(&mut at, CHUNK).map_err(DataplaneError::map(spec.name, "read it"))?;
        rows.extend(entries.iter().filter_map(|(key, value)| K::from_row(key).zip(V::from_row(value))));
        more = rest;
    }
    Ok(rows)
}

/// Memberships that nobody has any more.
fn stale(
    rows: &BTreeMap<GroupKey, GroupValue>,
    listeners: &Listeners,
    before: Option<u64>,
) -> BTreeSet<GroupKey> {
    let gone = |key: &GroupKey| listeners.get(&key.ifindex).is_none_or(|(vni, _)| *vni != key.vni);
    let silent = |value: &GroupValue| before.is_some_and(|before| value.seen < before);
    rows.iter().filter(|(key, value)| gone(key) || silent(value)).map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use fabric_common::{
        addr::{Addr, Mac},
        membership::{GroupKey, GroupValue},
        network::{FLAG_MULTICAST, NetworkValue},
    };

    use super::{Listeners, stale};

    #[test]
    fn memberships_go_with_their_port_or_when_nobody_answers() {
        let network = NetworkValue {
            gateway_mac: Mac::new([2, 0, 0, 0, 0, 1]),
            mtu: 1450,
            flags: FLAG_MULTICAST,
            zero: [0; 2],
            id: 1,
            gateway_v4: Addr::UNSPECIFIED,
            gateway_v6: Addr::UNSPECIFIED,
        };
        let listeners: Listeners = [(7, (100, network)), (8, (200, network))].into();
        let key = |vni, ifindex, last| GroupKey { vni, ifindex, group: Addr::v4([239, 0, 0, last]) };
        let rows: BTreeMap<_, _> = [
            (key(100, 7, 1), 50),
            (key(100, 7, 2), 150),
            (key(200, 8, 1), 100),
            // The port was in another network before, or is gone.
            (key(100, 8, 1), 150),
            (key(100, 9, 1), 150),
        ]
        .map(|(key, seen)| (key, GroupValue { seen, version: 3, zero: 0 }))
        .into();
        let gone = BTreeSet::from([key(100, 8, 1), key(100, 9, 1)]);
        assert_eq!(stale(&rows, &listeners, None), gone);
        let silent = BTreeSet::from([key(100, 7, 1)]);
        assert_eq!(stale(&rows, &listeners, Some(100)), &gone | &silent);
        assert_eq!(stale(&rows, &Listeners::new(), None).len(), rows.len());
    }
}
