//! Packets of every size over underlays of every size: what may be fragmented is, inside the tunnel; who may not is told.

use std::process::Command;

use anyhow::{Context, Result};
use fabric_lab::{
    Capture, Container, Lab, Options, UNDERLAY,
    exact::{self, Place},
    stdout_of,
};

const V4: &str = "192.168.10.21:5000";
const V6: &str = "[fd00:10::21]:5000";
/// The containers' interfaces where they are larger than the underlay.
const INFLATED: &str = "16000";

/// What is between the hosts, and what is inside.
#[derive(Clone, Copy)]
struct Underlay {
    mtu: u32,
    /// IPv6 outside.
    over_v6: bool,
    /// IPv6 inside, beside IPv4.
    v6: bool,
}

impl Underlay {
    /// The largest IP packet inside: IP, UDP and VXLAN headers and the inner Ethernet header go off.
    fn largest(self) -> u32 {
        self.mtu - if self.over_v6 { 70 } else { 50 }
    }

    /// Hosts with this underlay and their agents.
    fn lab(self, id: &str, hosts: usize) -> Result<Lab> {
        let mut lab = Lab::with(id, &Options { hosts, agents: false, ..Options::default() })?;
        for n in 1..=hosts {
            let mtu = self.mtu.to_string();
            router_mtu(&lab, n, &mtu)?;
            lab.host(n).sh(&["ip", "link", "set", UNDERLAY, "mtu", &mtu])?;
            if self.over_v6 {
                lab.host(n).sh(&["ip", "-4", "address", "flush", "dev", UNDERLAY, "scope", "global"])?;
            }
            lab.host_mut(n).start_agent()?;
        }
        Ok(lab)
    }
}

/// Two hosts with a container each in one network.
struct Scene {
    a: Container,
    b: Container,
    lab: Lab,
}

fn scene(id: &str, underlay: Underlay) -> Result<Scene> {
    let (lab, v6) = (underlay.lab(id, 2)?, underlay.v6);
    let mut network = vec!["n1", "--subnet", "192.168.10.0/24", "--vni", "100"];
    if v6 {
        network.extend(["--subnet", "fd00:10::/64"]);
    }
    lab.create_network(&network)?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    for (n, container, last) in [(1, &a, "11"), (2, &b, "21")] {
        let (v4, v6_address) = (format!("192.168.10.{last}"), format!("fd00:10::{last}"));
        let mut args = vec!["--ip", &v4];
        if v6 {
            args.extend(["--ip", &v6_address]);
        }
        lab.host(n).attach(container, container.name(), "n1", &args)?;
    }
    lab.declare_peers()?;
    Ok(Scene { a, b, lab })
}

/// The MTU of the router's interface toward a host.
fn router_mtu(lab: &Lab, host: usize, mtu: &str) -> Result<()> {
    let mut command = Command::new("ip");
    stdout_of(command.args(["-n", &lab.router(), "link", "set", &format!("h{host}"), "mtu", mtu])).map(drop)
}

impl Scene {
    /// Whether the containers' new sockets set DF.
    fn dont_fragment(&self, on: bool) -> Result<()> {
        let line = format!("echo {} >/proc/sys/net/ipv4/ip_no_pmtu_disc", u8::from(!on));
        for container in [&self.a, &self.b] {
            container.sh(&["sh", "-ec", &line])?;
        }
        Ok(())
    }

    /// Makes the containers' interfaces larger than the underlay. Their agents would set that right, so they end first.
    fn inflate(&mut self, v6: bool) -> Result<()> {
        for (n, container) in [(1, &self.a), (2, &self.b)] {
            let host_side =
                self.lab.host(n).endpoint(container.name())?.status.context("a status")?.host_ifname;
            self.lab.host_mut(n).kill_agent()?;
            self.lab.host(n).sh(&["ip", "link", "set", &host_side, "mtu", INFLATED])?;
            if !v6 {
                // A link of less than 1280 bytes has no IPv6 to switch off; with more it would have it again.
                let line = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";
                container.sh(&["sh", "-ec", line])?;
            }
            container.sh(&["ip", "link", "set", "eth0", "mtu", INFLATED])?;
            for family in ["-4", "-6"] {
                // The default route was made with the MTU of before.
                container.exec(&["ip", family, "route", "flush", "cache"])?;
            }
        }
        Ok(())
    }

    /// Sends from the one container to the other, and compares what arrived.
    fn same(&self, kind: &str, to: &str, more: &[&str]) -> Result<()> {
        exact::same(&self.a, &self.b, kind, to, more)
    }

    /// Ten megabytes in each family, and datagrams that are larger than any MTU.
    fn transfers(&self, v6: bool, datagrams: &str) -> Result<()> {
        let megabytes = vec!["65536"; 160].join(",");
        for to in [Some(V4), v6.then_some(V6)].into_iter().flatten() {
            self.same("tcp", to, &["--sizes", &megabytes])?;
            self.same("udp", to, &["--sizes", datagrams])?;
        }
        Ok(())
    }
}

/// Everything gets there, with and without DF, whatever the containers' interfaces have.
fn over(id: &str, underlay: Underlay) -> Result<()> {
    let mut scene = scene(id, underlay)?;
    let (largest, v6) = (underlay.largest(), underlay.v6);
    let file = scene.lab.directory().join("wire.pcap");
    let before = scene.lab.host(1).counts()?;
    // Around what fits, and far above.
    let datagrams = format!("{}-{},3000,9000,15000", largest - 40, largest + 40);
    for on in [true, false] {
        scene.dont_fragment(on)?;
        scene.transfers(v6, &datagrams)?;
    }
    let drops = scene.lab.host(1).counts()?.since(&before).drops();
    assert!(drops.is_empty(), "where the interfaces are right nothing is dropped: {drops:?}");
    let host = scene.lab.host(1);
    let fragments = "ip[6:2] & 0x3fff != 0 or ip6[6] == 44";
    let capture = Capture::start(|line| host.command(line), UNDERLAY, fragments, file)?;
    scene.inflate(v6)?;
    for on in [true, false] {
        scene.dont_fragment(on)?;
        scene.a.exec(&["ip", "route", "flush", "cache"])?;
        let what = if on { "with DF" } else { "without DF" };
        let megabytes = vec!["65536"; 160].join(",");
        scene.same("tcp", V4, &["--sizes", &megabytes]).context(what)?;
        if v6 {
            scene.same("tcp", V6, &["--sizes", &megabytes])?;
        }
    }
    // Without DF, so that nothing is lost: sizes around the edges of one, two and more fragments.
    let edges =
        format!("1-20,{}-{},{}-{},9000,15900", largest - 40, largest + 20, 2 * largest - 60, 2 * largest);
    scene.same("udp", V4, &["--sizes", &edges])?;
    let segments = format!("{}-{}", largest - 40, largest + 40);
    scene.same("udp", V4, &["--sizes", &segments, "--gso"])?;
    let outside = capture.text(&[])?;
    assert!(outside.is_empty(), "fragmented outside: {outside:#?}");
    for n in [1, 2] {
        scene.lab.host_mut(n).start_agent()?;
    }
    let moved = scene.lab.host(1).counts()?.since(&before);
    let drops = moved.drops();
    assert!(drops.keys().all(|name| name.contains("too_big")), "{drops:?}");
    assert!(moved.get("from_frag action fragment") > 100, "{moved:?}");
    assert!(moved.get("from_frag action remote") > moved.get("from_container action fragment"), "{moved:?}");
    Ok(())
}

/// IPv4 outside, both families inside.
const OVER_V4: Underlay = Underlay { mtu: 1500, over_v6: false, v6: true };
/// IPv6 outside, both families inside.
const OVER_V6: Underlay = Underlay { over_v6: true, ..OVER_V4 };

#[test]
fn an_ipv4_underlay_of_1280_carries_every_ipv4_packet() -> Result<()> {
    over("p4x1280", Underlay { mtu: 1280, v6: false, ..OVER_V4 })
}

#[test]
fn an_ipv4_underlay_of_1330_carries_every_packet() -> Result<()> {
    over("p4x1330", Underlay { mtu: 1330, ..OVER_V4 })
}

#[test]
fn an_ipv4_underlay_of_1400_carries_every_packet() -> Result<()> {
    over("p4x1400", Underlay { mtu: 1400, ..OVER_V4 })
}

#[test]
fn an_ipv4_underlay_of_1500_carries_every_packet() -> Result<()> {
    over("p4x1500", Underlay { mtu: 1500, ..OVER_V4 })
}

#[test]
fn an_ipv4_underlay_of_9000_carries_every_packet() -> Result<()> {
    over("p4x9000", Underlay { mtu: 9000, ..OVER_V4 })
}

#[test]
fn an_ipv6_underlay_of_1280_carries_every_ipv4_packet() -> Result<()> {
    over("p6x1280", Underlay { mtu: 1280, v6: false, ..OVER_V6 })
}

#[test]
fn an_ipv6_underlay_of_1350_carries_every_packet() -> Result<()> {
    over("p6x1350", Underlay { mtu: 1350, ..OVER_V6 })
}

#[test]
fn an_ipv6_underlay_of_1400_carries_every_packet() -> Result<()> {
    over("p6x1400", Underlay { mtu: 1400, ..OVER_V6 })
}

#[test]
fn an_ipv6_underlay_of_1500_carries_every_packet() -> Result<()> {
    over("p6x1500", Underlay { mtu: 1500, ..OVER_V6 })
}

#[test]
fn an_ipv6_underlay_of_9000_carries_every_packet() -> Result<()> {
    over("p6x9000", Underlay { mtu: 9000, ..OVER_V6 })
}

/// A link of IPv6 must carry 1280 bytes (RFC 8200 section 5).
#[test]
fn ipv6_inside_is_refused_where_it_does_not_fit() -> Result<()> {
    for (id, underlay) in
        [("pref4", Underlay { mtu: 1329, ..OVER_V4 }), ("pref6", Underlay { mtu: 1349, ..OVER_V6 })]
    {
        let lab = underlay.lab(id, 1)?;
        let create = |args: &[&str]| lab.host(1).try_fabric(&[&["network", "create"], args].concat());
        let refused = create(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64"])?;
        assert_eq!((refused.code, refused.stderr.trim().lines().count()), (1, 1), "{refused:?}");
        for words in ["1279 bytes", "IPv6 needs 1280", "raise the uplinks' MTU"] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
        assert!(lab.host(1).networks()?.is_empty(), "nothing half done");
        assert_eq!(create(&["n1", "--subnet", "192.168.10.0/24"])?.code, 0, "IPv4 alone");
        assert_eq!(lab.host(1).networks()?[0].status.as_ref().context("a status")?.mtu, 1279);
    }
    Ok(())
}

/// Datagrams that have to be cut for the one network or the other, and a stream.
fn exchange(from: &impl Place, to: &impl Place, address: &str) -> Result<()> {
    exact::same(from, to, "udp", address, &["--sizes", "1240-1300,1390-1430,3000,9000"])?;
    exact::same(from, to, "tcp", address, &["--sizes", "65536,65536"])
}

/// Routed into a network that carries less, near and far; and from the host itself, whose interface there is too large.
#[test]
fn routed_packets_and_the_hosts_own_are_fragmented_too() -> Result<()> {
    let mut lab = Lab::new("pmroute", 2)?;
    lab.create_network(&["blue", "--subnet", "192.168.10.0/24", "--vni", "100", "--host-access"])?;
    lab.create_network(&[
        "red",
        "--subnet",
        "192.168.20.0/24",
        "--vni",
        "200",
        "--mtu",
        "1300",
        "--allow-from",
        "blue",
    ])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    let (near, far) = (lab.container(1, "near")?, lab.container(2, "far")?);
    for (n, container, network, address) in [
        (1, &a, "blue", "192.168.10.11"),
        (2, &b, "blue", "192.168.10.21"),
        (1, &near, "red", "192.168.20.11"),
        (2, &far, "red", "192.168.20.21"),
    ] {
        lab.host(n).attach(container, container.name(), network, &["--ip", address])?;
    }
    lab.declare_peers()?;
    let line = "echo 1 >/proc/sys/net/ipv4/ip_no_pmtu_disc";
    a.sh(&["sh", "-ec", line])?;
    lab.host(1).sh(&["sh", "-ec", line])?;
    let before = lab.host(1).counts()?;
    exchange(&a, &near, "192.168.20.11:5000")?;
    let here = lab.host(1).counts()?.since(&before);
    assert!(here.get("from_frag action local") > 10, "{here:?}");
    exchange(&a, &far, "192.168.20.21:5000")?;

    let networks = lab.host(1).networks()?;
    let blue = networks.iter().find(|network| network.metadata.name == "blue").context("the network")?;
    let ifname = blue.status.as_ref().context("a status")?.host_ifname.clone();
    // It would set the MTU right.
    lab.host_mut(1).kill_agent()?;
    for side in [&ifname, &ifname.replacen("fac", "fah", 1)] {
        lab.host(1).sh(&["ip", "link", "set", side, "mtu", INFLATED])?;
    }
    let host = lab.host(1);
    exchange(host, &b, "192.168.10.21:5000")?;
    lab.host_mut(1).start_agent()?;
    let moved = lab.host(1).counts()?.since(&before);
    assert!(moved.drops().is_empty(), "{:?}", moved.drops());
    assert!(moved.get("from_frag action remote") > here.get("from_frag action local"), "{moved:?}");
    Ok(())
}
