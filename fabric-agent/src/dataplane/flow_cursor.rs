//! The rows of connection tracking, read a part at a time: there may be a million, and the programs write them meanwhile.

use std::sync::Arc;

use aya::maps::MapData;
use fabric_common::{
    abi::{self, MapSpec},
    flow::{FlowKey, FlowValue},
};

use super::{
    error::DataplaneError,
    maps::{self, OpenMaps},
    sys::Batch,
    tables::Row,
};

/// Rows that one system call reads.
const CHUNK: usize = 4096;

/// A reader of `new_flows` and `flows`. Cheap to clone; works as long as it lives.
#[derive(Clone)]
pub struct FlowReader {
    maps: Arc<[(&'static MapSpec, MapData); 2]>,
}

impl FlowReader {
    pub(super) fn open(open: &OpenMaps) -> Result<Self, DataplaneError> {
        // A flow that is answered moves from the first to the second, so in this order none is missed, and one may come twice.
        let map = |spec| Ok::<_, DataplaneError>((spec, open.reopen(spec)?));
        Ok(Self { maps: Arc::new([map(&abi::NEW_FLOWS)?, map(&abi::FLOWS)?]) })
    }

    /// A reading from the beginning.
    pub fn cursor(&self) -> FlowCursor {
        FlowCursor { maps: Arc::clone(&self.maps), map: 0, batch: Batch::default(), room: CHUNK }
    }
}

/// How far a reading of all flows has come.
pub struct FlowCursor {
    maps: Arc<[(&'static MapSpec, MapData); 2]>,
    map: usize,
    batch: Batch,
    room: usize,
}

impl FlowCursor {
    /// The next rows, expired ones among them; absent at the end. Bounded in time and memory.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn next_rows(&mut self) -> Result<Option<Vec<(FlowKey, FlowValue)>>, DataplaneError> {
        let Some((spec, data)) = self.maps.get(self.map) else { return Ok(None) };
        let raw = maps::raw(spec, data)?;
        let (entries, more) = loop {
            match raw.lookup_batch(&mut self.batch, self.room) {
                // A bucket of the hash has more rows than there is room for.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => self.room *= 2,
                result => break result.map_err(DataplaneError::map(spec.name, "read it"))?,
            }
        };
        if !more {
            self.map += 1;
            self.batch = Batch::default();
        }
        let rows = entries.iter().map(|(key, value)| FlowKey::from_row(key).zip(FlowValue::from_row(value)));
        let other = || DataplaneError::Object(format!("map `{}` has rows of another size", spec.name));
        rows.collect::<Option<_>>().ok_or_else(other).map(Some)
    }
}
