//! DNS packets of endpoints whose policies have domain names, from `dns`; the switch in `dns_watch`; and `names`, where an agent leaves
//! what it knows for the next one.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use fabric_common::{
    abi,
    names::{DnsPacket, LOST, NameKey, NameValue, UNTIL, VERSION},
};
use nix::libc;
use sha2::{Digest, Sha256};
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    error::DataplaneError,
    events::EventsError,
    flows::boot_time,
    maps::{self, OpenMaps, aya_error},
    sys::{self, Batch},
    tables::Row,
};
use crate::names::cache::Known;

/// Rows that one system call reads.
const CHUNK: usize = 1024;

/// The switch that makes the programs hand over DNS packets, and the count of those that found no room.
pub struct DnsSwitch {
    map: PerCpuArray<MapData, u64>,
}

impl DnsSwitch {
    pub(super) fn open(maps: &OpenMaps) -> Result<Self, DataplaneError> {
        let map = Map::PerCpuArray(maps.reopen(&abi::DNS_WATCH)?);
        Ok(Self { map: map.try_into().map_err(|error| aya_error(abi::DNS_WATCH.name, "open it", &error))? })
    }

    /// On for this long from now, then off by itself: an agent that dies keeps nobody's answers. Zero turns it off.
    ///
    /// # Errors
    /// The map can't be written.
    pub fn extend(&mut self, time: Duration) -> Result<(), DataplaneError> {
        let failed = DataplaneError::map(abi::DNS_WATCH.name, "write it");
        let until = if time.is_zero() { 0 } else { boot_time().saturating_add(time.as_nanos() as u64) };
        let values = aya::util::nr_cpus()
            .map_err(|(_, error)| error)
            .and_then(|cpus| PerCpuValues::try_from(vec![until; cpus]))
            .map_err(failed)?;
        self.map.set(UNTIL, values, 0).map_err(|error| aya_error(abi::DNS_WATCH.name, "write it", &error))
    }

    /// Packets that found no room, since the map was made.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn lost(&self) -> Result<u64, DataplaneError> {
        let values = self.map.get(&LOST, 0);
        Ok(values.map_err(|error| aya_error(abi::DNS_WATCH.name, "read it", &error))?.iter().sum())
    }
}

/// DNS packets in the order in which they passed.
pub struct DnsPackets {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl DnsPackets {
    pub(super) fn open(maps: &OpenMaps) -> Result<Self, DataplaneError> {
        let map = Map::RingBuf(maps.reopen(&abi::DNS)?);
        let ring: RingBuf<MapData> = map
            .try_into()
            .map_err(|error: aya::maps::MapError| aya_error(abi::DNS.name, "open it", &error))?;
        let ring = sys::readable(ring).map_err(DataplaneError::map(abi::DNS.name, "wait for it"))?;
        Ok(Self { ring })
    }

    /// The next one. Records of another version or length are skipped. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Box<DnsPacket>, EventsError> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            while let Some(item) = ready.get_inner_mut().next() {
                if let Ok(packet) = DnsPacket::read_from_bytes(&item)
                    && packet.version == VERSION
                {
                    return Ok(Box::new(packet));
                }
            }
            ready.clear_ready();
        }
    }
}

/// The map `names`. Cheap to clone.
#[derive(Clone)]
pub struct NameRows {
    data: Arc<MapData>,
}

impl NameRows {
    pub(super) fn open(maps: &OpenMaps) -> Result<Self, DataplaneError> {
        Ok(Self { data: Arc::new(maps.reopen(&abi::NAMES)?) })
    }

    /// Everything that is in it.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn load(&self) -> Result<Vec<Known>, DataplaneError> {
        let raw = maps::raw(&abi::NAMES, &self.data)?;
        let (mut found, mut batch, mut room) = (Vec::new(), Batch::default(), CHUNK);
        loop {
            let (entries, more) = match raw.lookup_batch(&mut batch, room) {
                // A bucket of the hash has more rows than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                result => result.map_err(DataplaneError::map(abi::NAMES.name, "read it"))?,
            };
            let rows = entries
                .iter()
                .filter_map(|(key, value)| known(&NameKey::from_row(key)?, &NameValue::from_row(value)?));
            found.extend(rows);
            if !more {
                return Ok(found);
            }
        }
    }

    /// Makes it say `wanted`, where it says `there`. Goes on after an error, and returns the first one.
    ///
    /// # Errors
    /// The map is full, or can't be written.
    pub fn save(
        &self,
        there: &BTreeMap<NameKey, NameValue>,
        wanted: &BTreeMap<NameKey, NameValue>,
    ) -> Result<(), DataplaneError> {
        let raw = maps::raw(&abi::NAMES, &self.data)?;
        let mut failed: Option<io::Error> = None;
        for key in there.keys().filter(|key| !wanted.contains_key(key)) {
            failed = failed.or(raw.delete(key.as_bytes()).err());
        }
        for (key, value) in wanted.iter().filter(|(key, value)| there.get(key) != Some(value)) {
            failed = failed.or(raw.update(key.as_bytes(), value.as_bytes()).err());
        }
        failed.map_or(Ok(()), |error| Err(DataplaneError::map(abi::NAMES.name, "write it")(error)))
    }
}

/// The row of what is known; absent for a name that is too long.
pub fn row(known: &Known) -> Option<(NameKey, NameValue)> {
    let bytes = known.name.as_bytes();
    let mut name = [0; 256];
    name.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let mut digest = [0; 16];
    digest.copy_from_slice(&Sha256::digest(bytes)[..16]);
    let key = NameKey { ifindex: known.ifindex, addr: known.addr.into(), digest };
    Some((key, NameValue { expires: known.expires, length: bytes.len() as u32, zero: 0, name }))
}

fn known(key: &NameKey, value: &NameValue) -> Option<Known> {
    let name = value.name.get(..value.length as usize)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some(Known { ifindex: key.ifindex, name, addr: key.addr.to_ip(), expires: value.expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_known() {
        for addr in ["192.0.2.1", "2001:db8::1"] {
            let addr = addr.parse().expect("an address");
            let one = Known { ifindex: 7, name: "www.example.com".to_owned(), addr, expires: 99 };
            let (key, value) = row(&one).expect("it fits");
            assert_eq!(known(&key, &value), Some(one.clone()));
            let (other, _) = row(&Known { name: "example.com".to_owned(), ..one.clone() }).expect("it fits");
            assert_ne!(key, other);
            assert_eq!(row(&Known { name: "a".repeat(257), ..one }), None);
            assert_eq!(known(&key, &NameValue { length: 300, ..value }), None);
        }
    }
}
