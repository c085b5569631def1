//! `fabric capture`.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use fabric_api::{
    capture::{self, CaptureRequest},
    client::Client,
};
use pcap_file::pcapng::{
    Block, PcapNgParseError, PcapNgParser, blocks::interface_statistics::InterfaceStatisticsOption,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

/// The agent holds packets back for less, to say of each whether it was dropped.
const TAIL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fabric capture web -w web.pcapng\n  fabric capture web --layer both | tcpdump -n -r -\n  fabric capture --drops --duration 10 | tshark -r - -T fields -e frame.comment"
)]
pub(crate) struct CaptureArgs {
    /// Only packets of this local endpoint
    #[arg(value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// Only packets of this network
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Write to this file; standard output if absent
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Frames of the containers, tunnel packets at the uplinks, or both
    #[arg(long, value_enum, default_value_t = Layer::Inner)]
    layer: Layer,
    /// Only packets that the programs drop
    #[arg(long)]
    drops: bool,
    /// End after so many packets
    #[arg(short = 'c', long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Keep only so many bytes of each packet
    #[arg(short = 's', long, value_name = "BYTES")]
    snaplen: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layer {
    Inner,
    Outer,
    Both,
}

/// Writes packets until the capture ends, the reader goes away, or SIGINT or SIGTERM arrives. What is written is whole blocks.
pub(crate) async fn run(client: &Client, args: CaptureArgs) -> anyhow::Result<()> {
    if args.file.is_none() && io::stdout().is_terminal() {
        bail!("packets are no text for a terminal: name a file with -w, or pipe them to `tcpdump -n -r -`");
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let request = CaptureRequest {
        endpoint: args.endpoint,
        network: args.network,
        layer: match args.layer {
            Layer::Inner => capture::Layer::Inner,
            Layer::Outer => capture::Layer::Outer,
            Layer::Both => capture::Layer::Both,
        },
        drops: args.drops,
        count: args.count,
        seconds: args.duration,
        snaplen: args.snaplen,
    };
    let mut packets = client.capture(&request).await?;
    let mut out = Output::new(args.file.as_deref())?;
    eprintln!("capturing; ^C ends it");
    let mut end: Option<Instant> = None;
    loop {
        let chunk = tokio::select! {
            _ = interrupt.recv(), if end.is_none() => {
                end = Some(Instant::now() + TAIL);
                continue;
            }
            _ = terminate.recv(), if end.is_none() => {
                end = Some(Instant::now() + TAIL);
                continue;
            }
            () = at(end) => break,
            chunk = packets.next() => chunk?,
        };
        let Some(chunk) = chunk else { break };
        out.write(&chunk)?;
    }
    eprintln!("{}", out.summary());
    Ok(())
}

async fn at(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Where the packets go, and how many there were.
struct Output {
    to: Box<dyn Write>,
    buffer: Vec<u8>,
    parser: Option<PcapNgParser>,
    packets: u64,
    dropped: u64,
    /// By interface: the agent's counts go on rising.
    lost: Vec<(u32, u64)>,
}

impl Output {
    fn new(file: Option<&Path>) -> anyhow::Result<Self> {
        let to: Box<dyn Write> = match file {
            Some(path) => {
                Box::new(File::create(path).with_context(|| format!("can't write {}", path.display()))?)
            }
            None => Box::new(io::stdout()),
        };
        Ok(Self { to, buffer: Vec::new(), parser: None, packets: 0, dropped: 0, lost: Vec::new() })
    }

    /// Writes the whole blocks among what has come so far.
    fn write(&mut self, chunk: &[u8]) -> anyhow::Result<()> {
        self.buffer.extend_from_slice(chunk);
        let mut rest = &self.buffer[..];
        let mut counted = (0, 0, Vec::new());
        if self.parser.is_none() {
            match PcapNgParser::new(rest) {
                Ok((after, parser)) => (rest, self.parser) = (after, Some(parser)),
                Err(PcapNgParseError::IncompleteBuffer { .. }) => return Ok(()),
                Err(error) => bail!("the agent's packets are not in the pcapng format: {error}"),
            }
        }
        while let Some(parser) = &mut self.parser {
            match parser.next_block(rest) {
                Ok((after, block)) => {
                    rest = after;
                    count(&block, &mut counted);
                }
                Err(PcapNgParseError::IncompleteBuffer { .. }) => break,
                Err(error) => bail!("the agent's packets are not in the pcapng format: {error}"),
            }
        }
        let whole = self.buffer.len() - rest.len();
        // Not wrapped in a context: `main` looks for a broken pipe.
        self.to.write_all(&self.buffer[..whole])?;
        self.to.flush()?;
        self.buffer.drain(..whole);
        self.packets += counted.0;
        self.dropped += counted.1;
        for (interface, lost) in counted.2 {
            self.lost.retain(|(known, _)| *known != interface);
            self.lost.push((interface, lost));
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let lost: u64 = self.lost.iter().map(|(_, lost)| lost).sum();
        let mut text = format!("{} packets, {} of them dropped by the programs", self.packets, self.dropped);
        if lost > 0 {
            text.push_str(&format!("; {lost} more came too fast and are missing"));
        }
        text
    }
}

/// Packets, those with a comment, and losses by interface.
fn count(block: &Block<'_>, (packets, dropped, lost): &mut (u64, u64, Vec<(u32, u64)>)) {
    if let Block::EnhancedPacket(packet) = block {
        *packets += 1;
        *dropped += u64::from(packet.options.iter().any(|option| {
            matches!(option, pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption::Common(_))
        }));
    } else if let Block::InterfaceStatistics(statistics) = block {
        for option in &statistics.options {
            if let InterfaceStatisticsOption::IsbOsDrop(count) = option {
                lost.push((statistics.interface_id, *count));
            }
        }
    }
}
