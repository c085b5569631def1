//! Pings to the gateway: answered on the spot, by every node alike.

use fabric_common::reason::{Action, DropReason, Hook};
use fabric_tests::{
    cast::{BLUE, CA1, Container, FAMILIES, Family, GA1, GATEWAY_V4, GATEWAY_V6, GREEN, HOST_A},
    frame::{self, ETH, IPV4, IPV6, Path, assert_same},
    icmp::{self, Kind},
    ledger::{action, dropped, sender_dropped},
    walk::{Rig, Stage, Verdict},
};

const HOOK: Hook = Hook::FromContainer;

fn to_gateway(from: &Container, family: Family) -> Path {
    let dst = match family {
        Family::V4 => GATEWAY_V4.into(),
        Family::V6 => GATEWAY_V6.into(),
    };
    Path { src_mac: from.mac, dst_mac: from.network.gateway_mac, src: from.address(family), dst }
}

/// The reply to a request that [`Path::ping`] made.
fn reply(request: &Path, payload: &[u8]) -> Vec<u8> {
    let (src_mac, dst_mac) = (request.dst_mac, request.src_mac);
    Path { src_mac, dst_mac, src: request.dst, dst: request.src }.pong(payload)
}

#[track_caller]
fn answered(rig: &mut Rig, from: &Container, what: &str, request: &[u8], reply: &[u8]) {
    let ran = rig.run(rig.port(from), request);
    ran.assert(what, Verdict::Sent, &[action(HOOK, Action::Answered, request.len())]);
    assert_same(what, &ran.bytes, reply);
    assert_eq!(frame::fault(&ran.bytes), None, "{what}");
}

/// What is not for the gateway, and is answered with an error.
#[track_caller]
fn refused(rig: &mut Rig, what: &str, frame: &[u8], kind: Kind) {
    let ran = rig.run(rig.port(&CA1), frame);
    let answer = icmp::error(&CA1, frame, kind);
    let expected = [
        dropped(HOOK, DropReason::NoRoute, frame.len()),
        sender_dropped(&CA1),
        action(HOOK, Action::IcmpError, answer.len()),
    ];
    ran.assert(what, Verdict::Sent, &expected);
    assert_same(what, &ran.bytes, &answer);
}

#[track_caller]
fn no_route(rig: &mut Rig, what: &str, frame: &[u8]) {
    let ran = rig.run(rig.port(&CA1), frame);
    ran.assert(
        what,
        Verdict::Taken,
        &[dropped(HOOK, DropReason::NoRoute, frame.len()), sender_dropped(&CA1)],
    );
}

#[test]
fn the_gateway_answers_pings() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        for from in [&CA1, &GA1] {
            let path = to_gateway(from, family);
            for length in [0, 1, 56, 57, 1000, 1400, 3000] {
                let payload: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
                let what = format!("{length} bytes, {family:?}, {}", from.name);
                answered(&mut rig, from, &what, &path.ping(&payload), &reply(&path, &payload));
            }
        }
        // Every checksum, so that those whose update carries are among them.
        let path = to_gateway(&CA1, family);
        for n in 0..=u16::MAX {
            let payload = n.to_be_bytes();
            let (verdict, bytes) =
                rig.run_uncounted(rig.port(&CA1), &path.ping(&payload), Default::default());
            assert_eq!((verdict, frame::fault(&bytes)), (Verdict::Sent, None), "payload {payload:02x?}");
        }
        rig.changes();
    }
    let link_local = to_gateway(&CA1, Family::V6).with_src(CA1.link_local());
    answered(&mut rig, &CA1, "from a link-local address", &link_local.ping(&[1]), &reply(&link_local, &[1]));
    assert_ne!(BLUE.gateway_mac, GREEN.gateway_mac);
}

/// The reply to a request of nothing but zeros is all zero, and its checksum must not be.
#[test]
fn a_request_without_identifier_and_data_is_answered() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let mut request = to_gateway(&CA1, Family::V4).ping(&[]);
    request[ETH + IPV4..].copy_from_slice(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    assert_eq!(frame::fault(&request), None);
    let ran = rig.run(rig.port(&CA1), &request);
    assert_eq!((ran.verdict, frame::fault(&ran.bytes)), (Verdict::Sent, None));
    assert_eq!(ran.bytes[ETH + IPV4..], [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
}

#[test]
fn any_time_to_live_is_answered() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for ttl in [1, 63, 64, 255] {
        let (v4, v6) = (to_gateway(&CA1, Family::V4), to_gateway(&CA1, Family::V6));
        let mut request = v4.ping(&[1; 8]);
        request[ETH + 8] = ttl;
        frame::fix_ip_checksum(&mut request, ETH);
        answered(&mut rig, &CA1, &format!("TTL {ttl}"), &request, &reply(&v4, &[1; 8]));
        let mut request = v6.ping(&[1; 8]);
        request[ETH + 7] = ttl;
        answered(&mut rig, &CA1, &format!("hop limit {ttl}"), &request, &reply(&v6, &[1; 8]));
    }
}

fn fixed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame::fix_ip_checksum(&mut frame, ETH);
    frame
}

#[test]
fn everything_else_to_the_gateway_has_no_route() {
    let mut rig = Stage::enter().rig(&HOST_A);
    for family in FAMILIES {
        let path = to_gateway(&CA1, family);
        let no_port = Kind { v4: (3, 3), v6: (1, 4), mtu: 0 };
        refused(&mut rig, "UDP", &path.udp((4000, 53), &[1; 20]), no_port);
        refused(&mut rig, "TCP", &path.tcp((4000, 22), &[]), no_port);
        no_route(&mut rig, "a reply", &path.pong(&[1; 20]));
    }
    let path = to_gateway(&CA1, Family::V4);
    let ping = path.ping(&[1; 64]);
    no_route(&mut rig, "a first fragment", &fixed(ping.clone(), ETH + 6, &[0x20, 0]));
    no_route(&mut rig, "a last fragment", &fixed(ping.clone(), ETH + 6, &[0, 4]));
    no_route(&mut rig, "a request with another code", &fixed(ping.clone(), ETH + IPV4 + 1, &[1]));
    no_route(&mut rig, "a request that is cut", &fixed(ping.clone(), ETH + 2, &[0, 27]));
    let mut options = [&ping[..ETH + IPV4], &[1; 4], &ping[ETH + IPV4..]].concat();
    options[ETH] = 0x46;
    let length = ((options.len() - ETH) as u16).to_be_bytes();
    no_route(&mut rig, "options", &fixed(options, ETH + 2, &length));
    let v6 = to_gateway(&CA1, Family::V6);
    no_route(&mut rig, "another code, IPv6", &v6.icmpv6(128, 1, [0; 4], &[1; 20], 64));
    let mut cut = v6.ping(&[1; 20]);
    cut[ETH + 4..ETH + 6].copy_from_slice(&[0, 7]);
    no_route(&mut rig, "a request that is cut, IPv6", &cut);
    let mut behind =
        [&v6.ping(&[1; 20])[..ETH + IPV6], &[58, 0, 1, 4, 0, 0, 0, 0], &v6.ping(&[1; 20])[ETH + IPV6..]]
            .concat();
    behind[ETH + 6] = 60;
    let length = ((behind.len() - ETH - IPV6) as u16).to_be_bytes();
    behind[ETH + 4..ETH + 6].copy_from_slice(&length);
    no_route(&mut rig, "behind an extension header", &behind);
}

/// The host's own address in a network is no gateway's.
#[test]
fn a_nodes_address_is_not_answered_for() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let own = HOST_A.blue_address.expect("it has one");
    let path = to_gateway(&CA1, Family::V4).with_dst(own);
    let no_host = Kind { v4: (3, 1), v6: (1, 3), mtu: 0 };
    refused(&mut rig, "the node's address by way of the gateway", &path.ping(&[1; 20]), no_host);
    let key = fabric_common::endpoint::EndpointKey { vni: BLUE.vni, addr: own.into() };
    let node_mac = rig.tables.endpoints[&key].mac;
    no_route(&mut rig, "the node's address", &path.with_dst_mac(node_mac).ping(&[1; 20]));
    let crossed = to_gateway(&CA1, Family::V4).with_dst_mac(node_mac);
    no_route(&mut rig, "the gateway's address at a node's MAC", &crossed.ping(&[1; 20]));
}
