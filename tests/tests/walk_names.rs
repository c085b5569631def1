//! Policies with domain names: an address is another's identity only for who was told it, and DNS answers that somebody asked for are
//! handed to the agent instead of being delivered.

use fabric_common::{
    names::{ANSWER, DATA, QUERY},
    policy::{EGRESS, INGRESS, POLICY_NAMES},
    reason::{Action, DropReason, Hook},
};
use fabric_tests::{
    cast::{CA1, CA2, CB1, FAMILIES, Family, HOST_A, HOST_B},
    frame::{Outer, Path, TTL, assert_same},
    ledger::{action, dropped, received, sender_dropped, sent},
    masquerade::{back, number, out, rig, server, transport_at},
    policed::{allow, deny},
    routing::with_ttl,
    walk::{Rig, Stage, Verdict},
};

const NAMES: u32 = POLICY_NAMES | 7;
const PLAIN: u32 = 8;
const OWN: u32 = 100;
const NAMED: u32 = 900;
const FOREVER: u64 = u64::MAX;
const DNS: (u16, u16) = (40000, 53);

#[test]
fn an_address_is_open_to_whoever_was_told_it() {
    let mut rig = rig();
    for container in [&CA1, &CA2] {
        rig.police(container, OWN, NAMES);
    }
    rig.say(NAMES, EGRESS, deny(1), &[(NAMED, allow(2))]);
    rig.say(NAMES, INGRESS, deny(3), &[]);
    for family in FAMILIES {
        let packet = out(&CA1, family).tcp((40000, 443), b"hello");
        let denied =
            [dropped(Hook::FromContainer, DropReason::PolicyDenied, packet.len()), sender_dropped(&CA1)];
        rig.run(rig.port(&CA1), &packet).assert("before it was told", Verdict::Taken, &denied);
        rig.tell(&CA1, server(family), NAMED);
        let left = rig.run(rig.port(&CA1), &packet);
        let expected =
            [action(Hook::FromContainer, Action::Masqueraded, packet.len()), sent(&CA1, packet.len())];
        left.assert("after", Verdict::Sent, &expected);
        // The answer is the flow's, whose other side has the same identity from there.
        let port = number(&left.bytes, transport_at(family));
        let answer = back(server(family), family).tcp((443, port), b"welcome");
        let expected = [action(Hook::FromUplink, Action::Local, answer.len()), received(&CA1, answer.len())];
        rig.run(rig.uplink(), &answer).assert("the answer", Verdict::Sent, &expected);
        // Whoever was not told stays outside, with the same policy.
        let packet = out(&CA2, family).tcp((40000, 443), b"me too");
        let denied =
            [dropped(Hook::FromContainer, DropReason::PolicyDenied, packet.len()), sender_dropped(&CA2)];
        rig.run(rig.port(&CA2), &packet).assert("another container", Verdict::Taken, &denied);
    }
    assert_eq!(rig.dns_packets().len(), 0);
}

/// CA1 has a policy with names that lets it ask everybody.
fn open_rig(mut rig: Rig) -> Rig {
    rig.police(&CA1, OWN, NAMES);
    rig.say(NAMES, EGRESS, allow(1), &[]);
    rig.say(NAMES, INGRESS, deny(3), &[]);
    rig.read_dns_until(FOREVER);
    rig
}

#[test]
fn a_query_to_the_world_is_copied_and_its_answer_held() {
    let mut rig = open_rig(rig());
    let port_of = rig.port(&CA1).ifindex();
    for family in FAMILIES {
        let query = out(&CA1, family).udp(DNS, b"query");
        let left = rig.run(rig.port(&CA1), &query);
        let expected =
            [action(Hook::FromContainer, Action::Masqueraded, query.len()), sent(&CA1, query.len())];
        left.assert("the query", Verdict::Sent, &expected);
        assert_eq!(rig.dns_packets(), [(QUERY, port_of, query.clone())], "as the container sent it");

        let port = number(&left.bytes, transport_at(family));
        let answer = back(server(family), family).udp((53, port), b"answer");
        let held = [action(Hook::FromUplink, Action::Held, answer.len()), received(&CA1, answer.len())];
        rig.run(rig.uplink(), &answer).assert("the answer", Verdict::Taken, &held);
        let home = Path {
            src_mac: CA1.network.gateway_mac,
            dst_mac: CA1.mac,
            src: server(family),
            dst: CA1.address(family),
        };
        let records = rig.dns_packets();
        let [(ANSWER, ifindex, bytes)] = &records[..] else { panic!("{records:?}") };
        assert_eq!(*ifindex, port_of);
        assert_same(
            "as the container is to get it",
            bytes,
            &with_ttl(home.udp((53, 40000), b"answer"), TTL - 1),
        );

        // Longer than a record: it is delivered, unread.
        let long = back(server(family), family).udp((53, port), &[7; DATA]);
        let delivered = [action(Hook::FromUplink, Action::Local, long.len()), received(&CA1, long.len())];
        rig.run(rig.uplink(), &long).assert("a long one", Verdict::Sent, &delivered);
        // Nobody reads: everything goes its way.
        rig.read_dns_until(1);
        let delivered = [action(Hook::FromUplink, Action::Local, answer.len()), received(&CA1, answer.len())];
        rig.run(rig.uplink(), &answer).assert("without an agent", Verdict::Sent, &delivered);
        rig.read_dns_until(FOREVER);
        assert_eq!(rig.dns_packets(), []);
    }
}

#[test]
fn only_dns_answers_that_were_asked_for_are_held() {
    let mut rig = open_rig(rig());
    // Other ports, and TCP, are nobody's business.
    for packet in [
        out(&CA1, Family::V4).udp((53, 80), b"no query"),
        out(&CA1, Family::V4).tcp(DNS, b"over TCP"),
        out(&CA2, Family::V4).udp(DNS, b"no policy"),
    ] {
        let from = if packet[6..12] == CA1.mac.bytes { &CA1 } else { &CA2 };
        let left = rig.run(rig.port(from), &packet);
        left.assert(
            "a packet",
            Verdict::Sent,
            &[action(Hook::FromContainer, Action::Masqueraded, packet.len()), sent(from, packet.len())],
        );
        let server_port = number(&packet, transport_at(Family::V4) + 2);
        let port = number(&left.bytes, transport_at(Family::V4));
        let path = back(server(Family::V4), Family::V4);
        let tcp = packet[23] == 6;
        let answer =
            if tcp { path.tcp((server_port, port), b"back") } else { path.udp((server_port, port), b"back") };
        rig.run(rig.uplink(), &answer).assert(
            "its answer",
            Verdict::Sent,
            &[action(Hook::FromUplink, Action::Local, answer.len()), received(from, answer.len())],
        );
    }
    assert_eq!(rig.dns_packets(), []);
    // What begins with port 53 is no answer, also where it is admitted.
    rig.say(NAMES, INGRESS, allow(4), &[]);
    let packet = Path::between(&CA2, &CA1, Family::V4).udp((53, 40001), b"unasked");
    rig.run(rig.port(&CA2), &packet).assert(
        "unasked",
        Verdict::Sent,
        &[
            action(Hook::FromContainer, Action::Local, packet.len()),
            sent(&CA2, packet.len()),
            received(&CA1, packet.len()),
        ],
    );
    assert_eq!(rig.dns_packets(), []);
}

#[test]
fn a_server_in_the_fabric_is_a_server_too() {
    let mut rig = open_rig(Stage::enter().rig(&HOST_A));
    let port = rig.port(&CA1).ifindex();
    for family in FAMILIES {
        // On this host.
        let query = Path::between(&CA1, &CA2, family).udp(DNS, b"query");
        let local = [
            action(Hook::FromContainer, Action::Local, query.len()),
            sent(&CA1, query.len()),
            received(&CA2, query.len()),
        ];
        rig.run(rig.port(&CA1), &query).assert("the query", Verdict::Sent, &local);
        let answer = Path::between(&CA2, &CA1, family).udp((53, 40000), b"answer");
        let held = [
            action(Hook::FromContainer, Action::Held, answer.len()),
            sent(&CA2, answer.len()),
            received(&CA1, answer.len()),
        ];
        rig.run(rig.port(&CA2), &answer).assert("the answer", Verdict::Taken, &held);
        assert_eq!(rig.dns_packets(), [(QUERY, port, query), (ANSWER, port, answer)]);
        // On another one.
        let query = Path::between(&CA1, &CB1, family).udp(DNS, b"query");
        rig.run_uncounted(rig.port(&CA1), &query, fabric_tests::walk::Gso::default());
        let answer = Path::between(&CB1, &CA1, family).udp((53, 40000), b"answer");
        let outer = Outer::between(&HOST_B, &HOST_A, CA1.network.vni).around(&answer);
        let (verdict, _) = rig.run_uncounted(rig.uplink(), &outer, fabric_tests::walk::Gso::default());
        assert_eq!(verdict, Verdict::Taken, "{family:?}");
        rig.changes();
        assert_eq!(rig.dns_packets(), [(QUERY, port, query), (ANSWER, port, answer)]);
    }
    // Numbers without the mark cost nobody anything.
    rig.police(&CA1, OWN, PLAIN);
    rig.say(PLAIN, EGRESS, allow(1), &[]);
    rig.say(PLAIN, INGRESS, allow(1), &[]);
    let query = Path::between(&CA1, &CA2, Family::V4).udp(DNS, b"query");
    rig.run_uncounted(rig.port(&CA1), &query, fabric_tests::walk::Gso::default());
    assert_eq!(rig.dns_packets(), []);
}
