//! `fabric trace`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fabric_api::{
    client::Client,
    trace::{TraceReport, TraceRequest},
};

use crate::output::{self, Format, OutputArgs};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fabric trace --from web --to db --proto tcp --port 5432\n  fabric trace --from web --packet \"$HEX\""
)]
pub(crate) struct TraceArgs {
    /// The sender, an endpoint of this node; without it, --packet is a tunnel packet that arrives at an uplink
    #[arg(long, value_name = "ENDPOINT", required_unless_present = "packet")]
    from: Option<String>,
    /// The destination, an endpoint or an address
    #[arg(long, value_name = "ENDPOINT|IP", required_unless_present = "packet", conflicts_with = "packet")]
    to: Option<String>,
    /// What the packet is: an echo request, a TCP SYN or a UDP datagram
    #[arg(long, value_enum, value_name = "PROTOCOL", conflicts_with = "packet")]
    proto: Option<Protocol>,
    /// Destination port of tcp and udp
    #[arg(long, value_name = "N", conflicts_with = "packet")]
    port: Option<u16>,
    /// A captured frame instead, in hexadecimal digits, Ethernet header first
    #[arg(long, value_name = "HEX")]
    packet: Option<String>,
    /// The socket of the agent that the packet is sent to: the trace goes on there, with its tables
    #[arg(long, value_name = "PATH")]
    far_socket: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Icmp,
    Tcp,
    Udp,
}

/// Prints what would happen to a packet; JSON and YAML are one report a node.
pub(crate) async fn run(client: &Client, args: TraceArgs) -> anyhow::Result<()> {
    let protocol = args.proto.map(|protocol| match protocol {
        Protocol::Icmp => "icmp".to_owned(),
        Protocol::Tcp => "tcp".to_owned(),
        Protocol::Udp => "udp".to_owned(),
    });
    let request =
        TraceRequest { from: args.from, to: args.to, protocol, port: args.port, packet: args.packet };
    let mut reports = vec![client.trace(&request).await?];
    if let (Some(socket), Some(sent)) = (args.far_socket, sent(&reports[0])) {
        let request = TraceRequest { packet: Some(sent), ..TraceRequest::default() };
        reports.push(Client::new(socket).trace(&request).await?);
    }
    match args.output.format {
        Format::Json | Format::Yaml => output::machine(args.output.format, &reports),
        Format::Table | Format::Wide => output::text(&page(&reports, args.output.format == Format::Wide)),
    }
}

/// The tunnel packet that left the node. What the vxlan device sends is not known.
fn sent(report: &TraceReport) -> Option<String> {
    (report.verdict == "remote").then(|| report.result.clone())
}

fn page(reports: &[TraceReport], wide: bool) -> String {
    let mut page = String::new();
    for report in reports {
        if !report.hook.is_empty() {
            page.push_str(&format!("node {}, {}\n", report.node, report.hook));
        }
        let rows = report.stages.iter().map(|stage| vec![format!("  {}", stage.name), stage.text.clone()]);
        if !report.stages.is_empty() {
            page.push_str(&output::table(None, rows.collect()));
        }
        if wide {
            page.push_str(&format!("  packet: {}\n  result: {}\n", report.packet, report.result));
        }
    }
    let Some(last) = reports.last() else { return page };
    for report in &reports[..reports.len() - 1] {
        page.push_str(&format!("node {}: {}\n", report.node, report.sentence));
    }
    last.known.iter().for_each(|text| page.push_str(&format!("known: {text}\n")));
    last.unknown.iter().for_each(|text| page.push_str(&format!("unknown: {text}\n")));
    if !last.next_node.is_empty() {
        page.push_str("To go on there: --far-socket PATH, or `fabric trace --packet` with the result (-o json) on that node\n");
    }
    page.push_str(&format!("verdict: {}\n", last.sentence));
    page
}
