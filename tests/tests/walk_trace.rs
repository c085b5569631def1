//! The traced build decides as the programs that carry traffic do, and its marks tell how.

use fabric_common::{
    reason::{Action, DropReason},
    stage::{Mark, Stage},
};
use fabric_tests::{
    cast::{CA1, CA2, CB1, Family, HOST_A, HOST_B, NOBODY_MAC, NOBODY_V4},
    frame::Path,
    walk::{Gso, Stage as Ground},
};

#[test]
fn both_builds_decide_the_same_and_leave_the_same_bytes() {
    let ground = Ground::enter();
    let mut plain = (ground.rig(&HOST_A), ground.rig(&HOST_B));
    let path = Path::between(&CA1, &CB1, Family::V4);
    let frames = [
        Path::between(&CA1, &CA2, Family::V6).ping(b"local"),
        path.tcp((4000, 80), b"remote"),
        path.with_src(NOBODY_V4).ping(b""),
        path.with_src_mac(NOBODY_MAC).ping(b""),
        path.with_dst_mac(NOBODY_MAC).ping(b""),
        path.of_length(1514),
    ];
    let place = plain.0.port(&CA1);
    let real: Vec<_> =
        frames.iter().map(|frame| plain.0.run_uncounted(place, frame, Gso::default())).collect();
    let uplink = plain.1.uplink();
    let mut tunnel = real[1].1.clone();
    tunnel[..14].copy_from_slice(&[&HOST_B.mac.bytes[..], &HOST_A.mac.bytes, &[8, 0]].concat());
    let far = plain.1.run_uncounted(uplink, &tunnel, Gso::default());

    let mut traced = (plain.0.traced(), plain.1.traced());
    for (frame, real) in frames.iter().zip(&real) {
        assert_eq!(&traced.0.run_uncounted(place, frame, Gso::default()), real);
    }
    assert_eq!(traced.1.run_uncounted(uplink, &tunnel, Gso::default()), far);
    assert_eq!(
        traced.1.marks(),
        [
            Stage::Outer,
            Stage::Vtep,
            Stage::InnerFrame,
            Stage::SourceRecord,
            Stage::Receiver,
            Stage::Decapsulated
        ]
        .map(Mark::Passed)
        .into_iter()
        .chain([Mark::Done(Action::Local)])
        .collect::<Vec<_>>()
    );
    let ends: Vec<_> = traced.0.marks().into_iter().filter(|mark| !matches!(mark, Mark::Passed(_))).collect();
    let expected = [
        Mark::Done(Action::Local),
        Mark::Done(Action::Remote),
        Mark::Dropped(DropReason::SpoofIp),
        Mark::Dropped(DropReason::SpoofMac),
        Mark::Dropped(DropReason::UnknownDestination),
        Mark::Dropped(DropReason::TooBig),
    ];
    assert_eq!(ends, expected);
}
