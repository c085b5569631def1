//! `fabric status`.

use anyhow::bail;
use clap::Args;
use fabric_api::{client::Client, status::Status};

use crate::output::{self, Format, OutputArgs};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fabric status\n  fabric status --check && echo healthy")]
pub(crate) struct StatusArgs {
    /// Fail (exit code 1) if something is wrong or the kernel was not made equal to the store yet
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the node's health.
pub(crate) async fn run(client: &Client, args: StatusArgs) -> anyhow::Result<()> {
    let status = client.status().await?;
    match args.output.format {
        Format::Json | Format::Yaml => output::machine(args.output.format, &status)?,
        Format::Table | Format::Wide => output::text(&page(&status, args.output.format == Format::Wide))?,
    }
    if args.check && !status.in_sync {
        bail!(
            "this node is not in sync yet: try again, or look at the problems above and at the agent's log"
        );
    }
    if args.check && !status.problems.is_empty() {
        bail!("this node has {}: see above", counted(status.problems.len(), "problem"));
    }
    Ok(())
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// What a person reads. The wide form adds empty maps and every repair that is remembered.
fn page(status: &Status, wide: bool) -> String {
    let mut page = head(status);
    section(&mut page, "Uplinks", &uplinks(status));
    section(&mut page, "Kernel features", &features(status));
    section(&mut page, "Maps", &maps(status, wide));
    let repairs = &status.reconcile.last_repairs;
    let shown = if wide { repairs.len() } else { repairs.len().min(5) };
    section(&mut page, "Last repairs", &lines(&repairs[repairs.len() - shown..]));
    section(&mut page, "Errors of the last pass", &lines(&status.reconcile.errors));
    section(&mut page, "Problems", &lines(&status.problems));
    page
}

fn head(status: &Status) -> String {
    let health = match (status.in_sync, status.problems.len()) {
        (false, _) => "not in sync yet".to_owned(),
        (true, 0) => "in sync, no problems".to_owned(),
        (true, count) => format!("in sync, {}", counted(count, "problem")),
    };
    let reconcile = &status.reconcile;
    let facts = [
        ("Node:", status.node.clone()),
        ("Health:", health),
        ("Agent:", status.version.clone()),
        ("Kernel:", status.kernel.clone()),
        ("Store:", status.store.clone()),
        ("BPF directory:", status.bpffs.clone()),
        ("VXLAN port:", status.vxlan_port.to_string()),
        (
            "Reconciler:",
            format!(
                "{} passes, {} changes, {} repairs",
                reconcile.passes, reconcile.changes, reconcile.repairs
            ),
        ),
    ];
    output::table(None, facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect())
}

fn section(page: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        page.push_str(&format!("\n{title}\n"));
        body.lines().for_each(|line| page.push_str(&format!("  {line}\n")));
    }
}

fn lines(texts: &[String]) -> String {
    texts.join("\n")
}

fn titled(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    output::table(Some(titles.iter().map(|title| (*title).to_owned()).collect()), rows)
}

fn uplinks(status: &Status) -> String {
    let rows = status.uplinks.iter().map(|uplink| {
        let vteps = output::joined(&uplink.vteps);
        vec![uplink.name.clone(), vteps, uplink.mtu.to_string(), uplink.mode.clone(), uplink.why.clone()]
    });
    titled(&["NAME", "VTEPS", "MTU", "MODE", "WHY"], rows.collect())
}

fn features(status: &Status) -> String {
    let rows = status.features.iter().map(|feature| {
        let available = if feature.available { "yes" } else { "no" };
        vec![feature.name.clone(), available.to_owned(), feature.note.clone()]
    });
    titled(&["FEATURE", "AVAILABLE", "NOTE"], rows.collect())
}

fn maps(status: &Status, wide: bool) -> String {
    let rows = status.maps.iter().filter(|map| wide || map.entries > 0).map(|map| {
        let percent = map.entries.saturating_mul(100).checked_div(map.max_entries).unwrap_or(0);
        vec![map.name.clone(), map.entries.to_string(), map.max_entries.to_string(), format!("{percent} %")]
    });
    titled(&["MAP", "ENTRIES", "ROOM", "USE"], rows.collect())
}

#[cfg(test)]
mod tests {
    use fabric_api::status::{MapStatus, Status, UplinkStatus};

    use super::page;

    #[test]
    fn the_page_leaves_out_what_is_empty() {
        let mut status = Status { node: "a".to_owned(), in_sync: true, ..Status::default() };
        let text = page(&status, false);
        assert!(text.contains("Health:         in sync, no problems"), "{text}");
        assert!(!text.contains("Uplinks") && !text.contains("Problems"), "{text}");

        status.problems = vec!["eth1 does not exist".to_owned()];
        status.uplinks =
            vec![UplinkStatus { name: "eth0".to_owned(), why: "6.6+".to_owned(), ..Default::default() }];
        status.maps = vec![
            MapStatus { name: "fdb".to_owned(), entries: 1, max_entries: 2 },
            MapStatus { name: "nodes".to_owned(), entries: 0, max_entries: 2 },
        ];
        let text = page(&status, false);
        assert!(text.contains("in sync, 1 problem\n"), "{text}");
        assert!(text.contains("\nProblems\n  eth1 does not exist\n"), "{text}");
        assert!(text.contains("  fdb  1        2     50 %\n") && !text.contains("nodes"), "{text}");
        assert!(page(&status, true).contains("nodes"));
    }
}
