//! The service against a real store and a fake kernel.

use std::sync::atomic::{AtomicBool, Ordering};

use fabric_api::status::{EndpointCounters, State};
use futures::future::BoxFuture;

use super::*;
use crate::{
    plan::desired::{NodeFacts, UplinkFacts},
    store::EmbeddedStore,
};

/// A kernel that takes everything, unless told otherwise.
#[derive(Default)]
struct Fake {
    refuses: AtomicBool,
    hangs: AtomicBool,
    resets: Mutex<Vec<u32>>,
    uplinks: Mutex<Vec<UplinkFacts>>,
    flows: Mutex<String>,
    taken: Mutex<Vec<String>>,
}

impl Kernel for Fake {
    fn programmed(&self, _revision: u64) -> BoxFuture<'_, ()> {
        if self.hangs.load(Ordering::Relaxed) { Box::pin(std::future::pending()) } else { Box::pin(async {}) }
    }

    fn state(&self, _kind: &str, _name: &str) -> Option<(State, String)> {
        Some(match (self.refuses.load(Ordering::Relaxed), self.hangs.load(Ordering::Relaxed)) {
            (true, _) => (State::Degraded, "the namespace vanished".to_owned()),
            (_, true) => (State::Pending, String::new()),
            _ => (State::Ready, String::new()),
        })
    }

    fn facts(&self) -> NodeFacts {
        let uplinks = self.uplinks.lock().unwrap().clone();
        NodeFacts { node: "n1".to_owned(), uplinks, ..NodeFacts::default() }
    }

    fn counters(&self, _slot: u32) -> Option<EndpointCounters> {
        Some(EndpointCounters::default())
    }

    fn reset_counters(&self, slot: u32) {
        self.resets.lock().unwrap().push(slot);
    }

    fn flows(&self, addresses: &[std::net::IpAddr]) -> String {
        format!("{} of {}", self.flows.lock().unwrap(), addresses[0])
    }

    fn take_flows(&self, vni: u32, _addresses: &[std::net::IpAddr], flows: &str) {
        self.taken.lock().unwrap().push(format!("{flows} in {vni}"));
    }

    fn node_status(&self) -> Status {
        Status::default()
    }
}

struct Bench {
    service: Service,
    fake: Arc<Fake>,
    dir: tempfile::TempDir,
}

/// A namespace that exists, its number made of its path; `/gone` does not.
fn resolve(path: &str) -> Result<u64, ServiceError> {
    if path == "/gone" {
        return Err(ServiceError::invalid("network namespace /gone does not exist"));
    }
    Ok(crate::model::ids::hash32(path).into())
}

fn service_on(directory: &std::path::Path, fake: &Arc<Fake>) -> Service {
    let store = Arc::new(EmbeddedStore::open(directory).expect("the store opens"));
    let settings = ServiceSettings { node: "n1".to_owned(), slots: 3, blocks: false };
    Service::with(store, fake.clone(), settings, resolve, Duration::from_millis(200))
}

fn bench() -> Bench {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(Fake::default()));
    Bench { service: service_on(dir.path(), &fake), fake, dir }
}

fn object(json: &str) -> Object {
    serde_json::from_str(json).expect("a valid object")
}

fn network(name: &str, subnet: &str) -> Network {
    let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"subnets":["{subnet}"]}}}}"#);
    serde_json::from_str(&json).expect("a valid network")
}

fn endpoint(name: &str, more: &str) -> Endpoint {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}"}},"spec":{{"network":"blue","attachment":{{"netns":"/run/netns/{name}","ifname":"eth0"}}{more}}}}}"#
    );
    serde_json::from_str(&json).expect("a valid endpoint")
}

fn remote(name: &str, node: &str, address: &str) -> Object {
    object(&format!(
        r#"{{"kind":"Endpoint","metadata":{{"name":"{name}"}},"spec":{{"network":"blue","node":"{node}","addresses":["{address}"]}}}}"#
    ))
}

fn node(name: &str) -> Object {
    object(&format!(r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"vteps":["192.0.2.9"]}}}}"#))
}

async fn blue(bench: &Bench, subnet: &str) {
    bench.service.create_network(&Owner::cli(), network("blue", subnet)).await.unwrap();
}

async fn attach(bench: &Bench, name: &str, more: &str) -> Result<Endpoint, ServiceError> {
    bench.service.attach_endpoint(&Owner::cli(), endpoint(name, more)).await
}

#[tokio::test]
async fn vnis_are_chosen_from_4096_and_used_ones_refused() {
    let b = bench();
    let cli = Owner::cli();
    let a = b.service.create_network(&cli, network("a", "10.0.0.0/24")).await.unwrap();
    let c = b.service.create_network(&cli, network("c", "10.0.0.0/24")).await.unwrap();
    assert_eq!((a.spec.vni, c.spec.vni), (Some(4096), Some(4097)));
    assert_eq!(a.status.unwrap().node_addresses.len(), 1);
    let mut taken = network("d", "10.0.0.0/24");
    taken.spec.vni = Some(4096);
    let e = b.service.create_network(&cli, taken).await.unwrap_err();
    assert!(e.message.contains("belongs to network a"), "{e}");
    // Also where the name of the new one comes first.
    let mut taken = network("0", "10.0.0.0/24");
    taken.spec.vni = Some(4096);
    let e = b.service.create_network(&cli, taken).await.unwrap_err();
    assert_eq!(e.message, "network 0: VNI 4096 belongs to network a: choose another one");
    let e = b.service.create_network(&cli, network("a", "10.0.0.0/24")).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Conflict);
}

#[tokio::test]
async fn a_vtep_address_stays_with_the_node_that_has_it() {
    let b = bench();
    b.service.apply(&Owner::cli(), vec![node("n3")]).await.unwrap();
    let e = b.service.apply(&Owner::cli(), vec![node("n2")]).await.unwrap_err();
    assert_eq!(e.message, "node n2: VTEP address 192.0.2.9 belongs to node n3: choose another one");
}

#[tokio::test]
async fn attach_chooses_what_is_left_open_and_reuses_slots_but_not_addresses() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    let one = attach(&b, "one", "").await.unwrap();
    let two = attach(&b, "two", "").await.unwrap();
    assert_ne!(one.spec.addresses, two.spec.addresses);
    assert_eq!(two.status.as_ref().unwrap().slot, Some(1));
    assert_eq!(two.spec.mac.as_deref().map(|m| &m[..5]), Some("02:fc"));
    b.service.detach_endpoint(&Owner::cli(), "one").await.unwrap();
    let three = attach(&b, "three", "").await.unwrap();
    assert_eq!(three.status.unwrap().slot, Some(0));
    assert_ne!(three.spec.addresses, one.spec.addresses, "reuse is delayed");
    assert_eq!(*b.fake.resets.lock().unwrap(), [0, 1, 0]);
}

#[tokio::test]
async fn the_position_of_the_allocator_survives_a_restart() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    let one = attach(&b, "one", "").await.unwrap();
    b.service.detach_endpoint(&Owner::cli(), "one").await.unwrap();
    let Bench { service, fake, dir } = b;
    drop(service);
    let b = Bench { service: service_on(dir.path(), &fake), fake, dir };
    let two = attach(&b, "two", "").await.unwrap();
    assert_ne!(one.spec.addresses, two.spec.addresses);
}

#[tokio::test]
async fn exhaustion_names_the_subnet_and_slots_run_out_clearly() {
    let b = bench();
    // Five usable addresses, one of them this node's own.
    blue(&b, "10.1.0.0/29").await;
    for name in ["a", "b", "c"] {
        attach(&b, name, "").await.unwrap();
    }
    let e = attach(&b, "d", "").await.unwrap_err();
    assert!(e.message.contains("port_counters"), "{e}");
    b.service.apply(&Owner::cli(), vec![node("n2")]).await.unwrap();
    let used: Vec<_> =
        b.service.endpoints().await.unwrap().into_iter().flat_map(|e| e.spec.addresses).collect();
    let own = b.service.network("blue").await.unwrap().status.unwrap().node_addresses;
    let free = (2..=6)
        .map(|i| format!("10.1.0.{i}").parse().unwrap())
        .find(|a| !used.contains(a) && !own.contains(a));
    let free: std::net::IpAddr = free.unwrap();
    b.service.apply(&Owner::cli(), vec![remote("r", "n2", &free.to_string())]).await.unwrap();
    b.service.detach_endpoint(&Owner::cli(), "a").await.unwrap();
    attach(&b, "a2", "").await.unwrap();
    b.service.detach_endpoint(&Owner::cli(), "b").await.unwrap();
    let given = b.service.endpoint("c").await.unwrap().spec.addresses[0];
    let e = attach(&b, "x", &format!(r#","addresses":["{given}"]"#)).await.unwrap_err();
    assert!(e.message.contains("endpoint c"), "{e}");
    let e = attach(&b, "x", &format!(r#","addresses":["{}"]"#, own[0])).await.unwrap_err();
    assert!(e.message.contains("this node's own address"), "{e}");
}

#[tokio::test]
async fn concurrent_attaches_get_different_addresses() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    let (x, y, z) = tokio::join!(attach(&b, "x", ""), attach(&b, "y", ""), attach(&b, "z", ""));
    let all = [x.unwrap(), y.unwrap(), z.unwrap()];
    let addresses: std::collections::BTreeSet<_> =
        all.iter().flat_map(|e| e.spec.addresses.clone()).collect();
    let slots: std::collections::BTreeSet<_> = all.iter().map(|e| e.status.as_ref().unwrap().slot).collect();
    assert_eq!((addresses.len(), slots.len()), (3, 3));
}

#[tokio::test]
async fn a_failed_attach_leaves_nothing() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    b.fake.refuses.store(true, Ordering::Relaxed);
    let e = attach(&b, "a", "").await.unwrap_err();
    assert_eq!(e.message, "endpoint a can't be attached: the namespace vanished");
    assert!(b.service.endpoints().await.unwrap().is_empty());
    b.fake.refuses.store(false, Ordering::Relaxed);
    b.fake.hangs.store(true, Ordering::Relaxed);
    let e = attach(&b, "a", "").await.unwrap_err();
    assert!(e.message.contains("not programmed within"), "{e}");
    assert!(b.service.endpoints().await.unwrap().is_empty());
}

#[tokio::test]
async fn attach_refuses_what_is_not_for_this_node_or_twice() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    assert_eq!(attach(&b, "a", r#","node":"n2""#).await.unwrap_err().kind, ErrorKind::Refused);
    let mut none = endpoint("a", "");
    none.spec.attachment = None;
    let e = b.service.attach_endpoint(&Owner::cli(), none).await.unwrap_err();
    assert!(e.message.contains("--netns"), "{e}");
    let mut gone = endpoint("a", "");
    gone.spec.attachment.as_mut().unwrap().netns = "/gone".to_owned();
    let e = b.service.attach_endpoint(&Owner::cli(), gone).await.unwrap_err();
    assert!(e.message.contains("does not exist"), "{e}");
    attach(&b, "a", "").await.unwrap();
    assert_eq!(attach(&b, "a", "").await.unwrap_err().kind, ErrorKind::Conflict);
    let mut same = endpoint("b", "");
    same.spec.attachment.as_mut().unwrap().netns = "/run/netns/a".to_owned();
    let e = b.service.attach_endpoint(&Owner::cli(), same).await.unwrap_err();
    assert!(e.message.contains("belongs to endpoint a"), "{e}");
}

#[tokio::test]
async fn a_network_in_use_stays_and_says_by_whom() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    attach(&b, "web", "").await.unwrap();
    let e = b.service.delete_network(&Owner::cli(), "blue").await.unwrap_err();
    assert!(e.kind == ErrorKind::Refused && e.message.contains("web"), "{e}");
    b.service.detach_endpoint(&Owner::cli(), "web").await.unwrap();
    b.service.delete_network(&Owner::cli(), "blue").await.unwrap();
    assert_eq!(b.service.delete_network(&Owner::cli(), "blue").await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn apply_is_all_or_nothing_whatever_the_order() {
    let b = bench();
    let blue = Object::Network(network("blue", "10.1.0.0/24"));
    let good = vec![remote("r", "n2", "10.1.0.9"), node("n2"), blue.clone()];
    let outcomes = |applied: &[Applied]| applied.iter().map(|a| a.outcome.clone()).collect::<Vec<_>>();
    let mut bad = good.clone();
    bad.push(remote("s", "n2", "10.1.0.9"));
    let e = b.service.apply(&Owner::cli(), bad).await.unwrap_err();
    assert!(e.message.contains("endpoint r"), "{e}");
    assert!(b.service.networks().await.unwrap().is_empty());
    assert_eq!(outcomes(&b.service.apply(&Owner::cli(), good.clone()).await.unwrap()), ["created"; 3]);
    assert_eq!(outcomes(&b.service.apply(&Owner::cli(), good).await.unwrap()), ["unchanged"; 3]);
    let e = b.service.apply(&Owner::cli(), vec![blue.clone(), blue]).await.unwrap_err();
    assert!(e.message.contains("twice"), "{e}");
    let e = b.service.apply(&Owner::cli(), vec![remote("t", "n3", "10.1.0.10")]).await.unwrap_err();
    assert!(e.message.contains("node n3 is not declared"), "{e}");
}

#[tokio::test]
async fn owners_do_not_touch_each_others_objects() {
    let b = bench();
    let files = Owner::manifests(std::path::Path::new("/etc/m"));
    blue(&b, "10.1.0.0/24").await;
    let wanted =
        vec![Object::Network(network("blue", "10.1.0.0/24")), Object::Network(network("red", "10.2.0.0/24"))];
    let replaced = b.service.replace_owned(&files, wanted, true).await.unwrap();
    assert_eq!(replaced.applied.len(), 1);
    assert!(replaced.problems[0].contains("belongs to cli"), "{:?}", replaced.problems);
    let e = b.service.delete_network(&Owner::cli(), "red").await.unwrap_err();
    assert!(e.kind == ErrorKind::Refused && e.message.contains("/etc/m"), "{e}");
    let replaced = b.service.replace_owned(&files, Vec::new(), false).await.unwrap();
    assert!(replaced.removed.is_empty());
    let replaced = b.service.replace_owned(&files, Vec::new(), true).await.unwrap();
    assert_eq!(replaced.removed.len(), 1);
    assert_eq!(b.service.networks().await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_wrong_manifest_harms_no_other_and_an_address_can_move() {
    let b = bench();
    let files = Owner::manifests(std::path::Path::new("/etc/m"));
    let base = vec![Object::Network(network("blue", "10.1.0.0/24")), node("n2")];
    let with = |more: &[Object]| [base.as_slice(), more].concat();
    let wrong = remote("bad", "n2", "10.9.0.1");
    let one = remote("one", "n2", "10.1.0.9");
    let replaced = b.service.replace_owned(&files, with(&[wrong, one]), true).await.unwrap();
    assert_eq!((replaced.applied.len(), replaced.problems.len()), (3, 1));
    let two = remote("two", "n2", "10.1.0.9");
    let replaced = b.service.replace_owned(&files, with(&[two]), true).await.unwrap();
    assert!(replaced.problems.is_empty(), "{:?}", replaced.problems);
    assert_eq!(replaced.removed, [("Endpoint".to_owned(), "one".to_owned())]);
}

#[tokio::test]
async fn this_node_is_listed_as_others_should_declare_it() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    let own = b.service.node("n1").await.unwrap();
    assert!(own.status.unwrap().local);
    assert_eq!(
        own.spec.networks[0].addresses,
        b.service.network("blue").await.unwrap().status.unwrap().node_addresses
    );
    let status = b.service.status().await.unwrap();
    assert_eq!(status.node, "n1");
    assert!(status.store.starts_with("local:///"));
}

#[tokio::test]
async fn what_the_agent_sets_is_refused_from_outside() {
    let b = bench();
    let mut net = network("blue", "10.1.0.0/24");
    net.status = Some(fabric_api::status::NetworkStatus::default());
    let e = b.service.create_network(&Owner::cli(), net).await.unwrap_err();
    assert!(e.message.contains("status is set by the agent"), "{e}");
    let mut net = network("blue", "10.1.0.0/24");
    net.metadata.owner = "docker".to_owned();
    assert!(b.service.create_network(&Owner::cli(), net).await.is_err());
}

#[tokio::test]
async fn one_list_of_all_hosts_objects_fits_this_host() {
    let b = bench();
    let files = Owner::manifests(std::path::Path::new("/etc/m"));
    blue(&b, "10.1.0.0/24").await;
    let web = attach(&b, "web", "").await.unwrap();
    let address = web.spec.addresses[0].to_string();
    let own = object(r#"{"kind":"Node","metadata":{"name":"n1"},"spec":{"vteps":["192.0.2.1"]}}"#);
    let list = |web: Object| vec![own.clone(), node("n2"), web, remote("far", "n2", "10.1.0.99")];
    let replaced = b.service.replace_owned(&files, list(remote("web", "n1", &address)), true).await.unwrap();
    assert!(replaced.problems.is_empty(), "{:?}", replaced.problems);
    assert_eq!(replaced.applied.len(), 3, "the endpoint is none of the list's");
    assert_eq!(b.service.endpoint("web").await.unwrap().metadata.owner, "cli");
    let told = |name: &'static str, address: &str| {
        let list = list(remote(name, "n1", address));
        let service = b.service.clone();
        let files = files.clone();
        async move { service.replace_owned(&files, list, true).await.unwrap().problems }
    };
    let problems = told("web", "10.1.0.77").await;
    assert!(problems.len() == 1 && problems[0].contains("with another address"), "{problems:?}");
    let problems = told("db", "10.1.0.77").await;
    assert!(problems.len() == 1 && problems[0].contains("endpoint db: it is not attached"), "{problems:?}");
    b.service.detach_endpoint(&Owner::cli(), "web").await.unwrap();
    assert_eq!(told("web", &address).await.len(), 1);
    assert!(b.service.endpoint("web").await.is_err(), "a declaration attaches nothing");
}

#[tokio::test]
async fn few_wrong_ones_among_many_are_found() {
    let b = bench();
    let files = Owner::manifests(std::path::Path::new("/etc/m"));
    let mut list = vec![Object::Network(network("blue", "10.1.0.0/16")), node("n2")];
    list.extend((0..300).map(|i| remote(&format!("r{i:03}"), "n2", &format!("10.1.1.{}", 1 + i % 250))));
    list.push(remote("lost", "n9", "10.1.2.1"));
    let replaced = b.service.replace_owned(&files, list, true).await.unwrap();
    assert_eq!((replaced.applied.len(), replaced.problems.len()), (252, 51));
    assert!(replaced.problems.iter().any(|p| p.contains("node n9 is not declared")));
    let order: Vec<_> = replaced.applied.iter().map(|a| a.name.as_str()).take(4).collect();
    assert_eq!(order, ["blue", "n2", "r000", "r001"], "the first of two that want one address has it");
}

#[tokio::test]
async fn requests_are_answered_even_if_the_kernel_is_not() {
    let b = bench();
    b.fake.hangs.store(true, Ordering::Relaxed);
    let begun = std::time::Instant::now();
    blue(&b, "10.1.0.0/24").await;
    b.service.apply(&Owner::cli(), vec![node("n2")]).await.unwrap();
    b.service.delete_network(&Owner::cli(), "blue").await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn of_two_requests_that_exclude_each_other_one_is_refused() {
    let b = bench();
    let cli = Owner::cli();
    blue(&b, "10.1.0.0/24").await;
    let (one, two) = tokio::join!(attach(&b, "web", ""), attach(&b, "web", ""));
    assert_eq!(one.is_ok(), two.is_err(), "{one:?} {two:?}");
    b.service.detach_endpoint(&cli, "web").await.unwrap();
    let (attached, deleted) = tokio::join!(attach(&b, "web", ""), b.service.delete_network(&cli, "blue"));
    assert_eq!(attached.is_ok(), deleted.is_err(), "{attached:?} {deleted:?}");
    assert_eq!(b.service.networks().await.unwrap().len(), usize::from(attached.is_ok()));
}

mod cluster;
mod deny;
mod movement;
mod movement_orders;
mod openings;
mod policies;
mod underlay;
