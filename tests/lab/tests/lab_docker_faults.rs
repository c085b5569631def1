//! The agent or Docker is away, dies, comes back: nothing that runs is harmed, and nothing is left of what does not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabric_lab::{DOCKER_IMAGE, Docker, Host, Lab, until};

const NETWORK: &str = "network create -d fabric --ipam-driver fabric --subnet 10.50.0.0/24 web";

/// One host with two containers that reach each other.
fn scene(id: &str, args: &[&str]) -> Result<(Docker, Lab)> {
    let lab = Lab::with_docker(id, 1)?;
    let docker = Docker::start(lab.host(1), args)?;
    docker.sh(NETWORK)?;
    for name in ["web1", "web2"] {
        docker.sleeper(name, "web", &[])?;
    }
    docker.ping("web1", "web2")?;
    Ok((docker, lab))
}

fn names(host: &Host) -> Result<Vec<String>> {
    Ok(host.endpoints()?.into_iter().map(|endpoint| endpoint.metadata.name).collect())
}

#[test]
fn containers_go_on_while_the_agent_dies_and_a_start_meanwhile_fails_and_leaves_nothing() -> Result<()> {
    let (docker, mut lab) = scene("kagent", &[])?;
    let before = names(lab.host(1))?;
    lab.host_mut(1).kill_agent()?;
    docker.ping("web1", "web2")?;
    let failed =
        docker.try_run(&["run", "-d", "--name", "late", "--network", "web", DOCKER_IMAGE, "sleep", "9"])?;
    ensure!(failed.code == 125 && failed.stderr.contains("/run/docker/plugins/fabric.sock"), "{failed:?}");
    docker.sh("rm late")?;
    lab.host_mut(1).start_agent()?;
    assert_eq!(names(lab.host(1))?, before, "what was there, and nothing else");
    docker.ping("web1", "web2")?;
    docker.sleeper("late", "web", &[])?;
    docker.ping("web1", "late")?;
    // Ended in an orderly way, the agent takes its socket with it.
    lab.host_mut(1).term_agent()?;
    ensure!(lab.host(1).exec(&["test", "-e", "/run/docker/plugins/fabric.sock"])?.code == 1);
    docker.ping("web1", "late")?;
    lab.host_mut(1).start_agent()?;
    docker.sh("rm -f web1 web2 late")?;
    docker.sh("network rm web")?;
    docker.nothing_left(lab.host(1))
}

#[test]
fn what_docker_could_not_tell_stands_in_nobodys_way() -> Result<()> {
    let mut lab = Lab::with_docker("kuntold", 1)?;
    let docker = Docker::start(lab.host(1), &[])?;
    // Docker's own address management: it gives an address again as soon as it knows that it is free.
    docker.sh("network create -d fabric --subnet 10.50.0.0/24 web")?;
    docker.sleeper("web1", "web", &["--ip", "10.50.0.77"])?;
    let before = names(lab.host(1))?;
    lab.host_mut(1).kill_agent()?;
    docker.sh("rm -f web1")?;
    lab.host_mut(1).start_agent()?;
    assert_eq!(names(lab.host(1))?, before, "nobody has said that it is gone");
    docker.sleeper("web2", "web", &["--ip", "10.50.0.77"])?;
    docker.sleeper("web3", "web", &[])?;
    docker.ping("web3", "10.50.0.77")?;
    let now = names(lab.host(1))?;
    ensure!(now.len() == 2 && !now.contains(&before[0]), "{before:?} and {now:?}");
    docker.sh("rm -f web2 web3")?;
    docker.sh("network rm web")?;
    docker.nothing_left(lab.host(1))
}

#[test]
fn a_killed_engine_leaves_nothing_once_it_is_back() -> Result<()> {
    let (mut docker, lab) = scene("kkilled", &[])?;
    let host = lab.host(1);
    docker.sleeper("always", "web", &["--restart", "always", "--ip", "10.50.0.77"])?;
    let before = names(host)?;
    assert_eq!(before.len(), 3);
    docker.kill()?;
    // Their containers run: nothing may be taken from them.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(names(host)?, before);
    docker.start_daemon(&[])?;
    until("the container that is to run always is back", || docker.ping("always", "10.50.0.77").is_ok())?;
    until("only its new endpoint is left", || {
        names(host).is_ok_and(|now| now.len() == 1 && !before.contains(&now[0]))
    })?;
    docker.sh("start web1")?;
    docker.ping("web1", "always")?;
    docker.sh("rm -f web1 web2 always")?;
    docker.sh("network rm web")?;
    docker.nothing_left(host)
}

#[test]
fn an_engine_that_ends_in_order_takes_its_endpoints_with_it() -> Result<()> {
    let (mut docker, lab) = scene("kterm", &[])?;
    docker.stop()?;
    ensure!(lab.host(1).endpoints()?.is_empty());
    ensure!(lab.host(1).networks()?.len() == 1, "the network is Docker's still");
    docker.start_daemon(&[])?;
    docker.sh("start web1 web2")?;
    docker.ping("web1", "web2")?;
    docker.sh("rm -f web1 web2")?;
    docker.sh("network rm web")?;
    docker.nothing_left(lab.host(1))
}

#[test]
fn with_live_restore_containers_outlive_docker_and_the_agent() -> Result<()> {
    let (mut docker, mut lab) = scene("klive", &["--live-restore"])?;
    let before = names(lab.host(1))?;
    let address = docker.address("web2", "web", "IPAddress")?;
    let pid = docker.sh("inspect -f {{.State.Pid}} web1")?;
    // From within the container's namespace: Docker is away.
    let ping = |host: &Host| {
        host.sh(&["nsenter", "-t", &pid, "-n", "ping", "-c", "3", "-i", "0.2", "-W", "5", &address])
            .context("the containers go on")
    };
    docker.kill()?;
    ping(lab.host(1))?;
    lab.host_mut(1).kill_agent()?;
    ping(lab.host(1))?;
    lab.host_mut(1).start_agent()?;
    ping(lab.host(1))?;
    // Long enough for leftovers to be looked for.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(names(lab.host(1))?, before, "both run");
    docker.start_daemon(&["--live-restore"])?;
    docker.ping("web1", "web2")?;
    docker.sleeper("web3", "web", &[])?;
    docker.ping("web1", "web3")?;
    let taken =
        docker.try_run(&["run", "--rm", "--network", "web", "--ip", &address, DOCKER_IMAGE, "true"])?;
    ensure!(taken.code == 125 && taken.stderr.contains("belongs to endpoint docker-"), "{taken:?}");
    docker.ping("web1", "web2")?;
    docker.sh("rm -f web1 web2 web3")?;
    docker.sh("network rm web")?;
    docker.nothing_left(lab.host(1))
}
