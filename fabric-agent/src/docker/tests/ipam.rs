//! The IPAM driver.

use std::collections::BTreeSet;

use super::*;

async fn pool(bench: &Bench, call: &Value) -> (String, String) {
    let answer = bench.call("IpamDriver.RequestPool", call).await;
    let text = |field: &str| answer[field].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (text("PoolID"), text("Pool"))
}

fn pool_call(pool: &str, range: &str, options: &Value) -> Value {
    json!({"AddressSpace": "fabric", "Pool": pool, "SubPool": range, "Options": options, "V6": pool.contains(':')})
}

fn address_call(pool: &str, address: &str) -> Value {
    json!({"PoolID": pool, "Address": address, "Options": null})
}

async fn address(bench: &Bench, pool: &str, wanted: &str) -> String {
    let answer = bench.call("IpamDriver.RequestAddress", &address_call(pool, wanted)).await;
    answer["Address"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn gateway_call(pool: &str, address: &str) -> Value {
    json!({"PoolID": pool, "Address": address, "Options": {"RequestAddressType": "com.docker.network.gateway"}})
}

#[tokio::test]
async fn pools_and_gateways_are_what_was_asked_for_and_the_same_again() {
    let bench = Bench::new();
    let call = pool_call("10.60.0.0/24", "10.60.0.128/25", &json!({}));
    let first = pool(&bench, &call).await;
    assert_eq!(first, pool(&bench, &call).await);
    assert_eq!(first.1, "10.60.0.0/24");
    for (wanted, given) in [("", "10.60.0.1/24"), ("10.60.0.254", "10.60.0.254/24")] {
        let answer = bench.call("IpamDriver.RequestAddress", &gateway_call(&first.0, wanted)).await;
        assert_eq!(answer, json!({"Address": given, "Data": {}}));
    }
    // What is left out of a network is asked for before there is one.
    assert_eq!(address(&bench, &first.0, "10.60.0.200").await, "10.60.0.200/24");
    let release = json!({"PoolID": first.0, "Address": "10.60.0.200"});
    assert_eq!(bench.call("IpamDriver.ReleaseAddress", &release).await, json!({}));
    for _ in 0..2 {
        assert_eq!(bench.call("IpamDriver.ReleasePool", &json!({"PoolID": first.0})).await, json!({}));
    }
}

#[tokio::test]
async fn without_a_subnet_each_call_gets_another_one_that_nobody_uses() {
    let bench = Bench::new();
    let mut seen = BTreeSet::new();
    for v6 in [false, true, false, true, false, true] {
        let call = json!({"AddressSpace": "fabric", "Pool": "", "SubPool": "", "Options": {}, "V6": v6});
        let (_, subnet) = pool(&bench, &call).await;
        assert_eq!(subnet.contains(':'), v6);
        assert!(seen.insert(subnet.clone()), "{subnet} was given before");
    }
}

#[tokio::test]
async fn wrong_calls_are_refused_in_the_field_that_this_api_reads() {
    let bench = Bench::new();
    for (call, part) in [
        (pool_call("", "10.60.0.128/25", &json!({})), "range 10.60.0.128/25 has no subnet"),
        (
            pool_call("10.60.0.0/24", "10.61.0.0/25", &json!({})),
            "range 10.61.0.0/25 is not in subnet 10.60.0.0/24",
        ),
        (pool_call("10.60.0.7/24", "", &json!({})), "write 10.60.0.0/24"),
        (pool_call("10.60.0.0/24", "", &json!({"ik": "iv"})), "IPAM option ik is not known"),
        (pool_call("", "", &json!({"fabric.network": "none"})), "none"),
        (pool_call("127.0.0.0/8", "", &json!({})), "reserved"),
    ] {
        let sentence = bench.refused("IpamDriver.RequestPool", &call, "Error").await;
        assert!(sentence.contains(part), "{sentence}");
    }
    let (id, _) = pool(&bench, &pool_call("10.60.0.0/24", "", &json!({}))).await;
    for (call, part) in [
        (address_call("nonsense", ""), "pool \"nonsense\" is not one of this driver"),
        (address_call(&id, "10.61.0.9"), "address 10.61.0.9 is not in subnet 10.60.0.0/24"),
        (address_call(&id, "x"), "\"x\" is not an address"),
        (address_call(&id, ""), "use `--ipam-driver fabric` together with `-d fabric`"),
    ] {
        let sentence = bench.refused("IpamDriver.RequestAddress", &call, "Error").await;
        assert!(sentence.contains(part), "{sentence}");
    }
}

#[tokio::test]
async fn addresses_keep_clear_of_endpoints_nodes_gateways_and_each_other() {
    let bench = Bench::new();
    let (id, _) = pool(&bench, &pool_call("10.50.0.0/28", "", &json!({}))).await;
    let mut create = create_call(N2, "10.50.0.0/28", &json!({}));
    create["IPv4Data"][0]["AuxAddresses"] = json!({"a": "10.50.0.4"});
    bench.call("NetworkDriver.CreateNetwork", &create).await;
    // Somebody else's, in the same network.
    let other = r#"{"kind":"Endpoint","metadata":{"name":"far"},"spec":{"network":"docker-38f7762638ea","node":"h2","addresses":["10.50.0.3"]}}"#;
    let node = r#"{"kind":"Node","metadata":{"name":"h2"},"spec":{"vteps":["192.0.2.2"]}}"#;
    let objects = [node, other].map(|text| serde_json::from_str::<Object>(text).expect("valid")).to_vec();
    bench.service.apply(&Owner::cli(), objects).await.expect("good");
    let own = bench.networks().await[0].status.clone().expect("shown").node_addresses;
    for (wanted, part) in [
        ("10.50.0.3", "belongs to endpoint far"),
        ("10.50.0.4", "is reserved (--aux-address)"),
        ("10.50.0.1", "is the gateway"),
        (own[0].to_string().as_str(), "this node's own address"),
    ] {
        let sentence = bench.refused("IpamDriver.RequestAddress", &address_call(&id, wanted), "Error").await;
        assert!(sentence.contains(part), "{sentence}");
    }
    let mut given = BTreeSet::new();
    // 14, without the gateway, the node's, the endpoint's and the reserved one.
    for _ in 0..10 {
        let address = address(&bench, &id, "").await;
        assert!(given.insert(address.clone()), "{address} is given twice");
    }
    for taken in ["10.50.0.1/28", "10.50.0.3/28", "10.50.0.4/28", &format!("{}/28", own[0])] {
        assert!(!given.contains(taken), "{taken}");
    }
    let sentence = bench.refused("IpamDriver.RequestAddress", &address_call(&id, ""), "Error").await;
    assert!(sentence.contains("10.50.0.0/28 of network docker-38f7762638ea is exhausted"), "{sentence}");
    let again = given.first().expect("some").trim_end_matches("/28").to_owned();
    let sentence = bench.refused("IpamDriver.RequestAddress", &address_call(&id, &again), "Error").await;
    assert!(sentence.contains("is being given to another container"), "{sentence}");
    bench.call("IpamDriver.ReleaseAddress", &json!({"PoolID": id, "Address": again})).await;
    assert_eq!(address(&bench, &id, "").await, format!("{again}/28"));
}

#[tokio::test]
async fn a_range_and_a_named_network_are_kept_to() {
    let bench = Bench::new();
    let blue = r#"{"metadata":{"name":"blue"},"spec":{"subnets":["10.60.0.0/24","fd00:60::/64"],"gateways":["10.60.0.9"]}}"#;
    bench
        .service
        .create_network(&Owner::cli(), serde_json::from_str(blue).expect("valid"))
        .await
        .expect("good");
    let options = json!({"fabric.network": "blue"});
    let v6 = json!({"AddressSpace": "fabric", "Pool": "", "SubPool": "", "Options": options, "V6": true});
    assert_eq!(pool(&bench, &v6).await.1, "fd00:60::/64");
    let (id, subnet) = pool(&bench, &pool_call("", "", &options)).await;
    assert_eq!(subnet, "10.60.0.0/24");
    let answer = bench.call("IpamDriver.RequestAddress", &gateway_call(&id, "")).await;
    assert_eq!(answer["Address"], "10.60.0.9/24");
    let (id, _) = pool(&bench, &pool_call("10.60.0.0/24", "10.60.0.248/30", &options)).await;
    bench.call("NetworkDriver.CreateNetwork", &create_call(N2, "10.60.0.0/24", &options)).await;
    let mut given = BTreeSet::new();
    for _ in 0..4 {
        given.insert(address(&bench, &id, "").await);
    }
    assert_eq!(given, (248..252).map(|last| format!("10.60.0.{last}/24")).collect());
    let sentence = bench.refused("IpamDriver.RequestAddress", &address_call(&id, ""), "Error").await;
    assert!(sentence.contains("range 10.60.0.248/30 of network blue is exhausted"), "{sentence}");
}

#[tokio::test]
async fn an_address_of_a_killed_engine_is_free_again_unless_its_container_runs() {
    let bench = Bench::with_network().await;
    let (id, _) = pool(&bench, &pool_call("10.50.0.0/24", "", &json!({}))).await;
    bench.call("NetworkDriver.CreateEndpoint", &endpoint_call("1", "10.50.0.99/24")).await;
    let name = bench.endpoints().await.pop().expect("one");
    // A container that a living engine is about to start.
    let sentence =
        bench.refused("IpamDriver.RequestAddress", &address_call(&id, "10.50.0.99"), "Error").await;
    assert!(sentence.contains(&name), "{sentence}");
    bench.set_engine(&name, GONE).await;
    assert_eq!(address(&bench, &id, "10.50.0.99").await, "10.50.0.99/24");
    assert!(bench.endpoints().await.is_empty());
}
