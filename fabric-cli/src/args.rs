//! The command tree. What a noun's verbs take is beside the noun; what is not built yet is here, so that it is
//! refused by name instead of being an unknown word.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use fabric_api::client::DEFAULT_SOCKET;

use crate::{
    apply::ApplyArgs,
    bugreport::BugreportArgs,
    capture::CaptureArgs,
    counters::CountersArgs,
    deny::DenyCommand,
    endpoint::EndpointCommand,
    flows::FlowsArgs,
    generate::{CompletionsArgs, ManArgs},
    monitor::MonitorArgs,
    namespace::NamespaceCommand,
    network::NetworkCommand,
    node::NodeCommand,
    policy::PolicyCommand,
    status::StatusArgs,
    trace::TraceArgs,
};

/// Container networks over VXLAN, carried by eBPF: create networks, attach containers, look at what happens.
#[derive(Debug, Parser)]
#[command(
    name = "fabric",
    version,
    after_help = "Example:\n  fabric network create blue --subnet 192.168.10.0/24\n  fabric endpoint attach web --network blue --pid 4711\n  fabric status"
)]
pub(crate) struct Cli {
    /// The agent's Unix socket
    #[arg(long, global = true, env = "FABRIC_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, list, inspect and remove networks
    #[command(
        subcommand,
        after_help = "Example:\n  fabric network create blue --subnet 192.168.10.0/24 --subnet fd00:10::/64\n  fabric network ls"
    )]
    Network(NetworkCommand),
    /// Attach containers to networks, detach, list and inspect them
    #[command(
        subcommand,
        after_help = "Example:\n  fabric endpoint attach web --network blue --pid 4711\n  fabric endpoint ls -o wide"
    )]
    Endpoint(EndpointCommand),
    /// List and inspect the hosts of the fabric
    #[command(subcommand, after_help = "Example:\n  fabric node ls")]
    Node(NodeCommand),
    /// Say who may talk to whom: apply, list, inspect and remove policies, ask them, check them
    #[command(
        subcommand,
        after_help = "Example:\n  fabric policy apply -f allow-web.yaml\n  fabric policy test --from web --to db --port 5432 --explain"
    )]
    Policy(PolicyCommand),
    /// Drop packets from sources at the uplinks, before anything else looks at them
    #[command(subcommand, after_help = "Example:\n  fabric deny add 198.51.100.0/24\n  fabric deny ls")]
    Deny(DenyCommand),
    /// List and label the namespaces that policies select by
    #[command(
        subcommand,
        visible_alias = "ns",
        after_help = "Example:\n  fabric namespace label shop team=web\n  fabric namespace ls"
    )]
    Namespace(NamespaceCommand),
    /// Create or change objects from YAML or JSON files, all or none
    Apply(ApplyArgs),
    /// Say whether this node is healthy, and what is degraded and why
    Status(StatusArgs),
    /// Count packets by what became of them: drops by reason, and actions
    Counters(CountersArgs),
    /// Show dropped packets as they happen, one line a packet
    Monitor(MonitorArgs),
    /// List connections: who talks to whom, how much, and by which rules
    Flows(FlowsArgs),
    /// Walk one packet through the real programs and tables, stage by stage, without sending it
    Trace(TraceArgs),
    /// Capture packets, dropped ones with the reason, for Wireshark and tcpdump
    Capture(CaptureArgs),
    /// Put everything that helps to find a fault into one archive, secrets taken out
    Bugreport(BugreportArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one page a command into a directory
    Man(ManArgs),
    #[command(hide = true, disable_help_flag = true)]
    Service(Unavailable),
    #[command(hide = true, disable_help_flag = true)]
    Top(Unavailable),
}

/// Whatever follows a command that is not built yet.
#[derive(Debug, Args)]
pub(crate) struct Unavailable {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

/// `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a label is KEY=VALUE, like tier=web".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, label};

    fn without_example(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let example =
            command.get_after_help().is_some_and(|help| help.to_string().contains("Example:\n  fabric"));
        if !example && !command.is_hide_set() {
            missing.push(path.clone());
        }
        command.get_subcommands().for_each(|sub| without_example(sub, &path, missing));
    }

    #[test]
    fn the_tree_is_sound_and_every_help_has_an_example() {
        Cli::command().debug_assert();
        let mut missing = Vec::new();
        without_example(&Cli::command(), "", &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn labels_need_a_key() {
        assert_eq!(label("tier=web=1"), Ok(("tier".to_owned(), "web=1".to_owned())));
        assert!(label("tier").is_err() && label("=web").is_err());
    }
}
