//! `fabric endpoint`.

use std::{
    net::IpAddr,
    path::{self, Path},
};

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, Subcommand};
use fabric_api::{
    client::Client,
    object::{
        API_VERSION, Attachment, Destination, Endpoint, EndpointSpec, Metadata, MoveStep, MovementPhase,
        NamedPort,
    },
    status::{EndpointCounters, EndpointStatus},
};

use crate::{
    args::label,
    output::{self, Column, Format, OutputArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Attach a container of this host to a network; returns when it carries packets
    #[command(
        after_help = "Example:\n  fabric endpoint attach web --network blue --pid 4711 --ip 192.168.10.7 --port-name http=8080/tcp\n  fabric endpoint attach db --network blue --netns /run/netns/db"
    )]
    Attach(Box<AttachArgs>),
    /// Detach a container and free its addresses
    #[command(after_help = "Example:\n  fabric endpoint detach web")]
    Detach(NameArgs),
    /// List the endpoints, local and remote
    #[command(visible_alias = "list", after_help = "Example:\n  fabric endpoint ls -o wide")]
    Ls(OutputArgs),
    /// Show one endpoint, with its counters if it is local
    #[command(after_help = "Example:\n  fabric endpoint inspect web -o json")]
    Inspect(InspectArgs),
    /// Move an endpoint to another node, with its addresses, its MAC and its connections
    #[command(
        after_help = "Example:\n  fabric endpoint move web --to h2 --pid 4242\n  fabric endpoint move web --to h2 --netns /run/netns/web --step prepare\n  fabric endpoint move web --step activate"
    )]
    Move(MoveArgs),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true).args(["netns", "pid"])))]
pub(crate) struct AttachArgs {
    /// Its name: a-z, 0-9, - and ., at most 63 characters
    name: String,
    /// The network
    #[arg(long, value_name = "NET")]
    network: String,
    /// Path of the container's network namespace
    #[arg(long, value_name = "PATH")]
    netns: Option<String>,
    /// A process in the container's network namespace
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Name of the interface inside the container
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
    /// An address, at most one a subnet; a free one if absent
    #[arg(long = "ip", value_name = "IP")]
    addresses: Vec<IpAddr>,
    /// Its MAC; derived from the first address if absent
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    /// Policy namespace; the network's name if absent
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// A named port; may be repeated
    #[arg(long = "port-name", value_name = "NAME=PORT[/PROTOCOL]", value_parser = named_port)]
    ports: Vec<NamedPort>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[arg(long, hide = true)]
    rate: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").args(["netns", "pid"])))]
pub(crate) struct MoveArgs {
    /// The endpoint
    name: String,
    /// The node where it goes
    #[arg(long, value_name = "NODE", required_unless_present = "step")]
    to: Option<String>,
    /// Path of the container's network namespace on that node
    #[arg(long, value_name = "PATH", requires = "to")]
    netns: Option<String>,
    /// A process in the container's network namespace on that node
    #[arg(long, value_name = "PID", requires = "to", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Name of the interface there; the one that it has now if absent
    #[arg(long, value_name = "NAME", requires = "to")]
    ifname: Option<String>,
    /// Only this step, for orchestrators
    #[arg(long, value_enum)]
    step: Option<Step>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A step of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Step {
    /// Make the port at the destination; nothing is sent there yet
    Prepare,
    /// Let what is prepared become the endpoint's place
    Activate,
    /// End the relay of the former home at once
    Release,
    /// Undo what is prepared
    Abort,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The endpoint
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The endpoint
    name: String,
}

const COLUMNS: &[Column<Endpoint>] = &[
    Column::new("NAME", |endpoint| endpoint.metadata.name.clone()),
    Column::new("NETWORK", |endpoint| endpoint.spec.network.clone()),
    Column::new("NODE", |endpoint| endpoint.spec.node.clone().unwrap_or_default()),
    Column::new("ADDRESSES", |endpoint| output::joined(&endpoint.spec.addresses)),
    Column::new("MAC", |endpoint| endpoint.spec.mac.clone().unwrap_or_default()),
    Column::new("STATE", |endpoint| status(endpoint, |status| output::state(status.state, &status.reason))),
    Column::wide("CONTAINER", |endpoint| {
        attachment(endpoint, |attachment| attachment.container.clone().unwrap_or_default())
    }),
    Column::wide("INTERFACE", |endpoint| attachment(endpoint, |attachment| attachment.ifname.clone())),
    Column::wide("HOST-INTERFACE", |endpoint| status(endpoint, |status| status.host_ifname.clone())),
    Column::wide("NETNS", |endpoint| attachment(endpoint, |attachment| attachment.netns.clone())),
    Column::wide("SENT", |endpoint| counters(endpoint, |c| traffic(c.egress_packets, c.egress_bytes))),
    Column::wide("RECEIVED", |endpoint| counters(endpoint, |c| traffic(c.ingress_packets, c.ingress_bytes))),
    Column::wide("DROPS", |endpoint| {
        counters(endpoint, |c| format!("{}/{}", c.egress_drops, c.ingress_drops))
    }),
    Column::wide("GROUPS", |endpoint| {
        status(endpoint, |status| {
            let refused = status.groups_refused;
            let more = if refused == 0 { String::new() } else { format!(" ({refused} refused)") };
            output::joined(&status.groups) + &more
        })
    }),
    Column::wide("NAMESPACE", |endpoint| endpoint.spec.namespace.clone().unwrap_or_default()),
    Column::wide("PORTS", |endpoint| {
        let ports =
            endpoint.spec.ports.iter().map(|port| format!("{}={}/{}", port.name, port.port, port.protocol));
        ports.collect::<Vec<_>>().join(",")
    }),
    Column::wide("NAMES", |endpoint| {
        status(endpoint, |status| {
            let told = status.names.iter().map(|t| format!("{}={} ({} s)", t.name, t.address, t.seconds));
            told.collect::<Vec<_>>().join(", ")
        })
    }),
    Column::wide("GENERATION", |endpoint| endpoint.spec.generation.to_string()),
    Column::wide("MOVE", |endpoint| {
        let movement = endpoint.spec.movement.as_ref();
        movement.map_or_else(String::new, |m| {
            let way = if m.phase == MovementPhase::Activated { "from" } else { "to" };
            format!("{} {way} {}", m.phase.as_str(), m.node)
        })
    }),
    Column::wide("OWNER", |endpoint| endpoint.metadata.owner.clone()),
    Column::wide("LABELS", |endpoint| output::labels(&endpoint.metadata)),
];

fn status(endpoint: &Endpoint, text: fn(&EndpointStatus) -> String) -> String {
    endpoint.status.as_ref().map_or_else(String::new, text)
}

fn attachment(endpoint: &Endpoint, text: fn(&Attachment) -> String) -> String {
    endpoint.spec.attachment.as_ref().map_or_else(String::new, text)
}

fn counters(endpoint: &Endpoint, text: fn(&EndpointCounters) -> String) -> String {
    endpoint.status.as_ref().and_then(|status| status.counters.as_ref()).map_or_else(String::new, text)
}

fn traffic(packets: u64, bytes: u64) -> String {
    format!("{packets} packets {bytes} bytes")
}

/// `NAME=PORT[/PROTOCOL]`.
fn named_port(text: &str) -> Result<NamedPort, String> {
    let expected = || "a named port is NAME=PORT[/PROTOCOL], like http=8080/tcp".to_owned();
    let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(expected)?;
    let (port, protocol) = rest.split_once('/').unwrap_or((rest, "tcp"));
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(expected)?;
    let protocol = protocol.to_ascii_uppercase();
    if !["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) {
        return Err("the protocol of a named port is tcp, udp or sctp".to_owned());
    }
    Ok(NamedPort { name: name.to_owned(), port, protocol })
}

/// Runs one verb.
pub(crate) async fn run(client: &Client, command: EndpointCommand) -> anyhow::Result<()> {
    match command {
        EndpointCommand::Attach(args) => attach(client, *args).await,
        EndpointCommand::Detach(args) => {
            client.detach_endpoint(&args.name).await?;
            output::line(&format!("endpoint {} detached", args.name))
        }
        EndpointCommand::Ls(args) => {
            let empty =
                "no endpoints yet: attach one with `fabric endpoint attach NAME --network NET --pid PID`";
            output::list(args.format, &client.endpoints().await?, COLUMNS, empty)
        }
        EndpointCommand::Inspect(args) => {
            output::one(args.output.format, &client.endpoint(&args.name).await?, COLUMNS)
        }
        EndpointCommand::Move(args) => move_to(client, args).await,
    }
}

async fn move_to(client: &Client, args: MoveArgs) -> anyhow::Result<()> {
    let step = step(&args)?;
    let endpoint = client.move_endpoint(&args.name, &step).await?;
    match args.output.format {
        Format::Table => output::line(&moved(&endpoint)),
        Format::Wide | Format::Json | Format::Yaml => output::one(args.output.format, &endpoint, COLUMNS),
    }
}

fn step(args: &MoveArgs) -> anyhow::Result<MoveStep> {
    let destination = || -> anyhow::Result<Destination> {
        let netns = match (&args.netns, args.pid) {
            (Some(path), _) if path.starts_with('/') => path.clone(),
            (Some(path), _) => bail!("--netns {path:?} is a path on another host: give an absolute one"),
            (None, Some(pid)) => format!("/proc/{pid}/ns/net"),
            (None, None) => bail!("give the container's namespace there, by --netns or --pid"),
        };
        let Some(node) = args.to.clone() else { bail!("give the node where it goes, by --to") };
        Ok(Destination { node, netns, ifname: args.ifname.clone() })
    };
    if args.to.is_some() && !matches!(args.step, None | Some(Step::Prepare)) {
        bail!("--to is for a whole move or --step prepare: leave it out");
    }
    Ok(match args.step {
        None => MoveStep::Move(destination()?),
        Some(Step::Prepare) => MoveStep::Prepare(destination()?),
        Some(Step::Activate) => MoveStep::Activate,
        Some(Step::Release) => MoveStep::Release,
        Some(Step::Abort) => MoveStep::Abort,
    })
}

fn moved(endpoint: &Endpoint) -> String {
    let (name, node) = (&endpoint.metadata.name, endpoint.spec.node.as_deref().unwrap_or_default());
    match &endpoint.spec.movement {
        Some(m) if m.phase < MovementPhase::Activated => {
            format!("endpoint {name} is on node {node}, and {} on node {}", m.phase.as_str(), m.node)
        }
        _ => format!("endpoint {name} is on node {node}, generation {}", endpoint.spec.generation),
    }
}

async fn attach(client: &Client, args: AttachArgs) -> anyhow::Result<()> {
    if args.rate.is_some() {
        bail!("--rate is not available in this version");
    }
    let endpoint = Endpoint {
        api_version: API_VERSION.to_owned(),
        metadata: Metadata {
            name: args.name,
            labels: args.labels.into_iter().collect(),
            ..Metadata::default()
        },
        spec: EndpointSpec {
            network: args.network,
            namespace: args.namespace,
            addresses: args.addresses,
            mac: args.mac,
            ports: args.ports,
            generation: 1,
            attachment: Some(Attachment {
                netns: netns(args.netns, args.pid)?,
                netns_inode: 0,
                ifname: args.ifname,
                engine: None,
                container: None,
            }),
            ..EndpointSpec::default()
        },
        status: None,
    };
    let attached = client.attach_endpoint(&endpoint).await?;
    match args.output.format {
        Format::Table => output::line(&sentence(&attached)),
        Format::Wide | Format::Json | Format::Yaml => output::one(args.output.format, &attached, COLUMNS),
    }
}

/// The namespace's path as the agent can use it, which has another working directory.
fn netns(netns: Option<String>, pid: Option<u32>) -> anyhow::Result<String> {
    if let Some(pid) = pid {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            bail!("there is no process {pid}: give --pid a process that runs in the container");
        }
        return Ok(format!("/proc/{pid}/ns/net"));
    }
    let given = netns.unwrap_or_default();
    let absolute = path::absolute(&given).with_context(|| format!("--netns {given:?} is not a path"))?;
    absolute.to_str().map(str::to_owned).with_context(|| format!("--netns {given:?} is not UTF-8"))
}

fn sentence(endpoint: &Endpoint) -> String {
    let spec = &endpoint.spec;
    let mut text = format!("endpoint {} attached to {}", endpoint.metadata.name, spec.network);
    if !spec.addresses.is_empty() {
        text.push_str(&format!(": {}", output::joined(&spec.addresses)));
    }
    if let Some(mac) = &spec.mac {
        text.push_str(&format!(", MAC {mac}"));
    }
    if let Some(attachment) = &spec.attachment {
        text.push_str(&format!(", interface {}", attachment.ifname));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{MoveArgs, MoveStep, named_port, netns, step};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: MoveArgs,
    }

    fn read(line: &[&str]) -> Result<MoveStep, String> {
        let line = Line::try_parse_from([&["x"], line].concat()).map_err(|e| e.to_string())?;
        step(&line.args).map_err(|e| e.to_string())
    }

    #[test]
    fn the_steps_of_a_move_take_what_they_need_and_nothing_else() {
        let Ok(MoveStep::Move(to)) = read(&["web", "--to", "h2", "--pid", "7"]) else {
            panic!("a whole move")
        };
        assert_eq!((to.node.as_str(), to.netns.as_str(), to.ifname), ("h2", "/proc/7/ns/net", None));
        let line = ["web", "--to", "h2", "--netns", "/n", "--ifname", "eth1", "--step", "prepare"];
        assert!(matches!(read(&line), Ok(MoveStep::Prepare(to)) if to.ifname.as_deref() == Some("eth1")));
        assert_eq!(read(&["web", "--step", "activate"]), Ok(MoveStep::Activate));
        assert_eq!(read(&["web", "--step", "abort"]), Ok(MoveStep::Abort));
        for bad in [
            &["web"][..],
            &["web", "--to", "h2"],
            &["web", "--to", "h2", "--netns", "n"],
            &["web", "--pid", "7", "--step", "activate"],
            &["web", "--to", "h2", "--step", "activate"],
            &["web", "--to", "h2", "--pid", "7", "--netns", "/n"],
            &["web", "--step", "prepare"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn named_ports_are_read_strictly() {
        let port = named_port("http=8080").expect("TCP is the default");
        assert_eq!((port.name.as_str(), port.port, port.protocol.as_str()), ("http", 8080, "TCP"));
        assert_eq!(named_port("dns=53/udp").expect("UDP").protocol, "UDP");
        for bad in ["http", "=80", "http=", "http=0", "http=65536", "http=80/icmp", "http=80/"] {
            assert!(named_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_relative_namespace_becomes_absolute_and_a_pid_must_exist() {
        assert!(netns(Some("x".to_owned()), None).expect("a path").starts_with('/'));
        let own = std::process::id();
        assert_eq!(netns(None, Some(own)).expect("we run"), format!("/proc/{own}/ns/net"));
        let error = netns(None, Some(u32::MAX)).expect_err("no such process").to_string();
        assert!(error.contains("there is no process 4294967295"), "{error}");
    }
}
