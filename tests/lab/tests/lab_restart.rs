//! The agent dies, comes back and finds things changed behind its back; the datapath does not mind.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use fabric_lab::{Background, Container, Host, Lab, until};
use serde_json::Value;

const BPFFS: &str = "/sys/fs/bpf/fabric";

fn scene(id: &str) -> Result<(Container, Container, Lab)> {
    let lab = Lab::new(id, 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11"])?;
    lab.host(2).attach(&b, "b", "n1", &["--ip", "192.168.10.21"])?;
    lab.declare_peers()?;
    a.ping("192.168.10.21")?;
    Ok((a, b, lab))
}

/// 1 kHz from a container to an echo server, until told to end.
fn probe(from: &Container, to: &str) -> Result<Background> {
    from.background(&["probe", "--to", to, "--rate", "1000", "--seconds", "60"])
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

/// Pinned links of the host's datapath by file name (`IFINDEX-PROGRAM`), with the kernel's number of each.
fn links(host: &Host) -> Result<Vec<(String, String)>> {
    let names = host.sh(&["ls", &format!("{BPFFS}/links")])?;
    names
        .split_whitespace()
        .map(|name| {
            let pin = format!("{BPFFS}/links/{name}");
            let shown: Value =
                serde_json::from_str(&host.sh(&["bpftool", "-j", "link", "show", "pinned", &pin])?)?;
            Ok((name.to_owned(), shown["id"].to_string()))
        })
        .collect()
}

/// Programs named as ours that process `agent` or a pin of the host holds, each by its number.
fn link_ids_held(host: &Host) -> Result<BTreeSet<String>> {
    let pid = host.agent_pid().context("an agent")?;
    let shown: Value = serde_json::from_str(&host.sh(&["bpftool", "-j", "-f", "link", "show"])?)?;
    let held = shown.as_array().context("a list")?.iter().filter(|link| {
        let by_pid = link["pids"].as_array().is_some_and(|pids| pids.iter().any(|p| p["pid"] == pid));
        let pins = link["pinned"].as_array();
        by_pid
            || pins.is_some_and(|pins| pins.iter().any(|p| p.as_str().is_some_and(|p| p.starts_with(BPFFS))))
    });
    Ok(held.map(|link| link["id"].to_string()).collect())
}

#[test]
fn no_packet_is_lost_while_agents_die_and_return() -> Result<()> {
    let (a, b, mut lab) = scene("restart")?;
    let _echo_b = b.serve(&["udp-echo", "--bind", "192.168.10.21:7", "--seconds", "60"])?;
    let _echo_a = a.serve(&["udp-echo", "--bind", "192.168.10.11:7", "--seconds", "60"])?;
    let before = links(lab.host(1))?;
    let (there, back) = (probe(&a, "192.168.10.21:7")?, probe(&b, "192.168.10.11:7")?);
    sleep(Duration::from_millis(500));
    lab.host_mut(1).kill_agent()?;
    sleep(Duration::from_secs(1));
    lab.host_mut(1).start_agent()?;
    lab.host_mut(2).kill_agent()?;
    lab.host_mut(2).start_agent()?;
    lab.host_mut(1).term_agent()?;
    sleep(Duration::from_secs(1));
    lab.host_mut(1).start_agent()?;
    sleep(Duration::from_millis(500));
    unharmed(there, "h1 to h2")?;
    unharmed(back, "h2 to h1")?;
    // The same links, updated in place: one program at every hook.
    let after = links(lab.host(1))?;
    assert_eq!(before, after, "links before and after");
    let numbers: BTreeSet<_> = after.iter().map(|(_, number)| number.clone()).collect();
    assert_eq!(link_ids_held(lab.host(1))?, numbers, "no link beside the pinned ones");
    let status = lab.host(1).status()?;
    assert_eq!((status.reconcile.repairs, status.problems.len()), (0, 0), "{:?}", status.reconcile);
    Ok(())
}

/// Does `harm`, waits for repairs, and returns the sentences that are new.
fn repaired(host: &Host, what: &str, harm: impl FnOnce(&Host) -> Result<()>) -> Result<Vec<String>> {
    let before = host.status()?.reconcile;
    harm(host).with_context(|| what.to_owned())?;
    until(&format!("{what} is repaired"), || {
        host.status().is_ok_and(|s| s.reconcile.repairs > before.repairs && s.reconcile.errors.is_empty())
    })?;
    // Two more passes: what follows from a repair is repaired as well, and nothing else is.
    let passes = host.status()?.reconcile.passes;
    until("two more passes", || host.status().is_ok_and(|s| s.reconcile.passes >= passes + 2))?;
    let after = host.status()?.reconcile;
    let new = usize::try_from(after.repairs - before.repairs)?;
    let last = &after.last_repairs;
    Ok(last[last.len().saturating_sub(new)..].to_vec())
}

/// A pinned map's path.
fn map_pin(host: &Host, name: &str) -> Result<String> {
    let pins = host.sh(&["ls", &format!("{BPFFS}/maps")])?;
    let pin = pins.split_whitespace().find(|pin| pin.starts_with(&format!("{name}@")));
    Ok(format!("{BPFFS}/maps/{}", pin.with_context(|| format!("no map {name} in {pins}"))?))
}

/// A map's rows as bytes in `bpftool` notation.
fn rows(host: &Host, pin: &str) -> Result<Vec<(Vec<String>, Vec<String>)>> {
    let dump: Value = serde_json::from_str(&host.sh(&["bpftool", "-j", "map", "dump", "pinned", pin])?)?;
    let bytes = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|byte| byte.as_str().map(str::to_owned)).collect()
    };
    Ok(dump
        .as_array()
        .context("rows")?
        .iter()
        .map(|row| (bytes(&row["key"]), bytes(&row["value"])))
        .collect())
}

fn bpftool(host: &Host, words: &[&str], key: &[String], more: &[&str], value: &[String]) -> Result<()> {
    let line: Vec<&str> = ["bpftool", "map"]
        .into_iter()
        .chain(words.iter().copied())
        .chain(key.iter().map(String::as_str))
        .chain(more.iter().copied())
        .chain(value.iter().map(String::as_str))
        .collect();
    host.sh(&line).map(drop)
}

#[test]
fn what_is_removed_or_changed_by_hand_is_repaired_and_nothing_else() -> Result<()> {
    let (a, _b, lab) = scene("repair")?;
    let host = lab.host(1);
    let endpoint = host.endpoint("a")?.status.context("a status")?;

    let fdb = map_pin(host, "fdb")?;
    let done = repaired(host, "a map's pin", |host| host.sh(&["rm", &fdb]).map(drop))?;
    assert!(done.len() == 1 && done[0].contains("fdb"), "{done:?}");

    let pin = format!("{BPFFS}/links/{}-from_container", endpoint.ifindex);
    let done = repaired(host, "a link's pin", |host| host.sh(&["rm", &pin]).map(drop))?;
    assert!(done.len() == 1 && done[0].contains("from_container"), "{done:?}");

    let done =
        repaired(host, "a link", |host| host.sh(&["bpftool", "link", "detach", "pinned", &pin]).map(drop))?;
    assert!(done.len() == 1 && done[0].contains("from_container"), "{done:?}");

    let row = rows(host, &fdb)?.into_iter().next().context("a row")?;
    let done = repaired(host, "a map row", |host| {
        bpftool(host, &["delete", "pinned", &fdb, "key", "hex"], &strip(&row.0), &[], &[])
    })?;
    assert!(done.len() == 1 && done[0].contains("fdb"), "{done:?}");

    let sources = map_pin(host, "sources")?;
    let row = rows(host, &sources)?.into_iter().next().context("a row")?;
    let mut value = strip(&row.1);
    let last = value.last_mut().context("bytes")?;
    *last = if last == "ff" { "00".to_owned() } else { "ff".to_owned() };
    let done = repaired(host, "a map row's value", |host| {
        bpftool(
            host,
            &["update", "pinned", &sources, "key", "hex"],
            &strip(&row.0),
            &["value", "hex"],
            &value,
        )
    })?;
    assert!(done.len() == 1 && done[0].contains("sources"), "{done:?}");

    let done =
        repaired(host, "the vxlan device", |host| host.sh(&["ip", "link", "del", "fabric_vxlan"]).map(drop))?;
    assert!(done.len() == 1 && done[0].contains("vxlan device"), "{done:?}");
    a.ping("192.168.10.21")?;

    let name = endpoint.host_ifname;
    let done = repaired(host, "a veth", |host| host.sh(&["ip", "link", "del", &name]).map(drop))?;
    assert!(done.len() == 1 && done[0].ends_with("of endpoint a"), "{done:?}");
    until("the container is back", || a.ping("192.168.10.21").is_ok())?;
    let status = host.status()?;
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(())
}

/// `bpftool` prints bytes as `0x1f`.
fn strip(bytes: &[String]) -> Vec<String> {
    bytes.iter().map(|byte| byte.trim_start_matches("0x").to_owned()).collect()
}

#[test]
fn containers_are_attached_again_after_a_reboot() -> Result<()> {
    let (a, b, mut lab) = scene("reboot")?;
    let gone = lab.container(1, "gone")?;
    lab.host(1).attach(&gone, "gone", "n1", &["--ip", "192.168.10.12"])?;
    let before = lab.host(1).endpoint("a")?.status.context("a status")?;
    lab.host_mut(1).kill_agent()?;
    // As after a boot: a fresh bpffs, and none of our links; other links came first.
    lab.host(1).sh(&["umount", "/sys/fs/bpf"])?;
    lab.host(1).sh(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    for name in lab.host(1).link_names()?.iter().filter(|name| name.starts_with("fab")) {
        lab.host(1).exec(&["ip", "link", "del", name])?;
    }
    gone.vanish()?;
    lab.host(1).sh(&["ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1"])?;
    assert!(a.ping("192.168.10.21").is_err(), "the datapath is gone");
    lab.host_mut(1).start_agent()?;
    until("the container is attached again", || a.ping("192.168.10.21").is_ok())?;
    b.ping("192.168.10.11")?;
    let after = lab.host(1).endpoint("a")?.status.context("a status")?;
    assert_ne!(before.ifindex, after.ifindex);
    let lost = lab.host(1).endpoint("gone")?.status.context("a status")?;
    assert!(!lost.reason.is_empty(), "an endpoint whose namespace is gone says so: {lost:?}");
    Ok(())
}

#[test]
fn cleanup_leaves_nothing() -> Result<()> {
    let mut lab = Lab::with("clean", &fabric_lab::Options { hosts: 1, agents: false, ..Default::default() })?;
    let links_before = lab.host(1).link_names()?;
    let pins_before = lab.host(1).sh(&["find", "/sys/fs/bpf"])?;
    lab.host_mut(1).start_agent()?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    let a = lab.container(1, "a")?;
    lab.host(1).attach(&a, "a", "n1", &[])?;
    let numbers = link_ids_held(lab.host(1))?;
    assert!(!numbers.is_empty());
    let ids = |kind: &str| -> Result<BTreeSet<String>> {
        let held: Value = serde_json::from_str(&lab.host(1).sh(&["bpftool", "-j", "-f", kind, "show"])?)?;
        let pinned = held.as_array().into_iter().flatten().filter(|item| {
            item["pinned"]
                .as_array()
                .is_some_and(|p| p.iter().any(|p| p.as_str().is_some_and(|p| p.starts_with(BPFFS))))
        });
        Ok(pinned.map(|item| item["id"].to_string()).collect())
    };
    let (programs, maps) = (ids("prog")?, ids("map")?);
    assert!(!programs.is_empty() && !maps.is_empty());
    let refused = lab.host(1).exec(&["fabric-agent", "cleanup"])?;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("stop it first"), "{refused:?}");
    lab.host_mut(1).term_agent()?;
    lab.host(1).sh(&["fabric-agent", "cleanup"])?;
    assert_eq!(lab.host(1).link_names()?, links_before);
    assert!(!a.sh(&["ip", "-o", "link"])?.contains("eth0"), "the container's interface is gone");
    assert_eq!(lab.host(1).sh(&["find", "/sys/fs/bpf"])?, pins_before);
    // The kernel frees programs and maps a little later.
    let there = |kind: &str, id: &String| {
        lab.host(1).exec(&["bpftool", kind, "show", "id", id]).is_ok_and(|o| o.success())
    };
    until("programs, maps and links are gone", || {
        !programs.iter().any(|id| there("prog", id))
            && !maps.iter().any(|id| there("map", id))
            && !numbers.iter().any(|id| there("link", id))
    })?;
    // Again: absence is success.
    lab.host(1).sh(&["fabric-agent", "cleanup"])?;
    Ok(())
}
