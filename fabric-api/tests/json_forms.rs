//! Every type of the API in its JSON form: it comes back equal, and a field that it does not have is refused.

use std::{collections::BTreeMap, fmt::Debug};

use fabric_api::{
    Endpoint, Event, Metadata, Network, Node, Object,
    object::{Attachment, EndpointSpec, NamedPort, NetworkSpec, NodeNetwork, NodeSpec, Route},
    status::{
        Applied, Counter, EndpointCounters, EndpointStatus, ErrorBody, Feature, MapStatus, NetworkStatus,
        NodeStatus, ReconcileStatus, RouteStatus, State, Status, UplinkStatus,
    },
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// There and back, in JSON and in YAML; and with one more field, at the top and in every map inside, refused.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_value(value).expect("a JSON form");
    assert_eq!(&serde_json::from_value::<T>(json.clone()).expect("it comes back"), value);
    let yaml = serde_saphyr::to_string(&json).expect("a YAML form");
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).expect("it comes back"), json, "{yaml}");
    for place in places(&json, "") {
        let mut more = json.clone();
        let map = more.pointer_mut(&place).and_then(Value::as_object_mut).expect("a map");
        map.insert("typo".to_owned(), Value::from(1));
        let error = serde_json::from_value::<T>(more).expect_err(&place).to_string();
        assert!(error.contains("unknown field `typo`"), "{place}: {error}");
    }
}

/// JSON pointers to all maps whose keys are fields (labels, annotations and details are free).
fn places(value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Object(map)
            if !["/labels", "/matchLabels", "/annotations", "/details"]
                .iter()
                .any(|free| path.ends_with(free)) =>
        {
            let inside = map.iter().flat_map(|(key, value)| places(value, &format!("{path}/{key}")));
            std::iter::once(path.to_owned()).chain(inside).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(i, value)| places(value, &format!("{path}/{i}"))).collect()
        }
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

fn metadata() -> Metadata {
    Metadata {
        name: "blue".to_owned(),
        namespace: Some("shop".to_owned()),
        annotations: BTreeMap::from([("note".to_owned(), "for people".to_owned())]),
        labels: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        owner: "cli".to_owned(),
        revision: 7,
    }
}

fn network() -> Network {
    Network {
        api_version: "fabric/v1".to_owned(),
        metadata: metadata(),
        spec: NetworkSpec {
            subnets: vec![
                "192.168.10.0/24".parse().expect("a prefix"),
                "fd00::/64".parse().expect("a prefix"),
            ],
            gateways: vec![ip("192.168.10.254")],
            vni: Some(0),
            mtu: Some(1450),
            allow_from: vec!["red".to_owned()],
            host_access: true,
            masquerade: true,
            routes: vec![Route {
                prefix: "10.9.0.0/16".parse().expect("a prefix"),
                next_hop: ip("192.168.10.9"),
            }],
            multicast: true,
            keep: true,
            router_advertisement: true,
        },
        status: Some(NetworkStatus {
            vni: 5,
            mtu: 1450,
            gateways: vec![ip("fd00::1")],
            node_addresses: vec![ip("192.168.10.3")],
            opened: vec!["red".to_owned()],
            routes: vec![RouteStatus {
                prefix: "10.9.0.0/16".parse().expect("a prefix"),
                next_hop: ip("192.168.10.9"),
                endpoint: "vpn".to_owned(),
            }],
            host_ifname: "fac0".to_owned(),
            endpoints: 2,
            state: State::Degraded,
            reason: "why".to_owned(),
        }),
    }
}

fn node() -> Node {
    Node {
        api_version: "fabric/v1".to_owned(),
        metadata: metadata(),
        spec: NodeSpec {
            vteps: vec![ip("192.0.2.1"), ip("2001:db8::1")],
            foreign: true,
            udp_checksum: true,
            drained: true,
            networks: vec![NodeNetwork {
                network: "blue".to_owned(),
                addresses: vec![ip("192.168.10.3")],
                prefixes: vec!["192.168.10.128/25".parse().expect("a prefix")],
            }],
        },
        status: Some(NodeStatus { uplinks: vec!["eth0".to_owned()], mtu: 1450, ..NodeStatus::default() }),
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        api_version: "fabric/v1".to_owned(),
        metadata: metadata(),
        spec: EndpointSpec {
            movement: None,
            network: "blue".to_owned(),
            node: Some("a".to_owned()),
            namespace: Some("shop".to_owned()),
            addresses: vec![ip("192.168.10.2"), ip("fd00::2")],
            mac: Some("02:fc:c0:a8:0a:02".to_owned()),
            ports: vec![NamedPort { name: "http".to_owned(), port: 80, protocol: "TCP".to_owned() }],
            generation: u64::MAX,
            attachment: Some(Attachment {
                netns: "/run/netns/x".to_owned(),
                netns_inode: 1,
                ifname: "eth0".to_owned(),
                engine: None,
                container: None,
            }),
        },
        status: Some(EndpointStatus {
            counters: Some(EndpointCounters { egress_packets: 1, ..EndpointCounters::default() }),
            slot: Some(0),
            host_ifname: "fab0".to_owned(),
            ..EndpointStatus::default()
        }),
    }
}

#[test]
fn objects() {
    check(&network());
    check(&node());
    check(&endpoint());
    check(&Object::Network(network()));
    check(&Object::Node(node()));
    check(&Object::Endpoint(endpoint()));
}

#[test]
fn answers() {
    check(&Status {
        node: "a".to_owned(),
        in_sync: true,
        uplinks: vec![UplinkStatus { vteps: vec![ip("192.0.2.1")], ..UplinkStatus::default() }],
        features: vec![Feature { available: true, ..Feature::default() }],
        problems: vec!["one".to_owned()],
        reconcile: ReconcileStatus { last_repairs: vec!["a row".to_owned()], ..ReconcileStatus::default() },
        maps: vec![MapStatus { name: "fdb".to_owned(), entries: 1, max_entries: 2 }],
        ..Status::default()
    });
    check(&Counter { hook: "from_container".to_owned(), packets: u64::MAX, ..Counter::default() });
    check(&Applied { kind: "Node".to_owned(), name: "b".to_owned(), outcome: "created".to_owned() });
    check(&ErrorBody { error: "no".to_owned(), details: BTreeMap::from([("a".to_owned(), "b".to_owned())]) });
    check(&Event { src: Some(ip("::")), dst: Some(ip("ff02::1")), lost: 3, ..Event::default() });
}

#[test]
fn policies_and_namespaces() {
    let metadata = serde_json::to_value(metadata()).expect("JSON");
    let selector = serde_json::json!({"matchLabels": {"app": "db"},
        "matchExpressions": [{"key": "env", "operator": "In", "values": ["test"]}]});
    let of = |value: Value| fabric_api::parse::object(value).expect("an object");
    let Object::NetworkPolicy(policy) = of(
        serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": metadata, "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": selector, "namespaceSelector": selector}], "ports": [{"protocol": "TCP", "port": 1, "endPort": 9}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": "http"}]}]},
        "status": {"endpoints": 1, "state": "degraded", "reason": "x"}}),
    ) else {
        panic!("a NetworkPolicy")
    };
    check(&policy);
    let pods = serde_json::json!({"namespaceSelector": selector, "podSelector": selector});
    let Object::ClusterNetworkPolicy(policy) = of(
        serde_json::json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy", "metadata": metadata,
        "spec": {"tier": "Admin", "priority": 1, "subject": {"pods": pods},
            "ingress": [{"name": "r", "action": "Pass", "from": [{"namespaces": selector}],
                         "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}]}],
            "egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": selector}],
                        "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 2}}}}]}]}}),
    ) else {
        panic!("a ClusterNetworkPolicy")
    };
    check(&policy);
    let Object::Namespace(namespace) =
        of(serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata,
        "status": {"endpoints": 1, "policies": 2}}))
    else {
        panic!("a Namespace")
    };
    check(&namespace);
    check(&Event { rule: Some("NetworkPolicy/shop/db/ingress".to_owned()), ..Event::default() });
}

#[test]
fn what_is_absent_has_its_default_and_stays_absent() {
    let text = r#"{"metadata":{"name":"x"},"spec":{"network":"blue"}}"#;
    let endpoint: Endpoint = serde_json::from_str(text).expect("a short endpoint");
    assert_eq!((endpoint.api_version.as_str(), endpoint.spec.generation), ("fabric/v1", 1));
    let json = serde_json::to_value(&endpoint).expect("a JSON form");
    assert_eq!(
        json,
        serde_json::json!({"apiVersion": "fabric/v1", "metadata": {"name": "x"}, "spec": {"network": "blue", "generation": 1}})
    );
}

proptest! {
    /// Labels are free text: whatever they are, YAML and JSON say the same.
    #[test]
    fn any_label_survives_yaml_and_json(key in "\\PC{1,12}", value in "\\PC{0,16}") {
        let mut object = Object::Network(network());
        object.metadata_mut().labels.insert(key, value);
        let json = serde_json::to_value(&object).expect("a JSON form");
        let yaml = serde_saphyr::to_string(&json).expect("a YAML form");
        let back: Value = serde_saphyr::from_str(&yaml).expect("it comes back");
        prop_assert_eq!(fabric_api::parse::object(back), Ok(object));
    }
}
