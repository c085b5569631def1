//! Two engines on two hosts share a network of the fabric.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use fabric_lab::{DOCKER_IMAGE, Docker, Lab, until};
use serde_json::Value;

#[test]
fn containers_of_two_engines_talk() -> Result<()> {
    let lab = Lab::with_docker("ktwo", 2)?;
    lab.create_network(&["blue", "--subnet", "10.60.0.0/24", "--subnet", "fd00:60::/64", "--vni", "60"])?;
    let engines = [Docker::start(lab.host(1), &[])?, Docker::start(lab.host(2), &[])?];
    let mut addresses = Vec::new();
    for (n, docker) in (1..).zip(&engines) {
        // A part of the subnet each, while each host has a store of its own.
        let range = format!("--ip-range 10.60.0.{}/26 --ip-range fd00:60::{n}00/120", n * 64);
        docker.sh(&format!(
            "network create -d fabric -o fabric.network=blue --ipam-driver fabric --ipv6 --subnet 10.60.0.0/24 --subnet fd00:60::/64 {range} blue"
        ))?;
        let name = format!("app{n}");
        docker.sleeper(&name, "blue", &[])?;
        let field = |field| docker.address(&name, "blue", field);
        addresses.push((field("IPAddress")?, field("GlobalIPv6Address")?));
    }
    lab.declare_peers()?;
    for (from, to) in [(0, 1), (1, 0)] {
        let name = format!("app{}", from + 1);
        let (v4, v6) = &addresses[to];
        until("the other host is known", || engines[from].ping(&name, v4).is_ok())?;
        engines[from].ping(&name, v6)?;
        engines[from].sh(&format!("exec {name} ping -c 1 -W 5 -s 1400 {v4}"))?;
    }
    let (v4, v6) = addresses[1].clone();
    for (address, family) in [(v4, "-4"), (v6, "-6")] {
        let serve = ["exec", "app2", "iperf3", "-s", "-1", family];
        let mut server = engines[1].client(&serve).stdout(Stdio::null()).spawn()?;
        let mut report = Value::Null;
        until("iperf3 comes to its end", || {
            let args = ["exec", "app1", "iperf3", family, "-c", &address, "-t", "2", "-J"];
            let output = engines[0].try_run(&args);
            report = output.ok().and_then(|o| serde_json::from_str(&o.stdout).ok()).unwrap_or_default();
            report["end"]["sum_received"]["bytes"].is_u64()
        })?;
        let received = &report["end"]["sum_received"];
        ensure!(received["bytes"].as_u64() > Some(10_000_000), "{received}");
        ensure!(server.wait()?.success());
    }
    // One container more on a host is one more for the other, once it was told.
    engines[1].sleeper("app3", "blue", &[])?;
    lab.declare_peers()?;
    let third = engines[1].address("app3", "blue", "IPAddress")?;
    until("the new one is known", || engines[0].ping("app1", &third).is_ok())?;
    // Docker forgets its network; the fabric's is there as before.
    for (docker, names) in engines.iter().zip(["app1", "app2 app3"]) {
        docker.sh(&format!("rm -f {names}"))?;
        docker.sh("network rm blue")?;
    }
    for host in lab.hosts() {
        let network = host.networks()?.pop().context("it stays")?;
        assert_eq!((network.metadata.name.as_str(), network.metadata.owner.as_str()), ("blue", "cli"));
        let local =
            host.endpoints()?.into_iter().filter(|e| e.status.as_ref().is_some_and(|s| s.local)).count();
        assert_eq!(local, 0);
    }
    ensure!(
        engines[0].try_run(&["run", "--rm", DOCKER_IMAGE, "true"])?.success(),
        "Docker's own bridge works as ever"
    );
    Ok(())
}
