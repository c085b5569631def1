//! The protocol, over the socket, as an engine speaks it: calls and answers as they were recorded from Docker 20.10 (libnetwork's field
//! names, its empty bodies, its nulls), above a kernel that is ready for everything.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use fabric_api::{
    Network, Object,
    status::{EndpointCounters, State, Status},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::oneshot,
};

use crate::{
    plan::desired::NodeFacts,
    service::{Kernel, Owner, Service, ServiceSettings},
    store::EmbeddedStore,
};

/// A process that has ended long ago.
pub(super) const GONE: &str = "docker/00000000/1/1";
/// The network of [`Bench::with_network`].
const N2: &str = "38f7762638ea5738c25cd71d735f748274f56d13fa079227f6ff8e3e8c20d68d";

/// A kernel that takes everything, and knows which interfaces are in containers.
#[derive(Default)]
struct Ready {
    plugged: Mutex<BTreeSet<String>>,
}

impl Kernel for Ready {
    fn programmed(&self, _: u64) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn state(&self, _: &str, _: &str) -> Option<(State, String)> {
        Some((State::Ready, String::new()))
    }

    fn facts(&self) -> NodeFacts {
        let plugged = self.plugged.lock().expect("not poisoned").clone();
        NodeFacts { node: "h1".to_owned(), plugged, ..NodeFacts::default() }
    }

    fn counters(&self, _: u32) -> Option<EndpointCounters> {
        None
    }

    fn reset_counters(&self, _: u32) {}

    fn node_status(&self) -> Status {
        Status::default()
    }
}

/// An agent's door for Docker on a socket, without an agent around it.
pub(super) struct Bench {
    pub(super) service: Service,
    kernel: Arc<Ready>,
    directory: TempDir,
    _stop: oneshot::Sender<()>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&directory.path().join("store")).expect("a store");
        let kernel = Arc::new(Ready::default());
        let settings = ServiceSettings { node: "h1".to_owned(), slots: 64, blocks: false };
        let service = Service::new(Arc::new(store), kernel.clone(), settings);
        let path = directory.path().join("fabric.sock");
        let listener = crate::api::bind(&path, "--docker-plugin").expect("a socket");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        tokio::spawn(super::serve(listener, service.clone(), shutdown));
        Self { service, kernel, directory, _stop: stop }
    }

    /// With Docker's network 10.50.0.0/24.
    pub(super) async fn with_network() -> Self {
        let bench = Self::new();
        let answer =
            bench.call("NetworkDriver.CreateNetwork", &create_call(N2, "10.50.0.0/24", &json!({}))).await;
        assert_eq!(answer, json!({}));
        bench
    }

    /// One request, as the engine's HTTP client writes it: no content type. Returns the status and the body.
    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let mut stream =
            UnixStream::connect(self.directory.path().join("fabric.sock")).await.expect("it listens");
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        assert!(
            head.to_lowercase().contains("content-type: application/vnd.docker.plugins.v1.2+json"),
            "{head}"
        );
        (status, body.to_owned())
    }

    /// A call that the protocol knows; its answer.
    pub(super) async fn call(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, &body.to_string()).await;
        assert_eq!(status, 200, "{path}: {answer}");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// A call that is refused: the sentence, which is in `field`.
    async fn refused(&self, path: &str, body: &Value, field: &str) -> String {
        let answer = self.call(path, body).await;
        let object = answer.as_object().expect("an object");
        assert_eq!(object.len(), 1, "{answer}");
        object.get(field).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {answer}")).to_owned()
    }

    /// Names of all endpoints.
    pub(super) async fn endpoints(&self) -> Vec<String> {
        let all = self.service.endpoints().await.expect("readable");
        all.into_iter().map(|endpoint| endpoint.metadata.name).collect()
    }

    async fn networks(&self) -> Vec<Network> {
        self.service.networks().await.expect("readable")
    }

    /// Another process has made the endpoint.
    pub(super) async fn set_engine(&self, name: &str, engine: &str) {
        let mut endpoint = self.service.endpoint(name).await.expect("it exists");
        endpoint.status = None;
        endpoint.spec.attachment.as_mut().expect("attached").engine = Some(engine.to_owned());
        self.service.apply(&Owner::docker(), vec![Object::Endpoint(endpoint)]).await.expect("good");
    }

    /// The engine has moved its interface into a container.
    pub(super) fn plug(&self, name: &str) {
        self.kernel.plugged.lock().expect("not poisoned").insert(name.to_owned());
    }

    /// The engine has moved it back.
    pub(super) fn unplug(&self, name: &str) {
        self.kernel.plugged.lock().expect("not poisoned").remove(name);
    }
}

fn create_call(id: &str, pool: &str, generic: &Value) -> Value {
    json!({
        "NetworkID": id,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": generic},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": pool}],
        "IPv6Data": []
    })
}

fn endpoint_id(first: &str) -> String {
    format!("{first}50e7c7041467413a377453c051929228690ea4e5b79e4f29b88a28a2a776ffe")
}

/// `CreateEndpoint` for an endpoint whose id begins with `first`.
pub(super) fn endpoint_call(first: &str, address: &str) -> Value {
    json!({
        "NetworkID": N2,
        "EndpointID": endpoint_id(first),
        "Interface": {"Address": address, "AddressIPv6": "", "MacAddress": ""},
        "Options": {"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": []}
    })
}

#[tokio::test]
async fn the_handshake_takes_empty_bodies_and_what_is_unknown_is_404() {
    let bench = Bench::new();
    for (path, answer) in [
        ("Plugin.Activate", json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
        ("NetworkDriver.GetCapabilities", json!({"Scope": "local", "ConnectivityScope": "local"})),
        ("IpamDriver.GetCapabilities", json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})),
        (
            "IpamDriver.GetDefaultAddressSpaces",
            json!({"LocalDefaultAddressSpace": "fabric", "GlobalDefaultAddressSpace": "fabric-global"}),
        ),
    ] {
        let (status, body) = bench.post(path, "").await;
        assert_eq!((status, serde_json::from_str::<Value>(&body).expect("JSON")), (200, answer), "{path}");
    }
    for path in [
        "NetworkDriver.GwAllocCheck",
        "NetworkDriver.Nonsense",
        "IpamDriver.X",
        "VolumeDriver.Create",
        "x",
        "",
    ] {
        let (status, body) = bench.post(path, "{}").await;
        assert_eq!(status, 404, "{path}");
        assert!(body.contains("is not implemented"), "{body}");
    }
    let (status, body) = bench.post("NetworkDriver.CreateNetwork", "{\"NetworkID\":").await;
    assert_eq!(status, 400);
    assert!(body.contains("\"Err\":\"the request is not valid"), "{body}");
}

#[tokio::test]
async fn a_network_and_its_containers_live_and_go() {
    let bench = Bench::new();
    let create = json!({
        "NetworkID": N2,
        "Options": {"com.docker.network.enable_ipv6": true, "com.docker.network.generic": {"fabric.vni": "77"}},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "AuxAddresses": {"host": "10.50.0.200/24"}, "Gateway": "10.50.0.254/24", "Pool": "10.50.0.0/24"}],
        "IPv6Data": [{"AddressSpace": "LocalDefault", "Gateway": "fd00:50::1/64", "Pool": "fd00:50::/64"}]
    });
    // Twice is once.
    for _ in 0..2 {
        assert_eq!(bench.call("NetworkDriver.CreateNetwork", &create).await, json!({}));
    }
    let networks = bench.networks().await;
    assert_eq!(networks.len(), 1);
    assert_eq!(
        (networks[0].metadata.name.as_str(), networks[0].metadata.owner.as_str()),
        ("docker-38f7762638ea", "docker")
    );
    assert_eq!((networks[0].spec.vni, networks[0].spec.gateways.len()), (Some(77), 2));

    let mut endpoint = endpoint_call("4", "10.50.0.128/24");
    endpoint["Interface"]["AddressIPv6"] = json!("fd00:50::80/64");
    for _ in 0..2 {
        let answer = bench.call("NetworkDriver.CreateEndpoint", &endpoint).await;
        assert_eq!(
            answer,
            json!({"Interface": {"MacAddress": "02:fc:0a:32:00:80"}}),
            "what was given is not repeated"
        );
    }
    let name = "docker-450e7c704146";
    assert_eq!(bench.endpoints().await, [name]);
    let join = json!({"NetworkID": N2, "EndpointID": endpoint_id("4"), "SandboxKey": "/run/docker/netns/cdf9d828a87f", "Options": null});
    let answer = bench.call("NetworkDriver.Join", &join).await;
    let source = crate::model::ids::waiting_ifname(name);
    assert_eq!(
        answer,
        json!({
            "InterfaceName": {"SrcName": source, "DstPrefix": "eth"},
            "Gateway": "10.50.0.254", "GatewayIPv6": "fd00:50::1", "DisableGatewayService": false
        })
    );
    let found = bench.service.endpoint(name).await.expect("it exists");
    let attachment = found.spec.attachment.expect("attached");
    assert_eq!(attachment.netns, "/run/docker/netns/cdf9d828a87f");
    assert!(attachment.engine.is_some_and(|engine| engine.ends_with(|c: char| c.is_ascii_digit())));

    let ids = json!({"NetworkID": N2, "EndpointID": endpoint_id("4")});
    let info = bench.call("NetworkDriver.EndpointOperInfo", &ids).await;
    assert_eq!(
        (&info["Value"]["fabric.vni"], &info["Value"]["fabric.endpoint"]),
        (&json!("77"), &json!(name))
    );
    for method in [
        "ProgramExternalConnectivity",
        "RevokeExternalConnectivity",
        "Leave",
        "DeleteEndpoint",
        "DeleteEndpoint",
    ] {
        assert_eq!(bench.call(&format!("NetworkDriver.{method}"), &ids).await, json!({}), "{method}");
    }
    assert!(bench.endpoints().await.is_empty());
    for _ in 0..2 {
        assert_eq!(bench.call("NetworkDriver.DeleteNetwork", &json!({"NetworkID": N2})).await, json!({}));
    }
    assert!(bench.networks().await.is_empty());
    for (method, body) in [
        (
            "DiscoverNew",
            json!({"DiscoveryType": 1, "DiscoveryData": {"Address": "10.77.0.2", "BindAddress": "", "Self": false}}),
        ),
        ("FreeNetwork", json!({"NetworkID": N2})),
    ] {
        assert_eq!(bench.call(&format!("NetworkDriver.{method}"), &body).await, json!({}));
    }
}

#[tokio::test]
async fn an_internal_network_has_no_way_out_and_a_given_mac_is_kept() {
    let bench = Bench::new();
    let mut create = create_call(N2, "10.50.0.0/24", &json!({}));
    create["Options"]["com.docker.network.internal"] = json!(true);
    bench.call("NetworkDriver.CreateNetwork", &create).await;
    let mut endpoint = endpoint_call("4", "10.50.0.128/24");
    endpoint["Interface"]["MacAddress"] = json!("02:42:59:bb:0b:dc");
    assert_eq!(bench.call("NetworkDriver.CreateEndpoint", &endpoint).await, json!({"Interface": {}}));
    let answer = bench
        .call(
            "NetworkDriver.Join",
            &json!({"NetworkID": N2, "EndpointID": endpoint_id("4"), "SandboxKey": "/x"}),
        )
        .await;
    assert_eq!((answer.get("Gateway"), &answer["DisableGatewayService"]), (None, &json!(true)));
}

#[tokio::test]
async fn networks_reach_the_world_unless_they_are_internal_or_must_not() {
    for (generic, internal, masquerade) in [
        (json!({}), false, true),
        (json!({}), true, false),
        (json!({"fabric.masquerade": "false"}), false, false),
    ] {
        let bench = Bench::new();
        let mut create = create_call(N2, "10.50.0.0/24", &generic);
        create["Options"]["com.docker.network.internal"] = json!(internal);
        bench.call("NetworkDriver.CreateNetwork", &create).await;
        assert_eq!(bench.networks().await[0].spec.masquerade, masquerade, "{generic}, internal {internal}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_name_and_leaves_nothing() {
    let bench = Bench::with_network().await;
    for (generic, part) in [
        (json!({"fabric.mode": "encap"}), "option fabric.mode is not known"),
        (json!({"mtu": "1450"}), "option mtu is not known"),
        (json!({"fabric.network": "Blue!"}), "network name \"Blue!\" is not valid"),
        (json!({"fabric.vni": "16777216"}), "16777216"),
        (json!({"com.docker.network.driver.mtu": "100"}), "mtu 100"),
    ] {
        let call = create_call(&N2.replace('3', "4"), "10.60.0.0/24", &generic);
        let sentence = bench.refused("NetworkDriver.CreateNetwork", &call, "Err").await;
        assert!(sentence.contains(part), "{sentence}");
    }
    assert_eq!(bench.networks().await.len(), 1);
    let mut port = endpoint_call("4", "10.50.0.9/24");
    port["Options"]["com.docker.network.portmap"] =
        json!([{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 18080, "HostPortEnd": 18080}]);
    let mut option = endpoint_call("4", "10.50.0.9/24");
    option["Options"]["k1"] = json!("v1");
    let unknown = json!({"NetworkID": "0", "EndpointID": endpoint_id("4"), "Interface": null});
    for (call, part) in [
        (port, "published ports (-p, -P) are not available"),
        (option, "option k1 is not known"),
        (unknown, "network 0 is not known to this agent"),
        (endpoint_call("4", "10.51.0.9/24"), "address 10.51.0.9 is in no subnet"),
        (endpoint_call("4", ""), "the endpoint has no address"),
    ] {
        let sentence = bench.refused("NetworkDriver.CreateEndpoint", &call, "Err").await;
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(bench.endpoints().await.is_empty());
    let sentence = bench
        .refused(
            "NetworkDriver.Join",
            &json!({"NetworkID": N2, "EndpointID": endpoint_id("4"), "SandboxKey": "/x"}),
            "Err",
        )
        .await;
    assert!(sentence.contains("docker-450e7c704146"), "{sentence}");
    let sentence = bench.refused("NetworkDriver.AllocateNetwork", &json!({"NetworkID": N2}), "Err").await;
    assert!(sentence.contains("swarm"), "{sentence}");
}

#[tokio::test]
async fn a_network_of_another_owner_is_joined_and_outlives_docker() {
    let bench = Bench::new();
    let blue = r#"{"metadata":{"name":"blue"},"spec":{"subnets":["10.60.0.0/24","fd00:60::/64"],"gateways":["10.60.0.9"],"vni":60}}"#;
    let blue: Network = serde_json::from_str(blue).expect("valid");
    bench.service.create_network(&Owner::cli(), blue).await.expect("good");
    let join = |pool: &str, more: &[(&str, &str)]| {
        let mut options = json!({"fabric.network": "blue"});
        more.iter().for_each(|(key, value)| options[*key] = json!(value));
        create_call(N2, pool, &options)
    };
    for (call, part) in [
        (
            join("10.61.0.0/24", &[]),
            "network blue: it has the subnets 10.60.0.0/24, fd00:60::/64, not 10.61.0.0/24",
        ),
        (join("10.60.0.0/24", &[("fabric.vni", "61")]), "network blue: it has VNI 60, not 61"),
        (
            join("10.60.0.0/24", &[("fabric.multicast", "true")]),
            "network blue: it has multicast false, not true",
        ),
    ] {
        let sentence = bench.refused("NetworkDriver.CreateNetwork", &call, "Err").await;
        assert!(sentence.starts_with(part), "{sentence}");
    }
    let mut gateway = join("10.60.0.0/24", &[]);
    gateway["IPv4Data"][0]["Gateway"] = json!("10.60.0.1/24");
    let sentence = bench.refused("NetworkDriver.CreateNetwork", &gateway, "Err").await;
    assert!(sentence.contains("give --gateway 10.60.0.9"), "{sentence}");
    assert_eq!(
        bench.call("NetworkDriver.CreateNetwork", &join("10.60.0.0/24", &[("fabric.vni", "60")])).await,
        json!({})
    );
    bench.call("NetworkDriver.CreateEndpoint", &endpoint_call("4", "10.60.0.7/24")).await;
    let found = bench.service.endpoint("docker-450e7c704146").await.expect("it exists");
    assert_eq!(
        (found.spec.network.as_str(), found.spec.addresses.len()),
        ("blue", 1),
        "the addresses that Docker gave, no other"
    );
    bench
        .call("NetworkDriver.DeleteEndpoint", &json!({"NetworkID": N2, "EndpointID": endpoint_id("4")}))
        .await;
    bench.call("NetworkDriver.DeleteNetwork", &json!({"NetworkID": N2})).await;
    assert_eq!(bench.networks().await.len(), 1, "it was there before");
}

#[tokio::test]
async fn two_docker_networks_share_one_that_goes_with_the_last() {
    let bench = Bench::new();
    let other = N2.replace('3', "4");
    for id in [N2, &other] {
        bench
            .call(
                "NetworkDriver.CreateNetwork",
                &create_call(id, "10.50.0.0/24", &json!({"fabric.network": "web"})),
            )
            .await;
    }
    assert_eq!(bench.networks().await.len(), 1);
    bench.call("NetworkDriver.DeleteNetwork", &json!({"NetworkID": N2})).await;
    assert_eq!(bench.networks().await.len(), 1);
    bench.call("NetworkDriver.DeleteNetwork", &json!({"NetworkID": other})).await;
    assert!(bench.networks().await.is_empty());
}

#[tokio::test]
async fn an_address_that_docker_gives_again_is_taken_from_a_container_that_is_no_more() {
    let bench = Bench::with_network().await;
    bench.call("NetworkDriver.CreateEndpoint", &endpoint_call("1", "10.50.0.9/24")).await;
    // Running, whoever made it.
    let first = bench.endpoints().await.pop().expect("one");
    bench.plug(&first);
    let sentence =
        bench.refused("NetworkDriver.CreateEndpoint", &endpoint_call("2", "10.50.0.9/24"), "Err").await;
    assert!(sentence.contains(&format!("belongs to endpoint {first}")), "{sentence}");
    // Its container is gone, and nobody could say so.
    bench.unplug(&first);
    bench.call("NetworkDriver.CreateEndpoint", &endpoint_call("2", "10.50.0.9/24")).await;
    assert_eq!(bench.endpoints().await, ["docker-250e7c704146"]);
}

mod ipam;
