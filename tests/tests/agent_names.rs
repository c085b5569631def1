//! Domain names on the real kernel: what one agent knows is there for the next, and answers reach the interface. Needs root.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use fabric_agent::{
    dataplane::{Dataplane, boot_time, name_row},
    kernel::inject::Injector,
    names::cache::{Cache, Known, SECOND},
};
use fabric_tests::{
    cast::{CA1, CA2, Family},
    frame::Path,
    tap::Tap,
    world::{Result, World, ip},
};

fn known(number: u32) -> Known {
    let addr = IpAddr::from([198, 51, 100, number as u8]);
    Known {
        ifindex: number % 3,
        name: format!("n{number}.example.com"),
        addr,
        expires: boot_time() + 100 * SECOND,
    }
}

fn rows(of: &[Known]) -> BTreeMap<fabric_common::names::NameKey, fabric_common::names::NameValue> {
    of.iter().filter_map(name_row).collect()
}

fn loaded(dataplane: &Dataplane) -> Result<Vec<Known>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    let (_, _, rows) = dataplane.names()?;
    let mut found = rows.load()?;
    found.sort();
    Ok(found)
}

#[test]
fn what_endpoints_were_told_is_known_to_the_next_agent() {
    World::run(|world| {
        let all: Vec<Known> = (0..40).map(known).collect();
        let first = world.open()?;
        {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let _inside = runtime.enter();
            let (_, mut switch, names) = first.names()?;
            switch.extend(Duration::from_secs(2))?;
            assert_eq!(switch.lost()?, 0);
            names.save(&BTreeMap::new(), &rows(&all))?;
            // What is no longer known goes.
            names.save(&rows(&all), &rows(&all[1..]))?;
        }
        drop(first);
        let second = world.open()?;
        let found = loaded(&second)?;
        let mut wanted = all[1..].to_vec();
        wanted.sort();
        assert_eq!(found, wanted);
        let cache = Cache::restore(found, boot_time());
        assert_eq!(cache.known().count(), 39);
        Ok(())
    });
}

#[test]
fn an_answer_leaves_as_it_is_given() {
    World::run(|world| {
        let ifindex = world.veth("v0")?;
        ip(&["link", "set", "v0p", "up"])?;
        let tap = Tap::at(ifindex);
        let frame = Path::between(&CA1, &CA2, Family::V4).udp((53, 40000), b"answer");
        let injector = Injector::open()?;
        injector.send(ifindex, &frame)?;
        assert!(tap.frames().contains(&frame));
        assert!(injector.send(9999, &frame).is_err(), "an interface that is gone");
        Ok(())
    });
}
