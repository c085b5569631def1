//! A link between the hosts that is smaller than their uplinks, from the start or in the middle of a transfer: routers say
//! so, containers learn it, and everything arrives.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context, Result};
use fabric_lab::{Container, Lab, Options, UNDERLAY, stdout_of};

const V4: &str = "192.168.10.21:5000";
const V6: &str = "[fd00:10::21]:5000";
/// Ten megabytes.
const SIZES: usize = 160;

/// Two hosts with a container each in one network.
struct Scene {
    a: Container,
    b: Container,
    lab: Lab,
}

fn scene(id: &str, over_v6: bool) -> Result<Scene> {
    let mut lab = Lab::with(id, &Options { agents: false, ..Options::default() })?;
    for n in [1, 2] {
        if over_v6 {
            lab.host(n).sh(&["ip", "-4", "address", "flush", "dev", UNDERLAY, "scope", "global"])?;
        }
        lab.host_mut(n).start_agent()?;
    }
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    for (n, container, last) in [(1, &a, "11"), (2, &b, "21")] {
        let (v4, v6) = (format!("192.168.10.{last}"), format!("fd00:10::{last}"));
        lab.host(n).attach(container, container.name(), "n1", &["--ip", &v4, "--ip", &v6])?;
    }
    lab.declare_peers()?;
    Ok(Scene { a, b, lab })
}

impl Scene {
    fn on_the_router(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(args[0]);
        stdout_of(command.args(["-n", &self.lab.router()]).args(&args[1..])).map(drop)
    }

    /// Sets the MTU of the router's interface toward the second host, whose own stays.
    fn shrink(&self, mtu: &str) -> Result<()> {
        self.on_the_router(&["ip", "link", "set", "h2", "mtu", mtu])
    }

    /// Ten megabytes to the other container, which must arrive.
    fn transfer(&self, to: &str) -> Result<()> {
        let server = self.b.serve(&["exact-tcp-sink", "--bind", to])?;
        let sizes = vec!["65536"; SIZES].join(",");
        let sent = self.a.traffic(&["exact-tcp-send", "--to", to, "--sizes", &sizes])?;
        assert_eq!(sent["hash"], server.report()?["hash"], "{to}");
        Ok(())
    }

    /// What the first host knows of the path to the second.
    fn path_mtu(&self) -> Result<(u16, Option<u32>)> {
        let nodes = self.lab.host(1).nodes()?;
        let node = nodes.into_iter().find(|node| node.metadata.name == "h2").context("the node")?;
        let status = node.status.context("a status")?;
        Ok((status.mtu, status.path_mtu))
    }

    /// Ten megabytes in each inner family, and without DF, while the link becomes smaller.
    fn shrinks_meanwhile(&self, overhead: u16) -> Result<()> {
        // Slow enough that the link shrinks under a transfer: two seconds for all of it.
        let slow = ["tc", "qdisc", "add", "dev", "h2", "root", "tbf", "rate", "40mbit", "burst", "64k"];
        self.on_the_router(&[&slow[..], &["latency", "200ms"]].concat())?;
        for (to, mtu, fixed) in [(V4, 1450_u16, true), (V6, 1400, true), (V4, 1370, false)] {
            let line = format!("echo {} >/proc/sys/net/ipv4/ip_no_pmtu_disc", u8::from(!fixed));
            self.a.sh(&["sh", "-ec", &line])?;
            thread::scope(|scope| {
                let transfer = scope.spawn(|| self.transfer(to));
                thread::sleep(Duration::from_millis(700));
                self.shrink(&mtu.to_string())?;
                transfer.join().expect("no panic")
            })
            .with_context(|| to.to_owned())?;
            assert_eq!(self.path_mtu()?, (mtu - overhead, Some(mtu.into())), "{to}");
            let listed = self.lab.host(1).fabric(&["node", "ls"])?;
            assert!(listed.contains(&format!("{} (path {mtu})", mtu - overhead)), "{listed}");
        }
        Ok(())
    }
}

fn a_smaller_link(id: &str, over_v6: bool, overhead: u16) -> Result<()> {
    let scene = scene(id, over_v6)?;
    let host = scene.lab.host(1);
    assert_eq!(scene.path_mtu()?, (1500 - overhead, None));
    let before = host.counts()?;
    scene.shrinks_meanwhile(overhead)?;
    let moved = host.counts()?.since(&before);
    assert!(moved.drops().keys().all(|name| name.contains("too_big")), "{:?}", moved.drops());
    assert!(moved.get("from_container action icmp_error") > 0, "the container was told: {moved:?}");
    // What may be fragmented is, and datagrams of every size arrive in the first attempt.
    scene.a.sh(&["ip", "route", "flush", "cache"])?;
    let server = scene.b.serve(&["exact-udp-sink", "--bind", V4])?;
    let sizes = "1-20,1280-1430,3000";
    let sent = scene.a.traffic(&["exact-udp-send", "--to", V4, "--sizes", sizes])?;
    assert_eq!(sent["hash"], server.report()?["hash"], "without DF");
    Ok(())
}

#[test]
fn a_link_over_ipv4_shrinks_in_the_middle_of_a_transfer() -> Result<()> {
    a_smaller_link("pmv4", false, 50)
}

#[test]
fn a_link_over_ipv6_shrinks_in_the_middle_of_a_transfer() -> Result<()> {
    a_smaller_link("pmv6", true, 70)
}
