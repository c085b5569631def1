//! Packets and bytes of each policy rule, and of each flow: counted once, where the verdict is the last one.

use fabric_common::policy::{EGRESS, INGRESS, port_key};
use fabric_tests::{
    cast::{BLUE, CA1, CA2, CB1, Container, Family, HOST_A, HOST_B},
    frame::{Outer, Path},
    policed::{allow, deny, ranges, table},
    walk::{Gso, Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 80);
const BACK: (u16, u16) = (80, 4000);
const UDP: u8 = 17;
const P: u32 = 1;
const Q: u32 = 2;

fn rig() -> Rig {
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.stay_on_this_cpu();
    rig.identify(&[(&CA1, 101), (&CA2, 102), (&CB1, 103)]);
    rig.count_rules(&[1, 2, 3, 4, 5]);
    rig
}

fn udp(from: &Container, to: &Container, ports: (u16, u16)) -> Vec<u8> {
    Path::between(from, to, Family::V4).udp(ports, b"may I?")
}

fn tunnelled(inner: &[u8]) -> Vec<u8> {
    Outer::between(&HOST_B, &HOST_A, BLUE.vni).around(inner)
}

fn bytes(flow: &[u8], packets: u64) -> (u64, u64) {
    (packets, packets * flow.len() as u64)
}

#[test]
fn each_side_counts_what_its_rule_admitted_in_both_directions() {
    let mut rig = rig();
    let (one, two) = (rig.port(&CA1), rig.port(&CA2));
    rig.police(&CA1, 101, P);
    rig.police(&CA2, 102, Q);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, deny(2), &[]);
    rig.say(Q, EGRESS, deny(3), &[]);
    rig.say(Q, INGRESS, table(9), &[]);
    rig.set_table(9, ranges(&[(0, deny(4)), (port_key(UDP, 80), allow(5)), (port_key(UDP, 81), deny(4))]));
    let (out, back) = (udp(&CA1, &CA2, PORTS), udp(&CA2, &CA1, BACK));
    for (place, frame) in [(one, &out), (two, &back), (one, &out), (two, &back), (two, &back)] {
        assert_eq!(rig.run(place, frame).verdict, Verdict::Sent);
    }
    assert_eq!(rig.counted(), [(1, bytes(&out, 5)), (5, bytes(&out, 5))].into());
    let [answered, _] = rig.flows();
    let flow = answered.values().next().expect("one");
    assert_eq!((flow.began_bytes, flow.answer_bytes), (bytes(&out, 2).1, bytes(&back, 3).1));
    // A packet that the receiver's policy denies is counted by that rule, and by no other.
    assert_eq!(rig.run(one, &udp(&CA1, &CA2, (4000, 81))).verdict, Verdict::Taken);
    assert_eq!(rig.run(two, &udp(&CA2, &CA1, (1, 2))).verdict, Verdict::Taken);
    let denied = [(1, bytes(&out, 5)), (3, bytes(&out, 1)), (4, bytes(&out, 1)), (5, bytes(&out, 5))];
    assert_eq!(rig.counted(), denied.into());
}

#[test]
fn a_packet_that_two_hooks_judge_is_counted_once() {
    let mut rig = rig();
    rig.police(&CA1, 101, P);
    rig.say(P, EGRESS, allow(1), &[]);
    rig.say(P, INGRESS, table(9), &[]);
    rig.set_table(9, ranges(&[(0, deny(2)), (port_key(UDP, 80), allow(3)), (port_key(UDP, 81), deny(2))]));
    let inner = udp(&CB1, &CA1, PORTS);
    let (xdp, uplink) = (rig.uplink_xdp(), rig.uplink());
    rig.run(xdp, &tunnelled(&inner));
    assert_eq!(rig.counted(), [].into(), "XDP leaves it to TC");
    assert_eq!(rig.run(uplink, &tunnelled(&inner)).verdict, Verdict::Sent);
    assert_eq!(rig.counted(), [(3, bytes(&inner, 1))].into());
    // Datagrams that the kernel has put together go on to the device.
    let gso = Gso { size: 100, segments: 2 };
    let ran = rig.run_gso(uplink, &tunnelled(&inner), gso);
    assert!(
        ran.changes.lines().contains_key("actions from_uplink udp_gso packets"),
        "{:#?}",
        ran.changes.lines()
    );
    assert_eq!(rig.counted(), [(3, bytes(&inner, 1))].into(), "the device counts it");
    assert_eq!(rig.run(uplink, &tunnelled(&inner)).verdict, Verdict::Sent);
    assert_eq!(rig.counted(), [(3, bytes(&inner, 2))].into());
    let [_, new] = rig.flows();
    assert_eq!(new.values().next().expect("one").began_bytes, bytes(&inner, 2).1);
    // What is denied ends where it is.
    rig.run(xdp, &tunnelled(&udp(&CB1, &CA1, (4000, 81))));
    assert_eq!(rig.counted(), [(2, bytes(&inner, 1)), (3, bytes(&inner, 2))].into());
}
