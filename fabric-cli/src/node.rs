//! `fabric node`.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use fabric_api::{client::Client, object::Node, status::NodeStatus};
use tokio::time::Instant;

use crate::output::{self, Column, OutputArgs};

/// How often it is looked whether endpoints are left.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes, this one and the others
    #[command(visible_alias = "list", after_help = "Example:\n  fabric node ls -o wide")]
    Ls(OutputArgs),
    /// Show one node
    #[command(after_help = "Example:\n  fabric node inspect host-b -o yaml")]
    Inspect(InspectArgs),
    /// Let a node take no endpoints more; those that it has stay until somebody moves them
    #[command(after_help = "Example:\n  fabric node drain host-b --wait 600")]
    Drain(DrainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The node
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node
    name: String,
    /// Let it take endpoints again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    /// Wait until it has no endpoints, for so many seconds at most
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

const COLUMNS: &[Column<Node>] = &[
    Column::new("NAME", |node| node.metadata.name.clone()),
    Column::new("VTEPS", |node| output::joined(&node.spec.vteps)),
    Column::new("KIND", |node| kind(node).to_owned()),
    Column::new("NETWORKS", |node| {
        node.spec.networks.iter().map(|network| network.network.as_str()).collect::<Vec<_>>().join(",")
    }),
    Column::new("UPLINKS", |node| status(node, |status| output::joined(&status.uplinks))),
    Column::new("MTU", |node| status(node, mtu)),
    Column::new("ENDPOINTS", |node| status(node, |status| status.endpoints.to_string())),
    Column::new("STATE", state),
    Column::wide("PEER-MTU", |node| {
        status(node, |status| status.peer_mtu.map_or_else(String::new, |mtu| mtu.to_string()))
    }),
    Column::wide("UDP-CHECKSUM", |node| if node.spec.udp_checksum { "computed" } else { "zero" }.to_owned()),
    Column::wide("ID", |node| status(node, |status| status.id.to_string())),
    Column::wide("OWNER", |node| node.metadata.owner.clone()),
    Column::wide("LABELS", |node| output::labels(&node.metadata)),
];

fn kind(node: &Node) -> &'static str {
    if node.spec.foreign {
        "foreign"
    } else if node.status.as_ref().is_some_and(|status| status.local) {
        "this node"
    } else {
        "remote"
    }
}

/// The largest inner packet, and the MTU of the path where it is the path that limits it.
fn mtu(status: &NodeStatus) -> String {
    match (status.mtu, status.path_mtu) {
        (0, _) => String::new(),
        (mtu, None) => mtu.to_string(),
        (mtu, Some(path)) => format!("{mtu} (path {path})"),
    }
}

/// As of other objects, and whether it is drained.
fn state(node: &Node) -> String {
    let state = status(node, |status| output::state(status.state, &status.reason));
    if node.spec.drained { format!("{state}, drained") } else { state }
}

fn status(node: &Node, text: fn(&NodeStatus) -> String) -> String {
    node.status.as_ref().map_or_else(String::new, text)
}

/// Runs one verb.
pub(crate) async fn run(client: &Client, command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::Ls(args) => {
            let empty = "no nodes yet: declare the other hosts with `fabric apply -f FILE`";
            output::list(args.format, &client.nodes().await?, COLUMNS, empty)
        }
        NodeCommand::Inspect(args) => {
            output::one(args.output.format, &client.node(&args.name).await?, COLUMNS)
        }
        NodeCommand::Drain(args) => drain(client, args).await,
    }
}

async fn drain(client: &Client, args: DrainArgs) -> anyhow::Result<()> {
    let name = client.drain_node(&args.name, !args.undo).await?.metadata.name;
    if args.undo {
        return output::line(&format!("node {name} takes endpoints again"));
    }
    let until = Instant::now() + Duration::from_secs(args.wait.unwrap_or_default());
    loop {
        let left: Vec<String> = client
            .endpoints()
            .await?
            .into_iter()
            .filter(|endpoint| endpoint.spec.node.as_deref() == Some(&name))
            .map(|endpoint| endpoint.metadata.name)
            .collect();
        if left.is_empty() {
            return output::line(&format!("node {name} takes no endpoints more, and has none"));
        }
        let has = format!("has {}: {}", left.len(), left.join(", "));
        if args.wait.is_none() {
            return output::line(&format!("node {name} takes no endpoints more, and still {has}"));
        }
        if Instant::now() >= until {
            bail!("node {name} still {has}: move or detach them");
        }
        tokio::time::sleep(LOOK).await;
    }
}
