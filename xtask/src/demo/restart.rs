//! An agent is killed and started again while a probe counts packets.

use std::{thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use fabric_lab::Lab;
use serde_json::Value;

use super::{Cast, GREEN, show::Table};
use crate::ui;

const PROBE_SECONDS: &str = "8";

pub(crate) fn run(lab: &mut Lab, cast: &Cast, table: &mut Table) -> Result<()> {
    let step = ui::Step::start("agent of h1: SIGKILL, two seconds away, start");
    let report = step.end_with(under_probe(lab, cast))?;
    let number =
        |field: &str| report[field].as_u64().with_context(|| format!("the probe reports no {field}"));
    let (sent, lost) = (number("sent")?, number("lost")?);
    table.row(
        "agent killed and restarted under 1 kHz",
        &format!("{lost} of {sent} lost"),
        &format!("{} doubled", number("duplicate")?),
    );
    if lost > 0 {
        bail!("{lost} of {sent} packets were lost while the agent restarted");
    }
    Ok(())
}

/// The probe's report.
fn under_probe(lab: &mut Lab, cast: &Cast) -> Result<Value> {
    let address = format!("{}:5203", GREEN[0]);
    let _server = cast.green.serve(&["udp-echo", "--bind", &address, "--seconds", "60"])?;
    let host = lab.host_mut(1);
    thread::scope(|scope| {
        let probe = scope.spawn(|| {
            cast.blue.traffic(&["probe", "--to", &address, "--rate", "1000", "--seconds", PROBE_SECONDS])
        });
        thread::sleep(Duration::from_secs(2));
        host.kill_agent()?;
        thread::sleep(Duration::from_secs(2));
        host.start_agent()?;
        probe.join().map_err(|_| anyhow!("the probe panicked"))?
    })
}
