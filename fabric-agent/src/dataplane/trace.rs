//! Walks a frame through a second load of the programs, with marks on, over the real tables. Nothing changes by it: the tables are
//! only read by the programs, counters, events and rate limits of the second load are its own, and a test run sends nothing.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    EbpfLoader, TestRun, TestRunOptions,
    maps::{Array, MapData},
    programs::Program,
};
use fabric_common::{
    abi::{self, MAPS, MapContent, MapSpec},
    settings::global,
    stage::{self, Mark, Stage},
};

use super::{
    TRACED_OBJECT,
    error::{DataplaneError, chain},
    features::running_release,
    maps::{self, OpenMaps, aya_error},
    ownership::{SUCCESSOR, map_pin},
    tables::Row,
};

/// Room for what a program adds to a frame.
const HEADROOM: usize = 256;
/// The code of a program that ends a packet (`include/uapi/linux/pkt_cls.h`).
const TC_ACT_SHOT: u32 = 2;
/// The same of an XDP program (`include/uapi/linux/bpf.h`).
const XDP_DROP: u32 = 1;
/// Bytes of the buffers that nobody reads.
const EVENTS: u32 = 4096;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Stages that it passed.
    pub stages: Vec<Stage>,
    /// How the walk ended; absent if the program left no such mark.
    pub end: Option<Mark>,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Whether a frame goes on from the program: that one, or the error that a dropped packet is answered with.
    pub goes_on: bool,
}

/// Walks frames. Cheap to clone; one walk at a time.
#[derive(Clone)]
pub struct Tracer {
    opened: Arc<Opened>,
}

struct Opened {
    directory: PathBuf,
    cross_family: bool,
    tables: Vec<(&'static MapSpec, MapData)>,
    walking: Mutex<()>,
}

impl Tracer {
    pub(super) fn open(
        directory: PathBuf,
        maps: &OpenMaps,
        cross_family: bool,
    ) -> Result<Self, DataplaneError> {
        let tables = MAPS.iter().filter(|spec| spec.content == MapContent::Desired);
        let tables =
            tables.map(|spec| Ok((spec, maps.reopen(spec)?))).collect::<Result<_, DataplaneError>>()?;
        let opened = Opened { directory, cross_family, tables, walking: Mutex::default() };
        Ok(Self { opened: Arc::new(opened) })
    }

    /// The row of a table that the agent fills.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn row<K: Row, V: Row>(&self, spec: &MapSpec, key: &K) -> Result<Option<V>, DataplaneError> {
        let Some((spec, data)) = self.opened.tables.iter().find(|(table, _)| table.name == spec.name) else {
            return Ok(None);
        };
        let bytes = maps::raw(spec, data)?.lookup(&key.to_row());
        Ok(bytes.map_err(DataplaneError::map(spec.name, "read it"))?.as_deref().and_then(V::from_row))
    }

    /// Runs `program` on a frame that comes in at `ifindex`. Loading takes a part of a second.
    ///
    /// # Errors
    /// The kernel refuses the load or the frame (it wants whole Ethernet and IP headers), or a table's pin is missing.
    pub fn walk(&self, program: &'static str, ifindex: u32, frame: &[u8]) -> Result<Walked, DataplaneError> {
        let _one = self.opened.walking.lock().unwrap_or_else(PoisonError::into_inner);
        let pins =
            self.opened.tables.iter().map(|(spec, _)| self.pin(spec)).collect::<Result<Vec<_>, _>>()?;
        let cross_family = u32::from(self.opened.cross_family);
        let mut loader = EbpfLoader::new();
        loader.override_global(global::CROSS_FAMILY, &cross_family, true);
        loader.map_max_entries(abi::EVENTS.name, EVENTS);
        loader.map_max_entries(abi::CAPTURED.name, EVENTS);
        for ((spec, data), pin) in self.opened.tables.iter().zip(&pins) {
            loader.map_pin_path(spec.name, pin.as_path());
            loader.map_max_entries(spec.name, maps::room(spec, data)?);
        }
        let refused = |what: &str, error: &dyn std::error::Error| DataplaneError::Load {
            kernel: running_release(),
            what: what.to_owned(),
            why: chain(error),
        };
        let mut ebpf =
            loader.load(TRACED_OBJECT).map_err(|error| refused("the traced eBPF object", &error))?;
        let missing = || DataplaneError::Object(format!("its traced form has no program `{program}`"));
        let not_loaded = |error| refused(&format!("traced program `{program}`"), &error);
        let mut out = vec![0; frame.len() + HEADROOM];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let (tc, xdp) = (sk_buff(ifindex), xdp_md(frame.len(), ifindex));
        let (result, end) = match ebpf.program_mut(program) {
            Some(Program::SchedClassifier(loaded)) => {
                loaded.load().map_err(not_loaded)?;
                options.ctx_in = Some(&tc);
                (loaded.test_run(options), TC_ACT_SHOT)
            }
            Some(Program::Xdp(loaded)) => {
                loaded.load().map_err(not_loaded)?;
                options.ctx_in = Some(&xdp);
                (loaded.test_run(options), XDP_DROP)
            }
            _ => return Err(missing()),
        };
        let result = result.map_err(|error| {
            let what = format!("to run `{program}` on this frame of {} bytes", frame.len());
            refused(&what, &error)
        })?;
        out.truncate(result.data_size_out as usize);
        let map = ebpf.map(stage::MAP).ok_or_else(missing)?;
        let failed = |error| aya_error(stage::MAP, "read it", &error);
        let marks = Array::<&MapData, u32>::try_from(map).map_err(failed)?;
        let count = marks.get(&0, 0).map_err(failed)?.min(stage::ENTRIES - 1);
        let goes_on = result.return_value != end;
        let mut walked = Walked { stages: Vec::new(), end: None, frame: out, goes_on };
        for at in 1..=count {
            match Mark::from_word(marks.get(&at, 0).map_err(failed)?) {
                Some(Mark::Passed(stage)) => walked.stages.push(stage),
                Some(end) => walked.end = Some(end),
                None => {}
            }
        }
        Ok(walked)
    }

    /// Where a table is pinned now. Asked before the load, which would make a map where there is none.
    fn pin(&self, spec: &MapSpec) -> Result<PathBuf, DataplaneError> {
        let own = self.opened.directory.join(map_pin(spec));
        let successor = self.opened.directory.join(format!("{}{SUCCESSOR}", map_pin(spec)));
        let pin = if successor.exists() { successor } else { own };
        if pin.exists() {
            return Ok(pin);
        }
        let source =
            std::io::Error::other("it is not pinned at the moment; the agent pins it again within a second");
        Err(DataplaneError::Path { what: "trace with", path: pin, source })
    }
}

/// `struct __sk_buff` (`include/uapi/linux/bpf.h`) with the interface, the one field that a walk needs.
fn sk_buff(ifindex: u32) -> Vec<u8> {
    let mut context = vec![0; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// `struct xdp_md` (`include/uapi/linux/bpf.h`): the frame from 0 to its length, and the interface, whose first queue it is.
fn xdp_md(length: usize, ifindex: u32) -> Vec<u8> {
    let words = [0, u32::try_from(length).unwrap_or(u32::MAX), 0, ifindex, 0, 0];
    words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}
