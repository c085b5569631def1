//! `fabric trace` of packets that change their network: what it names is in the network that they end in.

use anyhow::{Context, Result};
use fabric_lab::Lab;

const BLUE: &[&str] = &["blue", "--subnet", "192.168.10.0/24", "--vni", "100"];
const RED: &[&str] = &["red", "--subnet", "192.168.20.0/24", "--vni", "200"];
const NEAR: &str = "02:00:00:00:00:0e";
const FAR: &str = "02:00:00:00:00:0f";

/// A MAC is unique in its network only: each of these is one of both networks.
#[test]
fn who_has_the_mac_is_looked_up_in_the_network_of_the_destination() -> Result<()> {
    let lab = Lab::new("dtmac", 2)?;
    lab.create_network(BLUE)?;
    lab.create_network(&[RED, &["--allow-from", "blue"]].concat())?;
    let mut containers = Vec::new();
    for (n, name, network, ip, more) in [
        (1, "a", "blue", "192.168.10.11", &[][..]),
        (1, "anear", "blue", "192.168.10.12", &["--mac", NEAR]),
        (2, "afar", "blue", "192.168.10.21", &["--mac", FAR]),
        (1, "znear", "red", "192.168.20.12", &["--mac", NEAR]),
        (2, "zfar", "red", "192.168.20.21", &["--mac", FAR]),
    ] {
        let container = lab.container(n, name)?;
        lab.host(n).attach(&container, name, network, &[&["--ip", ip], more].concat())?;
        containers.push(container);
    }
    lab.declare_peers()?;
    let a = &containers[0];
    for (to, name) in [("192.168.10.12", "anear"), ("192.168.20.12", "znear")] {
        let reports = lab.trace(&["--from", "a", "--to", to], a)?;
        assert_eq!(reports.last().context("a report")?.endpoint, name, "{to}: {reports:#?}");
    }
    for (to, name) in [("192.168.10.21", "afar"), ("192.168.20.21", "zfar")] {
        let reports = lab.trace(&["--from", "a", "--to", to], a)?;
        let declared = format!("endpoint {name} is declared on node h2 with MAC {FAR}");
        assert_eq!(reports[0].known, [declared], "{to}: {reports:#?}");
        assert_eq!(reports.last().context("a report")?.endpoint, name, "{to}: {reports:#?}");
    }
    Ok(())
}
