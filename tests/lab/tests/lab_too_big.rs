//! Containers whose interfaces are larger than the underlay: the sender is told, and everything gets there all the same.

use anyhow::{Context, Result};
use fabric_lab::{Container, Host, Lab, exact::same};

/// The underlay has 1500.
const INNER: &str = "1450";

/// Makes both ends of a container's veth larger than the underlay.
fn inflate(host: &Host, host_side: &str, container: &Container) -> Result<()> {
    host.sh(&["ip", "link", "set", host_side, "mtu", "9000"])?;
    container.sh(&["ip", "link", "set", "eth0", "mtu", "9000"])?;
    Ok(())
}

#[test]
fn a_sender_with_a_larger_mtu_learns_the_right_one() -> Result<()> {
    let mut lab = Lab::new("toobig", 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--ip", "fd00:10::11"])?;
    lab.host(2).attach(&b, "b", "n1", &["--ip", "192.168.10.21", "--ip", "fd00:10::21"])?;
    lab.declare_peers()?;
    let before = lab.host(1).counts()?;
    let mut host_side = String::new();
    for (n, container) in [(2, &b), (1, &a)] {
        host_side = lab.host(n).endpoint(container.name())?.status.context("a status")?.host_ifname;
        // It would set the MTUs right.
        lab.host_mut(n).kill_agent()?;
        inflate(lab.host(n), &host_side, container)?;
    }
    // A checksum that the sender left to the hardware must not end up in the answer, whoever fills it in.
    for tx in ["on", "off"] {
        lab.host(1).sh(&["ethtool", "-K", &host_side, "tx", tx])?;
        for (family, to, socket) in
            [("-4", "192.168.10.21", "192.168.10.21:5000"), ("-6", "fd00:10::21", "[fd00:10::21]:5000")]
        {
            a.sh(&["ip", family, "route", "flush", "cache"])?;
            for (kind, sizes) in [("tcp", "1-40,65536,65536,65536"), ("udp", "1-40,1400-1430")] {
                same(&a, &b, kind, socket, &["--sizes", sizes])?;
            }
            let route = a.sh(&["ip", family, "route", "get", to])?;
            assert!(route.contains(&format!("mtu {INNER}")), "tx {tx}: TCP learned another MTU: {route}");
            a.sh(&["ip", family, "route", "flush", "cache"])?;
            let ping = a.exec(&["ping", "-c2", "-W1", "-M", "do", "-s", "3000", to])?;
            let text = format!("{}{}", ping.stdout, ping.stderr);
            assert!(
                text.contains(&format!("mtu = {INNER}")) || text.contains(&format!("mtu={INNER}")),
                "{text}"
            );
        }
    }
    for n in [1, 2] {
        lab.host_mut(n).start_agent()?;
    }
    let moved = lab.host(1).counts()?.since(&before);
    let drops = moved.drops();
    assert!(drops.keys().all(|name| name.contains("too_big")), "{drops:?}");
    assert!(moved.get("from_container action icmp_error") >= 8, "{moved:?}");
    Ok(())
}
