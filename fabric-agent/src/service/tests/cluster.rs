//! Several nodes on one store.

use super::*;
use crate::store::Store;

/// The service of a node with a VTEP address of its own.
pub(super) fn member(store: &Arc<dyn Store>, node: &str, vtep: &str) -> Service {
    member_with(store, node, vtep).0
}

/// The same, and its kernel.
pub(super) fn member_with(store: &Arc<dyn Store>, node: &str, vtep: &str) -> (Service, Arc<Fake>) {
    let uplink = UplinkFacts {
        name: "u0".to_owned(),
        ifindex: 2,
        mac: fabric_common::addr::Mac::new([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        vteps: vec![vtep.parse().unwrap()],
    };
    let fake = Arc::new(Fake { uplinks: Mutex::new(vec![uplink]), ..Fake::default() });
    let settings = ServiceSettings { node: node.to_owned(), slots: 300, blocks: true };
    let service =
        Service::with(Arc::clone(store), fake.clone(), settings, resolve, Duration::from_millis(200));
    (service, fake)
}

fn two() -> (Service, Service, Arc<dyn Store>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path()).expect("the store opens"));
    (member(&store, "n1", "192.0.2.1"), member(&store, "n2", "192.0.2.2"), store, dir)
}

async fn stored(store: &Arc<dyn Store>, name: &str) -> Node {
    match store.snapshot().await.unwrap().get("Node", name) {
        Some(Object::Node(node)) => node.clone(),
        other => panic!("node {name} is {other:?}"),
    }
}

#[tokio::test]
async fn a_node_registers_itself_and_its_part_in_networks_that_it_has_endpoints_in() {
    let (one, other, store, _dir) = two();
    let cli = Owner::cli();
    one.register_once().await.unwrap();
    other.register_once().await.unwrap();
    assert_eq!(stored(&store, "n2").await.spec.vteps, ["192.0.2.2".parse::<std::net::IpAddr>().unwrap()]);
    one.create_network(&cli, network("blue", "10.0.0.0/24")).await.unwrap();
    let web = one.attach_endpoint(&cli, endpoint("web", "")).await.unwrap();
    one.register_once().await.unwrap();
    let at = store.snapshot().await.unwrap().revision;
    other.register_once().await.unwrap();
    one.register_once().await.unwrap();
    assert_eq!(store.snapshot().await.unwrap().revision, at, "nothing to do");
    let node = stored(&store, "n1").await;
    assert_eq!(node.spec.networks.len(), 1);
    let own = node.spec.networks[0].addresses.clone();
    assert!(own.len() == 1 && own != web.spec.addresses, "{own:?}");
    assert!(stored(&store, "n2").await.spec.networks.is_empty());
    // Nobody gets the node's address, and nobody else may change the node.
    let text = other.attach_endpoint(&cli, endpoint("db", &format!(r#","addresses":["{}"]"#, own[0]))).await;
    assert!(text.unwrap_err().message.contains("belongs to node n1"));
    let text = other.apply(&cli, vec![node_of("n1")]).await.unwrap_err().message;
    assert!(text.contains("belongs to agent"), "{text}");
    // Its part does not keep the network.
    other.detach_endpoint(&cli, "web").await.unwrap();
    other.delete_network(&cli, "blue").await.unwrap();
    assert!(one.status().await.unwrap().problems.is_empty());
    one.register_once().await.unwrap();
    assert!(stored(&store, "n1").await.spec.networks.is_empty());
}

fn node_of(name: &str) -> Object {
    object(&format!(r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"vteps":["192.0.2.1"]}}}}"#))
}

#[tokio::test]
async fn places_and_namespaces_are_each_nodes_own() {
    let (one, other, _store, _dir) = two();
    let cli = Owner::cli();
    one.create_network(&cli, network("blue", "10.0.0.0/24")).await.unwrap();
    for (service, names) in [(&one, ["a", "b", "c"]), (&other, ["d", "e", "f"])] {
        service.register_once().await.unwrap();
        for name in names {
            let same = endpoint(name, "");
            let mut same = Endpoint { metadata: same.metadata, ..endpoint("x", "") };
            same.spec.attachment.as_mut().unwrap().ifname = format!("eth{name}");
            let made = service.attach_endpoint(&cli, same).await.unwrap();
            assert_eq!(made.spec.node.as_deref(), Some(service.node_name()));
        }
    }
    let places: Vec<_> = other.endpoints().await.unwrap();
    let places: Vec<_> = places.iter().filter_map(|e| e.status.as_ref().filter(|s| s.local)?.slot).collect();
    assert_eq!(places, [0, 1, 2], "whatever others count");
}

/// Addresses of the endpoints of a service's node.
async fn addresses(service: &Service) -> Vec<std::net::IpAddr> {
    let mut all = service.endpoints().await.unwrap();
    all.retain(|e| e.spec.node.as_deref() == Some(service.node_name()));
    all.into_iter().flat_map(|e| e.spec.addresses).collect()
}

#[tokio::test]
async fn nodes_take_addresses_from_blocks_of_their_own_while_there_are_any() {
    let (one, other, store, _dir) = two();
    let cli = Owner::cli();
    one.create_network(&cli, network("blue", "10.0.0.0/25")).await.unwrap();
    for service in [&one, &other] {
        service.register_once().await.unwrap();
    }
    let block =
        |address: &std::net::IpAddr| crate::model::ipam::Block::of("10.0.0.0/25".parse().unwrap(), *address);
    for n in 0..4 {
        one.attach_endpoint(&cli, endpoint(&format!("a{n}"), "")).await.unwrap();
        other.attach_endpoint(&cli, endpoint(&format!("b{n}"), "")).await.unwrap();
    }
    let (mine, theirs) = (addresses(&one).await, addresses(&other).await);
    assert!(mine.iter().all(|address| block(address) == block(&mine[0])), "{mine:?}");
    assert!(theirs.iter().all(|address| block(address) == block(&theirs[0])), "{theirs:?}");
    assert_ne!(block(&mine[0]), block(&theirs[0]));
    // The rest of the subnet is one node's as well, the blocks of others last: 126 hosts, a gateway, two nodes' own.
    one.register_once().await.unwrap();
    other.register_once().await.unwrap();
    for n in 4..(126 - 1 - 2 - 4) {
        one.attach_endpoint(&cli, endpoint(&format!("a{n}"), "")).await.unwrap();
    }
    let full = one.attach_endpoint(&cli, endpoint("full", "")).await.unwrap_err().message;
    assert!(full.contains("exhausted: 125 of 125"), "{full}");
    let mut all = [addresses(&one).await, addresses(&other).await].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 123);
    // Blocks go with their addresses.
    for e in one.endpoints().await.unwrap() {
        one.detach_endpoint(&cli, &e.metadata.name).await.unwrap();
    }
    one.register_once().await.unwrap();
    other.register_once().await.unwrap();
    let blocks = store.snapshot().await.unwrap();
    let blocks: Vec<_> = blocks.cursors.keys().filter(|name| name.starts_with("addresses/blue/")).collect();
    assert!(blocks.len() <= 4, "one of each node, and those of their own addresses: {blocks:?}");
    one.delete_network(&cli, "blue").await.unwrap();
    let left = store.snapshot().await.unwrap();
    assert!(!left.cursors.keys().any(|name| name.contains("blue")), "{:?}", left.cursors);
}

#[tokio::test]
async fn the_blocks_of_a_node_that_left_are_taken_over() {
    let (one, other, store, _dir) = two();
    let cli = Owner::cli();
    one.create_network(&cli, network("blue", "10.0.0.0/25")).await.unwrap();
    for service in [&one, &other] {
        service.register_once().await.unwrap();
    }
    for n in 0..20 {
        one.attach_endpoint(&cli, endpoint(&format!("a{n}"), "")).await.unwrap();
    }
    let before = addresses(&one).await;
    crate::store::leave(&*store, "n1").await.unwrap();
    for n in 0..110 {
        other.attach_endpoint(&cli, endpoint(&format!("b{n}"), "")).await.unwrap();
    }
    assert!(addresses(&other).await.iter().any(|address| before.contains(address)));
    let owners = store.snapshot().await.unwrap();
    let owners: Vec<_> =
        owners.cursors.iter().filter(|(name, _)| name.starts_with("addresses/blue/")).collect();
    assert!(owners.iter().all(|(_, cursor)| !cursor.value.contains("n1")), "{owners:?}");
}

#[tokio::test]
async fn a_chosen_address_is_nobody_elses_whoevers_block_it_is_in() {
    let (one, other, _store, _dir) = two();
    let cli = Owner::cli();
    one.create_network(&cli, network("blue", "10.0.0.0/25")).await.unwrap();
    let first = one.attach_endpoint(&cli, endpoint("a", "")).await.unwrap().spec.addresses[0];
    let std::net::IpAddr::V4(v4) = first else { panic!("IPv4") };
    let next = std::net::Ipv4Addr::from(u32::from(v4) + 1);
    other.attach_endpoint(&cli, endpoint("b", &format!(r#","addresses":["{next}"]"#))).await.unwrap();
    let after = one.attach_endpoint(&cli, endpoint("c", "")).await.unwrap().spec.addresses[0];
    assert!(after != first && after != std::net::IpAddr::from(next), "{after}");
}

#[tokio::test]
async fn a_node_that_somebody_has_declared_is_not_taken_over() {
    let (one, _other, store, _dir) = two();
    one.apply(&Owner::cli(), vec![node_of("n1")]).await.unwrap();
    let text = one.register_once().await.unwrap_err().message;
    assert!(text.contains("node n1 is declared by cli"), "{text}");
    assert_eq!(stored(&store, "n1").await.metadata.owner, "cli");
}

#[tokio::test]
async fn leaving_takes_the_node_and_its_endpoints() {
    let (one, other, store, _dir) = two();
    let cli = Owner::cli();
    one.create_network(&cli, network("blue", "10.0.0.0/24")).await.unwrap();
    for service in [&one, &other] {
        service.register_once().await.unwrap();
    }
    one.attach_endpoint(&cli, endpoint("web", "")).await.unwrap();
    other.attach_endpoint(&cli, endpoint("db", "")).await.unwrap();
    let gone = crate::store::leave(&*store, "n1").await.unwrap();
    assert_eq!(gone, ["endpoint web", "node n1"]);
    let left: Vec<_> =
        store.snapshot().await.unwrap().objects.iter().map(|o| o.metadata().name.clone()).collect();
    assert_eq!(left, ["db", "blue", "n2"]);
    assert!(crate::store::leave(&*store, "n1").await.unwrap().is_empty());
}
