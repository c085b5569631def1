//! `fabric counters`.

use clap::Args;
use fabric_api::{client::Client, status::Counter};

use crate::output::{self, Column, Format, OutputArgs};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fabric counters --drops")]
pub(crate) struct CountersArgs {
    /// Only drops
    #[arg(long)]
    drops: bool,
    /// Tables show counters that are zero, too; JSON and YAML always have them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: &[Column<Counter>] = &[
    Column::new("HOOK", |counter| counter.hook.clone()),
    Column::new("KIND", |counter| counter.kind.clone()),
    Column::new("NAME", |counter| counter.name.clone()),
    Column::new("PACKETS", |counter| counter.packets.to_string()),
    Column::new("BYTES", |counter| counter.bytes.to_string()),
];

/// Prints the counters; tables leave out those that are zero.
pub(crate) async fn run(client: &Client, args: CountersArgs) -> anyhow::Result<()> {
    let mut counters = client.counters().await?;
    let zeros = args.all || matches!(args.output.format, Format::Json | Format::Yaml);
    counters.retain(|counter| (!args.drops || counter.kind == "drop") && (zeros || counter.packets != 0));
    let empty = if args.drops { "no packet was dropped" } else { "no packet was counted yet" };
    output::list(args.output.format, &counters, COLUMNS, empty)
}
