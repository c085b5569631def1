//! A line of `fabric monitor` about something that is made to happen.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use fabric_lab::Host;

/// Provokes drops on a host until the monitor there prints a line that contains `wanted`, and returns that line.
///
/// # Errors
/// If provoking fails, or no such line comes after ten times.
pub(crate) fn for_drop(host: &Host, wanted: &str, mut provoke: impl FnMut() -> Result<()>) -> Result<String> {
    let mut monitor = host
        .command(&["fabric", "monitor", "--drops"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("fabric monitor does not start")?;
    let output = monitor.stdout.take().context("no standard output")?;
    let (lines, seen) = mpsc::channel();
    let pattern = wanted.to_owned();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains(&pattern) && lines.send(line).is_err() {
                return;
            }
        }
    });
    let mut result = Err(anyhow!("the monitor of {} said nothing of {wanted}", host.name()));
    // The monitor subscribes when it has started; events of before that are not repeated.
    for _ in 0..10 {
        if let Err(error) = provoke() {
            result = Err(error);
            break;
        }
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
