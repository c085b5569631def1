//! Router advertisements as a Linux container takes them: route, on-link prefixes, MTU and hop limit, no address; and their end.

use std::fs;

use anyhow::Result;
use fabric_lab::{Container, Lab, until};

const SUBNETS: [&str; 3] = ["192.168.10.0/24", "fd00:10::/64", "fd00:11::/64"];

/// Declares the network again.
fn declare(lab: &Lab, router_advertisement: bool) -> Result<()> {
    let object = format!(
        "kind: Network\nmetadata: {{name: n1}}\nspec: {{vni: 100, mtu: 1400, subnets: ['{}'], routerAdvertisement: {router_advertisement}}}\n",
        SUBNETS.join("', '")
    );
    fs::write(lab.host(1).directory().join("run/n1.yaml"), object)?;
    lab.host(1).fabric(&["apply", "-f", "/run/n1.yaml"]).map(drop)
}

/// The container's IPv6 default routes, in order.
fn default_routes(container: &Container) -> Result<Vec<String>> {
    let text = container.sh(&["ip", "-6", "route", "show", "default"])?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn setting(container: &Container, key: &str) -> Result<String> {
    let path = format!("/proc/sys/net/ipv6/conf/eth0/{key}");
    Ok(container.sh(&["cat", &path])?.trim().to_owned())
}

fn set(container: &Container, key: &str, value: &str) -> Result<()> {
    container.sh(&["sh", "-c", &format!("echo {value} > /proc/sys/net/ipv6/conf/eth0/{key}")]).map(drop)
}

#[test]
fn a_container_takes_the_router_and_makes_no_address() -> Result<()> {
    let lab = Lab::new("radv", 1)?;
    let mut network = vec!["n1", "--vni", "100", "--mtu", "1400", "--router-advertisement"];
    network.extend(SUBNETS.iter().flat_map(|subnet| ["--subnet", subnet]));
    lab.create_network(&network)?;
    lab.create_network(&["n2", "--subnet", "fd00:20::/64", "--vni", "200", "--allow-from", "n1"])?;
    let host = lab.host(1);
    let a = lab.container(1, "a")?;
    host.attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--ip", "fd00:10::11"])?;
    let b = lab.container(1, "b")?;
    host.attach(&b, "b", "n1", &["--ip", "fd00:11::12"])?;
    let c = lab.container(1, "c")?;
    host.attach(&c, "c", "n2", &["--ip", "fd00:20::13"])?;

    let learned = |routes: &[String]| routes.iter().any(|route| route.contains("proto ra"));
    until("the route is advertised", || default_routes(&a).is_ok_and(|routes| learned(&routes)))?;
    let routes = default_routes(&a)?;
    assert!(routes.len() == 2 && routes.iter().any(|route| route.contains("via fd00:10::1 ")), "{routes:?}");
    assert_eq!(setting(&a, "accept_ra")?, "2");
    assert_eq!(setting(&c, "accept_ra")?, "0", "its network has none");
    a.ping("fd00:20::13")?;

    // The container loses all that attaching gave it, and asks by itself.
    a.sh(&["ip", "link", "set", "eth0", "down"])?;
    set(&a, "hop_limit", "10")?;
    a.sh(&["ip", "link", "set", "eth0", "mtu", "9000"])?;
    assert_eq!(default_routes(&a)?, Vec::<String>::new());
    a.sh(&["ip", "link", "set", "eth0", "up"])?;
    until("the route is there again", || default_routes(&a).is_ok_and(|routes| learned(&routes)))?;
    let routes = default_routes(&a)?;
    assert!(
        routes.len() == 1
            && routes[0].contains("via fe80::")
            && routes[0].contains("hoplimit 64")
            && routes[0].contains("mtu 1400"),
        "{routes:?}"
    );
    assert_eq!((setting(&a, "hop_limit")?, setting(&a, "mtu")?), ("64".to_owned(), "1400".to_owned()));
    let on_link = a.sh(&["ip", "-6", "route", "show", "proto", "kernel"])?;
    for subnet in &SUBNETS[1..] {
        assert!(on_link.lines().any(|line| line.starts_with(&format!("{subnet} dev eth0"))), "{on_link}");
    }
    assert_eq!(a.sh(&["ip", "-6", "addr", "show", "scope", "global"])?, "", "none is made of the prefixes");
    a.sh(&["ip", "addr", "add", "fd00:10::11/128", "dev", "eth0", "nodad"])?;
    for to in ["fd00:11::12", "fd00:20::13"] {
        a.ping(to)?;
    }

    // The end is told, and attaching's own route serves again; so is the beginning, unasked.
    declare(&lab, false)?;
    until("the end is told", || {
        default_routes(&a).is_ok_and(|routes| !routes.is_empty() && !learned(&routes))
    })?;
    let routes = default_routes(&a)?;
    assert!(routes.len() == 1 && routes[0].contains("via fd00:10::1 "), "{routes:?}");
    a.ping("fd00:20::13")?;
    declare(&lab, true)?;
    until("it is advertised unasked", || default_routes(&a).is_ok_and(|routes| learned(&routes)))
}
