//! A container moves to another host with its addresses and its connections.
//!
//! Hosts are namespaces of one machine, so the container's process need not be carried over: its namespace gets a port on the
//! other host, and its sockets live on.

#![expect(clippy::print_stdout, reason = "gaps are for the report")]

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use fabric_api::{object::Endpoint, status::State};
use fabric_lab::{Background, Lab, Options, until};
use serde_json::Value;

/// Connections that say nothing during the move.
const SILENT: u64 = 100;

/// Nobody reaches the one that moves: what it gets are answers alone, which pass because their connections are known.
const ANSWERS_ONLY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: answers-only, namespace: blue}\n\
    spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}\n";

fn number(report: &Value, field: &str) -> Result<u64> {
    report[field].as_u64().with_context(|| format!("no {field} in {report}"))
}

/// Ends the connections; none was lost, and every byte was answered. Returns the longest silence, ms.
fn unharmed(held: Background, silent: u64, what: &str) -> Result<f64> {
    let report = held.report()?;
    ensure!(number(&report, "sent")? > 500, "{what} hardly ran: {report}");
    ensure!(report["sent"] == report["answered"] && report["ended"].is_null(), "{what}: {report}");
    ensure!(number(&report, "silent_alive")? == silent, "{what}: {report}");
    Ok(number(&report, "longest_gap_us")? as f64 / 1000.0)
}

fn at_home(lab: &Lab, node: &str) -> bool {
    lab.hosts().iter().all(|host| {
        host.endpoint("web").is_ok_and(|web: Endpoint| {
            web.spec.node.as_deref() == Some(node) && web.status.is_some_and(|s| s.state == State::Ready)
        })
    })
}

#[test]
fn a_container_moves_with_its_connections_and_an_agent_dies_in_between() -> Result<()> {
    let mut lab = Lab::with("clmove", &Options { hosts: 3, etcd: 3, ..Options::default() })?;
    let subnets = ["--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64"];
    lab.host(1).fabric(&[&["network", "create", "blue"][..], &subnets].concat())?;
    let web = lab.container(1, "web")?;
    let before = lab.host(1).attach(&web, "web", "blue", &["--label", "app=web"])?;
    let mut peers = Vec::new();
    let mut servers = Vec::new();
    for host in lab.hosts() {
        let peer = lab.container(host.number(), "c")?;
        let name = format!("c{}", host.number());
        let address = host.attach(&peer, &name, "blue", &[])?.spec.addresses[0].to_string();
        servers.push(peer.serve(&["serve", "--tcp", "80", "--seconds", "120"])?);
        until("the two reach each other", || web.ping(&address).is_ok())?;
        peers.push((peer, address));
    }
    std::fs::write(lab.host(1).directory().join("run/policy.yaml"), ANSWERS_ONLY)?;
    lab.host(1).fabric(&["policy", "apply", "-f", "/run/policy.yaml"])?;
    for host in lab.hosts() {
        host.wait_for_policies(&["blue/answers-only".to_owned()])?;
    }
    let hold = |address: &str, silent: u64| {
        let (to, silent) = (format!("{address}:80"), silent.to_string());
        web.background(&["hold", "--to", &to, "--every", "1", "--idle", &silent, "--seconds", "120"])
    };
    // On its first host, on one that has no part in the move, and where it goes.
    let held = [hold(&peers[0].1, 0)?, hold(&peers[1].1, SILENT)?, hold(&peers[2].1, 0)?];
    sleep(Duration::from_secs(1));
    let path = web.netns_path();
    let path = path.to_str().context("UTF-8")?;
    lab.host(2).fabric(&["endpoint", "move", "web", "--to", "h3", "--netns", path, "--ifname", "eth1"])?;
    until("every host knows its new home", || at_home(&lab, "h3"))?;
    sleep(Duration::from_secs(1));
    let mut gaps = Vec::new();
    for ((held, silent), where_to) in held.into_iter().zip([0, SILENT, 0]).zip(["first", "third", "second"]) {
        gaps.push(format!("{:.1} ms", unharmed(held, silent, &format!("to the {where_to} host"))?));
    }
    println!(
        "{SILENT} silent connections and 3 busy ones moved, 0 lost; longest silence {}",
        gaps.join(", ")
    );
    let after = lab.host(1).endpoint("web")?;
    ensure!(after.spec.generation == 2, "{after:?}");
    ensure!(
        after.spec.addresses == before.spec.addresses && after.spec.mac == before.spec.mac,
        "{before:?} became {after:?}"
    );
    let links = web.sh(&["ip", "-o", "link"])?;
    ensure!(links.contains("eth1") && !links.contains("eth0"), "one interface: {links}");
    // And back, while the agent of its home is dead when the move begins.
    let held = hold(&peers[1].1, 0)?;
    until("its former home has released it", || {
        lab.host(2).endpoint("web").is_ok_and(|web| web.spec.movement.is_none())
    })?;
    lab.host_mut(3).kill_agent()?;
    let line = ["fabric", "endpoint", "move", "web", "--to", "h1", "--netns", path, "--ifname", "eth0"];
    let mut command = lab.host(2).command(&line).spawn()?;
    until("it is prepared", || {
        let web = lab.host(1).endpoint("web");
        web.is_ok_and(|w| w.spec.movement.is_some_and(|m| m.phase.as_str() == "prepared"))
    })?;
    ensure!(lab.host(2).endpoint("web")?.spec.node.as_deref() == Some("h3"), "its home has not stopped");
    lab.host_mut(3).start_agent()?;
    ensure!(command.wait()?.success(), "the move does not end");
    until("every host knows its new home", || at_home(&lab, "h1"))?;
    sleep(Duration::from_millis(500));
    let gap = unharmed(held, 0, "back again")?;
    println!("moved back, begun without the agent of its home: longest silence {gap:.1} ms");
    for host in lab.hosts() {
        ensure!(host.status()?.problems.is_empty(), "{:?}", host.status()?.problems);
    }
    Ok(())
}
