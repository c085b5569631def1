//! The underlay's two families: which one a node is reached over, and what that leaves of the MTU.

use super::*;

/// Facts of a node whose uplink has addresses of both families, and routes of both.
fn facts_of_both() -> NodeFacts {
    let mut facts = facts(&[]);
    facts.uplinks[0].vteps.push(ip("2001:db8::1"));
    facts.routes.extend([(ip("2001:db8::2"), ROUTE), (ip("2001:db8::3"), ROUTE)]);
    facts
}

fn node_of(name: &str, vteps: &[&str]) -> Object {
    let vteps: Vec<_> = vteps.iter().map(|v| format!("{v:?}")).collect();
    object(&format!(
        r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"vteps":[{}]}}}}"#,
        vteps.join(",")
    ))
}

#[test]
fn the_outer_header_over_ipv6_is_as_documented() {
    let desired = compile(&[node("n2", "2001:db8::2")], &facts_of_both());
    let value = desired.tables.nodes.values().next().unwrap();
    let expected = [
        0x60, 0, 0, 0, 0, 0, 17, 64, // IPv6
        0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source
        0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // destination
        0, 0, 0x12, 0xb5, 0, 0, 0, 0, // UDP, port 4789
        0x08, 0, 0, 0, 0, 0, 0, 0, // VXLAN
    ];
    assert_eq!(value.outer, expected);
    assert_eq!((usize::from(value.outer_len), value.mtu, value.flags), (56, 1430, node::FLAG_V6));
    assert_eq!((value.local, value.remote), (addr("2001:db8::1"), addr("2001:db8::2")));
}

#[test]
fn the_first_vtep_address_that_can_be_used_is_used() {
    let both = facts_of_both();
    let mut v6_alone = both.clone();
    v6_alone.uplinks[0].vteps = vec![ip("2001:db8::1")];
    for (facts, vteps, used) in [
        (&both, &["192.0.2.2", "2001:db8::2"][..], "192.0.2.2"),
        (&both, &["2001:db8::2", "192.0.2.2"], "2001:db8::2"),
        (&both, &["198.51.100.9", "2001:db8::2"], "2001:db8::2"),
        (&v6_alone, &["192.0.2.2", "2001:db8::2"], "2001:db8::2"),
        (&facts(&[]), &["2001:db8::2", "192.0.2.2"], "192.0.2.2"),
    ] {
        let desired = compile(&[node_of("n2", vteps)], facts);
        let value = desired.tables.nodes.values().next().unwrap();
        assert_eq!((value.remote, value.local.is_v4()), (addr(used), used.contains('.')), "{vteps:?}");
        assert_eq!(desired.tables.vteps.len(), 2, "both are believed");
    }
}

#[test]
fn a_node_over_ipv6_makes_packets_shorter() {
    let mtu = |objects: &[Object], facts: &NodeFacts| {
        compile(&[networks(), objects.to_vec()].concat(), facts).tables.networks[&5000].mtu
    };
    let both = facts_of_both();
    assert_eq!(mtu(&[], &both), 1450);
    assert_eq!(mtu(&[node_of("n2", &["192.0.2.2", "2001:db8::2"])], &both), 1450);
    assert_eq!(mtu(&[node("n2", "2001:db8::2")], &both), 1430);
    assert_eq!(mtu(&[node("n2", "2001:db8::99")], &both), 1450, "no route leads there");
    let mut v6_alone = both.clone();
    v6_alone.uplinks[0].vteps = vec![ip("2001:db8::1")];
    assert_eq!(mtu(&[], &v6_alone), 1430);
}

#[test]
fn ipv6_inside_needs_a_link_that_carries_1280() {
    let blue = ("Network", "blue".to_owned());
    let over_v6 = [networks(), vec![node("n2", "2001:db8::2")]].concat();
    for (objects, least) in [(networks(), 1330), (over_v6, 1350)] {
        let mut facts = facts_of_both();
        facts.uplinks[0].mtu = least;
        assert!(!compile(&objects, &facts).problems.contains_key(&blue), "{least}");
        facts.uplinks[0].mtu = least - 1;
        let problems = compile(&objects, &facts).problems;
        assert!(problems[&blue].contains("1279 bytes and IPv6 needs 1280"), "{problems:?}");
    }
}

/// RFC 2474: the upper six bits of the traffic class, which is the second byte of an IPv4 header, and in an IPv6 header
/// behind the version.
#[test]
fn the_outer_header_has_the_dscp_of_the_settings() {
    for (dscp, v4, v6, inherit) in [
        (Dscp::Fixed(0), [0x45, 0], [0x60, 0], 3),
        (Dscp::Fixed(46), [0x45, 0xb8], [0x6b, 0x80], 3),
        (Dscp::Fixed(63), [0x45, 0xfc], [0x6f, 0xc0], 3),
        (Dscp::Copy, [0x45, 0], [0x60, 0], 0xff),
    ] {
        for (vtep, expected) in [("192.0.2.2", v4), ("2001:db8::2", v6)] {
            let cluster = Cluster::from_objects(&[node("n2", vtep)]);
            let desired = plan(&cluster, &facts_of_both(), &PlanSettings { dscp, ..SETTINGS });
            let value = desired.tables.nodes.values().next().unwrap();
            assert_eq!(value.outer[..2], expected, "{dscp:?} {vtep}");
            let class = if let Dscp::Fixed(dscp) = dscp { dscp << 2 } else { 0 };
            assert_eq!((value.class, value.inherit), (class, inherit), "{dscp:?} {vtep}");
        }
    }
}

#[test]
fn the_path_to_a_node_limits_what_is_sent_there_and_nothing_else() {
    let v4 = ("192.0.2.2", 50);
    let v6 = ("2001:db8::2", 70);
    let known = |to: &str, mtu: Option<u32>| {
        let mut facts = facts_of_both();
        facts.routes.insert(ip(to), RouteFacts { ifindex: 2, mtu });
        compile(&[networks(), vec![node("n2", to), node("n3", "192.0.2.3")]].concat(), &facts)
    };
    for (to, overhead) in [v4, v6] {
        for (said, counts) in [(None, 1500), (Some(9000), 1500), (Some(1500), 1500), (Some(1400), 1400)] {
            let desired = known(to, said);
            let mtu = |remote: &str| {
                desired.tables.nodes.values().find(|node| node.remote == addr(remote)).map(|node| node.mtu)
            };
            assert_eq!(mtu(to), Some(counts - overhead), "{to} {said:?}");
            assert_eq!(mtu("192.0.2.3"), Some(1450), "the others");
            assert_eq!(
                desired.tables.networks[&5000].mtu,
                1500 - overhead,
                "containers keep their interfaces' MTU"
            );
            assert_eq!(desired.problems.get(&("Node", "n2".to_owned())), None, "{to} {said:?}");
        }
        let least = 1280 + u32::from(overhead);
        let problem = |mtu| known(to, Some(mtu)).problems.get(&("Node", "n2".to_owned())).cloned();
        assert_eq!(problem(least), None);
        assert!(problem(least - 1).is_some_and(|text| text.contains("IPv6 needs 1280")), "{to}");
    }
    // The smaller of what routers say and what probes find.
    for (said, probed, counts) in [(None, 1400, 1400), (Some(1400), 1450, 1400), (Some(1450), 1400, 1400)] {
        let mut facts = facts_of_both();
        facts.routes.insert(ip("192.0.2.2"), RouteFacts { ifindex: 2, mtu: said });
        let found = PeerFacts { path_mtu: Some(probed), uplink_mtu: Some(9000) };
        facts.peers.insert(ip("192.0.2.2"), found);
        let pair = toward(&[ip("192.0.2.2")], &facts).unwrap();
        assert_eq!((pair.mtu(), pair.path_mtu), (counts - 50, Some(counts.into())));
        assert_eq!(pair.peer_mtu, Some(9000), "it differs from 1500");
    }
    // Nobody is believed who says less than any path carries.
    for ((to, overhead), floor) in [(v4, 576), (v6, 1280)] {
        for said in [0, 1, 68, floor - 1, floor] {
            let desired = known(to, Some(said));
            let node = desired.tables.nodes.values().find(|node| node.remote == addr(to)).unwrap();
            assert_eq!(u32::from(node.mtu), floor - u32::from(overhead), "{to} {said}");
        }
    }
}
