//! Policies with domain names: what a container was told by a DNS server it may reach, that container alone, at its first packet, over a
//! restart of the agent as well.

use std::{fs, path::Path, thread::sleep, time::Duration};

use anyhow::Result;
use fabric_lab::{Container, Host, Lab, UNDERLAY, until};
use serde_json::Value;

/// The second host plays the world, with a DNS server at its own address, and these beside it.
const SERVER: &str = "10.0.2.1:53";
const KNOWN: &str = "10.0.2.31";
const LATER: &str = "10.0.2.32";
const OTHER: &str = "10.0.2.33";

const POLICY: &str = "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - {name: dns, action: Accept, to: [{networks: [10.0.2.1/32]}], protocols: [{udp: {destinationPort: {number: 53}}}]}
  - {name: known, action: Accept, to: [{domainNames: ['*.Example.com']}]}
  - {name: rest, action: Deny, to: [{networks: [0.0.0.0/0]}]}
";

fn ask(from: &Container, name: &str) -> Result<Value> {
    from.traffic(&["dns-ask", "--server", SERVER, "--name", name])
}

fn reaches(from: &Container, address: &str) -> bool {
    from.exec(&["ping", "-c1", "-W1", address]).is_ok_and(|output| output.code == 0)
}

/// Asked, told, and reached by the first packet: a second SYN would come a second later.
#[track_caller]
fn reached_at_once(asked: &Value, address: &str) {
    eprintln!("{asked}");
    assert_eq!(asked["addr"], address);
    assert_eq!(asked["reached"], true, "{asked}");
    assert!(asked["connect_us"].as_u64() < Some(900_000), "{asked}");
}

fn dns_server(world: &Host) -> Result<fabric_lab::Server> {
    for address in [KNOWN, LATER, OTHER] {
        world.sh(&["ip", "addr", "add", &format!("{address}/24"), "dev", UNDERLAY])?;
    }
    let records = [
        format!("www.example.com={KNOWN},1"),
        format!("later.example.com={LATER}"),
        format!("www.example.org={OTHER}"),
        "rebound.example.com=10.0.1.1".to_owned(),
    ];
    let mut args = vec!["dns-serve", "--bind", SERVER, "--seconds", "60"];
    for record in &records {
        args.extend(["--record", record]);
    }
    world.serve(&args)
}

#[test]
fn a_name_is_open_to_whoever_asked_for_it() -> Result<()> {
    let mut lab = Lab::new("names", 2)?;
    lab.host(1).fabric(&["network", "create", "blue", "--masquerade", "--subnet", "192.168.10.0/24"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(1, "b")?);
    lab.host(1).attach(&a, "a", "blue", &["--ip", "192.168.10.11"])?;
    lab.host(1).attach(&b, "b", "blue", &["--ip", "192.168.10.12"])?;
    let _server = dns_server(lab.host(2))?;
    until("the world is reached", || reaches(&a, KNOWN) && reaches(&b, KNOWN))?;
    fs::write(lab.host(1).directory().join("run/policy.yaml"), POLICY)?;
    let names = lab.host(1).apply(Path::new("/run/policy.yaml"))?;
    lab.host(1).wait_for_policies(&names)?;
    until("the policy holds", || !reaches(&a, KNOWN) && !reaches(&b, KNOWN))?;

    reached_at_once(&ask(&a, "WWW.example.com")?, KNOWN);
    assert!(reaches(&a, KNOWN));
    assert!(!reaches(&b, KNOWN), "b did not ask");
    // Resolved all the same, but not open: a name that no rule has, and one that stands for the host itself.
    for name in ["www.example.org", "rebound.example.com"] {
        let told = ask(&a, name)?;
        assert_eq!(told["reached"], false, "{told}");
    }
    reached_at_once(&ask(&b, "www.example.com")?, KNOWN);

    // While no agent runs, what is known stays open and nothing new is learned, but answers arrive.
    sleep(Duration::from_secs(1));
    lab.host_mut(1).kill_agent()?;
    sleep(Duration::from_millis(2500));
    assert!(reaches(&a, KNOWN));
    let told = ask(&a, "later.example.com")?;
    assert_eq!((&told["addr"], &told["reached"]), (&LATER.into(), &false.into()), "{told}");
    lab.host_mut(1).start_agent()?;
    assert!(reaches(&a, KNOWN), "known to the next agent");
    until("the next agent listens", || {
        ask(&a, "later.example.com").is_ok_and(|told| told["reached"] == true)
    })?;
    assert!(!reaches(&b, LATER));
    Ok(())
}
