//! Small bounded traffic tool for the lab: UDP floods and echoes, a 1 kHz probe, TCP streams and request/response.
//!
//! A server prints `ready` when it listens and its report when it ends (after `--seconds`, or on SIGTERM). A client
//! prints its report. A report is one JSON object.
#![expect(clippy::print_stdout, reason = "reports go to standard output")]

mod common;
mod dns;
mod exact;
mod frame;
mod group;
mod hold;
mod probe;
mod reach;
mod spoof;
mod tcp;
mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

/// Small bounded traffic tool.
#[derive(Parser)]
#[command(
    name = "fabric-traffic",
    after_help = "Example: fabric-traffic udp-sink --bind 0.0.0.0:5000 --seconds 5"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Copy, Debug)]
struct Common {
    /// Run this long at most.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Pin to this CPU.
    #[arg(long)]
    cpu: Option<usize>,
}

#[derive(Subcommand)]
enum Command {
    /// Count UDP datagrams.
    UdpSink {
        /// Address to listen on.
        #[arg(long)]
        bind: SocketAddr,
        #[command(flatten)]
        common: Common,
    },
    /// Send UDP datagrams back.
    UdpEcho {
        /// Address to listen on.
        #[arg(long)]
        bind: SocketAddr,
        #[command(flatten)]
        common: Common,
    },
    /// Send UDP datagrams as fast as possible, or at a rate.
    UdpFlood {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        /// Source; any if absent.
        #[arg(long)]
        bind: Option<SocketAddr>,
        /// Payload, bytes.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Datagrams a second; unlimited if absent.
        #[arg(long)]
        rate: Option<u32>,
        /// Stop after so many.
        #[arg(long)]
        count: Option<u64>,
        /// Let the kernel cut sends of 16 datagrams (UDP_SEGMENT).
        #[arg(long)]
        gso: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Numbered datagrams to a `udp-echo` at a fixed rate; reports lost and duplicate ones.
    Probe {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        /// Datagrams a second.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Receive one TCP stream.
    TcpSink {
        /// Address to listen on.
        #[arg(long)]
        bind: SocketAddr,
        #[command(flatten)]
        common: Common,
    },
    /// Send one TCP stream.
    TcpSend {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        /// Congestion control; the machine's default if absent.
        #[arg(long)]
        congestion: Option<String>,
        /// Stop after so many bytes.
        #[arg(long)]
        bytes: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// Answer every byte of one TCP connection with one byte.
    TcpRrServer {
        /// Address to listen on.
        #[arg(long)]
        bind: SocketAddr,
        #[command(flatten)]
        common: Common,
    },
    /// One byte there and back, over and over.
    TcpRr {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        #[command(flatten)]
        common: Common,
    },
    /// Send IPv4 UDP packets with a source address of one's choice through a raw socket.
    Spoof {
        /// Source.
        #[arg(long)]
        from: std::net::SocketAddrV4,
        /// Destination.
        #[arg(long)]
        to: std::net::SocketAddrV4,
        /// Number of packets, at most 10000.
        #[arg(long, default_value_t = 10)]
        count: u32,
    },
    /// Receive one TCP stream and report the hash of its content.
    ExactTcpSink {
        /// Address to listen on.
        #[arg(long)]
        bind: SocketAddr,
        #[command(flatten)]
        common: Common,
    },
    /// Send one TCP message of each size and report the hash of their content.
    ExactTcpSend {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        /// Message sizes, bytes, as 1300-1460,65536.
        #[arg(long)]
        sizes: String,
        #[command(flatten)]
        common: Common,
    },
    /// Receive UDP datagrams and report the sum of the hashes of their contents.
    ExactUdpSink {
        /// Address to listen on.
        #[arg(long)]
        bind: SocketAddr,
        #[command(flatten)]
        common: Common,
    },
    /// Send UDP datagrams of each size and report the sum of the hashes of their contents.
    ExactUdpSend {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        /// Datagram sizes, bytes, as 1300-1460,9000.
        #[arg(long)]
        sizes: String,
        /// Let the kernel cut a send of four datagrams (UDP_SEGMENT).
        #[arg(long)]
        gso: bool,
        /// Pause behind the datagrams of each size, milliseconds.
        #[arg(long, default_value_t = 1)]
        pause: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Send one UDP datagram from each of many source ports.
    Flows {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        /// Number of flows.
        #[arg(long, default_value_t = 1000)]
        count: u16,
        #[command(flatten)]
        common: Common,
    },
    /// Count the UDP datagrams to a multicast group, which is joined, or to a broadcast address.
    GroupSink {
        /// The group and the port, as 239.1.1.1:5000.
        #[arg(long)]
        group: SocketAddr,
        /// Where the group is joined.
        #[arg(long, default_value = "eth0")]
        ifname: String,
        #[command(flatten)]
        common: Common,
    },
    /// Send UDP datagrams to a multicast group or a broadcast address.
    GroupSend {
        /// The group and the port.
        #[arg(long)]
        to: SocketAddr,
        /// Where they go out.
        #[arg(long, default_value = "eth0")]
        ifname: String,
        /// Payload, bytes.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Number of datagrams.
        #[arg(long, default_value_t = 8)]
        count: u32,
        /// Let the kernel cut sends of four datagrams (UDP_SEGMENT).
        #[arg(long)]
        gso: bool,
    },
    /// Send back what comes to any of the ports, over TCP and UDP, IPv4 and IPv6.
    Serve {
        /// TCP port; may be repeated.
        #[arg(long)]
        tcp: Vec<u16>,
        /// UDP port; may be repeated.
        #[arg(long)]
        udp: Vec<u16>,
        /// Address from which datagrams are answered; may be repeated; any if absent.
        #[arg(long)]
        at: Vec<IpAddr>,
        #[command(flatten)]
        common: Common,
    },
    /// Try many ports of `serve` at once; reports what came of each: open, refused, timeout.
    Reach {
        /// A target, as tcp/192.168.10.11:80; may be repeated.
        #[arg(long, required = true)]
        to: Vec<reach::Target>,
        /// Source, one a family; any if absent.
        #[arg(long)]
        from: Vec<IpAddr>,
        /// How long an answer is awaited, milliseconds.
        #[arg(long, default_value_t = 2000)]
        timeout: u64,
    },
    /// Keep one TCP connection to `serve` busy; reports when the last answer came.
    Hold {
        /// Destination.
        #[arg(long)]
        to: SocketAddr,
        /// Source; any if absent.
        #[arg(long)]
        from: Option<IpAddr>,
        /// Time between two bytes, milliseconds.
        #[arg(long, default_value_t = 5)]
        every: u64,
        /// Number of further connections that are silent until the end, when each has to be answered.
        #[arg(long, default_value_t = 0)]
        idle: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Answer DNS queries for IPv4 addresses.
    DnsServe {
        /// Address to listen on.
        #[arg(long)]
        bind: SocketAddr,
        /// A name, as NAME=ADDRESS or NAME=ADDRESS,TTL; may be repeated.
        #[arg(long)]
        record: Vec<dns::Record>,
        #[command(flatten)]
        common: Common,
    },
    /// Ask a DNS server for a name's IPv4 address, and connect there at once.
    DnsAsk {
        /// The server.
        #[arg(long)]
        server: SocketAddr,
        /// The name.
        #[arg(long)]
        name: String,
        /// TCP port to connect to; a refusal counts as reached.
        #[arg(long, default_value_t = 80)]
        port: u16,
    },
    /// Send a frame, given in hexadecimal digits, through a packet socket.
    Frame {
        /// Interface.
        #[arg(long)]
        ifname: String,
        /// The frame from its destination MAC on.
        #[arg(long)]
        hex: String,
        /// Number of times, at most 10000.
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Time between two, microseconds.
        #[arg(long, default_value_t = 0)]
        pause: u64,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fabric-traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<serde_json::Value> {
    match command {
        Command::UdpSink { bind, common } => udp::sink(bind, common.begin()?),
        Command::UdpEcho { bind, common } => udp::echo(bind, common.begin()?),
        Command::UdpFlood { to, bind, size, rate, count, gso, common } => {
            udp::flood(&udp::Flood { to, bind, size, rate, count, gso }, common.begin()?)
        }
        Command::Probe { to, rate, common } => probe::run(to, rate, common.begin()?),
        Command::TcpSink { bind, common } => tcp::sink(bind, common.begin()?),
        Command::TcpSend { to, congestion, bytes, common } => {
            tcp::send(to, congestion.as_deref(), bytes, common.begin()?)
        }
        Command::TcpRrServer { bind, common } => tcp::rr_server(bind, common.begin()?),
        Command::TcpRr { to, common } => tcp::rr(to, common.begin()?),
        Command::Spoof { from, to, count } => {
            ensure!(count <= 10_000, "--count {count} is more than 10000");
            spoof::send(from, to, count)
        }
        Command::ExactTcpSink { bind, common } => exact::tcp_sink(bind, common.begin()?),
        Command::ExactTcpSend { to, sizes, common } => {
            exact::tcp_send(to, &exact::sizes(&sizes)?, common.begin()?)
        }
        Command::ExactUdpSink { bind, common } => exact::udp_sink(bind, common.begin()?),
        Command::ExactUdpSend { to, sizes, gso, pause, common } => {
            let pause = Duration::from_millis(pause);
            exact::udp_send(to, &exact::sizes(&sizes)?, gso, pause, common.begin()?)
        }
        Command::Flows { to, count, common } => exact::flows(to, count, common.begin()?),
        Command::GroupSink { group, ifname, common } => group::sink(group, &ifname, common.begin()?),
        Command::GroupSend { to, ifname, size, count, gso } => group::send(to, &ifname, size, count, gso),
        Command::Serve { tcp, udp, at, common } => reach::serve(&tcp, &udp, &at, common.begin()?),
        Command::Reach { to, from, timeout } => reach::reach(&to, &from, Duration::from_millis(timeout)),
        Command::Hold { to, from, every, idle, common } => {
            hold::tcp(to, from, Duration::from_millis(every), idle, common.begin()?)
        }
        Command::DnsServe { bind, record, common } => dns::serve(bind, &record, common.begin()?),
        Command::DnsAsk { server, name, port } => dns::ask(server, &name, port),
        Command::Frame { ifname, hex, count, pause } => {
            ensure!(count <= 10_000, "--count {count} is more than 10000");
            frame::send(&ifname, &hex, count, Duration::from_micros(pause))
        }
    }
}
