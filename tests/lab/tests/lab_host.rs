//! Hosts inside a network made with host access: they reach containers near and far and are reached, survive the agent, and
//! leave nothing behind.

use anyhow::{Context, Result};
use fabric_lab::{
    Container, Host, Lab,
    exact::{Place, same},
    until,
};

const V4: &str = "192.168.10.0/24";
const V6: &str = "fd00:10::/64";

struct Scene {
    a: Container,
    b: Container,
    lab: Lab,
}

fn scene(id: &str) -> Result<Scene> {
    let lab = Lab::new(id, 2)?;
    lab.create_network(&["n1", "--subnet", V4, "--subnet", V6, "--vni", "100", "--host-access"])?;
    let mut containers = Vec::new();
    for (n, name, addresses) in
        [(1, "a", ["192.168.10.11", "fd00:10::11"]), (2, "b", ["192.168.10.21", "fd00:10::21"])]
    {
        let container = lab.container(n, name)?;
        let args: Vec<&str> = addresses.iter().flat_map(|address| ["--ip", *address]).collect();
        lab.host(n).attach(&container, name, "n1", &args)?;
        containers.push(container);
    }
    lab.declare_peers()?;
    let b = containers.pop().context("two containers")?;
    let a = containers.pop().context("two containers")?;
    Ok(Scene { a, b, lab })
}

/// The host's own addresses in the network, IPv4 first, and its interface there.
fn own(host: &Host) -> Result<(Vec<String>, String)> {
    let networks = host.networks()?;
    let network = networks.iter().find(|n| n.metadata.name == "n1").context("the network")?;
    let status = network.status.as_ref().context("a status")?;
    Ok((status.node_addresses.iter().map(ToString::to_string).collect(), status.host_ifname.clone()))
}

fn ping(host: &Host, to: &str) -> Result<()> {
    host.sh(&["ping", "-c1", "-W2", to]).map(drop)
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[test]
fn the_host_is_an_endpoint_like_the_others() -> Result<()> {
    let Scene { a, b, lab } = scene("hoa")?;
    let (h1, h2) = (lab.host(1), lab.host(2));
    let ((own1, _), (own2, _)) = (own(h1)?, own(h2)?);
    assert_eq!((own1.len(), own2.len()), (2, 2), "one address a subnet");
    until("the far host is known", || ping(h1, &own2[0]).is_ok() && ping(h2, &own1[1]).is_ok())?;
    let before: Vec<_> = lab.hosts().iter().map(|host| host.counts()).collect::<Result<_>>()?;
    for to in ["192.168.10.11", "fd00:10::11", "192.168.10.21", "fd00:10::21", "192.168.10.1", "fd00:10::1"] {
        ping(h1, to)?;
        ping(h2, to)?;
    }
    for to in own1.iter().chain(&own2) {
        a.ping(to)?;
        b.ping(to)?;
    }
    for (port, address) in (5000..).zip(["192.168.10.11", "fd00:10::11"]) {
        let address = at(address, port);
        bulk(h1, &a, &address)?;
        bulk(h2, &a, &address)?;
    }
    for (port, address) in (6000..).zip(&own1) {
        let address = at(address, port);
        bulk(&a, h1, &address)?;
        bulk(&b, h1, &address)?;
        bulk(h2, h1, &address)?;
    }
    for (host, before) in lab.hosts().iter().zip(&before) {
        let drops = host.counts()?.since(before).drops();
        assert!(drops.is_empty(), "{}: {drops:?}", host.name());
    }
    Ok(())
}

/// TCP and UDP in one direction, large writes among them: what arrives is what was sent.
fn bulk(from: &impl Place, to: &impl Place, address: &str) -> Result<()> {
    same(from, to, "tcp", address, &["--sizes", &["65536"; 64].join(",")])?;
    same(from, to, "udp", address, &["--sizes", "1-40,1400-1402,9000"])
}

#[test]
fn a_container_reaches_no_other_address_of_the_host() -> Result<()> {
    let Scene { a, b: _b, lab } = scene("hob")?;
    let host = lab.host(1);
    let (addresses, ifname) = own(host)?;
    let mac = host.link_attribute(&ifname, "address")?;
    a.ping(&addresses[0])?;
    let before = host.counts()?;
    a.sh(&["ip", "route", "replace", "10.0.1.1/32", "via", &addresses[0], "dev", "eth0"])?;
    a.sh(&["ip", "neigh", "replace", &addresses[0], "lladdr", &mac, "dev", "eth0"])?;
    assert_eq!(a.exec(&["ping", "-c1", "-W1", "10.0.1.1"])?.code, 1, "the host's underlay address");
    a.sh(&["ip", "address", "add", &format!("{}/32", addresses[0]), "dev", "eth0"])?;
    let lie = a.exec(&["ping", "-c1", "-W1", "-I", &addresses[0], "192.168.10.21"])?;
    assert_eq!(lie.code, 1, "with the host's address as source");
    let drops = host.counts()?.since(&before).drops();
    let of =
        |reason: &str| drops.iter().filter(|(name, _)| name.contains(reason)).map(|(_, n)| n).sum::<u64>();
    assert_eq!((of("no_route"), of("spoof") > 0), (1, true), "{drops:?}");
    Ok(())
}

#[test]
fn access_outlives_the_agent_and_goes_with_its_network() -> Result<()> {
    let Scene { a, b: _b, mut lab } = scene("hoc")?;
    let (addresses, ifname) = own(lab.host(1))?;
    let overlapping = ["network", "create", "n2", "--subnet", "192.168.10.128/25", "--host-access"];
    let refused = lab.host(1).try_fabric(&overlapping)?;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("overlaps") && refused.stderr.lines().count() == 1, "{}", refused.stderr);
    let underlay =
        lab.host(1).try_fabric(&["network", "create", "n3", "--subnet", "10.0.0.0/8", "--host-access"])?;
    assert!(underlay.code == 1 && underlay.stderr.contains("VTEP address"), "{}", underlay.stderr);

    until("the far host knows this one", || ping(lab.host(1), "192.168.10.21").is_ok())?;
    let index = lab.host(1).link_attribute(&ifname, "ifindex")?;
    lab.host_mut(1).kill_agent()?;
    ping(lab.host(1), "192.168.10.21")?;
    lab.host_mut(1).start_agent()?;
    assert_eq!(lab.host(1).link_attribute(&ifname, "ifindex")?, index, "the same interface");
    a.ping(&addresses[1])?;

    let host = lab.host(1);
    host.sh(&["ip", "address", "flush", "dev", &ifname])?;
    until("the addresses are back", || {
        ping(host, "192.168.10.21").is_ok() && ping(host, "fd00:10::21").is_ok()
    })?;
    host.sh(&["ip", "link", "delete", &ifname])?;
    until("the interface is back", || {
        ping(host, "192.168.10.21").is_ok() && ping(host, "fd00:10::21").is_ok()
    })?;

    host.fabric(&["endpoint", "detach", "a"])?;
    host.write_manifests(&[])?;
    until("the network goes", || host.try_fabric(&["network", "rm", "n1"]).is_ok_and(|o| o.success()))?;
    until("its interfaces are gone", || {
        host.link_names()
            .is_ok_and(|names| !names.iter().any(|name| name.starts_with("fac") || name.starts_with("fah")))
    })?;

    let second = lab.host_mut(2);
    let (_, ifname) = own(second)?;
    second.term_agent()?;
    second.sh(&["fabric-agent", "cleanup"])?;
    assert!(!second.link_names()?.contains(&ifname), "cleanup");
    Ok(())
}
