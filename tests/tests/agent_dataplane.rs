//! The agent's dataplane as a whole on the real kernel: opening, its one owner, cleaning up. Needs root.

use std::{fs, process::Command};

use aya::maps::{HashMap, MapData};
use fabric_agent::{
    dataplane::{Dataplane, DataplaneError, Options, TcMode, cleanup},
    plan::desired::Attachment,
};
use fabric_common::abi::program;
use fabric_tests::world::{World, at_hook, filters, port};

#[test]
fn wrong_sizes_are_refused_before_anything_is_made() {
    World::run(|world| {
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
    World::run(|world| {
        let mut dataplane = Dataplane::open(&Options { debug: true, ..world.options() })?;
        assert!(dataplane.take_logger().is_some());
        assert!(dataplane.take_logger().is_none(), "there is one reader");
        drop(dataplane);
        assert!(world.open()?.take_logger().is_none());
        Ok(())
    });
}

#[test]
fn a_second_agent_on_the_directory_is_refused() {
    World::run(|world| {
        let first = world.open()?;
        let refused = world.open().err().ok_or("two agents on one directory")?;
        assert!(refused.to_string().contains("another fabric agent"), "{refused}");
        assert!(matches!(cleanup(&world.bpffs()), Err(DataplaneError::InUse { .. })));
        drop(first);
        world.open().map(drop)
    });
}

#[test]
fn cleanup_leaves_nothing_and_touches_nothing_else() {
    World::run(|world| {
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
