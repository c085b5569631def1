//! Verdicts that policies want reported: what passes only because its policy is audited, and connections that a logged rule admits.

use fabric_common::{
    event::{ALLOWED, WOULD_DROP},
    policy::{EGRESS, INGRESS, verdict::AUDIT, verdict::LOG},
};
use fabric_tests::{
    cast::{BLUE, CA1, CA2, CB1, Container, FAMILIES, Family, HOST_A, HOST_B},
    frame::{Outer, Path},
    policed::{allow, deny},
    walk::{Place, Rig, Stage, Verdict},
};

const PORTS: (u16, u16) = (4000, 80);
const BACK: (u16, u16) = (80, 4000);
const P: u32 = 1;
const Q: u32 = 2;

fn rig() -> Rig {
    let mut rig = Stage::enter().rig(&HOST_A);
    rig.stay_on_this_cpu();
    rig.identify(&[(&CA1, 101), (&CA2, 102), (&CB1, 103)]);
    rig.police(&CA1, 101, P);
    rig.say(P, INGRESS, deny(9), &[]);
    rig
}

fn udp(from: &Container, to: &Container, family: Family, ports: (u16, u16)) -> Vec<u8> {
    Path::between(from, to, family).udp(ports, b"may I?")
}

/// Panics unless the packet passes and exactly these verdicts, with their rules, are reported.
#[track_caller]
fn passes(rig: &mut Rig, what: &str, place: Place, frame: &[u8], reported: &[(u8, u32)]) {
    let ran = rig.run(place, frame);
    assert_eq!(ran.verdict, Verdict::Sent, "{what}: {:#?}", ran.changes.lines());
    let events: Vec<_> = ran.changes.events.iter().map(|event| (event.reason, event.rule)).collect();
    assert_eq!(events, reported, "{what}");
    for event in &ran.changes.events {
        assert_eq!((event.vni, event.dst_port), (BLUE.vni, PORTS.1.to_be_bytes()), "{what}");
    }
}

#[test]
fn what_an_audited_policy_would_drop_passes_and_is_told_once_a_flow() {
    let mut rig = rig();
    let (one, uplink) = (rig.port(&CA1), rig.uplink());
    rig.say(P, EGRESS, allow(AUDIT | 5), &[]);
    rig.count_rules(&[5]);
    for family in FAMILIES {
        let question = udp(&CA1, &CB1, family, PORTS);
        passes(&mut rig, "the first", one, &question, &[(WOULD_DROP, 5)]);
        passes(&mut rig, "and on", one, &question, &[]);
        let answer = Outer::between(&HOST_B, &HOST_A, BLUE.vni).around(&udp(&CB1, &CA1, family, BACK));
        passes(&mut rig, "the answer", uplink, &answer, &[]);
    }
    assert_eq!(rig.counted()[&5].0, 6, "counted by the rule that would have dropped them");
    let [answered, _] = rig.flows();
    assert!(answered.values().all(|flow| flow.egress_rule == AUDIT | 5), "a flow says so");
}

#[test]
fn a_logged_rule_tells_of_new_connections_alone() {
    let mut rig = rig();
    let one = rig.port(&CA1);
    rig.say(P, EGRESS, allow(LOG | 6), &[]);
    let question = udp(&CA1, &CB1, Family::V4, PORTS);
    passes(&mut rig, "the first", one, &question, &[(ALLOWED, 6)]);
    passes(&mut rig, "and on", one, &question, &[]);
    passes(&mut rig, "another one", one, &udp(&CA1, &CB1, Family::V4, (4001, 80)), &[(ALLOWED, 6)]);
    let [_, new] = rig.flows();
    assert!(new.values().all(|flow| flow.egress_rule == 6));
}

#[test]
fn of_two_sides_what_would_drop_is_told_and_a_deny_is_a_deny() {
    let mut rig = rig();
    let one = rig.port(&CA1);
    rig.police(&CA2, 102, Q);
    rig.say(Q, EGRESS, allow(1), &[]);
    rig.say(P, EGRESS, allow(LOG | 6), &[]);
    rig.say(Q, INGRESS, allow(AUDIT | 7), &[]);
    passes(&mut rig, "both", one, &udp(&CA1, &CA2, Family::V4, PORTS), &[(WOULD_DROP, 7)]);
    rig.say(P, EGRESS, allow(AUDIT | 5), &[]);
    rig.say(Q, INGRESS, deny(8), &[]);
    let ran = rig.run(one, &udp(&CA1, &CA2, Family::V4, (4001, 80)));
    let events: Vec<_> = ran.changes.events.iter().map(|event| (event.reason, event.rule)).collect();
    assert_eq!((ran.verdict, events), (Verdict::Taken, vec![(43, 8)]), "audit weakens no other policy");
}

#[test]
fn reports_are_limited_and_can_be_switched_off() {
    let mut rig = rig();
    let one = rig.port(&CA1);
    rig.say(P, EGRESS, allow(LOG | 6), &[]);
    let many = (0..400)
        .map(|port| rig.run(one, &udp(&CA1, &CB1, Family::V4, (5000 + port, 80))).changes.events.len());
    let told: usize = many.sum();
    assert!((50..=400).contains(&told), "{told} of 400");
    rig.change_settings(|settings| settings.events_per_second = 0);
    passes(&mut rig, "silence", one, &udp(&CA1, &CB1, Family::V4, (4001, 80)), &[]);
}
