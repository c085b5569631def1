//! `fabric trace`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fabric_api::{
    client::Client,
    trace::{TraceReport, TraceRequest},
};
use serde::Serialize;

use crate::{
    output::{self, Format, OutputArgs},
    packets,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fabric trace --from web --to db --proto tcp --port 5432\n  fabric trace --from web --packet \"$HEX\"\n  fabric trace --from web --pcap web.pcapng"
)]
pub(crate) struct TraceArgs {
    /// The sender, an endpoint of this node; without it, a tunnel packet that arrives at an uplink
    #[arg(long, value_name = "ENDPOINT", required_unless_present_any = ["packet", "pcap"])]
    from: Option<String>,
    /// The destination, an endpoint or an address
    #[arg(long, value_name = "ENDPOINT|IP", required_unless_present_any = ["packet", "pcap"], conflicts_with_all = ["packet", "pcap"])]
    to: Option<String>,
    /// What the packet is: an echo request, a TCP SYN or a UDP datagram
    #[arg(long, value_enum, value_name = "PROTOCOL", conflicts_with_all = ["packet", "pcap"])]
    proto: Option<Protocol>,
    /// Destination port of tcp and udp
    #[arg(long, value_name = "N", conflicts_with_all = ["packet", "pcap"])]
    port: Option<u16>,
    /// A captured frame instead, in hexadecimal digits, Ethernet header first
    #[arg(long, value_name = "HEX")]
    packet: Option<String>,
    /// Every packet of a capture file (pcap or pcapng) that the sender sent; without --from, tunnel packets that arrived
    #[arg(long, value_name = "FILE", conflicts_with = "packet")]
    pcap: Option<PathBuf>,
    /// Walk no more than so many packets of the file
    #[arg(short = 'c', long, value_name = "N", default_value_t = 100, requires = "pcap")]
    count: usize,
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
    if let Some(file) = &args.pcap {
        return file_of_packets(client, &args, file).await;
    }
    let protocol = args.proto.map(|protocol| match protocol {
        Protocol::Icmp => "icmp".to_owned(),
        Protocol::Tcp => "tcp".to_owned(),
        Protocol::Udp => "udp".to_owned(),
    });
    let request =
        TraceRequest { from: args.from, to: args.to, protocol, port: args.port, packet: args.packet };
    let reports = walk(client, &request, args.far_socket.as_deref()).await?;
    match args.output.format {
        Format::Json | Format::Yaml => output::machine(args.output.format, &reports),
        Format::Table | Format::Wide => output::text(&page(&reports, args.output.format == Format::Wide)),
    }
}

/// The report of this node and, where its agent is named, of the one that the packet is sent to.
async fn walk(
    client: &Client,
    request: &TraceRequest,
    far: Option<&Path>,
) -> anyhow::Result<Vec<TraceReport>> {
    let mut reports = vec![client.trace(request).await?];
    if let (Some(socket), Some(sent)) = (far, sent(&reports[0])) {
        let request = TraceRequest { packet: Some(sent), ..TraceRequest::default() };
        reports.push(Client::new(socket).trace(&request).await?);
    }
    Ok(reports)
}

/// What happens to one packet of a file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Numbered {
    /// As Wireshark and tcpdump count.
    packet: usize,
    /// One a node; none if it was not walked.
    reports: Vec<TraceReport>,
    /// Why it was not walked.
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

async fn file_of_packets(client: &Client, args: &TraceArgs, file: &Path) -> anyhow::Result<()> {
    let mut frames = packets::walked(packets::read(file)?, args.from.as_deref());
    let left = frames.len().saturating_sub(args.count);
    frames.truncate(args.count);
    let mut all = Vec::new();
    for frame in frames {
        let packet: String = frame.data.iter().map(|byte| format!("{byte:02x}")).collect();
        let request =
            TraceRequest { from: args.from.clone(), packet: Some(packet), ..TraceRequest::default() };
        let far = args.far_socket.as_deref();
        let walked = if frame.cut {
            Err("the capture has cut it: capture whole packets".to_owned())
        } else {
            match walk(client, &request, far).await {
                Ok(reports) => Ok(reports),
                // An agent that is gone, or a sender that does not exist, is the same for all of them.
                Err(error) if all.is_empty() => return Err(error),
                Err(error) => Err(error.to_string()),
            }
        };
        let (reports, error) = match walked {
            Ok(reports) => (reports, String::new()),
            Err(error) => (Vec::new(), error),
        };
        all.push(Numbered { packet: frame.number, reports, error });
    }
    if left > 0 {
        eprintln!("{left} more packets in {}: --count walks more of them", file.display());
    }
    match args.output.format {
        Format::Json | Format::Yaml => output::machine(args.output.format, &all),
        Format::Wide => output::text(&all.iter().map(numbered_page).collect::<String>()),
        Format::Table => {
            let rows = all.iter().map(|one| {
                let sentence = one.reports.last().map_or(&one.error, |report| &report.sentence);
                vec![one.packet.to_string(), sentence.clone()]
            });
            let titles = vec!["PACKET".to_owned(), "VERDICT".to_owned()];
            output::text(&output::table(Some(titles), rows.collect()))
        }
    }
}

fn numbered_page(one: &Numbered) -> String {
    if one.reports.is_empty() {
        return format!("packet {}: {}\n\n", one.packet, one.error);
    }
    format!("packet {}\n{}\n", one.packet, page(&one.reports, true))
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
