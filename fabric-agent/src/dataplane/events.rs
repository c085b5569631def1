//! Drop events from the ring buffer.

use std::io;

use aya::maps::{Map, MapData, RingBuf};
use fabric_common::{
    abi,
    event::{DropEvent, VERSION},
};
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes;

use super::{
    error::DataplaneError,
    maps::{OpenMaps, aya_error},
    sys,
};

/// Why no more events can be read.
#[derive(Debug, thiserror::Error)]
#[error("the event buffer can't be read: {0}")]
pub struct EventsError(#[from] io::Error);

/// Sampled drops, in the order in which they happened.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    foreign: u64,
}

impl Events {
    pub(super) fn open(maps: &OpenMaps) -> Result<Self, DataplaneError> {
        let map = Map::RingBuf(maps.reopen(&abi::EVENTS)?);
        let ring: RingBuf<MapData> = map
            .try_into()
            .map_err(|error: aya::maps::MapError| aya_error(abi::EVENTS.name, "open it", &error))?;
        let ring = sys::readable(ring).map_err(DataplaneError::map(abi::EVENTS.name, "wait for it"))?;
        Ok(Self { ring, foreign: 0 })
    }

    /// The next event. Records of another version or length are skipped and counted in [`Self::foreign`]. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Result<DropEvent, EventsError> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            while let Some(item) = ready.get_inner_mut().next() {
                match parse(&item) {
                    Some(event) => return Ok(event),
                    None => self.foreign += 1,
                }
            }
            ready.clear_ready();
        }
    }

    /// Records so far that were none of this version's: left by another version of the programs.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }
}

/// A record, if its length and version are ours.
fn parse(record: &[u8]) -> Option<DropEvent> {
    DropEvent::read_from_bytes(record).ok().filter(|event| event.version == VERSION)
}

#[cfg(test)]
mod tests {
    use fabric_common::event::{DropEvent, VERSION};
    use zerocopy::{FromZeros, IntoBytes};

    use super::parse;

    #[test]
    fn only_records_of_this_version_and_length_are_read() {
        let mut event = DropEvent::new_zeroed();
        event.version = VERSION;
        event.ifindex = 7;
        assert_eq!(parse(event.as_bytes()), Some(event));
        assert_eq!(parse(&event.as_bytes()[1..]), None);
        event.version = VERSION + 1;
        assert_eq!(parse(event.as_bytes()), None);
    }
}
