//! A look at every map and program, for reports.

use std::collections::BTreeMap;

use aya::{
    maps::MapData,
    programs::{ProgramInfo, loaded_programs},
};
use fabric_common::abi::{MAPS, MapKind, MapSpec};

use super::{
    error::DataplaneError,
    maps::{self, OpenMaps},
};

/// Rows of a map as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Keys and values as the kernel gives them.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether there are more.
    pub cut: bool,
}

/// A reader of every map and program; works as long as it lives.
pub struct Inspector {
    maps: Vec<(&'static MapSpec, MapData)>,
    programs: BTreeMap<&'static str, u32>,
}

impl Inspector {
    pub(super) fn open(
        open: &OpenMaps,
        programs: BTreeMap<&'static str, u32>,
    ) -> Result<Self, DataplaneError> {
        let maps = MAPS.iter().filter(|spec| spec.kind != MapKind::RingBuf);
        let maps = maps.map(|spec| Ok((spec, open.reopen(spec)?))).collect::<Result<_, DataplaneError>>()?;
        Ok(Self { maps, programs })
    }

    /// Every map but the ring buffers, at most `limit` rows of each; or why it can't be read.
    pub fn maps(&self, limit: usize) -> impl Iterator<Item = (&'static MapSpec, Result<Dump, String>)> {
        self.maps.iter().map(move |(spec, data)| {
            let rows = maps::raw(spec, data).and_then(|raw| {
                raw.first_entries(limit + 1).map_err(DataplaneError::map(spec.name, "read it"))
            });
            let dump = rows.map(|mut rows| {
                let cut = rows.len() > limit;
                rows.truncate(limit);
                Dump { rows, cut }
            });
            (*spec, dump.map_err(|error| error.to_string()))
        })
    }

    /// What the kernel says of every program that this agent has loaded; or why it says nothing.
    pub fn programs(&self) -> Vec<(&'static str, Result<ProgramInfo, String>)> {
        let loaded = loaded_programs().filter_map(Result::ok).map(|info| (info.id(), info));
        let mut loaded: BTreeMap<_, _> = loaded.collect();
        let told = self.programs.iter().map(|(name, id)| {
            let gone = || format!("the kernel does not show program {id}");
            (*name, loaded.remove(id).ok_or_else(gone))
        });
        told.collect()
    }
}
