//! Egress to the world: containers of a masqueraded network reach a machine that knows nothing of the fabric, with their host's
//! address, and a policy keeps one of them at home.

use std::{fs, path::Path};

use anyhow::Result;
use fabric_lab::{Capture, Container, Lab, UNDERLAY, exact::same, until};

/// The second host plays the world: nobody has declared it, and its routes lead to no container.
const WORLD: [&str; 2] = ["10.0.2.1", "fd00:0:0:2::1"];
const HOST: [&str; 2] = ["10.0.1.1", "fd00:0:0:1::1"];

fn at(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:5000") } else { format!("{address}:5000") }
}

fn reaches(from: &Container, address: &str) -> bool {
    from.exec(&["ping", "-c1", "-W1", address]).is_ok_and(|output| output.code == 0)
}

#[test]
fn containers_reach_the_world_with_their_hosts_address() -> Result<()> {
    let mut lab = Lab::new("world", 2)?;
    let subnets = ["--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64"];
    lab.host(1).fabric(&[&["network", "create", "blue", "--masquerade"][..], &subnets].concat())?;
    let (a, b) = (lab.container(1, "a")?, lab.container(1, "b")?);
    for (container, v4, v6) in [(&a, "192.168.10.11", "fd00:10::11"), (&b, "192.168.10.12", "fd00:10::12")] {
        let name = container.name();
        let label = format!("name={name}");
        lab.host(1).attach(container, name, "blue", &["--ip", v4, "--ip", v6, "--label", &label])?;
    }
    until("the world is reached", || WORLD.iter().all(|world| reaches(&a, world) && reaches(&b, world)))?;
    let before = lab.host(1).counts()?;
    for (world, host) in WORLD.into_iter().zip(HOST) {
        let file = lab.directory().join("world.pcap");
        let seen = Capture::start(|line| lab.host(2).command(line), UNDERLAY, "icmp or icmp6", file)?;
        a.ping(world)?;
        let seen = seen.text(&[])?;
        assert!(seen.iter().any(|line| line.contains(&format!("{host} > {world}"))), "{seen:#?}");
        assert!(
            !seen.iter().any(|line| line.contains("192.168.10.11") || line.contains("fd00:10:")),
            "{seen:#?}"
        );
        for container in [&a, &b] {
            same(container, lab.host(2), "tcp", &at(world), &["--sizes", "1-20,1400,65536"])?;
            same(container, lab.host(2), "udp", &at(world), &["--sizes", "1-20,1400-1420,9000"])?;
        }
    }
    let moved = lab.host(1).counts()?.since(&before);
    assert!(moved.drops().is_empty(), "{:?}", moved.drops());
    assert!(moved.get("from_container action masqueraded") > 100, "{moved:?}");

    // The stack of the world tells that nothing listens there.
    for world in WORLD {
        let refused = a.exec(&["fabric-traffic", "exact-tcp-send", "--to", &at(world), "--sizes", "1"])?;
        assert!(refused.code != 0 && refused.stderr.contains("refused"), "{refused:?}");
    }

    // A host does not see the machine's files under /run.
    fs::write(
        lab.host(1).directory().join("run/policy.yaml"),
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: home, namespace: blue}\nspec:\n  \
         podSelector: {matchLabels: {name: b}}\n  policyTypes: [Egress]\n  egress: []\n",
    )?;
    let names = lab.host(1).apply(Path::new("/run/policy.yaml"))?;
    assert_eq!(names.len(), 1, "{names:?}");
    for world in WORLD {
        until("the policy holds", || !reaches(&b, world))?;
        a.ping(world)?;
    }

    // Flows go on while no agent runs, and the next one finds them.
    lab.host_mut(1).kill_agent()?;
    same(&a, lab.host(2), "tcp", &at(WORLD[0]), &["--sizes", "65536"])?;
    lab.host_mut(1).start_agent()?;
    same(&a, lab.host(2), "tcp", &at(WORLD[0]), &["--sizes", "65536"])
}
