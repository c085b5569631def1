//! Membership in groups (IGMP, MLD): what reports change, what is refused, and who gets a group's packets because of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_api::Object;
use fabric_common::{
    addr::Mac,
    membership::MOST_GROUPS,
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{self, BLUE, CA1, CA2, CB1, Container, Family, HOST_A, HOST_B, Host},
    frame::{ETH, Outer, Path, fix_ip_checksum, multicast_mac},
    ledger::{action, dropped, received, sender_dropped, sent},
    load::Globals,
    membership::{ALERT, IGMP_ROUTERS, MLD_ROUTERS, igmp, igmp_of, igmp_v3, mld, mld_of, mld_v2},
    walk::{Gso, Rig, Stage, Verdict},
};

const FROM: Hook = Hook::FromContainer;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 2);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 1);
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const NONE: &[Ipv4Addr] = &[];
const NONE6: &[Ipv6Addr] = &[];

fn declared(host: &'static Host) -> Vec<Object> {
    let mut objects = cast::objects(host);
    for object in &mut objects {
        if let Object::Network(network) = object {
            network.spec.multicast = network.metadata.name == BLUE.name;
        }
    }
    objects
}

fn rig(host: &'static Host) -> Rig {
    Stage::enter().rig_with(host, &declared(host), Globals::default())
}

/// Sends a report that is taken note of.
#[track_caller]
fn says(rig: &mut Rig, what: &str, from: &Container, frame: &[u8]) {
    let expected = [action(FROM, Action::Absorbed, frame.len()), sent(from, frame.len())];
    rig.run(rig.port(from), frame).assert(what, Verdict::Taken, &expected);
}

#[track_caller]
fn refused(rig: &mut Rig, what: &str, frame: &[u8], reason: DropReason) {
    let expected = [dropped(FROM, reason, frame.len()), sender_dropped(&CA1)];
    rig.run(rig.port(&CA1), frame).assert(what, Verdict::Taken, &expected);
}

#[track_caller]
fn has(rig: &mut Rig, what: &str, of: &Container, groups: &[(IpAddr, u32)]) {
    assert_eq!(rig.groups(of), groups.iter().copied().collect(), "{what}");
    assert_eq!(rig.group_count(of).0, groups.len() as u32, "{what}: the count");
}

fn v3(records: &[(u8, Ipv4Addr, &[Ipv4Addr])]) -> Vec<u8> {
    igmp(&CA1, CA1.v4, IGMP_ROUTERS, &igmp_v3(records))
}

fn v6(records: &[(u8, Ipv6Addr, &[Ipv6Addr])]) -> Vec<u8> {
    mld(&CA1, CA1.link_local(), MLD_ROUTERS, (0, &ALERT), &mld_v2(records))
}

/// A datagram to a group.
fn to_group(from: &Container, group: IpAddr) -> Vec<u8> {
    let (family, mac) = match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            (Family::V4, Mac::new([1, 0, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(group) => (Family::V6, multicast_mac(group)),
    };
    Path { dst_mac: mac, ..Path::between(from, from, family) }.with_dst(group).udp((5000, 5000), b"a frame")
}

#[test]
fn every_version_joins_and_leaves() {
    let mut rig = rig(&HOST_A);
    let all_routers = Ipv4Addr::new(224, 0, 0, 2);
    let all_routers6 = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let join = |kind| igmp(&CA1, CA1.v4, GROUP, &igmp_of(kind, GROUP));
    says(&mut rig, "IGMPv1 report", &CA1, &join(0x12));
    has(&mut rig, "IGMPv1", &CA1, &[(GROUP.into(), 1)]);
    says(&mut rig, "IGMPv2 report, of the same group", &CA1, &join(0x16));
    has(&mut rig, "IGMPv2", &CA1, &[(GROUP.into(), 2)]);
    let leave = igmp(&CA1, CA1.v4, all_routers, &igmp_of(0x17, GROUP));
    says(&mut rig, "IGMPv2 leave", &CA1, &leave);
    has(&mut rig, "left", &CA1, &[]);
    says(&mut rig, "leave of what was not joined", &CA1, &leave);
    has(&mut rig, "left twice", &CA1, &[]);
    let path = |kind, dst| mld(&CA1, CA1.link_local(), dst, (0, &ALERT), &mld_of(kind, GROUP6));
    says(&mut rig, "MLDv1 report", &CA1, &path(131, GROUP6));
    has(&mut rig, "MLDv1", &CA1, &[(GROUP6.into(), 1)]);
    says(&mut rig, "MLDv1 done", &CA1, &path(132, all_routers6));
    has(&mut rig, "done", &CA1, &[]);
    // The alert behind the padding.
    let padded = [58, 0, 1, 0, 5, 2, 0, 0];
    let report = mld_v2(&[(4, GROUP6, NONE6)]);
    says(&mut rig, "MLDv2", &CA1, &mld(&CA1, CA1.link_local(), MLD_ROUTERS, (0, &padded), &report));
    has(&mut rig, "MLDv2", &CA1, &[(GROUP6.into(), 2)]);
    assert_eq!(rig.groups(&CA2).len(), 0, "nobody else's");
}

/// RFC 3376 section 4.2.12, RFC 3810 section 5.2.12: what each type of record does, joined or not.
#[test]
fn records_say_what_is_wanted() {
    let mut rig = rig(&HOST_A);
    let one = &[SOURCE][..];
    for (kind, sources, before, after) in [
        (1, NONE, true, false),
        (1, one, false, true),
        (2, NONE, false, true),
        (2, one, false, true),
        (3, NONE, true, false),
        (3, one, false, true),
        (4, NONE, false, true),
        (4, one, false, true),
        (5, NONE, false, false),
        (5, one, false, true),
        (6, one, true, true),
        (6, one, false, false),
        (7, one, false, false),
        (0, NONE, true, true),
    ] {
        let what = format!("type {kind} with {} sources, joined before: {before}", sources.len());
        let first = if before { 4 } else { 3 };
        says(&mut rig, &what, &CA1, &v3(&[(first, GROUP, NONE)]));
        says(&mut rig, &what, &CA1, &v3(&[(kind, GROUP, sources)]));
        let expected: &[_] = if after { &[(GROUP.into(), 3)] } else { &[] };
        has(&mut rig, &what, &CA1, expected);
        says(&mut rig, &what, &CA1, &v3(&[(3, GROUP, NONE)]));
        let sources6 = vec![Ipv6Addr::LOCALHOST; sources.len()];
        says(&mut rig, &what, &CA1, &v6(&[(first, GROUP6, NONE6)]));
        says(&mut rig, &what, &CA1, &v6(&[(kind, GROUP6, &sources6)]));
        let expected: &[_] = if after { &[(GROUP6.into(), 2)] } else { &[] };
        has(&mut rig, &what, &CA1, expected);
        says(&mut rig, &what, &CA1, &v6(&[(3, GROUP6, NONE6)]));
    }
    says(
        &mut rig,
        "many",
        &CA1,
        &v3(&[(4, GROUP, one), (6, OTHER, one), (4, OTHER, NONE), (3, GROUP, NONE)]),
    );
    has(&mut rig, "in their order", &CA1, &[(OTHER.into(), 3)]);
}

/// Everybody gets these, or nobody, so that they need no place in the map; from no address yet, reports are taken as well.
#[test]
fn what_needs_no_membership_is_not_noted_and_no_address_is_needed() {
    let mut rig = rig(&HOST_A);
    let link_local = [Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(224, 0, 0, 5)];
    says(&mut rig, "224.0.0.0/24", &CA1, &v3(&link_local.map(|group| (4, group, NONE))));
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x11);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let inside = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 0xfb);
    says(
        &mut rig,
        "solicited-node",
        &CA1,
        &v6(&[solicited, all_nodes, inside].map(|group| (4, group, NONE6))),
    );
    has(&mut rig, "nothing", &CA1, &[]);
    let report = igmp(&CA1, Ipv4Addr::UNSPECIFIED, IGMP_ROUTERS, &igmp_v3(&[(4, GROUP, NONE)]));
    says(&mut rig, "from 0.0.0.0", &CA1, &report);
    let report = mld(&CA1, Ipv6Addr::UNSPECIFIED, MLD_ROUTERS, (0, &ALERT), &mld_v2(&[(4, GROUP6, NONE6)]));
    says(&mut rig, "from ::", &CA1, &report);
    has(&mut rig, "both", &CA1, &[(GROUP.into(), 3), (GROUP6.into(), 2)]);
}

#[test]
fn what_is_no_valid_report_is_dropped_and_changes_nothing() {
    let mut rig = rig(&HOST_A);
    let report = igmp_v3(&[(4, GROUP, NONE)]);
    let report6 = mld_v2(&[(4, GROUP6, NONE6)]);
    let good = igmp(&CA1, CA1.v4, IGMP_ROUTERS, &report);
    let good6 = mld(&CA1, CA1.link_local(), MLD_ROUTERS, (0, &ALERT), &report6);
    let bent = |frame: &[u8], at: usize, to: u8| {
        let mut frame = frame.to_vec();
        frame[at] = to;
        if frame[12..14] == [8, 0] {
            fix_ip_checksum(&mut frame, ETH);
        }
        frame
    };
    let of = |message: &[u8]| igmp(&CA1, CA1.v4, IGMP_ROUTERS, message);
    let of6 = |message: &[u8]| mld(&CA1, CA1.link_local(), MLD_ROUTERS, (0, &ALERT), message);
    let count = |message: &[u8], count: u8| {
        let mut message = message.to_vec();
        message[7] = count;
        message
    };
    let sources = |message: &[u8], count: u8| {
        let mut message = message.to_vec();
        message[11] = count;
        message
    };
    let unicast = igmp_of(0x16, Ipv4Addr::new(192, 168, 10, 11));
    let unicast6 = mld_of(131, CA2.v6);
    let fragment = [58, 0, 0, 1, 0, 0, 0, 7];
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let behind = |before: &[u8], next| mld(&CA1, CA1.link_local(), MLD_ROUTERS, (next, before), &report6);
    let two_headers = [&[60, 0, 5, 2, 0, 0, 1, 0][..], &options].concat();
    let bad = DropReason::BadMembership;
    for (what, frame, reason) in [
        ("an IGMP query", of(&[0x11, 1, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0]), bad),
        (
            "an IGMPv1 query",
            igmp(&CA1, CA1.v4, Ipv4Addr::new(224, 0, 0, 1), &[0x11, 0, 0, 0, 0, 0, 0, 0]),
            bad,
        ),
        ("a wrong checksum", bent(&good, ETH + 24 + 2, 0x55), bad),
        ("cut off", of(&report[..6]), bad),
        ("a record too few", of(&count(&igmp_v3(&[(6, GROUP, NONE)]), 2)), bad),
        ("sources that are not there", of(&sources(&report, 1)), bad),
        ("a unicast group", of(&unicast), bad),
        ("a unicast group in a record", of(&igmp_v3(&[(4, CA2.v4, NONE)])), bad),
        ("a first fragment", bent(&good, ETH + 6, 0x20), bad),
        ("a later fragment", bent(&good, ETH + 7, 1), bad),
        ("another's address", igmp(&CA1, CA2.v4, IGMP_ROUTERS, &report), DropReason::SpoofIp),
        (
            "an MLD query",
            of6(&[130, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0]),
            bad,
        ),
        ("a wrong MLD checksum", bent(&good6, ETH + 40 + 8 + 2, 0x55), bad),
        ("MLDv1 cut off", of6(&mld_of(131, GROUP6)[..20]), bad),
        ("an MLD record too few", of6(&count(&mld_v2(&[(6, GROUP6, NONE6)]), 2)), bad),
        ("MLD sources that are not there", of6(&sources(&report6, 1)), bad),
        ("a unicast IPv6 group", of6(&unicast6), bad),
        ("a unicast IPv6 group in a record", of6(&mld_v2(&[(4, CA2.v6, NONE6)])), bad),
        ("an MLD code", of6(&[&[143, 1][..], &report6[2..]].concat()), bad),
        ("a hop limit of 2", bent(&good6, ETH + 7, 2), bad),
        ("from a global address", mld(&CA1, CA1.v6, MLD_ROUTERS, (0, &ALERT), &report6), bad),
        ("without the router alert", behind(&options, 0), bad),
        ("without hop-by-hop options", behind(&[], 58), bad),
        ("behind destination options", behind(&ALERT, 60), bad),
        ("behind two headers", behind(&two_headers, 0), bad),
        ("in a fragment that is all of it", behind(&fragment, 44), bad),
        (
            "another's link-local address",
            mld(&CA1, CA2.link_local(), MLD_ROUTERS, (0, &ALERT), &report6),
            DropReason::SpoofIp,
        ),
    ] {
        refused(&mut rig, what, &frame, reason);
        has(&mut rig, what, &CA1, &[]);
    }
    let message = igmp_v3(&[(4, GROUP, NONE), (4, OTHER, NONE)]);
    refused(&mut rig, "half of it", &of(&message[..20]), bad);
    has(&mut rig, "what stands before the fault counts", &CA1, &[(GROUP.into(), 3)]);
    let padded = [&good[..], &[0xee; 14]].concat();
    says(&mut rig, "padding", &CA1, &padded);
    says(&mut rig, "data behind the records", &CA1, &of(&[&report[..], &[1, 2, 3]].concat()));
    says(&mut rig, "a message of odd length", &CA1, &of6(&[&report6[..], &[1; 33]].concat()));
}

/// Other types are multicast like any other (RFC 4541 section 2.1.1).
#[test]
fn other_types_of_igmp_are_replicated() {
    let mut rig = rig(&HOST_A);
    let dvmrp = igmp(&CA1, CA1.v4, Ipv4Addr::new(224, 0, 0, 4), &[0x13, 1, 0, 0, 0, 0, 3, 0xff]);
    let length = dvmrp.len();
    let expected = [
        action(FROM, Action::Replicated, length),
        action(FROM, Action::CopyLocal, length),
        action(FROM, Action::CopyRemote, length),
        action(FROM, Action::CopyRemote, length),
        sent(&CA1, length),
        received(&CA2, length),
    ];
    rig.run(rig.port(&CA1), &dvmrp).assert("DVMRP", Verdict::Taken, &expected);
    let message = [0x13, 1, 0, 0, 0, 0, 3, 0xff];
    let nobodys = igmp(&CA1, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(224, 0, 0, 4), &message);
    refused(&mut rig, "DVMRP from nobody", &nobodys, DropReason::SpoofIp);
}

#[test]
fn an_endpoint_has_a_bounded_number_of_groups_and_harms_no_other() {
    let mut rig = rig(&HOST_A);
    let many = |range: std::ops::Range<u32>| -> Vec<_> {
        range.map(|n| (4, Ipv4Addr::from(u32::from(GROUP) + 256 + n), NONE)).collect()
    };
    says(&mut rig, "as many as there may be", &CA1, &v3(&many(0..MOST_GROUPS)));
    assert_eq!(rig.group_count(&CA1), (MOST_GROUPS, 0));
    let more = v3(&many(MOST_GROUPS..MOST_GROUPS + 3));
    refused(&mut rig, "more", &more, DropReason::GroupLimit);
    assert_eq!(rig.group_count(&CA1), (MOST_GROUPS, 3));
    refused(&mut rig, "in IPv6", &v6(&[(4, GROUP6, NONE6)]), DropReason::GroupLimit);
    says(&mut rig, "what is known", &CA1, &v3(&many(0..MOST_GROUPS)));
    let other = igmp(&CA2, CA2.v4, IGMP_ROUTERS, &igmp_v3(&[(4, GROUP, NONE)]));
    says(&mut rig, "another endpoint", &CA2, &other);
    has(&mut rig, "another endpoint", &CA2, &[(GROUP.into(), 3)]);
    let [(_, first, _), ..] = many(0..1)[..] else { panic!("one") };
    let swap = v3(&[(4, OTHER, NONE), (3, first, NONE), (4, GROUP, NONE)]);
    refused(&mut rig, "one goes, one of two comes", &swap, DropReason::GroupLimit);
    let groups = rig.groups(&CA1);
    assert!(
        groups.contains_key(&IpAddr::V4(GROUP)) && !groups.contains_key(&IpAddr::V4(OTHER)),
        "{groups:?}"
    );
    assert_eq!(rig.group_count(&CA1), (MOST_GROUPS, 5));
}

/// On the sender's host and on another: members get a copy, others none; other nodes get theirs in any case.
#[test]
fn a_groups_packets_reach_members_only() {
    let stage = Stage::enter();
    let mut near = stage.rig_with(&HOST_A, &declared(&HOST_A), Globals::default());
    let of_igmp = |kind| igmp(&CA2, CA2.v4, IGMP_ROUTERS, &igmp_v3(&[(kind, GROUP, NONE)]));
    let of_mld =
        |kind| mld(&CA2, CA2.link_local(), MLD_ROUTERS, (0, &ALERT), &mld_v2(&[(kind, GROUP6, NONE6)]));
    for (group, [join, leave]) in
        [(IpAddr::from(GROUP), [4, 3].map(of_igmp)), (GROUP6.into(), [4, 3].map(of_mld))]
    {
        let frame = to_group(&CA1, group);
        let length = frame.len();
        let far = [
            action(FROM, Action::Replicated, length),
            action(FROM, Action::CopyRemote, length),
            action(FROM, Action::CopyRemote, length),
            sent(&CA1, length),
        ];
        let copy = [action(FROM, Action::CopyLocal, length), received(&CA2, length)];
        let port = near.port(&CA1);
        near.run(port, &frame).assert("not joined", Verdict::Taken, &far);
        says(&mut near, "a join", &CA2, &join);
        near.run(port, &frame).assert("joined", Verdict::Taken, &[&far[..], &copy].concat());
        says(&mut near, "a leave", &CA2, &leave);
        near.run(port, &frame).assert("left", Verdict::Taken, &far);
    }
}

#[test]
fn what_comes_through_the_tunnel_reaches_members_only() {
    let mut far = rig(&HOST_B);
    let inner = to_group(&CA1, GROUP.into());
    let packet = Outer::between(&HOST_A, &HOST_B, BLUE.vni).around(&inner);
    let hook = Hook::FromUplink;
    let nobody = [action(hook, Action::Absorbed, packet.len())];
    far.run(far.uplink(), &packet).assert("nobody", Verdict::Taken, &nobody);
    let join = igmp(&CB1, CB1.v4, IGMP_ROUTERS, &igmp_v3(&[(4, GROUP, NONE)]));
    says(&mut far, "a join", &CB1, &join);
    let one = [
        action(hook, Action::Replicated, packet.len()),
        action(hook, Action::CopyLocal, inner.len()),
        received(&CB1, inner.len()),
    ];
    far.run(far.uplink(), &packet).assert("one", Verdict::Taken, &one);
    // What hosts behind other VTEPs report, or ask, concerns nobody here.
    for inner in [v3(&[(4, OTHER, NONE)]), v6(&[(4, GROUP6, NONE6)])] {
        let packet = Outer::between(&HOST_A, &HOST_B, BLUE.vni).around(&inner);
        let ran = far.run(far.uplink(), &packet);
        if ran.verdict == Verdict::Taken {
            has(&mut far, "a report through the tunnel", &CB1, &[(GROUP.into(), 3)]);
        }
        let expected = [action(hook, Action::Absorbed, packet.len())];
        ran.assert("a report through the tunnel", Verdict::Taken, &expected);
    }
}

/// Nothing is flooded for neighbour discovery, in whatever packet.
#[test]
fn a_solicited_node_address_is_nobodys_group() {
    let mut rig = rig(&HOST_A);
    let frame = to_group(&CA1, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x12).into());
    says(&mut rig, "UDP to a solicited-node address", &CA1, &frame);
}

#[test]
fn other_networks_take_no_reports_and_the_traced_build_notes_none() {
    let stage = Stage::enter();
    let mut rig = stage.rig(&HOST_A);
    refused(&mut rig, "a network without multicast", &v3(&[(4, GROUP, NONE)]), DropReason::MulticastOff);
    assert_eq!(rig.groups(&CA1).len(), 0);
    drop(rig);
    let mut rig = self::rig(&HOST_A).traced();
    let (verdict, _) = rig.run_uncounted(rig.port(&CA1), &v3(&[(4, GROUP, NONE)]), Gso::default());
    assert_eq!((verdict, rig.groups(&CA1).len()), (Verdict::Taken, 0));
}
