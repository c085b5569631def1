//! Loads the object: globals, map sizes, pins, then every program through the verifier.

use std::{collections::BTreeMap, fs, io, os::fd::AsFd, path::PathBuf, pin::Pin};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramInfo},
};
use aya_log::EbpfLogger;
use fabric_common::{abi::program, settings::global};

use super::{
    OBJECT, Options,
    bpffs::{self, Directory},
    error::{DataplaneError, chain},
    features::{KernelFeatures, running_release},
    maps::{self, Decision, OpenMaps, Planned},
    ownership::{SUCCESSOR, known_program},
    sys,
};

pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) maps: OpenMaps,
    /// Kernel ids by name.
    pub(super) programs: BTreeMap<&'static str, u32>,
    pub(super) logger: Option<Logger>,
}

/// Loads everything, or removes again what it created.
pub(super) fn load(
    directory: &Directory,
    options: &Options,
    kernel: KernelFeatures,
) -> Result<Loaded, DataplaneError> {
    let planned = maps::plan(directory, &options.sizes)?;
    let created: Vec<PathBuf> =
        planned.iter().filter(|map| map.decision != Decision::Reuse).map(|map| map.pin.clone()).collect();
    try_load(directory, options, kernel, planned).inspect_err(|_| {
        for pin in &created {
            if let Err(error) = bpffs::unpin(pin) {
                tracing::warn!("{error}");
            }
        }
    })
}

fn try_load(
    directory: &Directory,
    options: &Options,
    kernel: KernelFeatures,
    planned: Vec<Planned>,
) -> Result<Loaded, DataplaneError> {
    let mut ebpf = parse(options, kernel, &planned)?;
    let mut maps = OpenMaps::open(directory, planned)?;
    let programs = program::ALL
        .iter()
        .map(|name| Ok((*name, load_program(&mut ebpf, name)?)))
        .collect::<Result<_, DataplaneError>>()?;
    let logger = options.debug.then(|| Logger::new(&mut ebpf)).transpose()?;
    pin_programs(directory, &mut ebpf)?;
    maps.complete()?;
    Ok(Loaded { ebpf, maps, programs, logger })
}

fn parse(options: &Options, kernel: KernelFeatures, planned: &[Planned]) -> Result<Ebpf, DataplaneError> {
    let (cross_family, debug) = (u32::from(kernel.cross_family), u32::from(options.debug));
    let mut loader = EbpfLoader::new();
    loader.override_global(global::CROSS_FAMILY, &cross_family, true);
    loader.override_global(global::DEBUG, &debug, true);
    for map in planned {
        loader.map_pin_path(map.spec.name, map.pin.as_path());
        loader.map_max_entries(map.spec.name, map.entries);
    }
    loader.load(OBJECT).map_err(|error| refused("the eBPF object", &error))
}

fn refused(what: &str, error: &dyn std::error::Error) -> DataplaneError {
    DataplaneError::Load { kernel: running_release(), what: what.to_owned(), why: chain(error) }
}

fn missing(name: &str) -> DataplaneError {
    DataplaneError::Object(format!("it has no program `{name}`"))
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<u32, DataplaneError> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    let result = if let Program::SchedClassifier(tc) = program {
        tc.load()
    } else if let Program::Xdp(xdp) = program {
        xdp.load()
    } else {
        return Err(DataplaneError::Object(format!("its program `{name}` is for another hook")));
    };
    result
        .and_then(|()| program.info())
        .map(|info| info.id())
        .map_err(|error| refused(&format!("program `{name}`"), &error))
}

fn pin_path(directory: &Directory, name: &str) -> PathBuf {
    directory.programs().join(name)
}

/// Pins every program under its name, in place of an earlier agent's.
fn pin_programs(directory: &Directory, ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    for name in program::ALL {
        pin_program(directory, ebpf, name)?;
    }
    Ok(())
}

fn pin_program(directory: &Directory, ebpf: &mut Ebpf, name: &'static str) -> Result<(), DataplaneError> {
    let program = ebpf.program(name).ok_or_else(|| missing(name))?;
    let fd = program.fd().map_err(|error| refused(&format!("program `{name}`"), &error))?;
    let (own, new) = (pin_path(directory, name), pin_path(directory, &format!("{name}{SUCCESSOR}")));
    bpffs::unpin(&new)?;
    maps::ensure_parent(&new)?;
    sys::obj_pin(&new, fd.as_fd()).map_err(DataplaneError::path("pin", &new))?;
    fs::rename(&new, &own).map_err(DataplaneError::path("rename", &new))
}

/// Pins programs again whose pin was removed or replaced by hand.
pub(super) fn repair_programs(directory: &Directory, ebpf: &mut Ebpf) -> Result<Vec<String>, DataplaneError> {
    let mut done = Vec::new();
    for name in program::ALL {
        let ours = ebpf.program(name).and_then(|program| program.info().ok()).map(|info| info.id());
        let pinned = ProgramInfo::from_pin(pin_path(directory, name)).ok().map(|info| info.id());
        if pinned != ours {
            pin_program(directory, ebpf, name)?;
            done.push(format!("program {name} pinned again"));
        }
    }
    Ok(done)
}

/// Removes pins of programs that this version does not have.
pub(super) fn retire_programs(directory: &Directory) -> Result<Vec<String>, DataplaneError> {
    let mut done = Vec::new();
    for file in bpffs::files(&directory.programs())? {
        if known_program(&file).is_none() {
            bpffs::unpin(&pin_path(directory, &file))?;
            done.push(format!("program {file} of another version removed"));
        }
    }
    Ok(done)
}

/// What the programs log through aya-log, while [`Options::debug`] is on.
pub struct Logger {
    run: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
}

impl Logger {
    fn new(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        let logger = EbpfLogger::init(ebpf).map_err(|error| DataplaneError::Object(chain(&error)))?;
        let run = async {
            let mut logger = sys::readable(logger)?;
            loop {
                let mut ready = logger.readable_mut().await?;
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        };
        Ok(Self { run: Box::pin(run) })
    }

    /// Hands every record to the `log` crate's logger, for ever. Ends only with an error. Needs a tokio runtime.
    pub async fn run(self) -> io::Result<()> {
        self.run.await
    }
}
