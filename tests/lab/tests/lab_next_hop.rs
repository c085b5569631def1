//! A container that is a router: what is behind it is reached from every host, in both families.

use anyhow::Result;
use fabric_lab::{Container, Lab, exact::same_bytes, until};

const NETWORK: &[&str] = &[
    "n1",
    "--subnet",
    "192.168.10.0/24",
    "--subnet",
    "fd00:10::/64",
    "--vni",
    "100",
    "--route",
    "10.9.0.0/16=192.168.10.29",
    "--route",
    "::/0=fd00:10::29",
];

/// What `ping` says of one packet.
fn probe(from: &Container, to: &str) -> Result<String> {
    let output = from.exec(&["ping", "-n", "-c1", "-W2", to])?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

#[test]
fn what_is_behind_a_router_is_reached_from_every_host() -> Result<()> {
    let lab = Lab::new("knext", 2)?;
    lab.create_network(NETWORK)?;
    let mut ends = Vec::new();
    for n in 1..=2 {
        let container = lab.container(n, &format!("c{n}"))?;
        let (v4, v6) = (format!("192.168.10.{n}1"), format!("fd00:10::{n}1"));
        lab.host(n).attach(&container, &format!("c{n}"), "n1", &["--ip", &v4, "--ip", &v6])?;
        ends.push(container);
    }
    lab.declare_peers()?;
    let text = probe(&ends[0], "10.9.1.1")?;
    assert!(
        text.contains("From 192.168.10.1 ") && text.contains("Host Unreachable"),
        "nobody leads there: {text}"
    );
    let router = lab.container(2, "router")?;
    lab.host(2).attach(&router, "router", "n1", &["--ip", "192.168.10.29", "--ip", "fd00:10::29"])?;
    lab.declare_peers()?;
    for line in ["addr add 10.9.1.1/32 dev lo", "addr add 2001:db8:9::1/128 dev lo nodad", "link set lo up"] {
        router.sh(&[&["ip"][..], &line.split(' ').collect::<Vec<_>>()].concat())?;
    }
    let listed = lab.host(1).fabric(&["network", "ls", "-o", "wide"])?;
    assert!(listed.contains("10.9.0.0/16=192.168.10.29 (router)"), "{listed}");
    let before: Vec<_> = lab.hosts().iter().map(|host| host.counts()).collect::<Result<_>>()?;
    for end in &ends {
        for to in ["10.9.1.1", "2001:db8:9::1"] {
            // The router asks for nobody before its link-local address is ready (RFC 4862 section 5.4).
            until(to, || probe(end, to).is_ok_and(|text| text.contains("1 received")))?;
        }
        same_bytes(end, &router, "10.9.1.1:5000")?;
        same_bytes(end, &router, "[2001:db8:9::1]:5000")?;
    }
    for (host, before) in lab.hosts().iter().zip(&before) {
        let drops = host.counts()?.since(before).drops();
        assert!(drops.is_empty(), "{}: {drops:?}", host.name());
    }
    let traced = lab.host(1).fabric(&["trace", "--from", "c1", "--to", "10.9.1.1"])?;
    assert!(traced.contains("endpoint router is declared on node h2"), "{traced}");
    let wrong = lab.host(1).try_fabric(&[
        "network",
        "create",
        "n2",
        "--subnet",
        "192.168.30.0/24",
        "--route",
        "10.8.0.0/16=192.168.10.29",
    ])?;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.stderr.contains("192.168.10.29 is in no subnet of network n2"), "{wrong:?}");
    Ok(())
}
