//! The kernel side as the reconciler sees it: one object, loaded once, its maps and programs pinned.
//!
//! # What it guarantees
//!
//! - Nothing in here waits: every call is a bounded number of system calls. [`Dataplane`] is used by one thread at a
//!   time ([`Dataplane`] is `Send`); [`Counters`] is a cheap clone with descriptors of its own for everybody who only reads.
//! - Nothing in the kernel changes on [`Dataplane::open`] for traffic that already flows: programs of an earlier agent
//!   keep running on their maps until [`Dataplane::attach`] replaces each in place, and their maps stay until
//!   [`Dataplane::retire`].
//! - Everything that is created is recognised by a fresh process; [`ownership`] lists every mark.
//!
//! # The order of a pass
//!
//! 1. [`Dataplane::repair`]: pins that were removed by hand come back, remains of vanished interfaces go.
//! 2. [`Dataplane::tables`]: upserts from the first table to the last ([`TableSet::dump`] says what is there).
//! 3. [`Dataplane::attachments`], then [`Dataplane::attach`] for what is wanted and not in force, [`Dataplane::detach`]
//!    for what is in force and not wanted.
//! 4. [`Dataplane::tables`]: deletes from the last table to the first.
//! 5. After the first pass without errors, once: [`Dataplane::retire`].

mod advertisements;
mod attach;
mod bpffs;
mod capture;
mod cleanup;
mod clsact;
mod counters;
mod describe;
mod error;
mod events;
mod features;
mod flows;
mod groups;
mod inspect;
mod loader;
mod maps;
mod names;
mod netdev;
mod netlink;
pub mod ownership;
mod policy_rows;
mod resize;
mod sys;
mod tables;
mod tcx;
mod trace;
mod xdp;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use fabric_api::status::Feature;
use fabric_common::{abi, policy::KIND_RULE};

pub use self::{
    advertisements::{Advertised, Advertisements},
    attach::{Attached, Seated, TcMode, UplinkMode},
    capture::{CaptureSwitch, CapturedDrops},
    cleanup::cleanup,
    counters::Counters,
    describe::Describe,
    error::DataplaneError,
    events::{Events, EventsError},
    features::KernelRelease,
    flows::{FlowCursor, Flows, boot_time},
    groups::{Groups, Joined, Listeners},
    inspect::{Dump, Inspector},
    loader::Logger,
    names::{DnsPackets, DnsSwitch, NameRows, row as name_row},
    tables::{Failure, Row, Table, TableSet},
    trace::{Tracer, Walked},
};
use self::{attach::Links, bpffs::Directory, features::KernelFeatures, maps::OpenMaps};
use crate::{
    plan::desired::{Attachment, Tables},
    policy::Change,
};

/// Refuses to go on without the capabilities that everything here needs.
///
/// # Errors
/// Names those that are missing.
pub fn check_privileges() -> Result<(), DataplaneError> {
    features::check_privileges()
}

/// The eBPF object, as built by `build.rs`, aligned for parsing.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fabric"));

/// The same object with marks for `fabric trace`.
pub static TRACED_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fabric-trace"));

/// How to open the dataplane.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Our directory on a bpffs, such as `/sys/fs/bpf/fabric`. A bpffs is mounted if there is none.
    pub bpffs: PathBuf,
    /// Entries of maps that differ from their default, by map name: the `[maps]` table of the agent's file.
    pub sizes: BTreeMap<String, u32>,
    /// Whether uplinks get the XDP stage.
    pub uplink_mode: UplinkMode,
    /// Load the programs with logging on, which costs every dropped packet time; see [`Dataplane::take_logger`].
    pub debug: bool,
    /// How TC programs are attached; [`TcMode::Auto`] but in tests.
    pub tc: TcMode,
}

/// The loaded object with its maps, links and programs.
pub struct Dataplane {
    directory: Directory,
    ebpf: aya::Ebpf,
    programs: BTreeMap<&'static str, u32>,
    maps: OpenMaps,
    tables: TableSet,
    counters: Counters,
    links: Links,
    kernel: KernelFeatures,
    logger: Option<Logger>,
    /// Rules that found no room in `rule_counters`.
    uncounted: usize,
}

/// The rules whose numbers are taken.
fn rules(tables: &Tables) -> BTreeSet<u32> {
    tables.numbers.keys().filter(|key| key.kind == KIND_RULE).map(|key| key.number).collect()
}

impl Dataplane {
    /// Checks privileges, mounts a bpffs if needed, takes the directory, loads the object and opens or creates its
    /// maps. Programs that run are not touched. On an error nothing is left that was not there before, but the
    /// directory and the mount.
    ///
    /// # Errors
    /// One sentence each for: missing privileges, a directory that another agent has, an unknown key in `sizes`, a size
    /// that is smaller than the map's content, a program that the kernel refuses.
    pub fn open(options: &Options) -> Result<Self, DataplaneError> {
        features::check_privileges()?;
        maps::check_sizes(&options.sizes)?;
        let kernel = KernelFeatures::detect(options.tc)?;
        let directory = Directory::open(&options.bpffs)?;
        sys::raise_memlock(kernel.release);
        let loaded = loader::load(&directory, options, kernel)?;
        let tables = TableSet::open(&loaded.maps)?;
        let counters = Counters::open(&loaded.maps)?;
        counters.fill_drops()?;
        let links = Links::open(&directory, options.uplink_mode, kernel.tcx);
        Ok(Self {
            directory,
            ebpf: loaded.ebpf,
            programs: loaded.programs,
            maps: loaded.maps,
            tables,
            counters,
            links,
            kernel,
            logger: loaded.logger,
            uncounted: 0,
        })
    }

    /// Our directory on the bpffs.
    pub fn bpffs(&self) -> &Path {
        self.directory.root()
    }

    /// Everything that is in the tables. Rules whose numbers are there are counted from now on, others no longer.
    pub fn dump(&mut self) -> Result<Tables, DataplaneError> {
        let found = self.tables.dump()?;
        let left = self.counters.keep_rules(&rules(&found))?;
        self.uncounted(left);
        Ok(found)
    }

    /// Writes rows as [`TableSet::upsert`] does, after those that count for new rules.
    pub fn upsert(&mut self, rows: &Tables, change: Change<'_>) -> Vec<DataplaneError> {
        let counted = self.counters.add_rules(&rules(rows));
        let errors = self.tables.upsert(rows, change);
        // A rule is in force whether it is counted or not; the next dump says more.
        if let Err(error) = counted {
            tracing::warn!("{error}");
        }
        errors
    }

    fn uncounted(&mut self, rules: usize) {
        if rules > 0 && rules != self.uncounted {
            tracing::warn!(
                "map `{0}` is full, {rules} rules of policies are not counted: set `{0}` under [maps] in the agent's file \
                 higher and restart the agent",
                abi::RULE_COUNTERS.name
            );
        }
        self.uncounted = rules;
    }

    /// The tables that the agent fills.
    pub fn tables(&mut self) -> &mut TableSet {
        &mut self.tables
    }

    /// Every attachment whose link or filter exists and sits on that very interface, and whose program it runs. One of an
    /// earlier agent is not in force yet: [`Self::attach`] replaces it, [`Self::detach`] takes it off.
    pub fn attachments(&mut self) -> Result<BTreeMap<Attachment, Seated>, DataplaneError> {
        self.links.found(&self.programs)
    }

    /// Puts a program in force at an interface. An older program of ours is replaced in place, so that no packet
    /// passes between the two; others of ours at the same hook are removed.
    pub fn attach(&mut self, attachment: &Attachment) -> Result<Attached, DataplaneError> {
        self.links.attach(&self.directory, &mut self.ebpf, &self.programs, attachment)
    }

    /// Takes a program off an interface. Absent is success.
    pub fn detach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError> {
        self.links.detach(&self.directory, attachment)
    }

    /// Whether an uplink is to have the XDP stage (`NodeFacts::xdp`), by the uplink mode and what its driver can do.
    pub fn xdp_wanted(&self, ifindex: u32) -> bool {
        self.links.xdp_choice(ifindex).0
    }

    /// How the programs of an uplink are attached and why, for its status: `tcx` or `clsact`, with `+xdp` (native) or
    /// `+xdp-generic` where that stage is on.
    pub fn mode(&self, ifindex: u32) -> (String, String) {
        self.links.mode(ifindex)
    }

    /// Brings back pins of maps, programs and links that were removed while this process had them open, and rows of
    /// `drops`; removes links whose interface is gone or that were detached by hand. Returns one sentence for each.
    pub fn repair(&mut self) -> Result<Vec<String>, DataplaneError> {
        let mut done = self.maps.repair()?;
        done.extend(loader::repair_programs(&self.directory, &mut self.ebpf)?);
        done.extend(self.links.repair(&self.directory)?);
        let rows = self.counters.fill_drops()?.into_iter();
        done.extend(rows.map(|(hook, reason)| {
            format!("map row drops {{hook {}, reason {}}}", hook.as_str(), reason.as_str())
        }));
        Ok(done)
    }

    /// Removes what the programs no longer use: maps that were replaced, maps of other layouts, links of programs that
    /// this version does not have. To be called once the programs are attached everywhere. Returns one sentence for each.
    pub fn retire(&mut self) -> Result<Vec<String>, DataplaneError> {
        let mut done = self.maps.retire(&self.directory)?;
        done.extend(self.links.retire(&self.directory)?);
        done.extend(loader::retire_programs(&self.directory)?);
        Ok(done)
    }

    /// A reader of counters with descriptors of its own, independent of this value.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        Counters::open(&self.maps)
    }

    /// A reader and writer of flows, independent of this value.
    pub fn flows(&self) -> Result<Flows, DataplaneError> {
        Flows::open(&self.maps)
    }

    /// A reader and tidier of memberships in groups, independent of this value.
    pub fn groups(&self) -> Result<Groups, DataplaneError> {
        Groups::open(&self.maps)
    }

    /// A reader of router advertisements, independent of this value.
    pub fn advertisements(&self) -> Result<Advertisements, DataplaneError> {
        Advertisements::open(&self.maps)
    }

    /// A reader of drop events. Two readers would share the events between them: open it once. Needs a tokio runtime.
    pub fn events(&self) -> Result<Events, DataplaneError> {
        Events::open(&self.maps)
    }

    /// The switch that makes the programs copy what they drop, and the reader of those copies. Open it once, as the reader of
    /// events. Needs a tokio runtime.
    pub fn captures(&self) -> Result<(CaptureSwitch, CapturedDrops), DataplaneError> {
        Ok((CaptureSwitch::open(&self.maps)?, CapturedDrops::open(&self.maps)?))
    }

    /// The reader of DNS packets, the switch that makes the programs hand them over, and the rows of what was learned from them. Open
    /// the reader once, as that of events. Needs a tokio runtime.
    pub fn names(&self) -> Result<(DnsPackets, DnsSwitch, NameRows), DataplaneError> {
        Ok((DnsPackets::open(&self.maps)?, DnsSwitch::open(&self.maps)?, NameRows::open(&self.maps)?))
    }

    /// A reader of every map and program, for reports; independent of this value.
    pub fn inspector(&self) -> Result<Inspector, DataplaneError> {
        Inspector::open(&self.maps, self.programs.clone())
    }

    /// Whoever walks packets through a second load of the programs; independent of this value.
    pub fn tracer(&self) -> Result<Tracer, DataplaneError> {
        Tracer::open(self.directory.maps(), &self.maps, self.kernel.cross_family)
    }

    /// The reader of the programs' log, if [`Options::debug`] is on; once.
    pub fn take_logger(&mut self) -> Option<Logger> {
        self.logger.take()
    }

    /// What the kernel and the given uplinks (name, interface index) offer, and what is used instead.
    pub fn features(&self, uplinks: &[(String, u32)]) -> Vec<Feature> {
        features::report(self.kernel, &self.links, uplinks)
    }

    /// Kernel id of a loaded program, if it is one of ours.
    pub fn program_id(&self, program: &str) -> Option<u32> {
        self.programs.get(program).copied()
    }
}
