//! Dropped packets for captures: the switch in `capture`, and the records in `captured`.

use std::{io, time::Duration};

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use fabric_common::{
    abi,
    capture::{CapturedDrop, LOST, UNTIL},
    event::VERSION,
};
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes;

use super::{
    error::DataplaneError,
    events::EventsError,
    maps::{OpenMaps, aya_error},
    sys,
};

/// The switch that makes the programs copy what they drop.
pub struct CaptureSwitch {
    map: PerCpuArray<MapData, u64>,
}

impl CaptureSwitch {
    pub(super) fn open(maps: &OpenMaps) -> Result<Self, DataplaneError> {
        let map = Map::PerCpuArray(maps.reopen(&abi::CAPTURE)?);
        Ok(Self { map: map.try_into().map_err(|error| aya_error(abi::CAPTURE.name, "open it", &error))? })
    }

    /// On for this long from now, then off by itself: an agent that dies leaves no capture behind. Zero turns it off.
    ///
    /// # Errors
    /// The map can't be written.
    pub fn extend(&mut self, time: Duration) -> Result<(), DataplaneError> {
        let failed =
            |source: io::Error| DataplaneError::Map { map: abi::CAPTURE.name, what: "write it", source };
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| failed(error.into()))?;
        let until = (Duration::from(now) + time).as_nanos() as u64;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| failed(error))?;
        let values =
            PerCpuValues::try_from(vec![if time.is_zero() { 0 } else { until }; cpus]).map_err(failed)?;
        self.map.set(UNTIL, values, 0).map_err(|error| aya_error(abi::CAPTURE.name, "write it", &error))
    }

    /// Dropped packets that found no room, since the map was made.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn lost(&self) -> Result<u64, DataplaneError> {
        let values = self.map.get(&LOST, 0);
        Ok(values.map_err(|error| aya_error(abi::CAPTURE.name, "read it", &error))?.iter().sum())
    }
}

/// Dropped packets, in the order in which they happened.
pub struct CapturedDrops {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl CapturedDrops {
    pub(super) fn open(maps: &OpenMaps) -> Result<Self, DataplaneError> {
        let map = Map::RingBuf(maps.reopen(&abi::CAPTURED)?);
        let ring: RingBuf<MapData> = map
            .try_into()
            .map_err(|error: aya::maps::MapError| aya_error(abi::CAPTURED.name, "open it", &error))?;
        let ring = sys::readable(ring).map_err(DataplaneError::map(abi::CAPTURED.name, "wait for it"))?;
        Ok(Self { ring })
    }

    /// The next one. Records of another version or length are skipped. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Box<CapturedDrop>, EventsError> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            while let Some(item) = ready.get_inner_mut().next() {
                if let Ok(record) = CapturedDrop::read_from_bytes(&item)
                    && record.event.version == VERSION
                {
                    return Ok(Box::new(record));
                }
            }
            ready.clear_ready();
        }
    }
}
