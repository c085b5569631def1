//! `fabric flows`.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use fabric_api::{
    client::Client,
    flow::{Flow, FlowFilter, FlowSide, FlowState},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::output::{self, Format, OutputArgs};

/// How often `--follow` looks.
const EVERY: Duration = Duration::from_secs(1);
/// Rows by which the widths of a table's columns are chosen.
const SAMPLE: usize = 1000;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fabric flows --endpoint web --proto tcp --port 443\n  fabric flows --state new -o json | jq -r '.[].source.address' | sort | uniq -c\n  fabric flows --follow --network blue"
)]
pub(crate) struct FlowsArgs {
    /// Go on: one line when a flow begins, is answered, closes or is gone, looked for once a second
    #[arg(long)]
    follow: bool,
    /// Only flows of this endpoint, on either side
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only flows of this network
    #[arg(long, value_name = "NET")]
    network: Option<String>,
    /// Only this protocol: tcp, udp, sctp, icmp, icmpv6 or a number
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<String>,
    /// Only flows of this address or prefix, on either side
    #[arg(long, value_name = "IP|CIDR")]
    address: Option<String>,
    /// Only flows with this port, on either side
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Only flows that are so far
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<Progress>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Progress {
    /// Nobody has answered yet
    New,
    /// Both sides have sent
    Established,
    /// TCP with FIN or RST
    Closing,
}

/// Prints flows as they come, so that a million of them need no room.
pub(crate) async fn run(client: &Client, args: FlowsArgs) -> anyhow::Result<()> {
    let state = args.state.map(|state| match state {
        Progress::New => FlowState::New,
        Progress::Established => FlowState::Established,
        Progress::Closing => FlowState::Closing,
    });
    let filter = FlowFilter {
        endpoint: args.endpoint,
        network: args.network,
        protocol: args.proto,
        address: args.address,
        port: args.port,
        state,
        limit: args.limit,
    };
    if args.follow {
        return follow(client, &filter, args.output.format).await;
    }
    let mut flows = client.flows(&filter).await?;
    match args.output.format {
        Format::Json => {
            let mut before = "[\n";
            while let Some(flow) = flows.next().await? {
                output::text(&format!("{before}  {}", json(&flow)?))?;
                before = ",\n";
            }
            output::text(if before == "[\n" { "[]\n" } else { "\n]\n" })
        }
        Format::Yaml => {
            let mut all = Vec::new();
            while let Some(flow) = flows.next().await? {
                all.push(flow);
            }
            output::machine(Format::Yaml, &all)
        }
        Format::Table | Format::Wide => {
            let wide = args.output.format == Format::Wide;
            let mut sheet = Sheet::new(titles(wide));
            while let Some(flow) = flows.next().await? {
                output::text(&sheet.add(cells(&flow, wide)))?;
            }
            if sheet.rows == 0 {
                eprintln!("no flows: those are tracked that an endpoint with a policy takes part in");
                return Ok(());
            }
            output::text(&sheet.rest())
        }
    }
}

async fn follow(client: &Client, filter: &FlowFilter, format: Format) -> anyhow::Result<()> {
    if format == Format::Yaml {
        bail!("a live stream has no YAML form: use -o json, one object a line");
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let mut known = BTreeMap::new();
    loop {
        let mut now = BTreeMap::new();
        let look = async {
            let mut flows = client.flows(filter).await?;
            while let Some(flow) = flows.next().await? {
                if known
                    .get(&name(&flow))
                    .is_none_or(|(state, began)| (*state, began) != (flow.state, &flow.began))
                {
                    let text =
                        if format == Format::Json { json(&flow)? } else { line(&flow, flow.state.as_str()) };
                    output::line(&text)?;
                }
                now.insert(name(&flow), (flow.state, flow.began));
            }
            anyhow::Ok(())
        };
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            looked = look => looked?,
        }
        if format != Format::Json {
            for flow in known.keys().filter(|flow| !now.contains_key(*flow)) {
                output::line(&format!("{:<11} {flow}", "gone"))?;
            }
        }
        known = now;
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = sleep(EVERY) => {}
        }
    }
}

fn json(flow: &Flow) -> anyhow::Result<String> {
    serde_json::to_string(flow).context("can't write this as JSON")
}

/// What no other flow is called.
fn name(flow: &Flow) -> String {
    format!("{} {} {} > {}", flow.network, flow.protocol, side(&flow.source), side(&flow.destination))
}

fn line(flow: &Flow, state: &str) -> String {
    format!("{state:<11} {} {}", name(flow), rules(flow))
}

fn side(side: &FlowSide) -> String {
    let address = match (side.address, side.port) {
        (address, 0) => address.to_string(),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
    };
    if side.endpoint.is_empty() { address } else { format!("{address} ({})", side.endpoint) }
}

/// The rules of both sides, sender's first.
fn rules(flow: &Flow) -> String {
    let rules = [&flow.egress_rule, &flow.ingress_rule].into_iter().flatten();
    let rules: Vec<&str> = rules.map(String::as_str).collect();
    let rules = if rules.is_empty() { "-".to_owned() } else { rules.join(", ") };
    if flow.would_drop { format!("{rules} (would drop)") } else { rules }
}

fn titles(wide: bool) -> Vec<String> {
    let mut titles = vec!["NETWORK", "PROTOCOL", "SOURCE", "DESTINATION", "STATE", "AGE", "IDLE", "BYTES"];
    if wide {
        titles.extend(["VNI", "BEGAN", "EXPIRES"]);
    }
    titles.push("RULES");
    titles.into_iter().map(str::to_owned).collect()
}

fn cells(flow: &Flow, wide: bool) -> Vec<String> {
    let mut cells = vec![
        flow.network.clone(),
        flow.protocol.clone(),
        side(&flow.source),
        side(&flow.destination),
        flow.state.as_str().to_owned(),
        seconds(flow.age),
        seconds(flow.idle),
        format!("{}/{}", flow.source.bytes, flow.destination.bytes),
    ];
    if wide {
        cells.extend([flow.vni.to_string(), flow.began.clone(), seconds(flow.expires)]);
    }
    cells.push(rules(flow));
    cells
}

/// A time in its two largest units.
fn seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A table that is printed while it grows: its first rows say how wide the columns are.
struct Sheet {
    held: Vec<Vec<String>>,
    widths: Vec<usize>,
    rows: u64,
}

impl Sheet {
    fn new(titles: Vec<String>) -> Self {
        Self { held: vec![titles], widths: Vec::new(), rows: 0 }
    }

    /// Takes a row; returns what is to be printed now.
    fn add(&mut self, row: Vec<String>) -> String {
        self.rows += 1;
        self.held.push(row);
        if self.widths.is_empty() && self.held.len() <= SAMPLE { String::new() } else { self.rest() }
    }

    /// What was held back.
    fn rest(&mut self) -> String {
        if self.widths.is_empty() {
            let columns = self.held.iter().map(Vec::len).max().unwrap_or(0);
            let width =
                |at: usize| self.held.iter().filter_map(|row| Some(row.get(at)?.chars().count())).max();
            self.widths = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
        }
        let mut text = String::new();
        for row in self.held.drain(..) {
            let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}  "));
            text.push_str(cells.collect::<String>().trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{SAMPLE, Sheet, seconds};

    #[test]
    fn a_table_is_printed_while_it_grows() {
        let row = |text: &str| vec![text.to_owned(), "x".to_owned()];
        let mut sheet = Sheet::new(row("NAME"));
        assert_eq!(sheet.add(row("longer")), "");
        assert_eq!(sheet.rest(), "NAME    x\nlonger  x\n");
        let mut sheet = Sheet::new(row("NAME"));
        let printed: Vec<String> = (0..SAMPLE + 2).map(|n| sheet.add(row(&n.to_string()))).collect();
        assert!(printed[..SAMPLE - 1].iter().all(String::is_empty), "held back");
        assert_eq!(printed[SAMPLE - 1].lines().count(), SAMPLE + 1, "all of them at once");
        assert_eq!(printed[SAMPLE], format!("{SAMPLE}  x\n"), "then one by one");
        assert_eq!(sheet.rest(), "");
    }

    #[test]
    fn times_have_two_units() {
        assert_eq!([5, 65, 3_700, 90_000].map(seconds), ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}
