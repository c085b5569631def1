//! `fabric deny`: sources whose packets the hosts drop where they come in.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use fabric_api::{
    client::Client,
    object::{DenySet, DenySetChange, LabelRequirement, LabelSelector},
    status::State,
};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    output::{self, Column, OutputArgs},
    session,
};

/// The label of every node, with its name.
const NODE_NAME_LABEL: &str = "kubernetes.io/hostname";

#[derive(Debug, Subcommand)]
pub(crate) enum DenyCommand {
    /// Drop packets from these sources at every uplink, before anything else looks at them
    #[command(
        after_help = "Example:\n  fabric deny add 198.51.100.0/24 2001:db8:bad::/48\n  fabric deny add 203.0.113.7 --set h1 --node h1"
    )]
    Add(AddArgs),
    /// Let these sources in again
    #[command(after_help = "Example:\n  fabric deny rm 198.51.100.0/24")]
    Rm(RmArgs),
    /// List denied sources
    #[command(visible_alias = "list", after_help = "Example:\n  fabric deny ls -o wide")]
    Ls(OutputArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Addresses or prefixes, IPv4 or IPv6
    #[arg(value_name = "PREFIX", required = true, value_parser = prefix)]
    prefixes: Vec<IpNet>,
    /// The set that they are added to; it is made if there is none of the name
    #[arg(long, default_value = "default", value_name = "NAME")]
    set: String,
    /// Only this node drops them, of a set that is made; may be given several times
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// Also where they cover a node's VTEP address, the store, or the host from where you are logged in
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Prefixes as `fabric deny ls` lists them
    #[arg(value_name = "PREFIX", required = true, value_parser = prefix)]
    prefixes: Vec<IpNet>,
    /// The set that they are in
    #[arg(long, default_value = "default", value_name = "NAME")]
    set: String,
}

/// A prefix, or an address alone.
fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>()
        .ok()
        .map(|net| net.trunc())
        .or_else(address)
        .ok_or_else(|| "write an address or a prefix, like 198.51.100.0/24 or 2001:db8:bad::/48".to_owned())
}

/// One denied prefix.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    prefix: IpNet,
    set: String,
    forced: bool,
    /// Whether the node that answers drops it.
    applies: bool,
    state: State,
    reason: String,
    owner: String,
}

const COLUMNS: &[Column<Row>] = &[
    Column::new("PREFIX", |row| row.prefix.to_string()),
    Column::new("SET", |row| row.set.clone()),
    Column::new("FORCED", |row| if row.forced { "yes" } else { "" }.to_owned()),
    Column::new("HERE", |row| if row.applies { "yes" } else { "no" }.to_owned()),
    Column::new("STATE", |row| output::state(row.state, &row.reason)),
    Column::wide("OWNER", |row| row.owner.clone()),
];

fn rows(set: &DenySet) -> impl Iterator<Item = Row> + '_ {
    let row = move |prefix: &IpNet, forced| {
        let status = set.status.clone().unwrap_or_default();
        Row {
            prefix: *prefix,
            set: set.metadata.name.clone(),
            forced,
            applies: status.applies,
            state: status.state,
            reason: status.reason,
            owner: set.metadata.owner.clone(),
        }
    };
    let plain = set.spec.prefixes.iter().map(move |prefix| row(prefix, false));
    plain.chain(set.spec.forced.iter().map(move |prefix| row(prefix, true)))
}

/// Runs one verb.
pub(crate) async fn run(client: &Client, command: DenyCommand) -> anyhow::Result<()> {
    match command {
        DenyCommand::Add(args) => {
            if !args.force {
                session::spare(&args.prefixes)?;
            }
            let nodes = (!args.nodes.is_empty()).then(|| LabelSelector {
                match_labels: None,
                match_expressions: Some(vec![LabelRequirement {
                    key: NODE_NAME_LABEL.to_owned(),
                    operator: "In".to_owned(),
                    values: Some(args.nodes),
                }]),
            });
            let change = DenySetChange {
                add: args.prefixes.clone(),
                force: args.force,
                nodes,
                ..DenySetChange::default()
            };
            client.change_deny_set(&args.set, &change).await?;
            output::line(&format!("{} denied by set {}", output::joined(&args.prefixes), args.set))
        }
        DenyCommand::Rm(args) => {
            let change = DenySetChange { remove: args.prefixes.clone(), ..DenySetChange::default() };
            client.change_deny_set(&args.set, &change).await?;
            output::line(&format!("{} no longer denied by set {}", output::joined(&args.prefixes), args.set))
        }
        DenyCommand::Ls(args) => {
            let sets = client.deny_sets().await?;
            let rows: Vec<Row> = sets.iter().flat_map(rows).collect();
            output::list(
                args.format,
                &rows,
                COLUMNS,
                "no denied sources: add some with `fabric deny add PREFIX`",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn an_address_is_a_prefix() {
        assert_eq!(prefix("192.0.2.1").expect("an address").to_string(), "192.0.2.1/32");
        assert_eq!(prefix("192.0.2.1/24").expect("a prefix").to_string(), "192.0.2.0/24");
        assert_eq!(prefix("2001:db8::/32").expect("a prefix").to_string(), "2001:db8::/32");
        assert!(prefix("example.org").is_err() && prefix("192.0.2.0/33").is_err());
    }
}
