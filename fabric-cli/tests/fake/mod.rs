//! An agent that is none: the API's routes with canned answers on a temporary socket, and the program itself run
//! against it.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{StatusCode, Uri},
    routing::{get, post},
};
use fabric_api::{
    Endpoint, Event, Namespace, Network, Node, Object,
    policy::{LintFinding, PolicyAnswer, PolicyCandidate, PolicySide},
    status::{Applied, Counter, EndpointStatus, ErrorBody, NetworkStatus, State as Progress, Status},
};
use serde_json::{Value, json};
use tempfile::TempDir;

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A running fake; ends when it is dropped.
pub(crate) struct Fake {
    directory: TempDir,
    asked: Asked,
    // Dropping the runtime ends the server.
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    /// An agent whose status is `status`.
    pub(crate) fn start(status: Status) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let asked = Asked::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let socket = directory.path().join("fabric.sock");
        let router = router(asked.clone(), status);
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
            tokio::spawn(async move { axum::serve(listener, router).await });
        });
        Self { directory, asked, _runtime: runtime }
    }

    pub(crate) fn healthy() -> Self {
        Self::start(Status { node: "a".to_owned(), in_sync: true, ..Status::default() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).expect("a file");
        self.path(name).display().to_string()
    }

    /// What was asked: method and path, and the body.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().expect("no panic").clone()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = fabric(args);
        command.env("FABRIC_SOCKET", self.path("fabric.sock"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().expect("the program runs"))
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        Ran::from(child.wait_with_output().expect("it ends"))
    }
}

/// The program without an agent.
pub(crate) fn fabric(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fabric"));
    command.args(args).env_remove("FABRIC_SOCKET");
    command
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

impl Ran {
    /// Success: the output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// A refusal in one sentence.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(
            self.stderr.starts_with("error: ") && self.stderr.trim_end().lines().count() == 1,
            "{self:?}"
        );
        self.stderr
    }
}

pub(crate) fn blue() -> Network {
    let mut network: Network = serde_json::from_value(json!({
        "metadata": {"name": "blue", "owner": "cli", "revision": 3, "labels": {"team": "web"}},
        "spec": {"subnets": ["192.168.10.0/24"]},
    }))
    .expect("a network");
    network.status = Some(NetworkStatus {
        vni: 4097,
        mtu: 1450,
        gateways: vec!["192.168.10.1".parse().expect("an address")],
        state: Progress::Ready,
        endpoints: 1,
        ..NetworkStatus::default()
    });
    network
}

pub(crate) fn web() -> Endpoint {
    let mut endpoint: Endpoint = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"network": "blue", "node": "a", "addresses": ["192.168.10.2"], "mac": "02:fc:c0:a8:0a:02",
                 "attachment": {"netns": "/proc/1/ns/net", "ifname": "eth0"}},
    }))
    .expect("an endpoint");
    let reason = "the namespace is gone".to_owned();
    endpoint.status =
        Some(EndpointStatus { local: true, state: Progress::Degraded, reason, ..Default::default() });
    endpoint
}

pub(crate) fn db_policy() -> Object {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop", "owner": "cli", "revision": 4},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]},
        "status": {"endpoints": 2, "state": "ready", "rules": [
            {"rule": "ingress", "packets": 3, "bytes": 180}, {"rule": "ingress/0", "packets": 12, "bytes": 9000}]},
    });
    fabric_api::parse::object(policy).expect("a policy")
}

fn shop() -> Namespace {
    serde_json::from_value(json!({
        "metadata": {"name": "shop", "labels": {"team": "web", "env": "test"}, "owner": "cli", "revision": 5},
        "status": {"endpoints": 2, "policies": 1},
    }))
    .expect("a namespace")
}

fn denied() -> PolicyAnswer {
    let candidate = PolicyCandidate {
        rule: "NetworkPolicy/shop/db/ingress/0".to_owned(),
        verdict: "accept".to_owned(),
        matches: false,
        why: "no peer".to_owned(),
    };
    let ingress = PolicySide {
        endpoint: "db".to_owned(),
        verdict: "deny".to_owned(),
        rule: Some("NetworkPolicy/shop/db/ingress".to_owned()),
        candidates: vec![candidate],
        ..PolicySide::default()
    };
    PolicyAnswer { allowed: false, egress: None, ingress: Some(ingress) }
}

fn drop_event() -> Event {
    Event {
        time: "2026-01-02T03:04:05.123456Z".to_owned(),
        hook: "from_container".to_owned(),
        reason: "spoof_ip".to_owned(),
        network: "blue".to_owned(),
        endpoint: "web".to_owned(),
        length: 74,
        ..Event::default()
    }
}

fn router(asked: Asked, status: Status) -> Router {
    let network = |Path(name): Path<String>| async move {
        if name == "blue" { Ok(Json(blue())) } else { Err(missing("network", &name)) }
    };
    let create = |State(asked): State<Asked>, body: Bytes| async move {
        note(&asked, "POST /v1/networks", &body);
        (StatusCode::CREATED, Json(blue()))
    };
    let attach = |State(asked): State<Asked>, body: Bytes| async move {
        note(&asked, "POST /v1/endpoints", &body);
        (StatusCode::CREATED, Json(web()))
    };
    let namespace = |Path(name): Path<String>| async move {
        if name == "shop" { Ok(Json(shop())) } else { Err(missing("namespace", &name)) }
    };
    let test = |State(asked): State<Asked>, body: Bytes| async move {
        note(&asked, "POST /v1/policies/test", &body);
        Json(denied())
    };
    let apply = |State(asked): State<Asked>, body: Bytes| async move {
        note(&asked, "POST /v1/apply", &body);
        let objects: Vec<Object> = serde_json::from_slice(&body).expect("objects");
        let applied = objects.iter().map(|object| Applied {
            kind: object.kind().to_owned(),
            name: object.id().into_owned(),
            outcome: "created".to_owned(),
        });
        Json(applied.collect::<Vec<_>>())
    };
    let remove = |State(asked): State<Asked>, uri: Uri| async move {
        note(&asked, &format!("DELETE {}", uri.path()), b"null");
        StatusCode::NO_CONTENT
    };
    // One event, then the agent ends.
    let flows = |State(asked): State<Asked>, uri: Uri| async move {
        asked.lock().expect("no panic").push((uri.to_string(), Value::Null));
        let side = |address, port, endpoint| json!({"address": address, "port": port, "endpoint": endpoint, "bytes": 74});
        let flow = json!({"network": "blue", "vni": 77, "protocol": "TCP", "state": "established",
            "source": side("192.168.10.2", 4000, "web"), "destination": side("fd00::1", 80, ""),
            "began": "2026-01-02T03:04:05Z", "age": 65, "idle": 1, "expires": 431_999,
            "egressRule": "NetworkPolicy/shop/web/egress/0"});
        if uri.to_string().contains("new") { String::new() } else { format!("{flow}\n{flow}\n") }
    };
    let events = |State(asked): State<Asked>, uri: Uri| async move {
        note(&asked, &format!("GET {uri}"), b"null");
        Body::from(serde_json::to_string(&drop_event()).expect("JSON") + "\n")
    };
    let counters = || async {
        let drop = Counter { kind: "drop".to_owned(), name: "spoof_ip".to_owned(), packets: 3, ..counter() };
        Json(vec![drop, Counter { kind: "action".to_owned(), name: "local".to_owned(), ..counter() }])
    };
    Router::new()
        .route("/v1/networks", get(|| async { Json(vec![blue()]) }).post(create))
        .route("/v1/networks/{name}", get(network).delete(remove))
        .route("/v1/endpoints", get(|| async { Json(vec![web()]) }).post(attach))
        .route("/v1/endpoints/{name}", get(|| async { Json(web()) }).delete(remove))
        .route("/v1/nodes", get(|| async { Json(Vec::<Node>::new()) }))
        .route("/v1/policies", get(|| async { Json(vec![db_policy()]) }))
        .route("/v1/policies/test", post(test))
        .route("/v1/policies/lint", get(|| async { Json(Vec::<LintFinding>::new()) }))
        .route("/v1/policies/{name}", get(|| async { Json(db_policy()) }).delete(remove))
        .route("/v1/namespaces", get(|| async { Json(vec![shop()]) }))
        .route("/v1/namespaces/{name}", get(namespace).delete(remove))
        .route("/v1/apply", post(apply))
        .route("/v1/status", get(|| async { Json(status) }))
        .route("/v1/counters", get(counters))
        .route("/v1/events", get(events))
        .route("/v1/flows", get(flows))
        .with_state(asked)
}

fn counter() -> Counter {
    Counter { hook: "from_container".to_owned(), bytes: 222, ..Counter::default() }
}

fn missing(kind: &str, name: &str) -> (StatusCode, Json<ErrorBody>) {
    let error = format!("{kind} {name} does not exist");
    (StatusCode::NOT_FOUND, Json(ErrorBody { error, details: Default::default() }))
}

fn note(asked: &Asked, what: &str, body: &[u8]) {
    let body = serde_json::from_slice(body).expect("JSON");
    asked.lock().expect("no panic").push((what.to_owned(), body));
}

/// Waits for a condition, at most five seconds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within five seconds");
}
