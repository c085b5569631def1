//! While somebody captures, whatever is dropped is copied whole, with the reason; otherwise nothing is.

use fabric_common::{
    capture::{CapturedDrop, DATA},
    reason::{DropReason, Hook},
};
use fabric_tests::{
    cast::{BLUE, CA1, CB1, Family, HOST_A, HOST_B, NOBODY_V4},
    frame::{ETH, INNER, Outer, Path},
    walk::{Gso, Stage},
};

const FOREVER: u64 = u64::MAX;

fn parts(record: &CapturedDrop) -> (Hook, DropReason, &[u8]) {
    let hook = Hook::from_number(record.event.hook).expect("a hook");
    let reason = DropReason::from_number(record.event.reason).expect("a reason");
    (hook, reason, &record.data[..record.captured as usize])
}

#[test]
fn drops_are_copied_while_somebody_captures() {
    let ground = Stage::enter();
    let mut rig = ground.rig(&HOST_A);
    let path = Path::between(&CA1, &CB1, Family::V4);
    let place = rig.port(&CA1);
    let spoofed = path.with_src(NOBODY_V4).ping(b"not mine");
    let good = path.ping(b"mine");

    rig.run_uncounted(place, &spoofed, Gso::default());
    assert_eq!(rig.captured().len(), 0, "nobody captures");
    // Over: a capture whose agent died ends by itself.
    rig.capture_until(1);
    rig.run_uncounted(place, &spoofed, Gso::default());
    assert_eq!(rig.captured().len(), 0, "the capture is over");

    rig.capture_until(FOREVER);
    rig.run_uncounted(place, &good, Gso::default());
    let ran = rig.run(place, &spoofed);
    let [record] = &rig.captured()[..] else { panic!("one record") };
    assert_eq!(parts(record), (Hook::FromContainer, DropReason::SpoofIp, &spoofed[..]));
    let event = *ran.changes.events.last().expect("an event");
    // All but the moment: both say the same.
    assert_eq!(fabric_common::event::DropEvent { time: event.time, ..record.event }, event);
    assert_eq!((record.inner, record.vlan, record.event.suppressed), (0, 0, 0));

    // The rate limit of events is none of a capture's, and what is longer than a record is cut.
    rig.change_settings(|settings| settings.events_per_second = 0);
    let long = path.of_length(ETH + 3000);
    rig.run_uncounted(place, &long, Gso::default());
    let [record] = &rig.captured()[..] else { panic!("one record") };
    assert_eq!(parts(record), (Hook::FromContainer, DropReason::TooBig, &long[..DATA]));
    assert_eq!(record.event.length as usize, long.len());
}

#[test]
fn drops_at_the_uplink_say_where_the_inner_frame_begins() {
    let ground = Stage::enter();
    let mut near = ground.rig(&HOST_B);
    let stranger = Path::between(&CA1, &CB1, Family::V4).with_src(NOBODY_V4).ping(b"forged");
    let forged = Outer::between(&HOST_A, &HOST_B, BLUE.vni).around(&stranger);
    near.capture_until(FOREVER);
    for place in [near.uplink(), near.uplink_xdp()] {
        near.run_uncounted(place, &forged, Gso::default());
    }
    let records = near.captured();
    assert_eq!(records.len(), 2);
    for (record, hook) in records.iter().zip([Hook::FromUplink, Hook::FromUplinkXdp]) {
        let (found, _, data) = parts(record);
        assert_eq!((found, data, record.inner), (hook, &forged[..], INNER as u32));
    }
}
