//! Policies and endpoints that come, change and go: nothing gets through before, in between or under a former owner's permission.

use anyhow::{Context, Result, ensure};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};
use fabric_api::object::{Metadata, Object};
use fabric_lab::{
    Background, Cast, Counts,
    recipes::{Question, recipes},
    until,
};

type Mac = [u8; 6];

/// The endpoint that comes: its addresses, and the MAC that the first of them gives it.
const NEW: [&str; 2] = ["192.168.10.30", "fd00:10::30"];
const NEW_MAC: Mac = [2, 0xfc, 192, 168, 10, 30];
const LOCKED: &str = "app=locked";

/// Nobody reaches what is locked.
const NOBODY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
     metadata: {name: locked, namespace: default}\n\
     spec: {podSelector: {matchLabels: {app: locked}}, policyTypes: [Ingress]}\n";

/// The old owner accepts its namespace; a connection of web to it is tracked.
const MEMBERS: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
     metadata: {name: old, namespace: default}\n\
     spec: {podSelector: {matchLabels: {app: old}}, ingress: [{from: [{podSelector: {}}]}]}\n";

fn new_addresses() -> [String; 2] {
    NEW.map(str::to_owned)
}

fn mac(cast: &Cast, name: &str) -> Result<Mac> {
    let host = cast.lab().host(cast.container(name)?.host());
    let text = host.endpoint(name)?.spec.mac.context("a MAC")?;
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    Mac::try_from(bytes.as_slice()).with_context(|| format!("{text:?} is no MAC"))
}

fn v4(text: &str) -> Result<[u8; 4]> {
    Ok(text.parse::<std::net::Ipv4Addr>()?.octets())
}

/// A SYN of a member to the endpoint that comes, port 80.
fn syn(cast: &Cast, from: &str) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(cast, from)?, NEW_MAC)
        .ipv4(v4(&cast.addresses(from)?[0])?, v4(NEW[0])?, 64)
        .tcp(40_000, 80, 1, 64_000)
        .syn()
        .write(&mut frame, &[])?;
    Ok(frame)
}

/// Every question of one member to another.
fn between(cast: &Cast, from: &str, to: &str) -> Vec<Question> {
    cast.questions().into_iter().filter(|(f, t, _)| f == from && t == to).collect()
}

/// Everything that a member asks another comes out like this.
fn comes_out(cast: &Cast, from: &str, to: &str, expected: &str) -> Result<()> {
    let outcomes = cast.ask(&between(cast, from, to))?;
    ensure!(!outcomes.is_empty() && outcomes.values().all(|o| o == expected), "{from} to {to}: {outcomes:?}");
    Ok(())
}

fn moved(cast: &Cast, host: usize, before: &Counts) -> Result<Counts> {
    Ok(cast.lab().host(host).counts()?.since(before))
}

/// Sends the frames of all members at the endpoint that comes for some seconds.
fn flood(cast: &Cast, frames: &[(&str, Vec<u8>)]) -> Result<Vec<Background>> {
    let one = |(name, frame): &(&str, Vec<u8>)| {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = ["frame", "--ifname", "eth0", "--count", "10000", "--pause", "200", "--hex", &hex];
        cast.container(name)?.background(&line)
    };
    frames.iter().map(one).collect()
}

#[test]
fn an_endpoint_is_protected_from_its_first_packet_on() -> Result<()> {
    let mut cast = Cast::new("pfirst")?;
    cast.enforce_text(NOBODY)?;
    let frames = [("web", syn(&cast, "web")?), ("front", syn(&cast, "front")?), ("mon", syn(&cast, "mon")?)];
    for round in 0..5 {
        let before = cast.lab().host(1).counts()?;
        let floods = flood(&cast, &frames)?;
        cast.add("new", 1, new_addresses(), &["--namespace", "default", "--label", LOCKED])?;
        // Senders of the same host are stopped where they come from, the other where the tunnel ends.
        for hook in ["from_container", "from_uplink"] {
            let dropped = format!("{hook} drop policy_denied");
            until(&format!("{dropped} is counted in round {round}"), || {
                moved(&cast, 1, &before).is_ok_and(|moved| moved.get(&dropped) > 10)
            })?;
        }
        let segments = cast.container("new")?.snmp("Tcp", "InSegs")?;
        ensure!(segments == 0, "{segments} segments reached the endpoint in round {round}");
        drop(floods);
        cast.remove("new")?;
    }
    // The same frames reach an endpoint that nothing protects: it is the policy that stopped them.
    cast.add("new", 1, new_addresses(), &["--namespace", "default", "--label", "app=open"])?;
    let _floods = flood(&cast, &frames)?;
    let arrived = || cast.container("new").and_then(|c| c.snmp("Tcp", "InSegs"));
    until("the frames arrive", || arrived().is_ok_and(|segments| segments > 10))
}

/// Changes the labels of an endpoint where it lives.
fn relabel(cast: &Cast, name: &str, labels: &[(&str, &str)]) -> Result<()> {
    let host = cast.lab().host(cast.container(name)?.host());
    let mut endpoint = host.endpoint(name)?;
    endpoint.status = None;
    endpoint.spec.attachment = None;
    endpoint.metadata = Metadata {
        name: name.to_owned(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Metadata::default()
    };
    let text = serde_json::to_string(&Object::Endpoint(endpoint))?;
    std::fs::write(host.directory().join("run/endpoint.json"), text)?;
    host.fabric(&["apply", "-f", "/run/endpoint.json"]).map(drop)
}

#[test]
fn a_label_gives_and_takes_permission_and_touches_nobody_else() -> Result<()> {
    let cast = Cast::new("plabel")?;
    cast.enforce(&recipes("02")?.remove(0).manifest)?;
    let web = format!("{}:80", cast.addresses("web")?[0]);
    let held = cast.container("front")?.background(&["hold", "--to", &web, "--seconds", "60"])?;
    for from in ["db", "mon"] {
        comes_out(&cast, from, "web", "timeout")?;
    }
    // The policy's own namespace only: the same label elsewhere gives nothing.
    relabel(&cast, "db", &[("app", "bookstore")])?;
    relabel(&cast, "mon", &[("app", "bookstore")])?;
    until("the label gives permission", || comes_out(&cast, "db", "web", "open").is_ok())?;
    comes_out(&cast, "mon", "web", "timeout")?;
    let theirs = cast.container("db")?.background(&["hold", "--to", &web, "--seconds", "60"])?;
    relabel(&cast, "db", &[("app", "db")])?;
    until("the label takes it", || comes_out(&cast, "db", "web", "timeout").is_ok())?;
    let report = theirs.report()?;
    ensure!(report["sent"].as_u64() > report["answered"].as_u64(), "its connection was not cut: {report}");
    // An endpoint that the policy selects no longer is open at once.
    relabel(&cast, "web", &[("app", "bookstore"), ("role", "none")])?;
    until("web is open", || comes_out(&cast, "mon", "web", "open").is_ok())?;
    relabel(&cast, "web", &[("app", "bookstore"), ("role", "api")])?;
    until("web is closed", || comes_out(&cast, "mon", "web", "timeout").is_ok())?;
    let report = held.report()?;
    ensure!(report["sent"] == report["answered"] && report["sent"].as_u64() > Some(50), "{report}");
    ensure!(report["longest_gap_us"].as_u64() < Some(200_000), "front's connection was held up: {report}");
    Ok(())
}

#[test]
fn an_address_that_is_used_again_has_the_policy_of_its_new_owner() -> Result<()> {
    let mut cast = Cast::new("preuse")?;
    cast.enforce_text(&format!("{MEMBERS}---\n{NOBODY}"))?;
    for host in [1, 2] {
        cast.add("old", host, new_addresses(), &["--namespace", "default", "--label", "app=old"])?;
        until("web reaches the old owner", || comes_out(&cast, "web", "old", "open").is_ok())?;
        comes_out(&cast, "mon", "old", "timeout")?;
        let to = format!("{}:80", NEW[0]);
        let held = cast.container("web")?.background(&["hold", "--to", &to, "--seconds", "60"])?;
        until("the connection runs", || {
            cast.container("old").and_then(|old| old.snmp("Tcp", "InSegs")).is_ok_and(|n| n > 100)
        })?;
        cast.remove("old")?;
        // web's kernel sends again and again what was not answered.
        cast.add("new", 1, new_addresses(), &["--namespace", "default", "--label", LOCKED])?;
        comes_out(&cast, "web", "new", "timeout")?;
        comes_out(&cast, "mon", "new", "timeout")?;
        let segments = cast.container("new")?.snmp("Tcp", "InSegs")?;
        ensure!(segments == 0, "{segments} segments came through as the old owner's");
        drop(held);
        cast.remove("new")?;
        cast.add("new", 2, new_addresses(), &["--namespace", "ops", "--label", LOCKED])?;
        until("a new owner in another namespace is open", || comes_out(&cast, "mon", "new", "open").is_ok())?;
        cast.remove("new")?;
    }
    Ok(())
}

/// The second fragment of a datagram whose first one nobody sends.
fn later_fragment(cast: &Cast, from: &str, to: &str, id: u16) -> Result<Vec<u8>> {
    let payload = [0x5a; 64];
    let mut ip = Ipv4Header::new(
        u16::try_from(payload.len())?,
        64,
        IpNumber::UDP,
        v4(&cast.addresses(from)?[0])?,
        v4(&cast.addresses(to)?[0])?,
    )?;
    (ip.identification, ip.fragment_offset) = (id, IpFragOffset::try_new(185)?);
    ip.header_checksum = ip.calc_header_checksum();
    let mut frame = [&mac(cast, to)?[..], &mac(cast, from)?, &[8, 0]].concat();
    ip.write(&mut frame)?;
    frame.extend(payload);
    Ok(frame)
}

const UDP_ONLY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
     metadata: {name: udp, namespace: default}\n\
     spec: {podSelector: {matchLabels: {role: api}}, ingress: [{ports: [{protocol: UDP, port: 7001}]}]}\n";

#[test]
fn fragments_pass_behind_a_first_one_that_passed_and_drops_name_their_rule() -> Result<()> {
    let cast = Cast::new("pfrag")?;
    cast.enforce_text(UDP_ONLY)?;
    let web = cast.addresses("web")?[0].clone();
    let flood = |from: &str, port: u16| -> Result<u64> {
        let bind = format!("0.0.0.0:{port}");
        let sink = cast.container("web")?.serve(&["udp-sink", "--bind", &bind, "--seconds", "30"])?;
        let to = format!("{web}:{port}");
        let line = ["udp-flood", "--to", &to, "--size", "3000", "--count", "20", "--rate", "200"];
        cast.container(from)?.traffic(&line)?;
        sink.report()?["packets"].as_u64().context("packets")
    };
    let monitor = cast.lab().host(1).monitor(&["--drops"])?;
    // One of the same host, one of the other.
    for from in ["mon", "db"] {
        let before = cast.container("web")?.snmp("Ip", "ReasmReqds")?;
        ensure!(flood(from, 7001)? == 20, "datagrams in fragments from {from} are permitted");
        let between = cast.container("web")?.snmp("Ip", "ReasmReqds")?;
        ensure!(between >= before + 40, "they came in fragments: {before}, {between}");
        ensure!(flood(from, 7002)? == 0, "datagrams in fragments from {from} to another port are not");
        let counts = cast.lab().host(1).counts()?;
        cast.container(from)?.send_frame(&later_fragment(&cast, from, "web", 4711)?, 5)?;
        let hook = if from == "mon" { "from_container" } else { "from_uplink" };
        until("fragments without a first one are dropped", || {
            moved(&cast, 1, &counts).is_ok_and(|m| m.get(&format!("{hook} drop policy_no_ports")) == 5)
        })
        .with_context(|| format!("{:?}", moved(&cast, 1, &counts).map(|m| m.drops())))?;
        let after = cast.container("web")?.snmp("Ip", "ReasmReqds")?;
        ensure!(after == between, "{} fragments of what is forbidden came through", after - between);
    }
    let wanted = "NetworkPolicy/default/udp/ingress";
    let seen = || -> Result<bool> {
        let mut events = monitor.events()?.into_iter().filter(|event| event.reason == "policy_denied");
        Ok(events.any(|e| {
            let rule = serde_json::to_value(&e).is_ok_and(|e| e["rule"] == wanted);
            rule && e.endpoint == "web" && e.dst_port == 7002 && e.hook == "from_uplink"
        }))
    };
    until("an event names the rule", || seen().unwrap_or(false)).with_context(|| {
        format!("{:#?}", monitor.events().map(|e| e.into_iter().take(3).collect::<Vec<_>>()))
    })
}
