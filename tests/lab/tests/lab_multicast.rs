//! Real broadcast and multicast in a network made with `--multicast`: every member gets each datagram once, on the same host, on
//! other hosts and behind a foreign VTEP, and nobody else gets any.

use anyhow::{Context, Result};
use fabric_lab::{Container, Host, Lab, Options, foreign, until};

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

/// What each of `receivers` counts of `COUNT` datagrams that `from` sends.
fn counted(
    from: &Container,
    receivers: &[&Container],
    group: &str,
    more: &[&str],
) -> Result<Vec<(u64, u64)>> {
    let sinks: Vec<_> = receivers
        .iter()
        .map(|receiver| receiver.serve(&["group-sink", "--group", group, "--seconds", "60"]))
        .collect::<Result<_>>()?;
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
            let got = counted(from, &[&rest[..], &outside].concat(), group, more)?;
            let expected: Vec<_> =
                rest.iter().map(|_| (COUNT, COUNT)).chain(outside.iter().map(|_| (0, 0))).collect();
            assert_eq!(got, expected, "{group} from {}", from.name());
        }
    }
    Ok(())
}

/// Every group that is flooded, and broadcast.
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
        counted(a, &[b, c], "224.0.0.251:5353", &["--size", "9000"])?,
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
    let (a, k, _lab) =
        foreign::lab("mcd", &foreign::Foreign { network: &["--multicast"], ..Default::default() })?;
    for (from, to) in [(&a, &k), (&k, &a)] {
        for group in ["224.0.0.251:5353", "255.255.255.255:5000", "[ff02::fb]:5353"] {
            assert_eq!(counted(from, &[to], group, &[])?, [(COUNT, COUNT)], "{group} from {}", from.name());
        }
    }
    Ok(())
}
