//! Many hosts, one truth in etcd: what one host declares all know, and nothing that dies takes traffic with it.

use std::{collections::BTreeSet, net::IpAddr, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use fabric_api::status::State;
use fabric_lab::{Background, Container, Lab, Options, until};

const MEMBERS: usize = 3;

fn cluster(id: &str, hosts: usize) -> Result<Lab> {
    Lab::with(id, &Options { hosts, etcd: MEMBERS, ..Options::default() })
}

/// A container on every host, in network `blue`, which host 1 makes.
fn blue(lab: &Lab) -> Result<Vec<Container>> {
    lab.host(1).fabric(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "192.168.10.0/24",
        "--subnet",
        "fd00:10::/64",
    ])?;
    let mut containers = Vec::new();
    for host in lab.hosts() {
        let container = lab.container(host.number(), "c")?;
        host.attach(&container, &format!("c{}", host.number()), "blue", &[])?;
        containers.push(container);
    }
    Ok(containers)
}

/// Addresses of endpoint `name`, as host 1 knows them.
fn addresses(lab: &Lab, name: &str) -> Result<Vec<IpAddr>> {
    Ok(lab.host(1).endpoint(name)?.spec.addresses)
}

/// The first address of endpoint `name`, once host 1 knows it.
fn address(lab: &Lab, name: &str) -> Result<String> {
    until("host 1 knows the endpoint", || lab.host(1).endpoint(name).is_ok())?;
    Ok(addresses(lab, name)?.first().context("an address")?.to_string())
}

/// 1 kHz from a container to an echo server, until told to end.
fn probe(from: &Container, to: &str) -> Result<Background> {
    from.background(&["probe", "--to", to, "--rate", "1000", "--seconds", "120"])
}

/// Ends a probe; nothing was lost nor doubled.
fn unharmed(probe: Background, what: &str) -> Result<()> {
    let report = probe.report()?;
    ensure!(report["sent"].as_u64() > Some(1000), "the probe hardly ran: {report}");
    for bad in ["lost", "duplicate", "errors"] {
        assert_eq!(report[bad], 0, "{what}: {report}");
    }
    Ok(())
}

#[test]
fn a_network_made_on_one_host_is_there_for_all() -> Result<()> {
    let lab = cluster("clone", 5)?;
    let containers = blue(&lab)?;
    let names: Vec<String> = (1..=5).map(|n| format!("c{n}")).collect();
    let mut all = BTreeSet::new();
    for name in &names {
        address(&lab, name)?;
        all.extend(addresses(&lab, name)?);
    }
    assert_eq!(all.len(), 10, "an IPv4 and an IPv6 address each, none twice: {all:?}");
    for from in &containers {
        for to in &all {
            until(&format!("host {} reaches {to}", from.host()), || from.ping(&to.to_string()).is_ok())?;
        }
    }
    for host in lab.hosts() {
        let nodes = host.nodes()?;
        let ready = |state: &State| *state == State::Ready;
        let known: Vec<_> = nodes
            .iter()
            .filter(|node| node.status.as_ref().is_some_and(|status| ready(&status.state)))
            .map(|node| node.metadata.name.as_str())
            .collect();
        assert_eq!(known, ["h1", "h2", "h3", "h4", "h5"], "{nodes:?}");
        let status = host.status()?;
        assert!(status.problems.is_empty(), "{:?}", status.problems);
    }
    // What one host removes is gone for all, and the network goes with its last endpoint.
    for name in &names {
        lab.host(3).fabric(&["endpoint", "detach", name])?;
    }
    lab.host(4).fabric(&["network", "rm", "blue"])?;
    until("no container has an interface", || {
        containers.iter().all(|c| c.sh(&["ip", "-o", "link"]).is_ok_and(|links| !links.contains("eth0")))
    })?;
    until("no host knows the network", || {
        lab.hosts().iter().all(|host| host.networks().is_ok_and(|networks| networks.is_empty()))
    })?;
    Ok(())
}

#[test]
fn no_packet_is_lost_while_all_agents_and_members_die() -> Result<()> {
    let mut lab = cluster("cldie", 5)?;
    let containers = blue(&lab)?;
    let (one, five) = (address(&lab, "c1")?, address(&lab, "c5")?);
    let (first, last) = (&containers[0], &containers[4]);
    until("the two reach each other", || first.ping(&five).is_ok() && last.ping(&one).is_ok())?;
    let (at_one, at_five) = (format!("{one}:7"), format!("{five}:7"));
    let _echo_one = first.serve(&["udp-echo", "--bind", &at_one, "--seconds", "120"])?;
    let _echo_five = last.serve(&["udp-echo", "--bind", &at_five, "--seconds", "120"])?;
    let (there, back) = (probe(first, &at_five)?, probe(last, &at_one)?);
    sleep(Duration::from_millis(500));
    lab.etcd().kill_all()?;
    for n in 1..=5 {
        lab.host_mut(n).kill_agent()?;
    }
    sleep(Duration::from_secs(1));
    // Agents first: they go on without the store, and say so.
    for n in 1..=5 {
        lab.host_mut(n).launch_agent()?;
    }
    until("an agent says that it waits for the store", || {
        lab.host(5).status().is_ok_and(|status| {
            !status.in_sync && status.problems.iter().any(|p| p.contains("etcd://10.0.1.1:2379"))
        })
    })?;
    lab.etcd().start_all()?;
    for n in 1..=5 {
        lab.host_mut(n).wait_in_sync()?;
    }
    let late = lab.container(2, "late")?;
    lab.host(2).attach(&late, "late", "blue", &[])?;
    let new = address(&lab, "late")?;
    until("what comes after is reached", || first.ping(&new).is_ok() && last.ping(&new).is_ok())?;
    unharmed(there, "h1 to h5")?;
    unharmed(back, "h5 to h1")?;
    for host in lab.hosts() {
        let status = host.status()?;
        assert!(status.problems.is_empty(), "{}: {:?}", host.name(), status.problems);
        assert_eq!(status.reconcile.repairs, 0, "{}: {:?}", host.name(), status.reconcile);
    }
    Ok(())
}

#[test]
fn a_member_that_dies_or_hangs_is_left_for_another() -> Result<()> {
    let mut lab = cluster("clmemb", 3)?;
    let _containers = blue(&lab)?;
    for n in 1..=MEMBERS {
        // Of two that are left one hangs for a while: without a majority nothing can be written.
        lab.etcd().kill_member(n)?;
        let name = format!("after{n}");
        let made =
            |lab: &Lab| lab.host(n).try_fabric(&["network", "create", &name, "--subnet", "10.1.0.0/24"]);
        until("a network can be made", || {
            made(&lab).is_ok_and(|out| out.success() || out.stderr.contains("exists already"))
        })?;
        until("every host knows it", || {
            lab.hosts()
                .iter()
                .all(|h| h.networks().is_ok_and(|all| all.iter().any(|n| n.metadata.name == name)))
        })?;
        lab.etcd().start_all()?;
    }
    lab.etcd().pause_member(1, true)?;
    let made = |lab: &Lab, host: usize| {
        lab.host(host).try_fabric(&["network", "create", "hung", "--subnet", "10.1.0.0/24"])
    };
    until("a network can be made beside a member that hangs", || {
        made(&lab, 1).is_ok_and(|out| out.success() || out.stderr.contains("exists already"))
    })?;
    until("every host knows it", || {
        lab.hosts()
            .iter()
            .all(|h| h.networks().is_ok_and(|all| all.iter().any(|n| n.metadata.name == "hung")))
    })?;
    lab.etcd().pause_member(1, false)
}

/// Cuts a host off from etcd, or lets it in again.
fn cut(lab: &Lab, host: usize, cut: bool) -> Result<()> {
    let action = if cut { "-I" } else { "-D" };
    for chain in ["OUTPUT", "INPUT"] {
        let port = if chain == "OUTPUT" { "--dport" } else { "--sport" };
        lab.host(host).sh(&["iptables", "-w", action, chain, "-p", "tcp", port, "2379", "-j", "DROP"])?;
    }
    Ok(())
}

#[test]
fn a_host_that_was_cut_off_catches_up_after_a_compaction() -> Result<()> {
    let mut lab = cluster("clcut", 4)?;
    let containers = blue(&lab)?;
    let (one, four) = (address(&lab, "c1")?, address(&lab, "c4")?);
    until("the two reach each other", || containers[3].ping(&one).is_ok())?;
    cut(&lab, 4, true)?;
    until("the host says so", || {
        lab.host(4).status().is_ok_and(|s| s.problems.iter().any(|p| p.contains("can't be used")))
    })?;
    // It keeps its flows and what it knows, and takes no decision that needs the truth.
    containers[0].ping(&four)?;
    assert_eq!(lab.host(4).endpoints()?.len(), 4);
    let refused = lab.host(4).try_fabric(&["network", "create", "alone", "--subnet", "10.2.0.0/24"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("etcd://"), "{refused:?}");
    until("the others say that it is not heard of", || {
        let node = lab.host(1).nodes().ok().and_then(|all| all.into_iter().find(|n| n.metadata.name == "h4"));
        node.and_then(|n| n.status)
            .is_some_and(|s| s.state == State::Degraded && s.reason.contains("not heard of"))
    })?;
    let status = lab.host(1).status()?;
    assert!(status.problems.is_empty(), "another host's fault is not this one's: {:?}", status.problems);
    lab.host(2).fabric(&["endpoint", "detach", "c2"])?;
    let new = lab.container(3, "new")?;
    lab.host(3).attach(&new, "new", "blue", &[])?;
    let text = lab.etcd().ctl(&["endpoint", "status", "-w", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    lab.etcd().ctl(&["compaction", &revision])?;
    cut(&lab, 4, false)?;
    let new = address(&lab, "new")?;
    until("the host has caught up", || containers[3].ping(&new).is_ok())?;
    until("it has forgotten what is gone", || lab.host(4).endpoint("c2").is_err())?;
    until("it is heard of again", || {
        let node = lab.host(1).nodes().ok().and_then(|all| all.into_iter().find(|n| n.metadata.name == "h4"));
        node.and_then(|n| n.status).is_some_and(|s| s.state == State::Ready)
    })?;
    ensure!(
        lab.host(4).agent_log_tail(100).contains("everything is listed again"),
        "{}",
        lab.host(4).agent_log_tail(40)
    );
    Ok(())
}

#[test]
fn a_second_agent_of_one_name_is_refused_and_one_that_returns_is_not() -> Result<()> {
    let mut lab = cluster("clname", 3)?;
    let store = lab.etcd().address();
    let line = |node| {
        [
            "fabric-agent",
            "--node",
            node,
            "--underlay",
            "u0",
            "--store",
            &store,
            "--socket",
            "/run/fabric/second.sock",
            "--bpffs",
            "/sys/fs/bpf/second",
        ]
    };
    lab.host_mut(2).term_agent()?;
    let refused = lab.host(2).exec(&line("h1"))?;
    ensure!(refused.code == 1, "{refused:?}");
    ensure!(refused.stderr.contains("node name h1 is in use by the agent on host"), "{refused:?}");
    // The same host again, before the lease of its killed agent has ended.
    lab.host_mut(1).kill_agent()?;
    lab.host_mut(1).start_agent()?;
    lab.host_mut(2).start_agent()?;
    for host in lab.hosts() {
        assert!(host.status()?.problems.is_empty(), "{:?}", host.status()?.problems);
    }
    // A host that leaves takes its node and its endpoints along.
    lab.host(1).fabric(&["network", "create", "blue", "--subnet", "192.168.10.0/24"])?;
    let c = lab.container(3, "c")?;
    lab.host(3).attach(&c, "c3", "blue", &[])?;
    lab.host_mut(3).term_agent()?;
    let done = lab.host(3).sh(&["fabric-agent", "cleanup", "--purge", "--node", "h3", "--store", &store])?;
    ensure!(done.contains("endpoint c3 removed") && done.contains("node h3 removed"), "{done}");
    until("the others have forgotten it", || {
        lab.host(1).nodes().is_ok_and(|all| all.len() == 2)
            && lab.host(1).endpoints().is_ok_and(|all| all.is_empty())
    })
}
