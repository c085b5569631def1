//! The agent's programs at interfaces of the real kernel: TCX, clsact and XDP through restarts, and what is removed by
//! hand. Needs root.

use std::{fs, process::Command};

use aya::programs::links::PinnedLink;
use fabric_agent::{
    dataplane::{Attached, Dataplane, Options, Seated, TcMode, UplinkMode, ownership},
    plan::desired::Attachment,
};
use fabric_common::abi::{self, program};
use fabric_tests::world::{World, at_hook, filters, ip, port};
use nix::net::if_::if_nametoindex;

#[test]
fn one_program_of_ours_is_at_a_hook_through_restarts() {
    World::run(|world| {
        let ifindex = world.veth("v0")?;
        let mut first = world.open()?;
        assert_eq!(first.attach(&port(ifindex))?, Attached::Created);
        assert_eq!(first.attach(&port(ifindex))?, Attached::Unchanged);
        let before = at_hook("v0")?;
        assert_eq!(before, [first.program_id(program::FROM_CONTAINER).ok_or("no id")?]);
        drop(first);
        assert_eq!(at_hook("v0")?, before, "the program goes on without the agent");

        let mut second = world.open()?;
        assert_eq!(second.attachments()?, [(port(ifindex), Seated::Older)].into());
        assert_eq!(second.attach(&port(ifindex))?, Attached::Replaced);
        assert_eq!(at_hook("v0")?, [second.program_id(program::FROM_CONTAINER).ok_or("no id")?]);
        assert_eq!(second.attachments()?, [(port(ifindex), Seated::Current)].into());
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
    World::run(|world| {
        let ifindex = world.veth("v0")?;
        let options = Options { tc: TcMode::Clsact, ..world.options() };
        let mut first = Dataplane::open(&options)?;
        assert_eq!(first.attach(&port(ifindex))?, Attached::Created);
        assert_eq!(first.attach(&port(ifindex))?, Attached::Unchanged);
        assert_eq!(first.attachments()?, [(port(ifindex), Seated::Current)].into());
        drop(first);

        let mut second = Dataplane::open(&options)?;
        assert_eq!(second.attachments()?, [(port(ifindex), Seated::Older)].into());
        assert_eq!(second.attach(&port(ifindex))?, Attached::Replaced);
        assert_eq!(second.attachments()?, [(port(ifindex), Seated::Current)].into());
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
    World::run(|world| {
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
fn a_stale_program_beside_ours_is_removed() {
    World::run(|world| {
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
    World::run(|world| {
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
        assert_eq!(forced.attachments()?, [(xdp, Seated::Current)].into());
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
        assert_eq!(again.attachments()?[&xdp], Seated::Older);
        assert_eq!(again.attach(&xdp)?, Attached::Replaced);
        again.detach(&xdp)?;
        assert_eq!(again.mode(ifindex).0, "tcx");
        Ok(())
    });
}
