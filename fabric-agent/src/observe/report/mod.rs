//! What only the agent can read, for `fabric bugreport`: maps in words, programs, the last events, the end of the log.

mod decode;

use fabric_api::report::{MapReport, MapRow, ProgramReport, Report};
use fabric_common::abi::{MapKind, MapSpec};

use super::{events::EventHub, log::RecentLog};
use crate::dataplane::{Dump, Inspector};

/// Rows of a map that are told at most.
const ROWS: usize = 10_000;

/// Whoever reports; the API knows no more of it.
pub trait ReportSource: Send + Sync {
    /// Reads everything; what can't be read says why. Takes up to seconds where tables are large.
    fn report(&self) -> Report;
}

/// Reads it from the kernel and from this process.
pub struct Reporter {
    inspector: Inspector,
    events: EventHub,
    log: RecentLog,
}

impl Reporter {
    /// Of these maps and programs, this hub and this log.
    pub fn new(inspector: Inspector, events: EventHub, log: RecentLog) -> Self {
        Self { inspector, events, log }
    }
}

impl ReportSource for Reporter {
    fn report(&self) -> Report {
        let programs = self.inspector.programs().into_iter().map(|(name, info)| match info {
            Ok(info) => ProgramReport {
                name: name.to_owned(),
                id: info.id(),
                tag: format!("{:016x}", info.tag()),
                verified_instructions: info.verified_instruction_count().unwrap_or(0),
                machine_code: info.size_jitted(),
                error: String::new(),
            },
            Err(error) => ProgramReport { name: name.to_owned(), error, ..ProgramReport::default() },
        });
        Report {
            programs: programs.collect(),
            maps: self.inspector.maps(ROWS).map(|(spec, dump)| map(spec, dump)).collect(),
            events: self.events.recent(),
            log: self.log.text(),
        }
    }
}

fn map(spec: &MapSpec, dump: Result<Dump, String>) -> MapReport {
    let report = MapReport {
        name: spec.name.to_owned(),
        types: format!("{:?}<{}, {}>", spec.kind, spec.key, spec.value),
        ..MapReport::default()
    };
    let dump = match dump {
        Ok(dump) => dump,
        Err(error) => return MapReport { error, ..report },
    };
    let counts = matches!(spec.kind, MapKind::Array | MapKind::PerCpuArray | MapKind::PerCpuHash);
    let rows = dump.rows.iter().filter(|(_, value)| !counts || value.iter().any(|byte| *byte != 0));
    let rows =
        rows.map(|(key, value)| MapRow { key: decode::key(spec, key), value: decode::value(spec, value) });
    MapReport { rows: rows.collect(), cut: dump.cut, ..report }
}
