//! A container that lies about its address.

use anyhow::Result;
use fabric_lab::Lab;

use super::{Cast, GREEN, show::Table, watch};
use crate::ui;

const FOREIGN: &str = "192.168.10.66:4000";
const REASON: &str = "spoof_ip";

pub(crate) fn run(lab: &Lab, cast: &Cast, table: &mut Table) -> Result<()> {
    let step = ui::Step::start("a packet with a foreign source address");
    let to = format!("{}:4000", GREEN[0]);
    let line = step.end_with(watch::for_drop(lab.host(1), REASON, || {
        cast.blue.traffic(&["spoof", "--from", FOREIGN, "--to", &to, "--count", "3"]).map(drop)
    }))?;
    println!("  {} {}", ui::dim("fabric monitor --drops:"), line.trim());
    table.row("spoofed source, sent by blue", "stopped", &format!("reason {REASON}"));
    Ok(())
}
