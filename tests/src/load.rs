//! Loads the object as the agent does, but pins nothing.

use aya::{Ebpf, EbpfLoader, programs::Program};
use fabric_agent::dataplane::{OBJECT, TRACED_OBJECT};
use fabric_common::{
    abi::{self, program},
    settings::global,
};

use crate::ledger::SLOTS;

/// Flows of either kind that the programs have room for here: enough for any walk, and fast to make.
const FLOWS: u32 = 8192;

/// Load-time globals.
#[derive(Clone, Copy, Debug)]
pub struct Globals {
    /// Whether an inner packet of another family can be taken out.
    pub cross_family: bool,
    /// Whether decisions are logged.
    pub debug: bool,
}

impl Default for Globals {
    fn default() -> Self {
        Self { cross_family: true, debug: false }
    }
}

impl Globals {
    /// Every combination.
    pub const ALL: [Self; 4] = [
        Self { cross_family: false, debug: false },
        Self { cross_family: false, debug: true },
        Self { cross_family: true, debug: false },
        Self { cross_family: true, debug: true },
    ];
}

/// Loads the object and all of its programs through the verifier.
pub fn load(globals: Globals) -> Ebpf {
    load_object(OBJECT, globals)
}

/// The same with marks for `fabric trace`.
pub fn load_traced(globals: Globals) -> Ebpf {
    load_object(TRACED_OBJECT, globals)
}

fn load_object(object: &[u8], globals: Globals) -> Ebpf {
    let (cross_family, debug) = (u32::from(globals.cross_family), u32::from(globals.debug));
    let mut ebpf = EbpfLoader::new()
        .override_global(global::CROSS_FAMILY, &cross_family, true)
        .override_global(global::DEBUG, &debug, true)
        .map_max_entries(abi::PORT_COUNTERS.name, SLOTS)
        .map_max_entries(abi::FLOWS.name, FLOWS)
        .map_max_entries(abi::NEW_FLOWS.name, FLOWS)
        .load(object)
        .unwrap_or_else(|error| panic!("the object does not load with {globals:?}: {error:?}"));
    for name in program::ALL {
        let program = ebpf.program_mut(name).unwrap_or_else(|| panic!("the object has no program {name}"));
        let loaded = if let Program::Xdp(xdp) = program {
            xdp.load()
        } else if let Program::SchedClassifier(tc) = program {
            tc.load()
        } else {
            panic!("{name} is for another hook")
        };
        loaded.unwrap_or_else(|error| panic!("the verifier refuses {name} with {globals:?}: {error:?}"));
    }
    ebpf
}
