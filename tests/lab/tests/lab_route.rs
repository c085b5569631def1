//! Two networks over two hosts: closed, opened to each other, closed again.

use std::fs;

use anyhow::Result;
use fabric_lab::{
    Container, Lab,
    exact::{same, same_bytes},
    until,
};

const BLUE: &[&str] = &["blue", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"];
const RED: &[&str] = &["red", "--subnet", "192.168.20.0/24", "--subnet", "fd00:20::/64", "--vni", "200"];

fn attach(lab: &Lab, host: usize, name: &str, network: &str, addresses: [&str; 2]) -> Result<Container> {
    let container = lab.container(host, name)?;
    lab.host(host).attach(&container, name, network, &["--ip", addresses[0], "--ip", addresses[1]])?;
    Ok(container)
}

/// Changes what RED lets in, on every host.
fn let_in(lab: &Lab, networks: &str) -> Result<()> {
    let spec = format!("{{vni: 200, subnets: [192.168.20.0/24, 'fd00:20::/64'], allowFrom: [{networks}]}}");
    for host in lab.hosts() {
        let object = format!("kind: Network\nmetadata: {{name: red}}\nspec: {spec}\n");
        fs::write(host.directory().join("run/red.yaml"), object)?;
        host.fabric(&["apply", "-f", "/run/red.yaml"])?;
    }
    Ok(())
}

/// What `ping` says of one packet.
fn probe(from: &Container, more: &[&str], to: &str) -> Result<String> {
    let output = from.exec(&[&["ping", "-n", "-c1", "-W2"], more, &[to]].concat())?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

#[test]
fn networks_reach_each_other_while_they_are_opened() -> Result<()> {
    let lab = Lab::new("rroute", 2)?;
    lab.create_network(BLUE)?;
    lab.create_network(RED)?;
    let blue = attach(&lab, 1, "blue1", "blue", ["192.168.10.11", "fd00:10::11"])?;
    let near = attach(&lab, 1, "red1", "red", ["192.168.20.11", "fd00:20::11"])?;
    let far = attach(&lab, 2, "red2", "red", ["192.168.20.21", "fd00:20::21"])?;
    lab.declare_peers()?;
    let red = ["192.168.20.11", "192.168.20.21", "fd00:20::11", "fd00:20::21"];
    let gateway = |to: &str| if to.contains(':') { "fd00:10::1" } else { "192.168.10.1" };

    for to in red {
        let text = probe(&blue, &[], to)?;
        let told = text.contains(&format!("From {} ", gateway(to)))
            && ["Net Unreachable", "No route"].iter().any(|word| text.contains(word));
        assert!(told, "closed, the gateway says so: {text}");
    }

    let_in(&lab, "blue")?;
    let status = lab.host(1).fabric(&["network", "inspect", "blue", "-o", "json"])?;
    assert!(
        status.contains("\"opened\": [\n      \"red\"") || status.contains("\"opened\":[\"red\"]"),
        "{status}"
    );
    let before: Vec<_> = lab.hosts().iter().map(|host| host.counts()).collect::<Result<_>>()?;
    for to in red {
        let text = probe(&blue, &[], to)?;
        assert!(text.contains("ttl=63") || text.contains("hop limit=63"), "one hop each way: {text}");
    }
    for (from, to, address) in [
        (&blue, &near, "192.168.20.11:5000"),
        (&blue, &near, "[fd00:20::11]:5000"),
        (&blue, &far, "192.168.20.21:5000"),
        (&blue, &far, "[fd00:20::21]:5000"),
        (&far, &blue, "192.168.10.11:5000"),
        (&far, &blue, "[fd00:10::11]:5000"),
    ] {
        same_bytes(from, to, address)?;
    }
    for (host, before) in lab.hosts().iter().zip(&before) {
        let moved = host.counts()?.since(before);
        assert!(moved.drops().is_empty(), "{}: {:?}", host.name(), moved.drops());
        assert!(moved.get("from_container action routed") > 0, "{}: {moved:?}", host.name());
    }

    // As traceroute does: the first hop is the gateway, the second one the container.
    for to in red {
        let text = probe(&blue, &["-t", "1"], to)?;
        let told = text.contains(&format!("From {} ", gateway(to)))
            && ["Time to live exceeded", "Hop limit"].iter().any(|word| text.contains(word));
        assert!(told, "the first hop: {text}");
        let text = probe(&blue, &["-t", "2"], to)?;
        assert!(text.contains(" 0% packet loss"), "the second hop: {text}");
    }
    for (to, words) in [("192.168.20.99", "Host Unreachable"), ("fd00:20::99", "Address unreachable")] {
        let text = probe(&blue, &[], to)?;
        assert!(text.contains(words), "nobody is {to}: {text}");
    }
    for to in ["192.168.20.1", "fd00:20::1"] {
        blue.ping(to)?;
    }

    let_in(&lab, "")?;
    for (from, to) in
        red.iter().map(|to| (&blue, *to)).chain([(&far, "192.168.10.11"), (&far, "fd00:10::11")])
    {
        let text = probe(from, &[], to)?;
        assert!(text.contains("100% packet loss"), "closed again: {text}");
    }
    Ok(())
}

/// A smaller MTU behind the gateway is found, and connections go on.
#[test]
fn the_mtu_of_the_other_network_is_learned() -> Result<()> {
    let lab = Lab::new("rmtu", 2)?;
    lab.create_network(BLUE)?;
    lab.create_network(&[RED, &["--mtu", "1300", "--allow-from", "blue"]].concat())?;
    let blue = attach(&lab, 1, "blue1", "blue", ["192.168.10.11", "fd00:10::11"])?;
    let near = attach(&lab, 1, "red1", "red", ["192.168.20.11", "fd00:20::11"])?;
    let far = attach(&lab, 2, "red2", "red", ["192.168.20.21", "fd00:20::21"])?;
    lab.declare_peers()?;
    for (to, address, host) in [
        (&near, "192.168.20.11:5000", "192.168.20.11"),
        (&near, "[fd00:20::11]:5000", "fd00:20::11"),
        (&far, "192.168.20.21:5000", "192.168.20.21"),
        (&far, "[fd00:20::21]:5000", "fd00:20::21"),
    ] {
        let text = probe(&blue, &["-M", "do", "-s", "1350"], host)?;
        assert!(text.contains("mtu = 1300") || text.contains("mtu=1300"), "{text}");
        same(&blue, to, "tcp", address, &["--sizes", "65536,65536,65536"])?;
    }
    Ok(())
}

#[test]
fn openings_that_can_not_be_are_refused() -> Result<()> {
    let lab = Lab::new("rbad", 1)?;
    lab.create_network(BLUE)?;
    let host = lab.host(1);
    for (args, words) in [
        (
            vec!["x", "--subnet", "192.168.0.0/16", "--allow-from", "blue"],
            vec!["192.168.10.0/24", "overlaps"],
        ),
        (vec!["x", "--subnet", "10.9.0.0/16", "--allow-from", "nope"], vec!["nope", "does not exist"]),
        (vec!["x", "--subnet", "10.9.0.0/16", "--allow-from", "x"], vec!["lets itself in"]),
    ] {
        let refused = host.try_fabric(&[&["network", "create"], args.as_slice()].concat())?;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert_eq!(refused.stderr.trim().lines().count(), 1, "{refused:?}");
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{refused:?}");
    }
    let created =
        host.fabric(&["network", "create", "red", "--subnet", "10.9.0.0/16", "--allow-from", "blue"])?;
    assert!(created.contains("opened to blue in both directions"), "{created}");
    let refused = host.try_fabric(&["network", "rm", "blue"])?;
    assert!(
        refused.code == 1 && refused.stderr.contains("let in by networks that stay (red)"),
        "{refused:?}"
    );
    host.fabric(&["network", "rm", "red"])?;
    host.fabric(&["network", "rm", "blue"])?;
    until("the maps hold no network", || {
        host.exec(&["fabric", "network", "ls", "-o", "json"]).is_ok_and(|output| output.stdout.trim() == "[]")
    })?;
    Ok(())
}
