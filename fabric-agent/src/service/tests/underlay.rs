//! What the underlay can't carry is refused before it is stored.

use fabric_common::addr::Mac;

use super::*;

/// One uplink of both families with an MTU of 1500: 1450 inside over IPv4, 1430 over IPv6.
fn uplink(bench: &Bench) {
    let vteps = ["192.0.2.1", "2001:db8::1"].map(|vtep| vtep.parse().expect("an address")).to_vec();
    let mac = Mac::new([2, 0, 0, 0, 0, 1]);
    let facts = UplinkFacts { name: "eth0".to_owned(), ifindex: 2, mac, mtu: 1500, vteps };
    bench.fake.uplinks.lock().unwrap().push(facts);
}

fn network_of(spec: &str) -> Object {
    object(&format!(r#"{{"kind":"Network","metadata":{{"name":"blue"}},"spec":{spec}}}"#))
}

fn node_at(vtep: &str) -> Object {
    object(&format!(r#"{{"kind":"Node","metadata":{{"name":"n2"}},"spec":{{"vteps":["{vtep}"]}}}}"#))
}

#[tokio::test]
async fn a_network_and_the_node_that_it_does_not_fit_are_refused_together() {
    let b = bench();
    uplink(&b);
    let wide = network_of(r#"{"subnets":["10.1.0.0/24"],"mtu":1450}"#);
    let e = b.service.apply(&Owner::cli(), vec![wide.clone(), node_at("2001:db8::2")]).await.unwrap_err();
    assert_eq!(
        e.message,
        "network blue: mtu 1450 is more than the underlay carries: use at most 1430, or raise the uplinks' MTU"
    );
    assert!(
        b.service.nodes().await.unwrap().iter().all(|node| node.metadata.name == "n1"),
        "nothing is done"
    );
    let inside = network_of(r#"{"subnets":["192.0.2.0/24"],"hostAccess":true}"#);
    let e = b.service.apply(&Owner::cli(), vec![node_at("192.0.2.2"), inside]).await.unwrap_err();
    assert!(e.message.contains("holds VTEP address"), "{e}");
    let narrow = network_of(r#"{"subnets":["10.1.0.0/24"],"mtu":1430}"#);
    b.service.apply(&Owner::cli(), vec![narrow, node_at("2001:db8::2")]).await.unwrap();
}

#[tokio::test]
async fn a_network_and_a_node_that_fit_are_taken_together() {
    let b = bench();
    uplink(&b);
    let wide = network_of(r#"{"subnets":["10.1.0.0/24"],"mtu":1450}"#);
    b.service.apply(&Owner::cli(), vec![wide, node_at("192.0.2.2")]).await.unwrap();
}

/// Whoever asks for what is taken is named, whatever the order of the names.
#[tokio::test]
async fn the_hosts_route_to_a_subnet_stays_with_who_has_it() {
    let b = bench();
    let with_host = |name: &str, subnet: &str| {
        let mut network = network(name, subnet);
        network.spec.host_access = true;
        network
    };
    b.service.create_network(&Owner::cli(), with_host("m", "10.1.0.0/16")).await.unwrap();
    for name in ["a", "z"] {
        let e = b.service.create_network(&Owner::cli(), with_host(name, "10.1.2.0/24")).await.unwrap_err();
        assert_eq!(
            e.message,
            format!(
                "network {name}: subnet 10.1.2.0/24 overlaps 10.1.0.0/16 of network m, and both have host access: choose another subnet, or leave out hostAccess"
            )
        );
    }
}
