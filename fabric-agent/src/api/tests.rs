//! The whole way: client, socket, router, service and store, above a kernel that is ready for everything.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use fabric_api::{
    Network, Object,
    client::{Client, ClientError, EventFilter},
    flow::FlowFilter,
    parse,
    status::{Counter, EndpointCounters, ErrorBody, RuleStatus, State, Status},
};
use fabric_common::{
    addr::{Addr, Mac},
    counters::Tally,
    event::{DropEvent, VERSION},
    flow::{FlowKey, FlowValue},
};
use futures::{FutureExt, future::BoxFuture};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::{ApiState, bind, openapi, serve, serve_metrics};
use crate::{
    observe::{
        counters::CounterSource,
        events::EventHub,
        flows::{FlowScan, FlowSource, boot_time},
    },
    plan::desired::{NodeFacts, UplinkFacts},
    service::{Kernel, Service, ServiceSettings},
    store::EmbeddedStore,
};

struct Ready;

impl Kernel for Ready {
    fn programmed(&self, _: u64) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn state(&self, _: &str, _: &str) -> Option<(State, String)> {
        Some((State::Ready, String::new()))
    }

    fn facts(&self) -> NodeFacts {
        let mac = Mac::new([2, 0, 0, 0, 0, 1]);
        let vteps = vec!["192.0.2.1".parse().expect("an address")];
        let uplink = UplinkFacts { name: "eth1".to_owned(), ifindex: 2, mac, mtu: 1500, vteps };
        NodeFacts { node: "a".to_owned(), uplinks: vec![uplink], ..NodeFacts::default() }
    }

    fn counters(&self, _: u32) -> Option<EndpointCounters> {
        None
    }

    fn reset_counters(&self, _: u32) {}

    fn node_status(&self) -> Status {
        Status { kernel: "6.18".to_owned(), in_sync: true, ..Status::default() }
    }
}

impl CounterSource for Ready {
    fn read(&self) -> anyhow::Result<Vec<Counter>> {
        Ok(vec![Counter { name: "spoof_ip".to_owned(), packets: 3, ..Counter::default() }])
    }

    fn rules(&self) -> anyhow::Result<BTreeMap<u32, Tally>> {
        Ok([(7, Tally { packets: 5, bytes: 300 }), (8, Tally { packets: 1, bytes: 60 })].into())
    }
}

/// Parts of 100 rows each; the last but one has only rows that have expired.
struct Parts(u8);

impl FlowSource for Ready {
    fn scan(&self) -> Box<dyn FlowScan> {
        Box::new(Parts(0))
    }
}

impl FlowScan for Parts {
    fn next_rows(&mut self) -> anyhow::Result<Option<Vec<(FlowKey, FlowValue)>>> {
        self.0 += 1;
        let seen = if self.0 == 2 { 0 } else { boot_time() };
        let row = |number: u8| {
            let key = FlowKey {
                vni: 77,
                low: Addr::v4([192, 168, 10, number]),
                high: Addr::v4([192, 168, 10, 200]),
                low_port: [0, self.0],
                high_port: [0, 80],
                protocol: 17,
                zero: [0; 3],
            };
            let value = FlowValue {
                flags: 0,
                began: 0,
                seen,
                began_bytes: 1,
                answer_bytes: 0,
                egress_policy: 0,
                egress_identity: 0,
                egress_rule: 0,
                ingress_policy: 0,
                ingress_identity: 0,
                ingress_rule: 0,
            };
            (key, value)
        };
        Ok((self.0 < 4).then(|| (0..100).map(row).collect()))
    }
}

#[tokio::test]
async fn flows_are_streamed_in_parts_without_those_that_have_expired() {
    let server = Server::start();
    let client = server.client();
    client.create_network(&blue()).await.expect("a network");
    let count = async |filter: FlowFilter| {
        let mut flows = client.flows(&filter).await.expect("a stream");
        let mut count = 0;
        while let Some(flow) = flows.next().await.expect("a flow") {
            assert_eq!((&*flow.network, &*flow.protocol), ("blue", "UDP"));
            count += 1;
        }
        count
    };
    assert_eq!(count(FlowFilter::default()).await, 200);
    assert_eq!(count(FlowFilter { limit: Some(150), ..FlowFilter::default() }).await, 150);
    assert_eq!(count(FlowFilter { limit: Some(0), ..FlowFilter::default() }).await, 0);
    let address = Some("192.168.10.7".to_owned());
    assert_eq!(count(FlowFilter { address, ..FlowFilter::default() }).await, 2);
    let refused =
        client.flows(&FlowFilter { network: Some("red".to_owned()), ..FlowFilter::default() }).await;
    assert_eq!(refused.expect_err("no such network").to_string(), "there is no network red");
    let (status, error) = server.refused("GET /v1/flows?state=old", "").await;
    assert!(status == 400 && error.contains("state=new|established|closing"), "{error}");
}

/// A server on a temporary socket.
struct Server {
    directory: TempDir,
    events: EventHub,
    state: ApiState,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&directory.path().join("store")).expect("a store");
        let settings = ServiceSettings { node: "a".to_owned(), slots: 8, blocks: false };
        let service = Service::new(Arc::new(store), Arc::new(Ready), settings);
        let events = EventHub::default();
        let listener = bind(&directory.path().join("fabric.sock"), "--socket").expect("a socket");
        let (stop, stopped) = oneshot::channel();
        let state = ApiState::new(service, events.clone(), Arc::new(Ready)).with_flows(Arc::new(Ready));
        let running = tokio::spawn(serve(listener, state.clone(), stopped.map(drop)));
        Self { directory, events, state, stop, running }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("fabric.sock")
    }

    fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// Status and sentence of a refusal.
    async fn refused(&self, request: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).await.expect("it listens");
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str::<ErrorBody>(body).expect("an error body").error)
    }
}

fn blue() -> Network {
    let blue = json!({"metadata": {"name": "blue"}, "spec": {"subnets": ["192.168.10.0/24"], "vni": 77}});
    parse::typed(blue).expect("a network")
}

fn code<T>(result: Result<T, ClientError>) -> u16 {
    match result {
        Err(ClientError::Refused { status, .. }) => status,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("this should be refused"),
    }
}

#[tokio::test]
async fn objects_come_and_go() {
    let server = Server::start();
    let client = server.client();
    let created = client.create_network(&blue()).await.expect("a network");
    assert_eq!(created.status.as_ref().map(|status| status.vni), Some(77));
    assert_eq!(client.network("blue").await.expect("it is there"), created);
    assert_eq!(client.networks().await.expect("a list"), [created]);
    assert_eq!(code(client.create_network(&blue()).await), 409);
    let node = json!({"kind": "Node", "metadata": {"name": "b"}, "spec": {"vteps": ["192.0.2.2"]}});
    let node: Object = parse::object(node).expect("a node");
    let applied = client.apply(std::slice::from_ref(&node)).await.expect("it applies");
    assert_eq!(applied[0].outcome, "created");
    assert_eq!(client.apply(&[node]).await.expect("it applies")[0].outcome, "unchanged");
    assert_eq!(client.node("b").await.expect("it is there").spec.vteps.len(), 1);
    client.delete_network("blue").await.expect("it has no endpoints");
    assert_eq!(code(client.network("blue").await), 404);
    assert_eq!(code(client.delete_network("blue").await), 404);
    assert_eq!(code(client.endpoint("x/y z").await), 404);
    assert_eq!(client.status().await.expect("a status").node, "a");
    assert_eq!(client.counters().await.expect("counters")[0].packets, 3);
}

#[tokio::test]
async fn policies_and_namespaces_come_and_go() {
    let server = Server::start();
    let client = server.client();
    let policy = |metadata: serde_json::Value| {
        let value = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
                           "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
        parse::object(value).expect("a policy")
    };
    let lint = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "lint"}, "spec": {"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}}});
    let namespace = json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}});
    let objects = [
        policy(json!({"name": "db", "namespace": "shop", "annotations": {"note": "kept"}})),
        parse::object(lint).expect("a policy"),
        parse::object(namespace).expect("a namespace"),
    ];
    let applied = client.apply(&objects).await.expect("it applies");
    assert_eq!(applied.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["shop/db", "lint", "shop"]);
    let read = client.policy("shop/db").await.expect("it is there");
    assert_eq!((&*read.id(), read.metadata().owner.as_str()), ("shop/db", "cli"));
    assert_eq!(read.metadata().annotations["note"], "kept");
    assert_eq!(client.policy("lint").await.expect("not the route").id(), "lint");
    assert_eq!(client.policies().await.expect("a list").len(), 2);
    assert_eq!(client.namespace("shop").await.expect("it is there").metadata.labels["team"], "a");
    let named = |number, rule: &str| (number, format!("NetworkPolicy/shop/db/{rule}"));
    let names =
        [named(7, "ingress/0"), named(8, "ingress"), (9, "NetworkPolicy/shop/db2/ingress".to_owned())];
    server.events.set_rules(Arc::new(names.into()));
    let rule = |rule: &str, packets, bytes| RuleStatus { rule: rule.to_owned(), packets, bytes };
    let counted = |policy: &Object| {
        let Object::NetworkPolicy(policy) = policy else { return Vec::new() };
        policy.status.clone().expect("a status").rules
    };
    let wanted = [rule("ingress", 1, 60), rule("ingress/0", 5, 300)];
    assert_eq!(counted(&client.policy("shop/db").await.expect("it is there")), wanted);
    assert_eq!(
        client.policies().await.expect("a list").iter().map(counted).collect::<Vec<_>>(),
        [vec![], wanted.to_vec()]
    );
    for name in ["shop/db", "lint"] {
        client.delete_policy(name).await.expect("it is ours");
        assert_eq!(code(client.policy(name).await), 404);
    }
    client.delete_namespace("shop").await.expect("it is ours");
    assert_eq!(client.namespaces().await.expect("a list"), []);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_one_sentence() {
    let server = Server::start();
    let (status, error) = server.refused("GET /v2/networks", "").await;
    assert_eq!(status, 404);
    assert!(error.contains("/v2/networks does not exist here"), "{error}");
    let (status, error) = server.refused("PUT /v1/networks", "").await;
    assert_eq!(status, 405);
    assert!(error.contains("can't be asked with PUT"), "{error}");
    let body = r#"{"metadata":{"name":"n"},"spec":{"subnets":["10.0.0.0/8"],"vnii":7}}"#;
    let (status, error) = server.refused("POST /v1/networks", body).await;
    assert_eq!(status, 400);
    assert!(error.contains("spec.vnii: unknown field `vnii`, expected one of"), "{error}");
    let (status, error) = server.refused("POST /v1/apply", r#"[{"kind":"Nod"}]"#).await;
    assert_eq!(status, 400);
    assert!(error.contains("NetworkPolicy, ClusterNetworkPolicy or DenySet is expected"), "{error}");
    let (status, error) = server.refused("POST /v1/apply", "").await;
    assert_eq!(status, 400);
    assert!(error.contains("not JSON"), "{error}");
    let (status, error) = server.refused("GET /v1/events?drop=true", "").await;
    assert_eq!(status, 400);
    assert!(error.contains("endpoint=NAME"), "{error}");
    let (status, _) = server.refused("GET /v1/events?endpoint=nobody", "").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let server = Server::start();
    let mut stream = UnixStream::connect(server.socket()).await.expect("it listens");
    let head =
        format!("POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", super::MAX_BODY + 1);
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn metrics_are_scraped_over_tcp() {
    let server = Server::start();
    server.client().create_network(&blue()).await.expect("a network");
    server.events.set_rules(Arc::new([(7, "NetworkPolicy/shop/db/ingress/0".to_owned())].into()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(serve_metrics(listener, server.state.clone(), stopped.map(drop)));
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    };
    let answer = ask("/metrics").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("application/openmetrics-text"),
        "{answer}"
    );
    for line in [
        "fabric_networks 1",
        "fabric_in_sync 1",
        "fabric_store_up 1",
        "fabric_rule_packets_total{rule=\"NetworkPolicy/shop/db/ingress/0\"} 5",
        "fabric_flows{state=\"new\"} 200",
    ] {
        assert!(answer.lines().any(|found| found == line), "{line} is not in {answer}");
    }
    assert!(ask("/v1/status").await.starts_with("HTTP/1.1 404"), "nothing but metrics");
    stop.send(()).expect("it runs");
    running.await.expect("no panic").expect("a clean end");
}

fn drop_of(vni: u32) -> DropEvent {
    DropEvent {
        version: VERSION,
        hook: 1,
        reason: 5,
        protocol: 0,
        ifindex: 0,
        time: 0,
        vni,
        length: 60,
        src_mac: Mac::ZERO,
        dst_mac: Mac::ZERO,
        ethertype: [0; 2],
        src_port: [0; 2],
        dst_port: [0; 2],
        zero: [0; 2],
        rule: 0,
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        vtep: Addr::UNSPECIFIED,
        suppressed: 0,
    }
}

#[tokio::test]
async fn events_stream_with_names_until_the_server_ends() {
    let server = Server::start();
    let client = server.client();
    client.create_network(&blue()).await.expect("a network");
    let mut events = client.events(&EventFilter::default()).await.expect("a stream");
    server.events.publish(&drop_of(77));
    server.events.publish(&drop_of(78));
    let event = events.next().await.expect("no error").expect("an event");
    assert_eq!((event.network.as_str(), event.reason.as_str()), ("blue", "spoof_ip"));
    let event = events.next().await.expect("no error").expect("an event");
    assert_eq!(event.network, "78");
    server.stop.send(()).expect("it runs");
    assert_eq!(events.next().await.expect("a clean end"), None);
    let ended = tokio::time::timeout(Duration::from_secs(2), server.running).await;
    ended.expect("it ends at once").expect("no panic").expect("no error");
}

#[test]
fn the_document_names_every_route() {
    let document: serde_json::Value = serde_json::from_str(&openapi()).expect("JSON");
    let paths: Vec<_> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "/v1/apply",
            "/v1/capture",
            "/v1/counters",
            "/v1/denysets",
            "/v1/denysets/{name}",
            "/v1/denysets/{name}/change",
            "/v1/endpoints",
            "/v1/endpoints/{name}",
            "/v1/endpoints/{name}/move",
            "/v1/events",
            "/v1/flows",
            "/v1/namespaces",
            "/v1/namespaces/{name}",
            "/v1/networks",
            "/v1/networks/{name}",
            "/v1/nodes",
            "/v1/nodes/{name}",
            "/v1/nodes/{name}/drain",
            "/v1/policies",
            "/v1/policies/lint",
            "/v1/policies/test",
            "/v1/policies/{name}",
            "/v1/report",
            "/v1/status",
            "/v1/trace",
        ]
    );
    let text = openapi();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "{name} is referred to but not described"
        );
    }
}
