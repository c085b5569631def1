//! The agent's dataplane on the real kernel: every test in a network and mount namespace of its own, on a bpffs that
//! the dataplane mounts itself. Needs root.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use aya::{
    maps::{HashMap, Map, MapData, MapInfo, PerCpuArray, PerCpuHashMap, PerCpuValues},
    programs::{SchedClassifier, TcAttachType, links::PinnedLink},
};
use fabric_agent::{
    dataplane::{
        Attached, Dataplane, DataplaneError, Options, TcMode, UplinkMode, cleanup,
        ownership::{self, map_pin},
    },
    plan::desired::{Attachment, PrefixKey, Tables},
};
use fabric_common::{
    abi::{self, MapSpec, program},
    addr::{Addr, Mac},
    counters::{DropKey, Tally},
    endpoint::{EndpointKey, EndpointValue},
    fdb::{FdbKey, FdbValue},
    port::PortCounters,
    reason::{DropReason, Hook},
    source::{SourcePrefix, SourceValue},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const VNI: u32 = 100;

/// A network and mount namespace, and a directory for the bpffs. The namespaces go with the thread.
struct World {
    directory: tempfile::TempDir,
}

impl Drop for World {
    /// The bpffs would keep the directory busy; also after a panic.
    fn drop(&mut self) {
        let _absent = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
    }
}

impl World {
    fn bpffs(&self) -> PathBuf {
        self.directory.path().join("bpf")
    }

    /// Small maps, so that a load takes milliseconds.
    fn options(&self) -> Options {
        let small = abi::MAPS.iter().filter(|map| map.sized && map.name != abi::EVENTS.name);
        let sizes = small.map(|map| (map.name.to_owned(), 64)).collect();
        Options { bpffs: self.bpffs(), sizes, ..Options::default() }
    }

    fn open(&self) -> Result<Dataplane> {
        Ok(Dataplane::open(&self.options())?)
    }

    fn pin(&self, spec: &MapSpec) -> PathBuf {
        self.bpffs().join(ownership::MAPS_DIR).join(map_pin(spec))
    }

    fn files(&self, directory: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.bpffs().join(directory))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn veth(&self, name: &str) -> Result<u32> {
        ip(&["link", "add", name, "type", "veth", "peer", "name", &format!("{name}p")])?;
        ip(&["link", "set", name, "up"])?;
        Ok(if_nametoindex(name)?)
    }
}

fn ip(arguments: &[&str]) -> Result {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// Runs a test in namespaces of its own.
fn world(test: impl FnOnce(&World) -> Result + Send + 'static) {
    let thread = thread::spawn(move || -> Result {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let world = World { directory: tempfile::tempdir()? };
        test(&world)
    });
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn port(ifindex: u32) -> Attachment {
    Attachment { ifindex, program: program::FROM_CONTAINER }
}

/// Program ids at the TCX ingress hook of an interface.
fn at_hook(interface: &str) -> Result<Vec<u32>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
}

fn filters(interface: &str) -> Result<String> {
    let output = Command::new("tc").args(["filter", "show", "dev", interface, "ingress"]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn endpoint(number: u8) -> (EndpointKey, EndpointValue) {
    let key = EndpointKey { vni: VNI, addr: Addr::v4([10, 0, 0, number]) };
    let mac = Mac::new([2, 0xfc, 10, 0, 0, number]);
    let value = EndpointValue { mac, flags: 0, ifindex: 7, node: 1, identity: 0, slot: 3, generation: 1 };
    (key, value)
}

/// Counts on one CPU as a program would.
fn count(pin: &Path, slot: u32, packets: u64) -> Result {
    let mut ports: PerCpuArray<_, PortCounters> = Map::PerCpuArray(MapData::from_pin(pin)?).try_into()?;
    let mut values = ports.get(&slot, 0)?.to_vec();
    values[0].egress_packets += packets;
    ports.set(slot, PerCpuValues::try_from(values)?, 0)?;
    Ok(())
}

#[test]
fn reopening_keeps_maps_rows_and_counters() {
    world(|world| {
        let mut first = world.open()?;
        let (key, value) = endpoint(1);
        first.tables().endpoints.insert(&key, &value)?;
        count(&world.pin(&abi::PORT_COUNTERS), 3, 11)?;
        let id = MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.id();
        drop(first);

        let mut second = world.open()?;
        assert_eq!(MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.id(), id);
        assert_eq!(second.tables().endpoints.dump()?, BTreeMap::from([(key, value)]));
        assert_eq!(second.counters()?.port(3)?.egress_packets, 11);
        second.counters()?.reset_port(3)?;
        assert_eq!(second.counters()?.port(3)?.egress_packets, 0);
        assert_eq!(second.retire()?, Vec::<String>::new());
        Ok(())
    });
}

#[test]
fn drops_has_a_row_for_every_pair_and_keeps_its_values() {
    world(|world| {
        let first = world.open()?;
        let pairs = Hook::ALL.len() * DropReason::ALL.len();
        let used = first.counters()?.map_use()?;
        let drops = used.iter().find(|map| map.name == abi::DROPS.name).ok_or("no drops")?;
        assert_eq!(drops.entries as usize, pairs);
        assert_eq!(first.counters()?.all()?.iter().filter(|counter| counter.kind == "drop").count(), pairs);
        assert!(first.counters()?.all()?.iter().all(|counter| counter.packets == 0));
        Ok(())
    });
}

#[test]
fn another_size_keeps_the_content() {
    world(|world| {
        let mut options = world.options();
        let mut first = Dataplane::open(&options)?;
        for number in 1..=60 {
            let (key, value) = endpoint(number);
            first.tables().endpoints.insert(&key, &value)?;
        }
        let prefix = PrefixKey { bits: 128, prefix: SourcePrefix::new(VNI, Addr::v4([0; 4])) };
        let source = SourceValue { nodes: [5, 0, 0, 0], identity: 0, flags: 0, generation: 2 };
        first.tables().source_prefixes.insert(&prefix, &source)?;
        count(&world.pin(&abi::PORT_COUNTERS), 9, 5)?;
        drop(first);

        for name in ["endpoints", "port_counters", "source_prefixes"] {
            options.sizes.insert(name.to_owned(), 100);
        }
        let mut second = Dataplane::open(&options)?;
        assert_eq!(second.tables().endpoints.dump()?.len(), 60);
        assert_eq!(second.tables().source_prefixes.dump()?, BTreeMap::from([(prefix, source)]));
        assert_eq!(second.counters()?.port(9)?.egress_packets, 5);
        // The old programs count on until they are replaced.
        count(&world.pin(&abi::PORT_COUNTERS), 9, 2)?;
        assert_eq!(second.retire()?.len(), 3);
        assert_eq!(second.counters()?.port(9)?.egress_packets, 7);
        assert_eq!(MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.max_entries(), 100);
        assert_eq!(world.files(ownership::MAPS_DIR)?.len(), abi::MAPS.len());
        drop(second);

        let before = world.files(ownership::MAPS_DIR)?;
        options.sizes.insert("endpoints".to_owned(), 59);
        let refused = Dataplane::open(&options).err().ok_or("a map shrank below its content")?;
        assert!(matches!(refused, DataplaneError::TooSmall { content: 60, wanted: 59, .. }), "{refused}");
        assert_eq!(world.files(ownership::MAPS_DIR)?, before);
        Ok(())
    });
}

#[test]
fn a_crash_during_a_resize_loses_nothing() {
    world(|world| {
        let mut options = world.options();
        let (key, value) = endpoint(1);
        Dataplane::open(&options)?.tables().endpoints.insert(&key, &value)?;
        options.sizes.insert("endpoints".to_owned(), 100);
        // Gone before `retire`: the successor is complete and takes the name at the next start.
        drop(Dataplane::open(&options)?);
        let successor =
            world.bpffs().join("maps").join(format!("{}{}", map_pin(&abi::ENDPOINTS), ownership::SUCCESSOR));
        assert!(successor.exists());
        // Gone while copying: what is there is worthless.
        let copying =
            world.bpffs().join("maps").join(format!("{}{}", map_pin(&abi::FDB), ownership::COPYING));
        HashMap::<MapData, u32, u32>::create(1, 0)?.pin(&copying)?;
        let mut dataplane = Dataplane::open(&options)?;
        assert!(!successor.exists() && !copying.exists());
        assert_eq!(MapInfo::from_pin(world.pin(&abi::ENDPOINTS))?.max_entries(), 100);
        assert_eq!(dataplane.tables().endpoints.dump()?, BTreeMap::from([(key, value)]));
        assert!(dataplane.retire()?.is_empty());
        Ok(())
    });
}

#[test]
fn maps_of_another_layout_go_only_when_the_programs_are_replaced() {
    world(|world| {
        drop(world.open()?);
        let old = world.bpffs().join("maps").join("fdb@0123456789abcdef");
        fs::rename(world.pin(&abi::FDB), &old)?;
        let mut dataplane = world.open()?;
        assert!(dataplane.repair()?.is_empty() && old.exists());
        assert_eq!(dataplane.retire()?.len(), 1);
        assert!(!old.exists() && world.pin(&abi::FDB).exists());
        Ok(())
    });
}

#[test]
fn wrong_sizes_are_refused_before_anything_is_made() {
    world(|world| {
        let mut options = world.options();
        options.sizes.insert("endpoint".to_owned(), 100);
        let refused = Dataplane::open(&options).err().ok_or("an unknown map has a size")?;
        assert!(refused.to_string().contains("no map `endpoint`"), "{refused}");
        assert!(!world.bpffs().exists());
        Ok(())
    });
}

#[test]
fn debug_loads_programs_that_log() {
    world(|world| {
        let mut dataplane = Dataplane::open(&Options { debug: true, ..world.options() })?;
        assert!(dataplane.take_logger().is_some());
        assert!(dataplane.take_logger().is_none(), "there is one reader");
        drop(dataplane);
        assert!(world.open()?.take_logger().is_none());
        Ok(())
    });
}

#[test]
fn a_map_of_another_shape_under_our_name_is_not_reused() {
    world(|world| {
        drop(world.open()?);
        let pin = world.pin(&abi::FDB);
        fs::remove_file(&pin)?;
        HashMap::<MapData, [u8; 12], u64>::create(64, 0)?.pin(&pin)?;
        let mut dataplane = world.open()?;
        let key = FdbKey::new(VNI, Mac::new([2, 0, 0, 0, 0, 1]));
        let value = FdbValue { ifindex: 1, node: 2, slot: 3, flags: 0, generation: 4 };
        dataplane.tables().fdb.insert(&key, &value)?;
        assert_eq!(dataplane.retire()?.len(), 1);
        assert_eq!(MapInfo::from_pin(&pin)?.value_size(), 24);
        assert_eq!(dataplane.tables().fdb.dump()?, BTreeMap::from([(key, value)]));
        Ok(())
    });
}

#[test]
fn a_second_agent_on_the_directory_is_refused() {
    world(|world| {
        let first = world.open()?;
        let refused = world.open().err().ok_or("two agents on one directory")?;
        assert!(refused.to_string().contains("another fabric agent"), "{refused}");
        assert!(matches!(cleanup(&world.bpffs()), Err(DataplaneError::InUse { .. })));
        drop(first);
        world.open().map(drop)
    });
}

#[test]
fn a_full_map_names_its_setting_and_other_rows_are_written() {
    world(|world| {
        let mut options = world.options();
        options.sizes.insert("endpoints".to_owned(), 3);
        let mut dataplane = Dataplane::open(&options)?;
        let rows: BTreeMap<_, _> = (1..=5).map(endpoint).collect();
        let failure =
            dataplane.tables().endpoints.upsert(&rows).err().ok_or("five rows in a map of three")?;
        assert!(
            matches!(failure.error, DataplaneError::Full { map: "endpoints", limit: 3 }),
            "{}",
            failure.error
        );
        assert_eq!(failure.keys.len(), 2);
        assert_eq!(dataplane.tables().endpoints.dump()?.len(), 3);
        // Absent keys are success.
        dataplane.tables().endpoints.delete(rows.keys()).map_err(|failure| failure.error)?;
        assert!(dataplane.tables().endpoints.dump()?.is_empty());
        Ok(())
    });
}

#[test]
fn tables_come_back_as_they_were_written() {
    world(|world| {
        let mut dataplane = world.open()?;
        assert_eq!(dataplane.tables().dump()?, Tables::default());
        let mut rows = Tables { endpoints: (1..=50).map(endpoint).collect(), ..Tables::default() };
        rows.settings.insert(
            0,
            fabric_common::settings::Settings {
                node: 7,
                vxlan_ifindex: 3,
                events_per_second: 10,
                vxlan_port: 4789u16.to_be_bytes(),
                zero: [0; 2],
                node_mac: Mac::new([2, 0xfd, 0, 0, 0, 7]),
                reserved: [0; 2],
            },
        );
        assert!(dataplane.tables().upsert(&rows).is_empty());
        assert_eq!(dataplane.tables().dump()?, rows);
        assert!(dataplane.tables().delete(&rows).is_empty());
        assert_eq!(dataplane.tables().dump()?, Tables::default());
        Ok(())
    });
}

#[test]
fn one_program_of_ours_is_at_a_hook_through_restarts() {
    world(|world| {
        let ifindex = world.veth("v0")?;
        let mut first = world.open()?;
        assert_eq!(first.attach(&port(ifindex))?, Attached::Created);
        assert_eq!(first.attach(&port(ifindex))?, Attached::Unchanged);
        let before = at_hook("v0")?;
        assert_eq!(before, [first.program_id(program::FROM_CONTAINER).ok_or("no id")?]);
        drop(first);
        assert_eq!(at_hook("v0")?, before, "the program goes on without the agent");

        let mut second = world.open()?;
        assert!(second.attachments()?.is_empty(), "the program is that of the first agent");
        assert_eq!(second.attach(&port(ifindex))?, Attached::Replaced);
        assert_eq!(at_hook("v0")?, [second.program_id(program::FROM_CONTAINER).ok_or("no id")?]);
        assert_eq!(second.attachments()?, [port(ifindex)].into());
        second.detach(&port(ifindex))?;
        second.detach(&port(ifindex))?;
        assert!(at_hook("v0")?.is_empty());
        assert!(second.attachments()?.is_empty());
        assert!(world.files(ownership::LINKS_DIR)?.is_empty());
        let missing = second.attach(&port(ifindex + 1000)).err().ok_or("attached to nothing")?;
        assert!(missing.to_string().contains("no such interface"), "{missing}");
        Ok(())
    });
}

#[test]
fn clsact_filters_are_replaced_in_place_and_go() {
    world(|world| {
        let ifindex = world.veth("v0")?;
        let options = Options { tc: TcMode::Clsact, ..world.options() };
        let mut first = Dataplane::open(&options)?;
        assert_eq!(first.attach(&port(ifindex))?, Attached::Created);
        assert_eq!(first.attach(&port(ifindex))?, Attached::Unchanged);
        assert_eq!(first.attachments()?, [port(ifindex)].into());
        drop(first);

        let mut second = Dataplane::open(&options)?;
        assert!(second.attachments()?.is_empty(), "the program is that of the first agent");
        assert_eq!(second.attach(&port(ifindex))?, Attached::Replaced);
        assert_eq!(second.attachments()?, [port(ifindex)].into());
        assert_eq!(filters("v0")?.matches("handle 0xfab").count(), 1, "{}", filters("v0")?);
        assert!(at_hook("v0")?.is_empty());
        second.detach(&port(ifindex))?;
        assert!(filters("v0")?.is_empty());
        assert_eq!(second.attach(&port(ifindex))?, Attached::Created);
        drop(second);

        // A kernel update brings TCX: the link comes, the filter goes.
        let mut third = world.open()?;
        assert_eq!(third.attach(&port(ifindex))?, Attached::Created);
        assert!(filters("v0")?.is_empty());
        assert_eq!(at_hook("v0")?.len(), 1);
        Ok(())
    });
}

#[test]
fn what_is_removed_by_hand_comes_back() {
    world(|world| {
        let ifindex = world.veth("v0")?;
        let mut dataplane = world.open()?;
        dataplane.attach(&port(ifindex))?;
        assert!(dataplane.repair()?.is_empty());
        let link = world.bpffs().join(ownership::LINKS_DIR).join(ownership::link_pin(&port(ifindex)));

        fs::remove_file(&link)?;
        fs::remove_file(world.pin(&abi::FDB))?;
        fs::remove_file(world.bpffs().join(ownership::PROGRAMS_DIR).join(program::FROM_UPLINK))?;
        assert_eq!(at_hook("v0")?.len(), 1, "the open link keeps the program where it is");
        assert_eq!(dataplane.repair()?.len(), 3);
        assert!(dataplane.repair()?.is_empty());
        assert!(link.exists() && world.pin(&abi::FDB).exists());

        let status = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&link).status()?;
        assert!(status.success());
        assert!(dataplane.attachments()?.is_empty());
        assert_eq!(dataplane.repair()?.len(), 1);
        assert_eq!(dataplane.attach(&port(ifindex))?, Attached::Created);

        ip(&["link", "del", "v0"])?;
        assert!(dataplane.attachments()?.is_empty());
        assert_eq!(dataplane.repair()?.len(), 1);
        assert!(world.files(ownership::LINKS_DIR)?.is_empty());
        Ok(())
    });
}

#[test]
fn a_drop_counter_that_is_removed_by_hand_counts_again() {
    world(|world| {
        let mut dataplane = world.open()?;
        let key = DropKey::new(Hook::ALL[0], DropReason::ALL[0]);
        let map = Map::PerCpuHashMap(MapData::from_pin(world.pin(&abi::DROPS))?);
        let mut drops = PerCpuHashMap::<_, DropKey, Tally>::try_from(map)?;
        drops.remove(&key)?;
        let done = dataplane.repair()?;
        assert_eq!(done.len(), 1, "{done:?}");
        assert!(done[0].starts_with("map row drops {hook "), "{done:?}");
        assert!(drops.get(&key, 0)?.iter().all(|tally| tally.packets == 0));
        assert!(dataplane.repair()?.is_empty());
        Ok(())
    });
}

#[test]
fn a_stale_program_beside_ours_is_removed() {
    world(|world| {
        let ifindex = world.veth("v0")?;
        let mut first = world.open()?;
        first.attach(&port(ifindex))?;
        let link = world.bpffs().join(ownership::LINKS_DIR).join(ownership::link_pin(&port(ifindex)));
        // Somebody else holds the link while its pin and the agent go.
        let _held = PinnedLink::from_pin(&link)?;
        fs::remove_file(&link)?;
        drop(first);
        assert_eq!(at_hook("v0")?.len(), 1);
        let mut second = world.open()?;
        assert_eq!(second.attach(&port(ifindex))?, Attached::Created);
        assert_eq!(at_hook("v0")?, [second.program_id(program::FROM_CONTAINER).ok_or("no id")?]);
        Ok(())
    });
}

#[test]
fn xdp_stays_off_on_veth_unless_it_is_forced() {
    world(|world| {
        let ifindex = world.veth("v0")?;
        let xdp = Attachment { ifindex, program: program::FROM_UPLINK_XDP };
        let auto = world.open()?;
        assert!(!auto.xdp_wanted(ifindex));
        let (mode, why) = auto.mode(ifindex);
        assert_eq!(mode, "tcx");
        assert!(why.contains("veth"), "{why}");
        drop(auto);

        let mut forced = Dataplane::open(&Options { uplink_mode: UplinkMode::Xdp, ..world.options() })?;
        assert!(forced.xdp_wanted(ifindex));
        assert_eq!(forced.attach(&xdp)?, Attached::Created);
        assert_eq!(forced.attachments()?, [xdp].into());
        assert_eq!(forced.mode(ifindex).0, "tcx+xdp");
        ip(&["link", "add", "b0", "type", "bridge"])?;
        let bridge = Attachment { ifindex: if_nametoindex("b0")?, ..xdp };
        assert_eq!(forced.attach(&bridge)?, Attached::Created);
        let (mode, why) = forced.mode(bridge.ifindex);
        assert_eq!(mode, "tcx+xdp-generic");
        assert!(why.contains("refused"), "{why}");
        assert!(
            forced
                .features(&[("b0".to_owned(), bridge.ifindex)])
                .iter()
                .any(|f| f.name.contains("b0") && !f.available)
        );
        drop(forced);

        let mut again = Dataplane::open(&Options { uplink_mode: UplinkMode::Xdp, ..world.options() })?;
        assert_eq!(again.attach(&xdp)?, Attached::Replaced);
        again.detach(&xdp)?;
        assert_eq!(again.mode(ifindex).0, "tcx");
        Ok(())
    });
}

#[test]
fn cleanup_leaves_nothing_and_touches_nothing_else() {
    world(|world| {
        let (tcx, clsact) = (world.veth("v0")?, world.veth("v1")?);
        let mut dataplane = world.open()?;
        dataplane.attach(&port(tcx))?;
        dataplane.attach(&Attachment { ifindex: tcx, program: program::FROM_UPLINK_XDP })?;
        drop(dataplane);
        let mut dataplane = Dataplane::open(&Options { tc: TcMode::Clsact, ..world.options() })?;
        dataplane.attach(&port(clsact))?;
        drop(dataplane);
        let foreign = world.bpffs().join("foreign");
        HashMap::<MapData, u32, u32>::create(1, 0)?.pin(&foreign)?;

        cleanup(&world.bpffs())?;
        assert!(foreign.exists(), "a stranger's pin stays, and its directory and mount with it");
        assert!(at_hook("v0")?.is_empty() && filters("v1")?.is_empty());
        let link = Command::new("ip").args(["link", "show", "v0"]).output()?;
        assert!(!String::from_utf8(link.stdout)?.contains("xdp"));
        fs::remove_file(&foreign)?;
        let done = cleanup(&world.bpffs())?;
        assert!(!world.bpffs().exists(), "{done:?}");
        assert!(!fs::read_to_string("/proc/thread-self/mountinfo")?.contains(" - bpf fabric"));
        assert!(cleanup(&world.bpffs())?.is_empty(), "a second time there is nothing to do");
        Ok(())
    });
}
