//! A container that lies about its address.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use fabric_lab::Lab;

use super::{Cast, GREEN, show::Table};
use crate::ui;

const FOREIGN: &str = "192.168.10.66:4000";
const REASON: &str = "spoof_ip";

pub(crate) fn run(lab: &Lab, cast: &Cast, table: &mut Table) -> Result<()> {
    let step = ui::Step::start("a packet with a foreign source address");
    let line = step.end_with(observe(lab, cast))?;
    println!("  {} {}", ui::dim("fabric monitor --drops:"), line.trim());
    table.row("spoofed source, sent by blue", "stopped", &format!("reason {REASON}"));
    Ok(())
}

/// Sends spoofed packets and returns the monitor's line about one of them.
fn observe(lab: &Lab, cast: &Cast) -> Result<String> {
    let mut monitor = lab
        .host(1)
        .command(&["fabric", "monitor", "--drops"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("fabric monitor does not start")?;
    let output = monitor.stdout.take().context("no standard output")?;
    let (lines, seen) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains(REASON) && lines.send(line).is_err() {
                return;
            }
        }
    });
    let to = format!("{}:4000", GREEN[0]);
    let mut result = Err(anyhow::anyhow!("no event with reason {REASON} was seen"));
    // The monitor subscribes when it has started; events of before that are not repeated.
    for _ in 0..10 {
        cast.blue.traffic(&["spoof", "--from", FOREIGN, "--to", &to, "--count", "3"])?;
        if let Ok(line) = seen.recv_timeout(Duration::from_millis(500)) {
            result = Ok(line);
            break;
        }
    }
    let _ = monitor.kill();
    let _ = monitor.wait();
    drop(seen);
    let _ = reader.join();
    result
}
