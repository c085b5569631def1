//! Real broadcast and multicast in a network made with `--multicast`: every member gets each datagram once, on the same host, on
//! other hosts and behind a foreign VTEP, and nobody else gets any.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use fabric_lab::{Container, Host, Lab, Options, foreign, until};
use serde_json::Value;

/// Datagrams of each send.
const COUNT: u64 = 8;

struct Scene {
    /// `a` and `b` on the first host, `c` on the second, `d` on the third; `other` on the first, in another network.
    containers: Vec<Container>,
    lab: Lab,
}

fn scene(lab: Lab, extra: &[&str]) -> Result<Scene> {
    let network =
        ["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100", "--multicast"];
    lab.create_network(&[&network, extra].concat())?;
    lab.create_network(&["n2", "--subnet", "192.168.20.0/24", "--vni", "200", "--multicast"])?;
    let mut containers = Vec::new();
    for (host, name, number) in [(1, "a", 11), (1, "b", 12), (2, "c", 21), (3, "d", 31)] {
        let container = lab.container(host, name)?;
        let (v4, v6) = (format!("192.168.10.{number}"), format!("fd00:10::{number}"));
        lab.host(host).attach(&container, name, "n1", &["--ip", &v4, "--ip", &v6])?;
        containers.push(container);
    }
    let other = lab.container(1, "other")?;
    lab.host(1).attach(&other, "other", "n2", &["--ip", "192.168.20.11"])?;
    containers.push(other);
    lab.declare_peers()?;
    let [a, _, c, d, _] = &containers[..] else { anyhow::bail!("five containers") };
    until("the hosts know each other", || {
        a.ping("192.168.10.21").is_ok() && a.ping("192.168.10.31").is_ok() && c.ping("192.168.10.31").is_ok()
    })?;
    until("the far host answers in IPv6", || d.ping("fd00:10::11").is_ok())?;
    Ok(Scene { containers, lab })
}

/// Whether everybody gets a group without having joined it.
fn is_for_all(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => !group.is_multicast() || group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    }
}

/// Groups that a container has joined, as its host's agent shows them.
fn groups(lab: &Lab, container: &Container) -> Result<Vec<IpAddr>> {
    let endpoint = lab.host(container.host()).endpoint(container.name())?;
    Ok(endpoint.status.context("a status")?.groups)
}

/// Waits until a container's report was noted.
fn until_joined(lab: &Lab, container: &Container, group: IpAddr) -> Result<()> {
    let what = format!("{} is a member of {group}", container.name());
    until(&what, || groups(lab, container).is_ok_and(|groups| groups.contains(&group)))
}

/// What each of `receivers` counts of `COUNT` datagrams that `from` sends.
fn counted(
    lab: &Lab,
    from: &Container,
    receivers: &[&Container],
    group: &str,
    more: &[&str],
) -> Result<Vec<(u64, u64)>> {
    let sinks: Vec<_> = receivers
        .iter()
        .map(|receiver| receiver.serve(&["group-sink", "--group", group, "--seconds", "60"]))
        .collect::<Result<_>>()?;
    let address = group.parse::<SocketAddr>()?.ip();
    // A foreign container's report is no concern of ours.
    for receiver in receivers.iter().filter(|r| !is_for_all(address) && groups(lab, r).is_ok()) {
        until_joined(lab, receiver, address)?;
    }
    let count = COUNT.to_string();
    from.traffic(&[&["group-send", "--to", group, "--count", &count], more].concat())?;
    sinks
        .into_iter()
        .map(|sink| {
            let report = sink.report()?;
            let number = |name: &str| report[name].as_u64().context("a number");
            Ok((number("packets")?, number("different")?))
        })
        .collect()
}

#[track_caller]
fn all_once(scene: &Scene, groups: &[&str], more: &[&str]) -> Result<()> {
    let [a, b, c, d, other] = &scene.containers[..] else { anyhow::bail!("five containers") };
    for group in groups {
        // mDNS-like: everybody asks in turn, everybody else hears it once.
        for (from, rest) in [(a, [b, c, d]), (c, [a, b, d])] {
            // Nobody in the other network has IPv6.
            let outside = if group.contains("192.168") || group.contains('[') { vec![] } else { vec![other] };
            let got = counted(&scene.lab, from, &[&rest[..], &outside].concat(), group, more)?;
            let expected: Vec<_> =
                rest.iter().map(|_| (COUNT, COUNT)).chain(outside.iter().map(|_| (0, 0))).collect();
            assert_eq!(got, expected, "{group} from {}", from.name());
        }
    }
    Ok(())
}

/// Groups that everybody gets, others, which the receivers have joined, and broadcast.
const GROUPS: [&str; 5] =
    ["224.0.0.251:5353", "255.255.255.255:5000", "192.168.10.255:5000", "[ff02::fb]:5353", "[ff02::1:2]:547"];

#[test]
fn everybody_in_the_network_gets_each_datagram_once() -> Result<()> {
    let scene = scene(Lab::new("mca", 3)?, &[])?;
    let before: Vec<_> = scene.lab.hosts().iter().map(Host::counts).collect::<Result<_>>()?;
    all_once(&scene, &GROUPS, &[])?;
    for (host, before) in scene.lab.hosts().iter().zip(&before) {
        let drops: Vec<_> = host.counts()?.since(before).drops().into_keys().collect();
        assert!(
            !drops.iter().any(|drop| drop.contains("copy_failed") || drop.contains("bad_group")),
            "{drops:?}"
        );
    }
    // The kernel cuts these; too large for the underlay, each is dropped and nothing of it arrives.
    all_once(&scene, &["224.0.0.251:5353"], &["--size", "1000", "--gso"])?;
    let [a, b, c, ..] = &scene.containers[..] else { anyhow::bail!("five containers") };
    assert_eq!(
        counted(&scene.lab, a, &[b, c], "224.0.0.251:5353", &["--size", "9000"])?,
        [(COUNT, COUNT); 2],
        "cut inside"
    );
    Ok(())
}

#[test]
fn the_underlay_may_be_ipv6() -> Result<()> {
    let mut lab = Lab::with("mcb", &Options { hosts: 3, agents: false, ..Options::default() })?;
    for n in 1..=3 {
        let address = lab.host(n).address6();
        lab.host_mut(n).set_agent_args(&["--vtep", &address]);
        lab.host_mut(n).start_agent()?;
    }
    all_once(&scene(lab, &[])?, &["224.0.0.251:5353", "[ff02::fb]:5353"], &[])
}

/// Without an agent the programs go on.
#[test]
fn hosts_and_a_dead_agent() -> Result<()> {
    let mut scene = scene(Lab::new("mcc", 3)?, &["--host-access"])?;
    let networks = scene.lab.host(2).networks()?;
    let network = networks.iter().find(|n| n.metadata.name == "n1").context("the network")?;
    let ifname = network.status.as_ref().context("a status")?.host_ifname.clone();
    scene.lab.host_mut(1).kill_agent()?;
    all_once(&scene, &["224.0.0.251:5353"], &[])?;
    let sink = ["group-sink", "--group", "224.0.0.251:5353", "--ifname", &ifname, "--seconds", "60"];
    let sink = scene.lab.host(2).serve(&sink)?;
    let [a, ..] = &scene.containers[..] else { anyhow::bail!("five containers") };
    a.traffic(&["group-send", "--to", "224.0.0.251:5353", "--count", "8"])?;
    assert_eq!(sink.report()?["packets"], COUNT, "the far host");
    let send = ["group-send", "--to", "224.0.0.251:5353", "--ifname", &ifname, "--count", "8"];
    let sink = a.serve(&["group-sink", "--group", "224.0.0.251:5353", "--seconds", "60"])?;
    scene.lab.host(2).traffic(&send)?;
    assert_eq!(sink.report()?["packets"], COUNT, "from the far host");
    Ok(())
}

/// A Linux `vxlan` device with a bridge gets copies and sends some.
#[test]
fn a_foreign_vtep_is_a_member() -> Result<()> {
    let (a, k, lab) =
        foreign::lab("mcd", &foreign::Foreign { network: &["--multicast"], ..Default::default() })?;
    for (from, to) in [(&a, &k), (&k, &a)] {
        for group in ["224.0.0.251:5353", "255.255.255.255:5000", "[ff02::fb]:5353"] {
            assert_eq!(
                counted(&lab, from, &[to], group, &[])?,
                [(COUNT, COUNT)],
                "{group} from {}",
                from.name()
            );
        }
    }
    Ok(())
}

/// Groups are for those who have joined them. Who had joined before the network replicated anything is found by asking, and an agent that
/// comes back knows what its predecessor knew.
#[test]
fn only_who_has_joined_gets_a_group() -> Result<()> {
    const GROUPS: [&str; 2] = ["239.1.1.1:5000", "[ff05::1:1]:5000"];
    let mut lab = Lab::new("mce", 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let mut containers = Vec::new();
    for (host, name, number) in [(1, "a", 11), (1, "b", 12), (2, "c", 21), (2, "d", 22)] {
        let container = lab.container(host, name)?;
        let (v4, v6) = (format!("192.168.10.{number}"), format!("fd00:10::{number}"));
        lab.host(host).attach(&container, name, "n1", &["--ip", &v4, "--ip", &v6])?;
        containers.push(container);
    }
    lab.declare_peers()?;
    let [a, b, c, d] = &containers[..] else { anyhow::bail!("four containers") };
    until("the hosts know each other", || a.ping("192.168.10.21").is_ok() && a.ping("fd00:10::22").is_ok())?;
    let sink = |of: &Container, group| of.serve(&["group-sink", "--group", group, "--seconds", "60"]);
    let sinks = GROUPS.map(|group| sink(c, group));
    for host in lab.hosts() {
        let text = host.fabric(&["network", "inspect", "n1", "-o", "json"])?;
        let mut network: Value = serde_json::from_str(&text)?;
        network["spec"]["multicast"] = true.into();
        network["kind"] = "Network".into();
        network.as_object_mut().context("an object")?.remove("status");
        // A host does not see the machine's files under /run.
        std::fs::write(host.directory().join("run/n1.json"), network.to_string())?;
        host.fabric(&["apply", "-f", "/run/n1.json"])?;
    }
    for group in GROUPS {
        until_joined(&lab, c, group.parse::<SocketAddr>()?.ip())?;
    }
    // What moved on both hosts: copies for ports, copies for nodes, frames that nobody wanted.
    let send = |lab: &Lab, groups: &[&str]| -> Result<[[u64; 3]; 2]> {
        let before = [1, 2].map(|n| lab.host(n).counts());
        for group in groups {
            a.traffic(&["group-send", "--to", group, "--count", &COUNT.to_string()])?;
        }
        let mut moved = [[0; 3]; 2];
        for ((n, hook), before) in [(1, "from_container"), (2, "from_uplink")].into_iter().zip(before) {
            let counts = lab.host(n).counts()?.since(&before?);
            moved[n - 1] = ["copy_local", "copy_remote", "absorbed"]
                .map(|action| counts.get(&format!("{hook} action {action}")));
        }
        Ok(moved)
    };
    let [[near, out, _], far] = send(&lab, &GROUPS)?;
    assert_eq!([near, out], [0, 2 * COUNT], "b has not joined");
    assert_eq!(far, [2 * COUNT, 0, 0], "c has joined, d has not");
    for sink in sinks {
        assert_eq!(sink?.report()?["packets"], COUNT);
    }
    until("c has left", || groups(&lab, c).is_ok_and(|groups| !groups.iter().any(|group| !is_link(*group))))?;
    let [[near, out, _], far] = send(&lab, &GROUPS)?;
    assert_eq!([near, out], [0, 2 * COUNT], "other nodes get everything");
    assert_eq!(far, [0, 0, 2 * COUNT], "nobody there has joined");

    let (group, sinks) = (GROUPS[0], [sink(b, GROUPS[0])?, sink(d, GROUPS[0])?]);
    for member in [b, d] {
        until_joined(&lab, member, group.parse::<SocketAddr>()?.ip())?;
    }
    lab.host_mut(2).kill_agent()?;
    lab.host_mut(2).start_agent()?;
    let [[near, ..], [far, ..]] = send(&lab, &[group])?;
    assert_eq!([near, far], [COUNT; 2], "each host has a member");
    for sink in sinks {
        assert_eq!(sink.report()?["packets"], COUNT);
    }
    Ok(())
}

/// Groups of the link that kernels join by themselves.
fn is_link(group: IpAddr) -> bool {
    matches!(group, IpAddr::V6(group) if group.octets()[1] & 0xf == 2)
}
