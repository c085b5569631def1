//! What `docker network create` and `docker run` can ask for, and what they are refused.

use anyhow::{Context, Result, ensure};
use fabric_lab::{DOCKER_IMAGE, Docker, Lab};

/// A line that Docker must refuse, with a sentence that holds `part`.
fn refused(docker: &Docker, line: &str, part: &str) -> Result<()> {
    let output = docker.try_run(&line.split_whitespace().collect::<Vec<_>>())?;
    ensure!(!output.success() && output.stderr.contains(part), "`docker {line}`, not {part:?}: {output:?}");
    Ok(())
}

#[test]
fn options_of_networks_and_containers_are_kept_to() -> Result<()> {
    let lab = Lab::with_docker("koptions", 1)?;
    let host = lab.host(1);
    let docker = Docker::start(host, &[])?;
    let create = "network create -d fabric --ipam-driver fabric";
    docker.sh(&format!(
        "{create} --subnet 10.50.0.0/24 --gateway 10.50.0.254 --ip-range 10.50.0.128/25 --aux-address printer=10.50.0.129 --ipv6 --subnet fd00:50::/64 --gateway fd00:50::fe -o com.docker.network.driver.mtu=1400 -o fabric.vni=50 -o fabric.multicast=true -o fabric.network=shop --label team=web web"
    ))?;
    let network = host.networks()?.pop().context("a network")?;
    assert_eq!(
        (network.metadata.name.as_str(), network.spec.vni, network.spec.mtu, network.spec.multicast),
        ("shop", Some(50), Some(1400), true)
    );
    docker.sleeper("web1", "web", &[])?;
    // The first of the range that is not the reserved one.
    let first = docker.address("web1", "web", "IPAddress")?;
    ensure!(first == "10.50.0.128" || first == "10.50.0.130", "{first}");
    docker.sleeper(
        "web2",
        "web",
        &["--ip", "10.50.0.7", "--ip6", "fd00:50::7", "--mac-address", "02:aa:bb:cc:dd:01"],
    )?;
    let show = docker.sh("exec web2 ip addr show eth0")?;
    for part in ["10.50.0.7/24", "fd00:50::7/64", "02:aa:bb:cc:dd:01", "mtu 1400"] {
        ensure!(show.contains(part), "{part} in {show}");
    }
    for to in ["10.50.0.7", "fd00:50::7", "10.50.0.254", "fd00:50::fe"] {
        docker.ping("web1", to)?;
    }
    ensure!(docker.sh("exec web2 ip route")?.contains("default via 10.50.0.254"));
    ensure!(docker.sh("exec web2 ip -6 route")?.contains("default via fd00:50::fe"));
    // As large as the MTU, and not larger.
    docker.sh("exec web1 ping -c 1 -W 5 -s 1372 10.50.0.7")?;

    docker.sh(&format!("{create} --internal --subnet 10.51.0.0/24 inside"))?;
    docker.sleeper("in1", "inside", &[])?;
    docker.sleeper("in2", "inside", &[])?;
    docker.ping("in1", "in2")?;
    let routes = docker.sh("exec in1 ip route")?;
    ensure!(!routes.contains("default") && routes.contains("10.51.0.0/24"), "{routes}");

    // Several subnets of a family: each container is in one of them, and they reach each other through the gateway.
    docker.sh(&format!("{create} --subnet 10.52.0.0/24 --subnet 10.53.0.0/24 wide"))?;
    docker.sleeper("wide1", "wide", &["--ip", "10.52.0.9"])?;
    docker.sleeper("wide2", "wide", &["--ip", "10.53.0.9"])?;
    docker.ping("wide1", "10.53.0.9")?;

    // No subnet: one that nobody uses. Without our address management: Docker's.
    docker.sh(&format!("{create} --ipv6 any"))?;
    docker.sh("network create -d fabric --subnet 10.54.0.0/24 plain")?;
    for (name, network) in [("any1", "any"), ("any2", "any"), ("plain1", "plain"), ("plain2", "plain")] {
        docker.sleeper(name, network, &[])?;
    }
    docker.ping("any1", "any2")?;
    docker.ping("any1", &docker.address("any2", "any", "GlobalIPv6Address")?)?;
    docker.ping("plain1", "plain2")?;

    docker.sh("rm -f web1 web2 in1 in2 wide1 wide2 any1 any2 plain1 plain2")?;
    docker.sh("network rm web inside wide any plain")?;
    docker.nothing_left(host)
}

#[test]
fn what_is_wrong_or_not_there_yet_is_refused_by_name() -> Result<()> {
    let lab = Lab::with_docker("krefuse", 1)?;
    let host = lab.host(1);
    let docker = Docker::start(host, &[])?;
    let create = "network create -d fabric --ipam-driver fabric";
    host.fabric(&["network", "create", "red", "--subnet", "10.70.0.0/24", "--vni", "70"])?;
    for (options, part) in [
        ("-o mtu=1400 --subnet 10.50.0.0/24", "option mtu is not known"),
        ("-o fabric.vni=many --subnet 10.50.0.0/24", "option fabric.vni=many"),
        ("-o fabric.vni=70 --subnet 10.50.0.0/24", "VNI 70 belongs to network red"),
        (
            "-o com.docker.network.driver.mtu=9000 --subnet 10.50.0.0/24",
            "mtu 9000 is more than the underlay carries",
        ),
        ("--ipam-opt size=3 --subnet 10.50.0.0/24", "IPAM option size is not known"),
        ("--subnet 10.50.0.0/30", "too small"),
        ("-o fabric.network=red --subnet 10.71.0.0/24", "network red: it has the subnets 10.70.0.0/24"),
        ("-o fabric.network=red --subnet 10.70.0.0/24 --gateway 10.70.0.9", "give --gateway 10.70.0.1"),
    ] {
        refused(&docker, &format!("{create} {options} web"), part)?;
    }
    assert_eq!(docker.sh("network ls -q -f driver=fabric")?, "", "none was made");
    docker.sh(&format!("{create} --subnet 10.50.0.0/24 --aux-address printer=10.50.0.9 web"))?;
    docker.sleeper("web1", "web", &["--ip", "10.50.0.5"])?;
    for (options, part) in [
        ("-p 8080:80", "published ports (-p, -P) are not available"),
        ("--ip 10.50.0.5", "belongs to endpoint docker-"),
        ("--ip 10.50.0.9", "is reserved (--aux-address)"),
        ("--ip 10.50.0.1", "is the gateway"),
        ("--mac-address 01:00:5e:00:00:01", "group or all-zero"),
    ] {
        refused(&docker, &format!("run --rm --network web {options} {DOCKER_IMAGE} true"), part)?;
    }
    docker.sh(&format!("{create} --subnet 10.51.0.0/24 db"))?;
    refused(&docker, "network connect --driver-opt k1=v1 db web1", "option k1 is not known")?;
    assert_eq!(host.endpoints()?.len(), 1, "nothing is left of what was refused");
    docker.ping("web1", "10.50.0.1")?;
    docker.sh("rm -f web1")?;
    docker.sh("network rm web db")?;
    host.fabric(&["network", "rm", "red"])?;
    docker.nothing_left(host)
}
