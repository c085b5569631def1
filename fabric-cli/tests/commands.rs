//! The program as people run it: output, exit codes, what it asks of the agent.

mod fake;

use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixListener,
    process::Stdio,
};

use fabric_api::{Endpoint, Network, status::Status};
use fake::{Fake, Ran, blue, eventually, fabric, web};
use serde_json::{Value, json};

fn alone(args: &[&str]) -> Ran {
    Ran::from(fabric(args).output().expect("the program runs"))
}

#[test]
fn without_an_agent_the_socket_and_the_remedy_are_named() {
    let message = alone(&["network", "ls", "--socket", "/nowhere/fabric.sock"]).refused();
    assert!(message.contains("/nowhere/fabric.sock") && message.contains("fabric-agent"), "{message}");
    let directory = tempfile::tempdir().expect("a directory");
    let dead = directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).expect("a socket"));
    let message = alone(&["status", "--socket", &dead.display().to_string()]).refused();
    assert!(message.contains("it has stopped"), "{message}");
}

#[test]
fn a_listing_has_four_forms_and_json_is_the_apis() {
    let fake = Fake::healthy();
    assert_eq!(
        fake.run(&["network", "ls"]).ok(),
        "NAME  VNI   SUBNETS          GATEWAYS      MTU   ENDPOINTS  STATE\n\
         blue  4097  192.168.10.0/24  192.168.10.1  1450  1          ready\n"
    );
    let wide = fake.run(&["network", "ls", "-o", "wide"]).ok();
    assert!(wide.contains("LABELS") && wide.contains("team=web"), "{wide}");
    let json: Vec<Network> =
        serde_json::from_str(&fake.run(&["network", "ls", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(json, [blue()]);
    let yaml: Vec<Network> =
        serde_saphyr::from_str(&fake.run(&["network", "ls", "-o", "yaml"]).ok()).expect("YAML");
    assert_eq!(yaml, [blue()]);
}

#[test]
fn an_empty_listing_is_a_hint_for_people_and_an_empty_array_for_programs() {
    let fake = Fake::healthy();
    let ran = fake.run(&["node", "ls"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    assert!(ran.stderr.contains("fabric apply -f FILE"), "{ran:?}");
    assert_eq!(fake.run(&["node", "ls", "-o", "json"]).ok(), "[]\n");
}

#[test]
fn inspect_shows_one_object_and_a_missing_one_is_refused_in_the_agents_words() {
    let fake = Fake::healthy();
    let text = fake.run(&["endpoint", "inspect", "web"]).ok();
    assert!(text.contains("state:       degraded (the namespace is gone)\n"), "{text}");
    let json: Endpoint =
        serde_json::from_str(&fake.run(&["endpoint", "inspect", "web", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(json, web());
    assert_eq!(fake.run(&["network", "inspect", "red"]).refused(), "error: network red does not exist\n");
}

#[test]
fn create_and_attach_send_what_was_typed() {
    let fake = Fake::healthy();
    let created = fake.run(&["network", "create", "blue", "--subnet", "192.168.10.0/24", "--vni", "7"]).ok();
    assert_eq!(created, "network blue created: VNI 4097, gateway 192.168.10.1, MTU 1450\n");
    let own = std::process::id().to_string();
    let attach = ["endpoint", "attach", "web", "--network", "blue", "--pid", &own, "--ip", "192.168.10.2"];
    let more = ["--port-name", "http=8080/tcp", "--label", "tier=front", "--mac", "02:00:00:00:00:01"];
    let attached = fake.run(&[&attach[..], &more[..]].concat()).ok();
    assert_eq!(
        attached,
        "endpoint web attached to blue: 192.168.10.2, MAC 02:fc:c0:a8:0a:02, interface eth0\n"
    );
    let asked = fake.asked();
    assert_eq!(asked[0].1["spec"], json!({"subnets": ["192.168.10.0/24"], "vni": 7}));
    assert_eq!(asked[1].1["metadata"], json!({"name": "web", "labels": {"tier": "front"}}));
    let attachment = json!({"netns": format!("/proc/{own}/ns/net"), "netnsInode": 0, "ifname": "eth0"});
    assert_eq!(asked[1].1["spec"]["attachment"], attachment);
    assert_eq!(asked[1].1["spec"]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
}

#[test]
fn removals_say_what_they_did() {
    let fake = Fake::healthy();
    assert_eq!(fake.run(&["network", "rm", "blue"]).ok(), "network blue removed\n");
    assert_eq!(fake.run(&["endpoint", "detach", "web"]).ok(), "endpoint web detached\n");
    let asked: Vec<_> = fake.asked().into_iter().map(|(what, _)| what).collect();
    assert_eq!(asked, ["DELETE /v1/networks/blue", "DELETE /v1/endpoints/web"]);
}

#[test]
fn a_pid_that_does_not_exist_is_refused_before_anything_is_asked() {
    let fake = Fake::healthy();
    let message = fake.run(&["endpoint", "attach", "x", "--network", "blue", "--pid", "4194999"]).refused();
    assert!(message.contains("there is no process 4194999"), "{message}");
    assert_eq!(fake.asked(), []);
}

const NODE: &str = "kind: Node\nmetadata: {name: b}\nspec: {vteps: [192.0.2.2]}\n";

#[test]
fn apply_takes_files_and_standard_input_at_once() {
    let fake = Fake::healthy();
    let yaml = fake.file("a.yaml", &format!("{NODE}---\n{}", NODE.replace("name: b", "name: c")));
    let json =
        fake.file("b.json", r#"[{"kind":"Node","metadata":{"name":"d"},"spec":{"vteps":["192.0.2.4"]}}]"#);
    let out =
        fake.run_with_input(&["apply", "-f", &yaml, &json, "-"], &NODE.replace("name: b", "name: e")).ok();
    assert_eq!(out, "node b created\nnode c created\nnode d created\nnode e created\n");
    assert_eq!(fake.asked().len(), 1);
    assert_eq!(fake.asked()[0].1.as_array().map(Vec::len), Some(4));
}

#[test]
fn policies_are_applied_listed_asked_and_removed() {
    let fake = Fake::healthy();
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec: {podSelector: {}}\n";
    let file = fake.file("db.yaml", policy);
    assert_eq!(fake.run(&["policy", "apply", "-f", &file]).ok(), "networkpolicy shop/db created\n");
    let other = fake.file("node.yaml", NODE);
    let message = fake.run(&["policy", "apply", "-f", &file, &other]).refused();
    assert!(message.contains("node b is no policy: use `fabric apply`"), "{message}");
    assert_eq!(
        fake.run(&["policy", "ls"]).ok(),
        "NAME     KIND           TIER  INGRESS  EGRESS  ENDPOINTS  PACKETS  BYTES  STATE\n\
         shop/db  NetworkPolicy  -     1 rule   -       2          15       9180   ready\n"
    );
    let inspected = fake.run(&["policy", "inspect", "db", "--namespace", "shop"]).ok();
    assert!(
        inspected
            .ends_with("\n\nRULE       PACKETS  BYTES\ningress    3        180\ningress/0  12       9000\n"),
        "{inspected}"
    );
    let twice = fake.run(&["policy", "rm", "shop/db", "--namespace", "shop"]).refused();
    assert!(twice.contains("shop/db already says where the policy is: leave --namespace out"), "{twice}");
    let json: Value =
        serde_json::from_str(&fake.run(&["policy", "inspect", "shop/db", "-o", "json"]).ok()).expect("JSON");
    assert_eq!((&json["kind"], &json["metadata"]["namespace"]), (&json!("NetworkPolicy"), &json!("shop")));
    let ask = ["policy", "test", "--from", "web", "--to", "db", "--port", "81"];
    let answer = "denied: web > db tcp port 81\ningress of db: deny, by NetworkPolicy/shop/db/ingress\n";
    assert_eq!(fake.run(&ask).ok(), answer);
    let explained = fake.run(&[&ask[..], &["--explain"]].concat()).ok();
    assert_eq!(
        explained,
        format!("{answer}  NetworkPolicy/shop/db/ingress/0  accept  does not match  no peer\n")
    );
    assert_eq!(fake.run(&["policy", "rm", "shop/db"]).ok(), "policy shop/db removed\n");
    assert_eq!(fake.run(&["policy", "lint", "-o", "json"]).ok(), "[]\n");
    let asked = fake.asked();
    assert_eq!(
        asked[1],
        ("POST /v1/policies/test".to_owned(), json!({"from": "web", "to": "db", "port": 81}))
    );
    assert_eq!(asked[3].0, "DELETE /v1/policies/shop%2Fdb");
    assert_eq!(fake.run(&["policy", "rm", "db", "--namespace", "shop"]).ok(), "policy shop/db removed\n");
    assert_eq!(fake.asked().last().expect("a request").0, "DELETE /v1/policies/NetworkPolicy%2Fshop%2Fdb");
}

#[test]
fn labels_of_a_namespace_are_changed_one_by_one() {
    let fake = Fake::healthy();
    let listed = fake.run(&["namespace", "ls"]).ok();
    assert_eq!(listed, "NAME  ENDPOINTS  POLICIES  LABELS\nshop  2          1         env=test,team=web\n");
    let done = fake.run(&["namespace", "label", "shop", "team=db", "env-", "zone=a"]).ok();
    assert_eq!(done, "namespace shop has labels env=test,team=web\n", "what the agent says");
    let sent = &fake.asked()[0].1[0];
    assert_eq!(sent["metadata"], json!({"name": "shop", "labels": {"team": "db", "zone": "a"}}));
}

#[test]
fn apply_refuses_bad_files_before_anything_is_asked() {
    let fake = Fake::healthy();
    let good = fake.file("good.yaml", NODE);
    let bad = fake.file("bad.yaml", &NODE.replace("vteps", "vtep"));
    let message = fake.run(&["apply", "-f", &good, &bad]).refused();
    assert!(
        message.contains("bad.yaml") && message.contains("Node b") && message.contains("`vtep`"),
        "{message}"
    );
    let directory = fake.path("").display().to_string();
    let message = fake.run(&["apply", "-f", &directory]).refused();
    assert!(message.contains("is a directory") && message.contains("--manifests"), "{message}");
    let message = fake.run(&["apply", "-f", "/nowhere/x.yaml"]).refused();
    assert!(message.contains("can't read /nowhere/x.yaml"), "{message}");
    let message = fake.run_with_input(&["apply", "-f", "-"], "# nothing\n").refused();
    assert!(message.contains("has no objects"), "{message}");
    assert_eq!(fake.asked(), []);
}

#[test]
fn status_check_decides_the_exit_code() {
    let fake = Fake::healthy();
    assert!(fake.run(&["status", "--check"]).ok().contains("in sync, no problems"));
    let problems = vec!["uplink eth1 does not exist".to_owned()];
    let sick = Status { node: "a".to_owned(), in_sync: true, problems, ..Status::default() };
    let fake = Fake::start(sick.clone());
    assert!(fake.run(&["status"]).ok().contains("\nProblems\n  uplink eth1 does not exist\n"));
    let ran = fake.run(&["status", "--check", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Status>(&ran.stdout).expect("JSON"), sick);
    assert!(ran.refused().contains("1 problem"));
    let fake = Fake::start(Status::default());
    assert!(fake.run(&["status", "--check"]).refused().contains("not in sync"));
}

#[test]
fn counters_leave_out_zeros_for_people_only() {
    let fake = Fake::healthy();
    assert_eq!(
        fake.run(&["counters"]).ok(),
        "HOOK            KIND  NAME      PACKETS  BYTES\nfrom_container  drop  spoof_ip  3        222\n"
    );
    let json: Value = serde_json::from_str(&fake.run(&["counters", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    let json: Value =
        serde_json::from_str(&fake.run(&["counters", "--drops", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(1));
}

#[test]
fn monitor_prints_a_line_a_packet_and_says_when_the_agent_ends() {
    let fake = Fake::healthy();
    let ran = fake.run(&["monitor", "--drops", "--endpoint", "web"]);
    assert!(ran.stdout.starts_with("03:04:05.123456 from_container spoof_ip"), "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 1);
    assert!(ran.refused().contains("the agent has ended"));
    assert_eq!(fake.asked()[0].0, "GET /v1/events?drops=true&endpoint=web");
    let ran = fake.run(&["monitor", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).expect("one JSON object")["reason"], "spoof_ip");
    assert!(fake.run(&["monitor", "-o", "yaml"]).refused().contains("-o json"));
}

/// A server that answers the first request with the head of an endless stream.
fn endless(listener: UnixListener) -> std::thread::JoinHandle<std::os::unix::net::UnixStream> {
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().expect("a client");
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
        while reader.read_line(&mut line).expect("a request") > 2 {
            line.clear();
        }
        let event = serde_json::to_string(&fabric_api::Event::default()).expect("JSON") + "\n";
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        write!(stream, "{head}{:x}\r\n{event}\r\n", event.len()).expect("it listens");
        stream
    })
}

#[test]
fn monitor_ends_cleanly_on_sigint() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("s");
    let server = endless(UnixListener::bind(&socket).expect("a socket"));
    let mut child = fabric(&["monitor", "-o", "json", "--socket", &socket.display().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("an event");
    let _stream = server.join().expect("no panic");
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    eventually("the monitor ends", || child.try_wait().expect("a child").is_some());
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}

#[test]
fn flows_are_chosen_and_printed_in_every_form() {
    let fake = Fake::healthy();
    let table = fake
        .run(&["flows", "--endpoint", "web", "--proto", "tcp", "--port", "80", "--address", "fd00::/8"])
        .ok();
    assert_eq!(fake.asked()[0].0, "/v1/flows?endpoint=web&protocol=tcp&address=fd00%3A%3A%2F8&port=80");
    let row = "blue     TCP       192.168.10.2:4000 (web)  [fd00::1]:80  established  1m5s  1s    74/74  \
               NetworkPolicy/shop/web/egress/0\n";
    assert!(
        table.starts_with("NETWORK  PROTOCOL  SOURCE ") && table.ends_with(&[row, row].concat()),
        "{table}"
    );
    let json: Value = serde_json::from_str(&fake.run(&["flows", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    assert_eq!(json[0]["source"]["endpoint"], "web");
    assert_eq!(fake.run(&["flows", "--state", "new", "-o", "json"]).ok(), "[]\n");
    let none = fake.run(&["flows", "--state", "new"]);
    assert!(none.stdout.is_empty() && none.stderr.starts_with("no flows"), "{none:?}");
    assert!(fake.run(&["flows", "--follow", "-o", "yaml"]).refused().contains("use -o json"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let fake = Fake::healthy();
    let mut command = fake.command(&["network", "ls", "-o", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    for name in ["service", "top"] {
        let expected = format!("error: {name} is not available in this version\n");
        assert_eq!(alone(&[name]).refused(), expected);
        assert_eq!(alone(&[name, "ls", "-x", "--help"]).refused(), expected);
    }
    let message = alone(&["endpoint", "move", "web", "--to", "b"]).refused();
    assert_eq!(message, "error: give the container's namespace there, by --netns or --pid\n");
    let message =
        alone(&["endpoint", "attach", "e", "--network", "n", "--pid", "1", "--rate", "1Gbit"]).refused();
    assert_eq!(message, "error: --rate is not available in this version\n");
}

#[test]
fn wrong_usage_is_exit_code_two() {
    for args in [
        &["network", "create", "n", "--subnet", "10.1.2"][..],
        &["network", "create", "n"],
        &["network", "create", "n", "--subnet", "10.0.0.0/8", "--vni", "16777216"],
        &["endpoint", "attach", "e", "--network", "n"],
        &["endpoint", "attach", "e", "--network", "n", "--pid", "1", "--netns", "/x"],
        &["endpoint", "attach", "e", "--network", "n", "--pid", "1", "--port-name", "http"],
        &["nonsense"],
        &[],
    ] {
        let ran = alone(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {ran:?}");
    }
}

#[test]
fn every_help_has_an_example() {
    for command in [
        "",
        "network",
        "network create",
        "network ls",
        "network inspect",
        "network rm",
        "endpoint",
        "endpoint attach",
        "endpoint detach",
        "endpoint ls",
        "endpoint inspect",
        "node",
        "node ls",
        "node inspect",
        "apply",
        "status",
        "counters",
        "monitor",
        "trace",
        "capture",
        "bugreport",
        "completions",
        "man",
    ] {
        let args: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let help = alone(&args).ok();
        assert!(help.contains("Example:\n  fabric "), "{command}: {help}");
    }
}

#[test]
fn completions_and_manual_pages_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let script = alone(&["completions", shell]).ok();
        assert!(script.contains("endpoint") && script.contains("attach"), "{shell}");
    }
    let page = alone(&["man"]).ok();
    assert!(page.contains(".TH fabric 1"), "{page}");
    let directory = tempfile::tempdir().expect("a directory");
    alone(&["man", &directory.path().display().to_string()]).ok();
    let page = std::fs::read_to_string(directory.path().join("fabric-network-create.1")).expect("a page");
    assert!(page.contains("\\-\\-subnet"), "{page}");
}
