//! The lab itself, without agents: wires, containers, captures, the traffic tool, and that nothing stays behind.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use fabric_lab::{Capture, Lab, Options, UNDERLAY};

fn lab(id: &str, hosts: usize) -> Result<Lab> {
    Lab::with(id, &Options { hosts, agents: false, ..Options::default() })
}

fn namespaces(id: &str) -> Vec<String> {
    fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&format!("fab{id}-")))
        .collect()
}

#[test]
fn hosts_reach_each_other_through_the_router() -> Result<()> {
    let lab = lab("wire", 3)?;
    for (address, family) in [(lab.host(3).address(), "-4"), (lab.host(3).address6(), "-6")] {
        lab.host(1).sh(&["ping", family, "-c1", "-W2", &address])?;
    }
    let hop = lab.host(1).sh(&["ping", "-4", "-c1", "-t1", "-W2", &lab.host(3).address()]);
    assert!(
        hop.is_err_and(|error| format!("{error:#}").contains("Time to live exceeded")),
        "the router is a hop"
    );
    Ok(())
}

#[test]
fn a_host_has_its_own_run_and_bpffs() -> Result<()> {
    let lab = lab("mounts", 2)?;
    lab.host(1).sh(&["sh", "-c", "mkdir /sys/fs/bpf/mine; touch /run/mine"])?;
    assert!(!Path::new("/sys/fs/bpf/mine").exists() && !Path::new("/run/mine").exists());
    assert!(lab.host(2).sh(&["ls", "/sys/fs/bpf/mine"]).is_err());
    assert!(lab.host(2).sh(&["ls", "/run/mine"]).is_err());
    let interfaces = lab.host(1).sh(&["ls", "/sys/class/net"])?;
    assert_eq!(interfaces.split_whitespace().collect::<Vec<_>>(), ["lo", UNDERLAY]);
    Ok(())
}

#[test]
fn a_container_is_visible_on_its_host_and_vanishes() -> Result<()> {
    let lab = lab("cont", 1)?;
    let container = lab.container(1, "c1")?;
    let path = container.netns_path();
    let path = path.to_str().context("path")?;
    // The same namespace by its name on the host and by its process.
    let by_name = lab.host(1).sh(&["stat", "-Lc", "%i", path])?;
    let by_process = lab.host(1).sh(&["stat", "-Lc", "%i", &format!("/proc/{}/ns/net", container.pid())])?;
    assert_eq!(by_name, by_process);
    container.vanish()?;
    assert!(lab.host(1).sh(&["ls", path]).is_err());
    Ok(())
}

#[test]
fn traffic_is_counted_and_captured() -> Result<()> {
    let lab = lab("tool", 2)?;
    let to = lab.host(2).address();
    let (udp, echo, tcp, rr) =
        (format!("{to}:5001"), format!("{to}:5002"), format!("{to}:5003"), format!("{to}:5004"));

    let capture = Capture::start(
        |line| lab.host(2).command(line),
        UNDERLAY,
        "udp port 5001",
        lab.directory().join("a.pcap"),
    )?;
    let sink = lab.host(2).serve(&["udp-sink", "--bind", &udp])?;
    let sent = lab.host(1).traffic(&["udp-flood", "--to", &udp, "--count", "100", "--rate", "1000"])?;
    assert_eq!(sent["sent"], 100);
    assert_eq!(capture.text(&[])?.len(), 100);
    assert_eq!(sink.report()?["packets"], 100);

    let _echo = lab.host(2).serve(&["udp-echo", "--bind", &echo])?;
    let probe = lab.host(1).traffic(&["probe", "--to", &echo, "--rate", "1000", "--seconds", "1"])?;
    assert_eq!((&probe["lost"], &probe["duplicate"]), (&0.into(), &0.into()), "{probe}");

    let sink = lab.host(2).serve(&["tcp-sink", "--bind", &tcp])?;
    let sent =
        lab.host(1).traffic(&["tcp-send", "--to", &tcp, "--bytes", "10000000", "--congestion", "cubic"])?;
    assert_eq!(sent["congestion"], "cubic");
    assert_eq!(sink.report()?["bytes"], 10_000_000);

    let server = lab.host(2).serve(&["tcp-rr-server", "--bind", &rr])?;
    let report = lab.host(1).traffic(&["tcp-rr", "--to", &rr, "--seconds", "0.5"])?;
    assert!(report["transactions"].as_u64() > Some(0), "{report}");
    assert!(server.report()?["transactions"].as_u64() >= report["transactions"].as_u64());
    Ok(())
}

#[test]
fn a_probe_sees_what_is_lost() -> Result<()> {
    let lab = lab("lost", 2)?;
    // Nobody answers.
    let to = format!("{}:5002", lab.host(2).address());
    let probe = lab.host(1).traffic(&["probe", "--to", &to, "--rate", "1000", "--seconds", "0.2"])?;
    assert_eq!(probe["lost"], probe["sent"], "{probe}");
    Ok(())
}

#[test]
fn a_lab_leaves_nothing_even_on_a_panic() -> Result<()> {
    let panicked = std::panic::catch_unwind(|| {
        let lab = lab("panic", 2).expect("a lab");
        let _container = lab.container(1, "c1").expect("a container");
        assert_eq!(namespaces("panic").len(), 4);
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    assert!(namespaces("panic").is_empty());
    assert!(!Path::new("/run/fabric-lab/panic").exists());
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_removed() -> Result<()> {
    lab("stale", 2)?.keep()?;
    assert_eq!(namespaces("stale").len(), 3);
    assert_eq!(Lab::load("stale")?.hosts().len(), 2);
    drop(lab("stale", 1)?);
    assert!(namespaces("stale").is_empty());
    assert!(Lab::load("stale").is_err());
    Ok(())
}
