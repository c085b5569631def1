//! Rates through the overlay beside the bare wire, in turns, so that a slow moment of the machine hits both.

use std::thread;

use anyhow::{Context, Result};
use fabric_lab::Lab;
use serde_json::Value;

use super::{Cast, GREEN, show::Table};
use crate::ui;

const ROUNDS: usize = 9;
const SECONDS: &str = "1";
/// A server waits this long for its client at most.
const SERVER_SECONDS: &str = "20";
const PAYLOAD: &str = "64";

#[derive(Default)]
struct Samples {
    tcp: Vec<f64>,
    udp: Vec<f64>,
}

pub(crate) fn run(lab: &Lab, cast: &Cast, table: &mut Table) -> Result<()> {
    let (mut bare, mut overlay) = (Samples::default(), Samples::default());
    let mut congestion = String::new();
    let step = ui::Step::start("TCP and UDP rates, overlay and bare wire in turns");
    for round in 1..=ROUNDS {
        step.progress(&format!("round {round} of {ROUNDS}"));
        let wire = lab.host(2).address();
        let (from, to) = (lab.host(1), lab.host(2));
        let tcp = |report: &Value| report["gbps"].as_f64().context("no rate");
        let udp = |report: &Value| report["pps"].as_f64().context("no rate");
        let (sent, got) = pair(|a| to.serve(a), |a| from.traffic(a), &tcp_lines(&wire))?;
        bare.tcp.push(tcp(&got)?);
        congestion = sent["congestion"].as_str().unwrap_or_default().to_owned();
        let (_, got) = pair(|a| cast.green.serve(a), |a| cast.blue.traffic(a), &tcp_lines(GREEN[0]))?;
        overlay.tcp.push(tcp(&got)?);
        let (_, got) = pair(|a| to.serve(a), |a| from.traffic(a), &udp_lines(&wire))?;
        bare.udp.push(udp(&got)?);
        let (_, got) = pair(|a| cast.green.serve(a), |a| cast.blue.traffic(a), &udp_lines(GREEN[0]))?;
        overlay.udp.push(udp(&got)?);
    }
    step.done();
    let (tcp, wire) = (median(overlay.tcp), median(bare.tcp));
    table.row(
        &format!("TCP, one stream, {congestion}"),
        &format!("{tcp:.1} Gbit/s"),
        &format!("{:.2} of the bare wire's {wire:.1}", tcp / wire),
    );
    let (udp, wire) = (median(overlay.udp), median(bare.udp));
    table.row(
        &format!("UDP, {PAYLOAD} B"),
        &format!("{:.0} kpps", udp / 1e3),
        &format!("{:.2} of the bare wire's {:.0}", udp / wire, wire / 1e3),
    );
    table.row(
        "",
        &format!("medians of {ROUNDS} rounds"),
        &format!("{SECONDS} s each, in turns{}", pinning()),
    );
    Ok(())
}

/// Server and client arguments; each side has a CPU of its own where there are two.
type Lines = [Vec<String>; 2];

fn two_cpus() -> bool {
    thread::available_parallelism().is_ok_and(|n| n.get() >= 2)
}

fn pinning() -> &'static str {
    if two_cpus() { ", sender on CPU 0, receiver on CPU 1" } else { "" }
}

fn lines(server: &[&str], client: &[&str]) -> Lines {
    let pin = |line: &[&str], cpu: &str| {
        let mut line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        if two_cpus() {
            line.extend(["--cpu".to_owned(), cpu.to_owned()]);
        }
        line
    };
    [pin(server, "1"), pin(client, "0")]
}

fn tcp_lines(address: &str) -> Lines {
    lines(
        &["tcp-sink", "--bind", &format!("{address}:5201"), "--seconds", SERVER_SECONDS],
        &["tcp-send", "--to", &format!("{address}:5201"), "--seconds", SECONDS],
    )
}

fn udp_lines(address: &str) -> Lines {
    lines(
        &["udp-sink", "--bind", &format!("{address}:5202"), "--seconds", SERVER_SECONDS],
        &["udp-flood", "--to", &format!("{address}:5202"), "--size", PAYLOAD, "--seconds", SECONDS],
    )
}

/// Runs a client against a server; reports of the client and of the server.
fn pair(
    serve: impl FnOnce(&[&str]) -> Result<fabric_lab::Server>,
    client: impl FnOnce(&[&str]) -> Result<Value>,
    [server_line, client_line]: &Lines,
) -> Result<(Value, Value)> {
    fn words(line: &[String]) -> Vec<&str> {
        line.iter().map(String::as_str).collect()
    }
    let server = serve(&words(server_line))?;
    let sent = client(&words(client_line))?;
    Ok((sent, server.report()?))
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
