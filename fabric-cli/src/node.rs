//! `fabric node`.

use clap::{Args, Subcommand};
use fabric_api::{client::Client, object::Node, status::NodeStatus};

use crate::{
    args::Unavailable,
    output::{self, Column, OutputArgs},
    unavailable,
};

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes, this one and the others
    #[command(visible_alias = "list", after_help = "Example:\n  fabric node ls -o wide")]
    Ls(OutputArgs),
    /// Show one node
    #[command(after_help = "Example:\n  fabric node inspect host-b -o yaml")]
    Inspect(InspectArgs),
    #[command(hide = true, disable_help_flag = true)]
    Drain(Unavailable),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The node
    name: String,
    #[command(flatten)]
    output: OutputArgs,
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
    Column::new("STATE", |node| status(node, |status| output::state(status.state, &status.reason))),
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
        NodeCommand::Drain(_) => unavailable("node drain"),
    }
}
