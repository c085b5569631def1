//! A real Docker engine on one host: the whole life of networks and containers.

use std::{collections::BTreeSet, process::Child};

use anyhow::{Context, Result, ensure};
use fabric_api::status::State;
use fabric_lab::{DOCKER_IMAGE, Docker, Lab, until};

#[test]
fn containers_of_a_network_come_talk_and_go() -> Result<()> {
    let lab = Lab::with_docker("kone", 1)?;
    let host = lab.host(1);
    let docker = Docker::start(host, &[])?;
    docker.sh(
        "network create -d fabric --ipam-driver fabric --subnet 10.50.0.0/24 --ipv6 --subnet fd00:50::/64 web",
    )?;
    docker.sleeper("web1", "web", &["--label", "fabric.label.app=web", "--label", "other=x"])?;
    docker.sleeper("web2", "web", &[])?;
    let (v4, v6) =
        (docker.address("web2", "web", "IPAddress")?, docker.address("web2", "web", "GlobalIPv6Address")?);
    docker.ping("web1", &v4)?;
    docker.ping("web1", &v6)?;
    // Docker's own resolver knows the names of one engine.
    docker.ping("web1", "web2")?;
    // The gateway answers, and is the default route.
    docker.ping("web1", "10.50.0.1")?;
    let routes = docker.sh("exec web1 ip route")?;
    ensure!(routes.contains("default via 10.50.0.1 dev eth0"), "{routes}");
    // The fabric sees what Docker sees.
    let endpoints = host.endpoints()?;
    let seen: BTreeSet<String> =
        endpoints.iter().flat_map(|e| &e.spec.addresses).map(ToString::to_string).collect();
    ensure!(endpoints.len() == 2 && seen.contains(&v4) && seen.contains(&v6), "{endpoints:?}");
    ensure!(
        endpoints
            .iter()
            .all(|e| e.metadata.owner == "docker"
                && e.status.as_ref().is_some_and(|s| s.state == State::Ready))
    );
    let mac = docker.address("web2", "web", "MacAddress")?;
    ensure!(endpoints.iter().any(|e| e.spec.mac.as_ref() == Some(&mac)), "{mac} in {endpoints:?}");
    // What Docker says only afterwards.
    until("the containers' names and labels are known", || {
        let named = |name: &str, app: Option<&str>| {
            host.endpoints().is_ok_and(|all| {
                all.iter().any(|e| {
                    let container = e.spec.attachment.as_ref().and_then(|a| a.container.as_deref());
                    let labels = &e.metadata.labels;
                    container == Some(name)
                        && labels.get("app").map(String::as_str) == app
                        && labels.len() < 2
                })
            })
        };
        named("web1", Some("web")) && named("web2", None)
    })?;
    let inspected = docker.sh("network inspect web")?;
    ensure!(inspected.contains(&v4) && inspected.contains("\"Driver\": \"fabric\""), "{inspected}");
    // Another network, and back.
    docker.sh("network create -d fabric --ipam-driver fabric --subnet 10.51.0.0/24 db")?;
    docker.sleeper("db1", "db", &[])?;
    let c = docker.address("db1", "db", "IPAddress")?;
    docker.no_ping("web1", &c)?;
    docker.sh("network connect db web1")?;
    docker.ping("web1", &c)?;
    docker.ping("web1", &v4)?;
    docker.sh("network disconnect db web1")?;
    docker.no_ping("web1", &c)?;
    docker.ping("web1", &v4)?;
    // Stopped and started, it is there again.
    docker.sh("stop -t 0 web2")?;
    until("web2's endpoint goes", || host.endpoints().is_ok_and(|all| all.len() == 2))?;
    docker.sh("start web2")?;
    docker.ping("web1", "web2")?;
    // The network stays while it is in use, and the fabric's own CLI leaves Docker's things alone.
    ensure!(docker.try_run(&["network", "rm", "web"])?.stderr.contains("has active endpoints"));
    let name = &host.endpoints()?[0].metadata.name;
    let refused = host.try_fabric(&["endpoint", "detach", name])?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("belongs to docker: use `docker`"),
        "{}",
        refused.stderr
    );
    docker.sh("rm -f web1 web2 db1")?;
    docker.sh("network rm web db")?;
    docker.nothing_left(host)
}

#[test]
fn fifty_containers_start_at_once() -> Result<()> {
    let lab = Lab::with_docker("kfifty", 1)?;
    let host = lab.host(1);
    let docker = Docker::start(host, &[])?;
    docker.sh("network create -d fabric --ipam-driver fabric --subnet 10.50.0.0/24 web")?;
    let names: Vec<String> = (1..=50).map(|n| format!("c{n}")).collect();
    let start = |name: &String| -> Result<Child> {
        let args = ["run", "-d", "--name", name, "--network", "web", DOCKER_IMAGE, "sleep", "100000"];
        docker.client(&args).stdout(std::process::Stdio::null()).spawn().context("docker starts")
    };
    let mut clients = names.iter().map(start).collect::<Result<Vec<_>>>()?;
    for (client, name) in clients.iter_mut().zip(&names) {
        ensure!(client.wait()?.success(), "container {name} does not start");
    }
    let addresses = names.iter().map(|name| docker.address(name, "web", "IPAddress"));
    let addresses = addresses.collect::<Result<BTreeSet<String>>>()?;
    assert_eq!(addresses.len(), 50, "{addresses:?}");
    for to in &addresses {
        docker.ping("c1", to)?;
    }
    assert_eq!(host.endpoints()?.len(), 50);
    docker.run(&[&["rm", "-f"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())?;
    docker.sh("network rm web")?;
    docker.nothing_left(host)
}
