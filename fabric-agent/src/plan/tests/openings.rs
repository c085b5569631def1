//! Routes and source records of networks that are opened to each other.

use fabric_common::{
    route::{FLAG_NEXT_HOP, RouteValue},
    source::FLAG_RELAYED,
};

use super::*;
use crate::plan::desired::PrefixKey;

/// Blue and red are opened to each other, green to nobody; red has two subnets.
fn world(open: bool) -> Vec<Object> {
    let from = if open { r#","allowFrom":["blue"]"# } else { "" };
    let network = |name: &str, spec: &str| {
        object(&format!(r#"{{"kind":"Network","metadata":{{"name":"{name}"}},"spec":{{{spec}}}}}"#))
    };
    vec![
        network("blue", r#""vni":5000,"subnets":["10.1.0.0/24","fd00:1::/64"]"#),
        network("red", &format!(r#""vni":5001,"subnets":["10.2.0.0/24","10.3.0.0/24"],"mtu":1300{from}"#)),
        network("green", r#""vni":5002,"subnets":["10.1.0.0/24"]"#),
        node("n2", "192.0.2.2"),
        local("web", "blue", r#""10.1.0.5","fd00:1::5""#, 0),
        remote("db", "red", "n2", r#""10.2.0.6","10.3.0.6""#),
        remote("other", "green", "n2", r#""10.1.0.6""#),
    ]
}

fn routes(desired: &Desired, vni: u32) -> Vec<(String, RouteValue)> {
    let rows = desired.tables.routes.iter().filter(|(key, _)| key.prefix.vni == vni.to_be_bytes());
    rows.map(|(key, value)| (format!("{}/{}", key.prefix.addr, key.bits - 32), *value)).collect()
}

#[test]
fn every_network_has_routes_to_its_own_subnets() {
    let desired = compile(&world(false), &facts(&[("web", 17)]));
    let names = |vni| routes(&desired, vni).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(5000), ["fd00:1::/64", "10.1.0.0/120"]);
    assert_eq!(names(5001), ["10.2.0.0/120", "10.3.0.0/120"]);
    assert!(routes(&desired, 5001).iter().all(|(_, route)| (route.vni, route.mtu) == (5001, 1300)));
    let foreign = EndpointKey { vni: 5001, addr: addr("10.1.0.5") };
    assert!(!desired.tables.sources.contains_key(&foreign));
}

#[test]
fn an_opening_gives_routes_and_source_records_both_ways() {
    let desired = compile(&world(true), &facts(&[("web", 17)]));
    assert!(desired.problems.is_empty(), "{:?}", desired.problems);
    let sources = &desired.tables.sources;
    let of = |from: u32, to: &str| {
        let key = PrefixKey::new(from, to.parse().expect("a prefix"));
        desired.tables.routes.get(&key).map(|route| (route.vni, route.mtu, route.gateway_mac.to_string()))
    };
    let red = Some((5001, 1300, "02:fa:00:00:13:89".to_owned()));
    assert_eq!((of(5000, "10.2.0.0/24"), of(5000, "10.3.0.0/24")), (red.clone(), red));
    assert_eq!(of(5001, "fd00:1::/64"), Some((5000, 1450, "02:fa:00:00:13:88".to_owned())));
    assert_eq!(routes(&desired, 5002).len(), 1, "green is opened to nobody");
    for (vni, text, own) in [(5001, "10.1.0.5", 5000), (5001, "fd00:1::5", 5000), (5000, "10.3.0.6", 5001)] {
        let key = |vni| EndpointKey { vni, addr: addr(text) };
        assert_eq!(sources.get(&key(vni)), sources.get(&key(own)), "{text}");
        assert!(sources.contains_key(&key(vni)), "{text}");
        assert!(!desired.tables.endpoints.contains_key(&key(vni)), "it is no member: {text}");
        assert!(!sources.contains_key(&key(5002)), "{text}");
    }
    for key in sources.keys().filter(|key| key.addr.to_ip().to_string().starts_with("fe80")) {
        assert_eq!(key.vni, 5000, "link-local addresses stay in their network");
    }
    let gateway = |vni, text| EndpointKey { vni, addr: addr(text) };
    assert!(
        !sources.contains_key(&gateway(5001, "10.1.0.1"))
            && !sources.contains_key(&gateway(5000, "10.2.0.1"))
    );
}

/// Our own nodes may send on what a foreign VTEP gave to their gateway; the VTEP itself stays in its network.
#[test]
fn what_is_behind_a_foreign_vtep_may_be_routed_by_any_node() {
    let switch = r#"{"kind":"Node","metadata":{"name":"sw"},"spec":{"vteps":["192.0.2.3"],"foreign":true,
        "networks":[{"network":"blue","prefixes":["10.1.0.128/25"]}]}}"#;
    let more = vec![object(switch), remote("station", "blue", "sw", r#""10.1.0.9""#)];
    for open in [false, true] {
        let desired = compile(&[world(open), more.clone()].concat(), &facts(&[("web", 17)]));
        let prefix = |vni| {
            let key = PrefixKey::new(vni, "10.1.0.128/25".parse().expect("a prefix"));
            desired.tables.source_prefixes.get(&key).map(|record| (record.nodes != [0; 4], record.flags))
        };
        assert_eq!(prefix(5000), Some((true, FLAG_RELAYED)));
        assert_eq!(prefix(5001), open.then_some((false, FLAG_RELAYED)));
        assert_eq!(prefix(5002), None);
        let flags = |vni, text| {
            let record = desired.tables.sources.get(&EndpointKey { vni, addr: addr(text) });
            record.map(|record| record.flags)
        };
        assert_eq!(flags(5000, "10.1.0.9"), Some(FLAG_RELAYED));
        assert_eq!(flags(5001, "10.1.0.9"), open.then_some(FLAG_RELAYED));
        assert_eq!((flags(5000, "10.1.0.5"), flags(5001, "10.2.0.6")), (Some(0), Some(0)));
    }
}

/// Web leads to 10.9.0.0/16 on this node, db to everything else on the other one.
#[test]
fn static_routes_lead_to_endpoints_and_make_their_nodes_sources() {
    let mut objects = world(true);
    let Object::Network(blue) = &mut objects[0] else { unreachable!("blue") };
    let route = |prefix: &str, next_hop| fabric_api::object::Route {
        prefix: prefix.parse().unwrap(),
        next_hop: ip(next_hop),
    };
    blue.spec.routes = vec![
        route("10.9.0.0/16", "10.1.0.5"),
        route("0.0.0.0/0", "10.1.0.7"),
        route("fd00:9::/32", "fd00:1::99"),
    ];
    objects.push(remote("edge", "blue", "n2", r#""10.1.0.7""#));
    let desired = compile(&objects, &facts(&[("web", 17)]));
    assert!(desired.problems.is_empty(), "{:?}", desired.problems);
    let key = |prefix: &str| PrefixKey::new(5000, prefix.parse().expect("a prefix"));
    for (prefix, next_hop) in
        [("10.9.0.0/16", "10.1.0.5"), ("0.0.0.0/0", "10.1.0.7"), ("fd00:9::/32", "fd00:1::99")]
    {
        let row = desired.tables.routes[&key(prefix)];
        assert_eq!((row.vni, row.flags, row.next_hop), (5000, FLAG_NEXT_HOP, addr(next_hop)), "{prefix}");
        assert_eq!(row.gateway_mac.to_string(), "02:fa:00:00:13:88");
    }
    assert!(routes(&desired, 5001).iter().all(|(_, row)| row.flags == 0), "red has no part in them");
    let ids = node_ids(&Cluster::from_objects(&objects), "n1");
    assert!(desired.tables.source_prefixes.values().all(|record| record.flags == 0), "nobody relays them");
    let nodes = |prefix: &str| desired.tables.source_prefixes.get(&key(prefix)).map(|record| record.nodes);
    assert_eq!(nodes("10.9.0.0/16"), Some([ids["n1"], 0, 0, 0]));
    assert_eq!(nodes("0.0.0.0/0"), Some([ids["n2"], 0, 0, 0]));
    assert_eq!(nodes("fd00:9::/32"), None, "nobody has the next hop");
    for subnet in ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"] {
        assert_eq!(nodes(subnet), Some([0; 4]), "{subnet}: only by records of single addresses");
    }
    assert_eq!(nodes("fd00:1::/64"), None, "no route covers it");
}

#[test]
fn a_static_route_takes_nothing_from_a_network_that_is_opened() {
    let mut objects = world(true);
    let Object::Network(blue) = &mut objects[0] else { unreachable!("blue") };
    let route = |prefix: &str, next_hop| fabric_api::object::Route {
        prefix: prefix.parse().unwrap(),
        next_hop: ip(next_hop),
    };
    blue.spec.routes = vec![route("10.2.0.0/25", "10.1.0.5"), route("10.9.0.0/16", "10.1.0.5")];
    let desired = compile(&objects, &facts(&[("web", 17)]));
    let text = &desired.problems[&("Network", "blue".to_owned())];
    assert!(text.contains("route 10.2.0.0/25 lies in subnet 10.2.0.0/24 of network red"), "{text}");
    let key = |prefix: &str| PrefixKey::new(5000, prefix.parse().expect("a prefix"));
    assert!(!desired.tables.routes.contains_key(&key("10.2.0.0/25")));
    assert!(desired.tables.routes.contains_key(&key("10.9.0.0/16")), "the others stand");
}
