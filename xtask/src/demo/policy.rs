//! A NetworkPolicy stops a connection that is going on, and lets it go on when it is removed.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use fabric_lab::{Lab, until};

use super::{Cast, GREEN, NETWORK, show::Table, watch};
use crate::ui;

const NAME: &str = "green";
/// What decides where none of its rules accepts.
const RULE: &str = "NetworkPolicy/demo/green/ingress";

/// Only endpoints with another label than blue's reach green.
fn manifest() -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {NAME}, namespace: {NETWORK}}}
spec:
  podSelector: {{matchLabels: {{app: green}}}}
  ingress:
  - from:
    - podSelector: {{matchLabels: {{app: friend}}}}
"
    )
}

pub(crate) fn run(lab: &Lab, cast: &Cast, table: &mut Table) -> Result<()> {
    let address = format!("{}:80", GREEN[0]);
    let _server = cast.green.serve(&["serve", "--tcp", "80", "--seconds", "120"])?;
    let step = ui::Step::start("a NetworkPolicy: nobody but friends reaches green");
    let held = cast.blue.background(&["hold", "--to", &address, "--seconds", "60"])?;
    let line = step.end_with(forbid(lab, cast, &address))?;
    println!("  {} {}", ui::dim("fabric monitor --drops:"), line.trim());
    table.row("connection blue → green under a policy", "stopped", RULE);
    let step = ui::Step::start("the policy is removed");
    step.end_with(permit(lab, cast, &address))?;
    // TCP sends again what was dropped, after pauses that grow.
    thread::sleep(Duration::from_secs(2));
    let report = held.report()?;
    let (sent, answered) = (&report["sent"], &report["answered"]);
    ensure!(sent == answered && report["ended"].is_null(), "the connection did not survive: {report}");
    let detail = format!("the same connection, {answered} of {sent} bytes answered");
    table.row("connection blue → green without it", "passes again", &detail);
    Ok(())
}

/// Applies the policy and returns what the monitor says of a packet that it stopped.
fn forbid(lab: &Lab, cast: &Cast, address: &str) -> Result<String> {
    outcome(cast, address, "open")?;
    for host in lab.hosts() {
        fs::write(host.directory().join("run/policy.yaml"), manifest())?;
        host.fabric(&["policy", "apply", "-f", "/run/policy.yaml"])?;
    }
    for host in lab.hosts() {
        host.wait_for_policies(&[NAME.to_owned()])?;
    }
    watch::for_drop(lab.host(2), RULE, || outcome(cast, address, "timeout"))
}

/// Removes the policy and waits until what it forbade passes.
fn permit(lab: &Lab, cast: &Cast, address: &str) -> Result<()> {
    for host in lab.hosts() {
        host.fabric(&["policy", "rm", &format!("{NETWORK}/{NAME}")])?;
    }
    until("blue reaches green again", || outcome(cast, address, "open").is_ok())
}

/// What comes of a new connection must be `expected`.
fn outcome(cast: &Cast, address: &str, expected: &str) -> Result<()> {
    let target = format!("tcp/{address}");
    let report = cast.blue.traffic(&["reach", "--to", &target, "--timeout", "700"])?;
    let outcome = report[0]["outcome"].as_str().context("an outcome")?;
    if outcome != expected {
        bail!("a connection from blue to {address} is {outcome}, not {expected}");
    }
    Ok(())
}
