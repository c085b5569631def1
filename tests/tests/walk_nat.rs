//! Egress to the world: what leaves with the host's address, what comes back, and what does neither.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use etherparse::{IpNumber, PacketBuilder};
use fabric_common::{
    addr::Addr,
    flow::timeout,
    policy::{EGRESS, INGRESS, port_key},
    reason::{Action, DropReason, Hook},
    stage::{Mark, Stage as Passed},
};
use fabric_tests::{
    cast::{CA1, CA2, Container, FAMILIES, Family, GA1, HOST_A, HOST_B, Host, VXLAN_PORT},
    frame::{self, ETH, IPV4, IPV6, Path, TTL, assert_same},
    icmp::Kind,
    ledger::{action, dropped, received, sender_dropped, sent},
    masquerade::{ROUTER_MAC, SERVER_V4, back, number, out, rig, server, transport_at},
    policed::{allow, deny, ranges, table},
    routing::{answered, with_ttl},
    walk::{Gso, NAT_PORTS, Rig, Verdict},
};

const PORTS: (u16, u16) = (4000, 80);
const PAYLOAD: &[u8] = b"to whom it may concern";
const TCP_FLAGS: usize = 13;

/// The container's packet leaves; returns it as it left.
#[track_caller]
fn leaves(rig: &mut Rig, from: &Container, what: &str, packet: &[u8]) -> Vec<u8> {
    let ran = rig.run(rig.port(from), packet);
    let expected = [action(Hook::FromContainer, Action::Masqueraded, packet.len()), sent(from, packet.len())];
    ran.assert(what, Verdict::Sent, &expected);
    assert_eq!(frame::fault(&ran.bytes), None, "{what}");
    ran.bytes
}

/// The packet from the world reaches the container; returns it as it arrived.
#[track_caller]
fn arrives(rig: &mut Rig, to: &Container, what: &str, packet: &[u8]) -> Vec<u8> {
    let ran = rig.run(rig.uplink(), packet);
    let expected = [action(Hook::FromUplink, Action::Local, packet.len()), received(to, packet.len())];
    ran.assert(what, Verdict::Sent, &expected);
    assert_eq!(frame::fault(&ran.bytes), None, "{what}");
    ran.bytes
}

/// The packet is the host's own business, and stays as it is.
#[track_caller]
fn passes_by(rig: &mut Rig, what: &str, packet: &[u8]) {
    let ran = rig.run(rig.uplink(), packet);
    ran.assert(what, Verdict::ToStack, &[action(Hook::FromUplink, Action::NotOurs, packet.len())]);
    assert_same(what, &ran.bytes, packet);
}

#[track_caller]
fn stops(rig: &mut Rig, from: &Container, what: &str, packet: &[u8], reason: DropReason) {
    let ran = rig.run(rig.port(from), packet);
    let expected = [dropped(Hook::FromContainer, reason, packet.len()), sender_dropped(from)];
    ran.assert(what, Verdict::Taken, &expected);
}

/// As a container gets an answer from the server: a hop further, from its gateway.
fn inward(to: &Container, family: Family) -> Path {
    Path { src_mac: to.network.gateway_mac, dst_mac: to.mac, src: server(family), dst: to.address(family) }
}

/// The port, or the echo's identifier, that the host gave.
fn given(frame: &[u8], family: Family, is_echo: bool) -> u16 {
    number(frame, transport_at(family) + if is_echo { 4 } else { 0 })
}

fn with_ports(frame: &[u8], at: usize, port: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
    frame
}

/// An echo with this identifier.
fn echo(path: Path, id: u16, reply: bool) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2(path.src_mac.bytes, path.dst_mac.bytes);
    let mut frame = Vec::new();
    match (path.src, path.dst) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            let ip = eth.ipv4(src.octets(), dst.octets(), TTL);
            if reply {
                ip.icmpv4_echo_reply(id, 1).write(&mut frame, PAYLOAD)
            } else {
                ip.icmpv4_echo_request(id, 1).write(&mut frame, PAYLOAD)
            }
        }
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
            let ip = eth.ipv6(src.octets(), dst.octets(), TTL);
            if reply {
                ip.icmpv6_echo_reply(id, 1).write(&mut frame, PAYLOAD)
            } else {
                ip.icmpv6_echo_request(id, 1).write(&mut frame, PAYLOAD)
            }
        }
        _ => panic!("addresses of two families"),
    }
    .expect("it fits");
    frame
}

#[test]
fn flows_leave_with_the_hosts_address_and_come_back() {
    let mut rig = rig();
    for family in FAMILIES {
        let host = out(&CA1, family).with_src(HOST_A.underlay(family));
        let (there, answer, home) = (out(&CA1, family), back(server(family), family), inward(&CA1, family));
        type Build = fn(Path, u16, u16) -> Vec<u8>;
        let kinds: [(&str, Build, Build); 3] = [
            ("UDP", |p, a, b| p.udp((a, b), PAYLOAD), |p, a, b| p.udp((b, a), PAYLOAD)),
            ("TCP", |p, a, b| p.tcp((a, b), PAYLOAD), |p, a, b| p.tcp((b, a), PAYLOAD)),
            ("echo", |p, a, _| echo(p, a, false), |p, a, _| echo(p, a, true)),
        ];
        for (name, request, reply) in kinds {
            let what = &format!("{name} over {family:?}");
            let left = leaves(&mut rig, &CA1, what, &request(there, PORTS.0, PORTS.1));
            let port = given(&left, family, name == "echo");
            assert!((NAT_PORTS.0..=NAT_PORTS.1).contains(&port), "{what}: port {port}");
            assert_same(what, &left, &with_ttl(request(host, port, PORTS.1), TTL - 1));

            let arrived = arrives(&mut rig, &CA1, what, &reply(answer, port, PORTS.1));
            assert_same(what, &arrived, &with_ttl(reply(home, PORTS.0, PORTS.1), TTL - 1));

            let again = leaves(&mut rig, &CA1, what, &request(there, PORTS.0, PORTS.1));
            assert_same(&format!("{what} again"), &again, &left);
            // Nobody else in the world has anything to say in this flow.
            let stranger = match family {
                Family::V4 => back(Ipv4Addr::new(198, 51, 100, 7), family),
                Family::V6 => back(HOST_B.vtep_v6(), family),
            };
            passes_by(&mut rig, what, &reply(stranger, port, PORTS.1));
        }
    }
    assert_eq!(rig.count_translations(), (12, 0), "two rows a flow, all answered");
}

#[test]
fn a_checksum_of_none_stays_none_and_padding_and_segmentation_stay() {
    let mut rig = rig();
    let mut packet = out(&CA1, Family::V4).udp(PORTS, PAYLOAD);
    packet[ETH + IPV4 + 6..ETH + IPV4 + 8].fill(0);
    let left = leaves(&mut rig, &CA1, "no checksum", &packet);
    assert_eq!(left[ETH + IPV4 + 6..ETH + IPV4 + 8], [0, 0]);

    let big = out(&CA1, Family::V4).tcp(PORTS, &[7; 1400]);
    let gso = Gso { size: 500, segments: 3 };
    let ran = rig.run_gso(rig.port(&CA1), &big, gso);
    assert_eq!(ran.verdict, Verdict::Sent, "{:#?}", ran.changes.lines());
    assert_eq!(frame::fault(&ran.bytes), None);
}

#[test]
fn flows_to_one_place_have_ports_of_their_own_until_there_are_none() {
    let mut rig = rig();
    let one = 61000_u16.to_be_bytes();
    rig.change_settings(|settings| (settings.nat_first, settings.nat_last) = (one, one));
    for family in FAMILIES {
        for make in [Path::udp, Path::tcp] {
            let first = leaves(&mut rig, &CA1, "the first", &make(&out(&CA1, family), PORTS, PAYLOAD));
            assert_eq!(given(&first, family, false), 61000);
            let second = make(&out(&CA2, family), PORTS, PAYLOAD);
            stops(&mut rig, &CA2, "the second", &second, DropReason::NatNoPort);
            let other = make(&out(&CA2, family), (PORTS.0, PORTS.1 + 1), PAYLOAD);
            leaves(&mut rig, &CA2, "to another port there", &other);
            rig.age_translations(Duration::from_nanos(timeout::NEW) + Duration::from_secs(1));
            leaves(&mut rig, &CA2, "when the first one's time is over", &second);
            let late = back(server(family), family);
            let late = make(&late, (PORTS.1, 61000), PAYLOAD);
            arrives(&mut rig, &CA2, "the port is the second's now", &late);
        }
        stops(
            &mut rig,
            &CA1,
            "and not the first's",
            &out(&CA1, family).udp(PORTS, PAYLOAD),
            DropReason::NatNoPort,
        );
    }
}

#[test]
fn many_flows_to_one_place_never_share_a_port() {
    let mut rig = rig();
    let mut ports = BTreeSet::new();
    for port in 1024..3024 {
        let packet = out(&CA1, Family::V4).udp((port, 53), PAYLOAD);
        let (verdict, left) = rig.run_uncounted(rig.port(&CA1), &packet, Gso::default());
        assert_eq!(verdict, Verdict::Sent, "flow from port {port}");
        assert!(ports.insert(given(&left, Family::V4, false)), "the port of flow {port} was given before");
    }
}

#[test]
fn who_begins_many_flows_pushes_out_none_that_was_answered() {
    let mut rig = rig();
    let packet = out(&CA1, Family::V4).tcp(PORTS, PAYLOAD);
    let left = leaves(&mut rig, &CA1, "the flow", &packet);
    let port = given(&left, Family::V4, false);
    let answer = back(SERVER_V4, Family::V4).tcp((PORTS.1, port), PAYLOAD);
    arrives(&mut rig, &CA1, "its answer", &answer);
    for number in 0..40_000_u16 {
        let [high, low] = number.to_be_bytes();
        let other = out(&CA2, Family::V4).with_dst(Ipv4Addr::new(198, 51, high, low)).udp(PORTS, PAYLOAD);
        let (verdict, _) = rig.run_uncounted(rig.port(&CA2), &other, Gso::default());
        assert_eq!(verdict, Verdict::Sent, "flow {number}");
    }
    rig.changes();
    assert_same("afterwards", &leaves(&mut rig, &CA1, "afterwards", &packet), &left);
    arrives(&mut rig, &CA1, "afterwards", &answer);
}

#[test]
fn a_port_that_a_socket_of_the_host_has_is_not_given() {
    let mut rig = rig();
    let both = (61000_u16.to_be_bytes(), 61001_u16.to_be_bytes());
    rig.change_settings(|settings| (settings.nat_first, settings.nat_last) = both);
    let udp = std::net::UdpSocket::bind("0.0.0.0:61000").expect("the port is free");
    let tcp = std::net::TcpListener::bind("0.0.0.0:61001").expect("the port is free");
    for turn in 0..4 {
        let ports = (PORTS.0, PORTS.1 + turn);
        let left = leaves(&mut rig, &CA1, "UDP", &out(&CA1, Family::V4).udp(ports, PAYLOAD));
        assert_eq!(given(&left, Family::V4, false), 61001);
        let left = leaves(&mut rig, &CA1, "TCP", &out(&CA1, Family::V4).tcp(ports, PAYLOAD));
        assert_eq!(given(&left, Family::V4, false), 61000);
    }
    drop((udp, tcp));
}

#[test]
fn what_is_the_fabrics_own_is_no_part_of_the_world() {
    let mut rig = rig();
    // Of an address that the network's own routes do not know, the gateway says that there is none.
    let no_host = Kind { v4: (3, 1), v6: (1, 3), mtu: 0 };
    let no_route = Kind { v4: (3, 0), v6: (1, 0), mtu: 0 };
    let hosts: [&Host; 2] = [&HOST_A, &HOST_B];
    for family in FAMILIES {
        for host in hosts.iter().filter(|host| family == Family::V4 || **host == &HOST_A) {
            let packet = out(&CA1, family).with_dst(host.underlay(family)).udp(PORTS, PAYLOAD);
            answered(&mut rig, &CA1, "a VTEP", &packet, DropReason::NoRoute, no_host);
        }
        let packet = out(&GA1, family).udp(PORTS, PAYLOAD);
        answered(&mut rig, &GA1, "a network that is not masqueraded", &packet, DropReason::NoRoute, no_route);
        let tunnel = out(&CA1, family).udp((PORTS.0, VXLAN_PORT), PAYLOAD);
        answered(&mut rig, &CA1, "VXLAN with the host's address", &tunnel, DropReason::NoRoute, no_host);
        let last = with_ttl(out(&CA1, family).udp(PORTS, PAYLOAD), 1);
        let exceeded = Kind { v4: (11, 0), v6: (3, 0), mtu: 0 };
        answered(&mut rig, &CA1, "the last hop", &last, DropReason::TtlExceeded, exceeded);
    }
    for martian in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(0, 0, 0, 9)] {
        let packet = out(&CA1, Family::V4).with_dst(martian).udp(PORTS, PAYLOAD);
        answered(&mut rig, &CA1, &martian.to_string(), &packet, DropReason::NoRoute, no_host);
    }
    assert_eq!(rig.count_translations(), (0, 0));
}

#[test]
fn what_has_no_ports_is_refused() {
    let mut rig = rig();
    for family in FAMILIES {
        let path = out(&CA1, family);
        let mut gre = path.udp(PORTS, PAYLOAD);
        if family == Family::V4 {
            gre[ETH + 9] = IpNumber::GRE.0;
            frame::fix_ip_checksum(&mut gre, ETH);
        } else {
            gre[ETH + 6] = IpNumber::GRE.0;
        }
        stops(&mut rig, &CA1, "GRE", &gre, DropReason::NatUnsupported);
        stops(
            &mut rig,
            &CA1,
            "an echo that nobody asked for",
            &echo(path, 7, true),
            DropReason::NatUnsupported,
        );
    }
}

/// A fragment of an IPv4 packet with this identification: its offset in units of eight bytes, whether more come.
fn fragment(whole: &[u8], offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = whole[..ETH + IPV4].to_vec();
    frame.extend(payload);
    let length = (IPV4 + payload.len()) as u16;
    frame[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
    frame[ETH + 4..ETH + 6].copy_from_slice(&[9, 9]);
    let field = offset | if more { 0x2000 } else { 0 };
    frame[ETH + 6..ETH + 8].copy_from_slice(&field.to_be_bytes());
    frame::fix_ip_checksum(&mut frame, ETH);
    frame
}

#[test]
fn fragments_follow_their_first_one_both_ways() {
    let mut rig = rig();
    let whole = out(&CA1, Family::V4).udp(PORTS, &[7; 64]);
    let data = &whole[ETH + IPV4..];
    let late = fragment(&whole, 4, false, &data[32..]);
    stops(&mut rig, &CA1, "before its first", &late, DropReason::NatUnsupported);
    let first = leaves(&mut rig, &CA1, "the first", &fragment(&whole, 0, true, &data[..32]));
    let rest = leaves(&mut rig, &CA1, "the rest", &late);
    let port = given(&first, Family::V4, false);
    let put_together = [&first[ETH + IPV4..], &rest[ETH + IPV4..]].concat();
    let host = out(&CA1, Family::V4).with_src(HOST_A.vtep).udp((port, PORTS.1), &[7; 64]);
    assert_same("put together", &put_together, &host[ETH + IPV4..]);
    assert_eq!(rest[ETH + 12..ETH + 16], HOST_A.vtep.octets());

    let answer = back(SERVER_V4, Family::V4).udp((PORTS.1, port), &[8; 64]);
    let data = &answer[ETH + IPV4..];
    let first = arrives(&mut rig, &CA1, "the first answer", &fragment(&answer, 0, true, &data[..32]));
    let rest = arrives(&mut rig, &CA1, "the rest of it", &fragment(&answer, 4, false, &data[32..]));
    let put_together = [&first[ETH + IPV4..], &rest[ETH + IPV4..]].concat();
    let home = inward(&CA1, Family::V4).udp((PORTS.1, PORTS.0), &[8; 64]);
    assert_same("the answer put together", &put_together, &home[ETH + IPV4..]);
}

/// An ICMP error that quotes a frame's IP packet.
fn error(path: Path, quoted: &[u8], kinds: ([u8; 2], [u8; 2]), length: usize) -> Vec<u8> {
    let quoted = &quoted[ETH..quoted.len().min(ETH + length)];
    let eth = PacketBuilder::ethernet2(path.src_mac.bytes, path.dst_mac.bytes);
    let mut frame = Vec::new();
    match (path.src, path.dst) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => eth
            .ipv4(src.octets(), dst.octets(), TTL)
            .icmpv4_raw(kinds.0[0], kinds.0[1], [0, 0, 5, 0])
            .write(&mut frame, quoted),
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => eth
            .ipv6(src.octets(), dst.octets(), TTL)
            .icmpv6_raw(kinds.1[0], kinds.1[1], [0, 0, 5, 0])
            .write(&mut frame, quoted),
        _ => panic!("addresses of two families"),
    }
    .expect("it fits");
    frame
}

const TOO_BIG: ([u8; 2], [u8; 2]) = ([3, 4], [2, 0]);
const PORT_CLOSED: ([u8; 2], [u8; 2]) = ([3, 3], [1, 4]);

fn router(family: Family) -> Path {
    match family {
        Family::V4 => back(Ipv4Addr::new(198, 51, 100, 1), family),
        Family::V6 => back("2001:db8:1::1".parse::<std::net::Ipv6Addr>().expect("an address"), family),
    }
}

#[test]
fn errors_of_routers_reach_the_container_about_what_it_sent() {
    let mut rig = rig();
    for family in FAMILIES {
        let ip = if family == Family::V4 { IPV4 } else { IPV6 };
        let path = out(&CA1, family);
        for packet in [path.udp(PORTS, PAYLOAD), path.tcp(PORTS, PAYLOAD), echo(path, 77, false)] {
            let left = leaves(&mut rig, &CA1, "the packet", &packet);
            let sent = with_ttl(packet.clone(), TTL - 1);
            for length in [1000, ip + 8] {
                let what = &format!("{family:?}, {length} bytes quoted of protocol {}", packet[ETH + 9]);
                let message = error(router(family), &left, TOO_BIG, length);
                let arrived = arrives(&mut rig, &CA1, what, &message);
                // With all of its checksums it quotes what the container sent; where TCP's is cut off, no byte of it is changed.
                let home = Path { src_mac: CA1.network.gateway_mac, dst_mac: CA1.mac, ..router(family) };
                let home = error(home.with_dst(CA1.address(family)), &sent, TOO_BIG, length);
                assert_same(what, &arrived, &with_ttl(home, TTL - 1));
            }
            let mut bent = left.clone();
            bent[ETH + ip + if packet[ETH + 9] == 1 || packet[ETH + 6] == 58 { 4 } else { 0 }] ^= 1;
            let message = error(router(family), &bent, TOO_BIG, 1000);
            passes_by(&mut rig, "about a flow of the host's own", &message);
        }
    }
}

#[test]
fn errors_of_containers_reach_the_world_about_what_they_got() {
    let mut rig = rig();
    for family in FAMILIES {
        let left = leaves(&mut rig, &CA1, "the request", &out(&CA1, family).udp(PORTS, PAYLOAD));
        let port = given(&left, family, false);
        let answer = back(server(family), family).udp((PORTS.1, port), PAYLOAD);
        let arrived = arrives(&mut rig, &CA1, "the answer", &answer);
        let message = error(out(&CA1, family), &arrived, PORT_CLOSED, 1000);
        let told = leaves(&mut rig, &CA1, "port closed", &message);
        let quoted = with_ttl(answer, TTL - 1);
        let host = out(&CA1, family).with_src(HOST_A.underlay(family));
        assert_same("port closed", &told, &with_ttl(error(host, &quoted, PORT_CLOSED, 1000), TTL - 1));

        let other = with_ports(&arrived, transport_at(family), 81);
        let message = error(out(&CA1, family), &other, PORT_CLOSED, 1000);
        stops(&mut rig, &CA1, "about nothing", &message, DropReason::NatUnsupported);
    }
}

#[test]
fn policies_are_asked_about_the_addresses_of_containers() {
    let mut rig = rig();
    let (one, own, far) = (101, 1, 900);
    rig.police(&CA1, one, own);
    for family in FAMILIES {
        rig.set_cidr(server(family).into(), Addr::BITS, far);
    }
    // To the server's TCP port 80 alone; nobody may begin anything toward it.
    let tcp = |port| port_key(6, port);
    rig.set_table(5, ranges(&[(0, deny(9)), (tcp(80), allow(3)), (tcp(81), deny(9))]));
    rig.say(own, EGRESS, deny(9), &[(far, table(5))]);
    rig.say(own, INGRESS, deny(8), &[]);
    for family in FAMILIES {
        let syn = |path: Path, ports, flags| {
            let mut frame = path.tcp(ports, b"");
            frame[transport_at(family) + TCP_FLAGS] = flags;
            // A bent flag needs a new checksum, which the builder of an error compares.
            let at = transport_at(family) + 16;
            let sum = number(&frame, at);
            let sum = u32::from(!sum) + u32::from(flags);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        let left = leaves(&mut rig, &CA1, "allowed", &syn(out(&CA1, family), PORTS, 2));
        let port = given(&left, family, false);
        let answer = syn(back(server(family), family), (PORTS.1, port), 0x12);
        arrives(&mut rig, &CA1, "its answer", &answer);
        let message = error(router(family), &left, TOO_BIG, 1000);
        arrives(&mut rig, &CA1, "an error about it", &message);
        let udp = out(&CA1, family).udp(PORTS, PAYLOAD);
        stops(&mut rig, &CA1, "another protocol", &udp, DropReason::PolicyDenied);
        let elsewhere = match family {
            Family::V4 => out(&CA1, family).with_dst(Ipv4Addr::new(198, 51, 100, 7)),
            Family::V6 => {
                out(&CA1, family).with_dst("2001:db8:1::7".parse::<std::net::Ipv6Addr>().expect("an address"))
            }
        };
        stops(&mut rig, &CA1, "elsewhere", &syn(elsewhere, PORTS, 2), DropReason::PolicyDenied);

        // Revoked: neither side of the flow, nor an error about it, passes.
        rig.say(own, EGRESS, deny(9), &[(far, deny(7))]);
        rig.police(&CA1, one, own + 1);
        rig.say(own + 1, EGRESS, deny(9), &[]);
        rig.say(own + 1, INGRESS, deny(8), &[]);
        let hook = Hook::FromUplink;
        for packet in [&answer, &message] {
            let ran = rig.run(rig.uplink(), packet);
            assert_eq!(ran.verdict, Verdict::Taken, "revoked: {:#?}", ran.changes.lines());
            assert_eq!(ran.changes.events[0].reason, DropReason::PolicyDenied as u8, "{hook}");
        }
        rig.police(&CA1, one, own);
        rig.say(own, EGRESS, deny(9), &[(far, table(5))]);
    }
}

#[test]
fn the_end_of_a_connection_frees_its_port_soon() {
    let mut rig = rig();
    let one = 61000_u16.to_be_bytes();
    rig.change_settings(|settings| (settings.nat_first, settings.nat_last) = (one, one));
    let flags = |mut frame: Vec<u8>, flags: u8| {
        frame[ETH + IPV4 + TCP_FLAGS] = flags;
        frame
    };
    let run = |rig: &mut Rig, inside: bool, bits: u8| {
        let packet = if inside {
            out(&CA1, Family::V4).tcp(PORTS, b"")
        } else {
            back(SERVER_V4, Family::V4).tcp((PORTS.1, 61000), b"")
        };
        let place = if inside { rig.port(&CA1) } else { rig.uplink() };
        assert_eq!(rig.run(place, &flags(packet, bits)).verdict, Verdict::Sent, "flags {bits:#x}");
    };
    let other = out(&CA2, Family::V4).tcp(PORTS, b"");
    for (inside, bits) in [(true, 2), (false, 0x12), (true, 0x10)] {
        run(&mut rig, inside, bits);
    }
    rig.age_translations(Duration::from_nanos(timeout::OTHER));
    stops(&mut rig, &CA2, "a connection may be quiet", &other, DropReason::NatNoPort);
    for (inside, bits) in [(true, 0x11), (false, 0x11), (true, 0x10)] {
        run(&mut rig, inside, bits);
    }
    stops(&mut rig, &CA2, "just ended", &other, DropReason::NatNoPort);
    rig.age_translations(Duration::from_nanos(timeout::CLOSED) + Duration::from_secs(1));
    leaves(&mut rig, &CA2, "a while later", &other);
}

#[test]
fn traced_walks_translate_and_leave_nothing_behind() {
    let mut rig = rig().traced();
    let packet = out(&CA1, Family::V4).udp(PORTS, PAYLOAD);
    let left = leaves(&mut rig, &CA1, "traced", &packet);
    assert_eq!(left[ETH + 12..ETH + 16], HOST_A.vtep.octets());
    assert_eq!(rig.count_translations(), (0, 0));
    let marks = rig.marks();
    for stage in [Passed::World, Passed::Translated] {
        assert!(marks.contains(&Mark::Passed(stage)), "{stage}: {marks:?}");
    }
    assert_ne!(ROUTER_MAC, CA1.mac);
}
