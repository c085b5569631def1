//! What Prometheus is told: one table says which metrics there are, and documents, dashboard and text are held to it.

use std::collections::BTreeMap;

use fabric_api::{
    flow::FlowState,
    status::{Counter, Status},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use super::flows::{self, FlowScan};

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises while the agent runs, most of them for longer.
    Counter,
    /// It is what it is.
    Gauge,
}

/// What is fixed about a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name, without the `_total` that counters end in.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says, one sentence.
    pub help: &'static str,
}

impl Metric {
    /// Its name as it is queried.
    pub fn exposed(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge => self.name.to_owned(),
        }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

/// Every metric, in the order in which they are told.
pub const METRICS: &[Metric] = &[
    gauge(
        "fabric_build_info",
        &["version", "kernel"],
        "Always 1; the labels are the agent's version and the kernel's release.",
    ),
    gauge("fabric_in_sync", &[], "1 once every source was read and the kernel made equal to it, else 0."),
    gauge("fabric_problems", &[], "Things that are wrong: the sentences of `fabric status`."),
    gauge("fabric_store_up", &[], "1 while the store answers, else 0."),
    gauge("fabric_networks", &[], "Networks."),
    gauge("fabric_nodes", &[], "Nodes, foreign VTEPs among them."),
    gauge("fabric_endpoints", &["location"], "Endpoints, `local` or `remote`."),
    counter("fabric_reconcile_passes", &[], "Passes of the reconciler."),
    counter("fabric_reconcile_failed_passes", &[], "Passes that ended with an error."),
    counter(
        "fabric_reconcile_changes",
        &[],
        "Rows, links and attachments written because the desired state changed.",
    ),
    counter(
        "fabric_reconcile_repairs",
        &[],
        "Rows, links and attachments found different from what was written, and repaired.",
    ),
    gauge("fabric_reconcile_errors", &[], "Errors of the last pass."),
    gauge(
        "fabric_reconcile_pending_rows",
        &[],
        "Rows of maps that are still to be written or removed after the last pass.",
    ),
    gauge(
        "fabric_reconcile_last_success_timestamp_seconds",
        &[],
        "When the last pass without an error ended, Unix time; 0 if none has.",
    ),
    counter("fabric_drop_packets", &["hook", "reason"], "Packets dropped."),
    counter("fabric_drop_bytes", &["hook", "reason"], "Bytes of packets dropped."),
    counter("fabric_action_packets", &["hook", "action"], "Packets by what was done with them."),
    counter("fabric_action_bytes", &["hook", "action"], "Bytes of packets by what was done with them."),
    counter("fabric_rule_packets", &["rule"], "Packets that a policy's rule decided on, on this node."),
    counter(
        "fabric_rule_bytes",
        &["rule"],
        "Bytes of packets that a policy's rule decided on, on this node.",
    ),
    gauge(
        "fabric_flows",
        &["state"],
        "Flows that connection tracking knows: `new`, `established`, `closing`.",
    ),
    gauge("fabric_map_entries", &["map"], "Entries of a BPF map in use; of arrays, those that are not zero."),
    gauge("fabric_map_max_entries", &["map"], "Entries that a BPF map has room for; bytes of a ring buffer."),
];

/// Everything that metrics are made of, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The node's health.
    pub status: Status,
    /// Whether the store answers.
    pub store_up: bool,
    /// Networks.
    pub networks: u64,
    /// Nodes.
    pub nodes: u64,
    /// Endpoints here, and elsewhere.
    pub endpoints: (u64, u64),
    /// Drops and actions.
    pub counters: Vec<Counter>,
    /// Packets and bytes of policies' rules, by name.
    pub rules: BTreeMap<String, (u64, u64)>,
    /// Flows by state.
    pub flows: BTreeMap<FlowState, u64>,
}

/// Flows by state, without those that have expired.
///
/// # Errors
/// They can't be read.
pub fn count(mut scan: Box<dyn FlowScan>) -> anyhow::Result<BTreeMap<FlowState, u64>> {
    let all = [FlowState::New, FlowState::Established, FlowState::Closing];
    let mut counts: BTreeMap<FlowState, u64> = all.map(|state| (state, 0)).into();
    while let Some(rows) = scan.next_rows()? {
        let now = flows::boot_time();
        for state in rows.iter().filter_map(|(key, value)| flows::state(key, value, now)) {
            *counts.entry(state).or_default() += 1;
        }
    }
    Ok(counts)
}

struct Sample {
    name: &'static str,
    labels: Vec<String>,
    value: u64,
}

impl Snapshot {
    /// The metrics in the OpenMetrics text format.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        let mut add = |name, labels: &[&str], value| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            samples.push(Sample { name, labels, value });
        };
        let (status, reconcile) = (&self.status, &self.status.reconcile);
        add("fabric_build_info", &[&status.version, &status.kernel], 1);
        add("fabric_in_sync", &[], status.in_sync.into());
        add("fabric_problems", &[], status.problems.len() as u64);
        add("fabric_store_up", &[], self.store_up.into());
        add("fabric_networks", &[], self.networks);
        add("fabric_nodes", &[], self.nodes);
        add("fabric_endpoints", &["local"], self.endpoints.0);
        add("fabric_endpoints", &["remote"], self.endpoints.1);
        add("fabric_reconcile_passes", &[], reconcile.passes);
        add("fabric_reconcile_failed_passes", &[], reconcile.failed_passes);
        add("fabric_reconcile_changes", &[], reconcile.changes);
        add("fabric_reconcile_repairs", &[], reconcile.repairs);
        add("fabric_reconcile_errors", &[], reconcile.errors.len() as u64);
        add("fabric_reconcile_pending_rows", &[], reconcile.pending_rows);
        add("fabric_reconcile_last_success_timestamp_seconds", &[], reconcile.last_success);
        for Counter { hook, kind, name, packets, bytes } in &self.counters {
            let of = |drop, action| if kind == "drop" { drop } else { action };
            add(of("fabric_drop_packets", "fabric_action_packets"), &[hook, name], *packets);
            add(of("fabric_drop_bytes", "fabric_action_bytes"), &[hook, name], *bytes);
        }
        for (rule, (packets, bytes)) in &self.rules {
            add("fabric_rule_packets", &[rule], *packets);
            add("fabric_rule_bytes", &[rule], *bytes);
        }
        for (state, count) in &self.flows {
            add("fabric_flows", &[state.as_str()], *count);
        }
        for map in &status.maps {
            add("fabric_map_entries", &[&map.name], map.entries);
            add("fabric_map_max_entries", &[&map.name], map.max_entries);
        }
        samples
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let samples = self.samples();
        for metric in METRICS {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for sample in samples.iter().filter(|sample| sample.name == metric.name) {
                let values = sample.labels.iter().map(|value| escaped(value));
                let labels: Vec<(&str, String)> = metric.labels.iter().copied().zip(values).collect();
                if labels.is_empty() {
                    write(&mut family, metric.kind, sample.value)?;
                } else {
                    write(&mut family.encode_family(&labels)?, metric.kind, sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> Result<(), std::fmt::Error> {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        Kind::Gauge => encoder.encode_gauge(&value),
    }
}

/// A label's value as OpenMetrics wants it; the library writes it as it is.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `docs/generated/metrics.md`, made from the table.
pub fn document() -> String {
    let mut text = String::from(
        "<!-- Written by `cargo xtask docs`; change the code it is made from. -->\n\n# Metrics\n\n\
         | name | type | labels | what it says |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            metric.exposed(),
            labels.join(", "),
            metric.help
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use fabric_api::status::MapStatus;

    use super::*;

    fn snapshot() -> Snapshot {
        let counter = |kind: &str, name: &str| Counter {
            hook: "from_container".to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            packets: 3,
            bytes: 180,
        };
        let mut status = Status { version: "1".to_owned(), kernel: "6.18".to_owned(), ..Status::default() };
        status.maps.push(MapStatus { name: "flows".to_owned(), entries: 2, max_entries: 8 });
        Snapshot {
            status,
            store_up: true,
            counters: vec![counter("drop", "spoof_ip"), counter("action", "local")],
            rules: [("ClusterNetworkPolicy/a/egress/\"x\\".to_owned(), (5, 300))].into(),
            flows: [(FlowState::New, 1), (FlowState::Established, 4)].into(),
            endpoints: (1, 2),
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_text_has_every_metric_of_the_table_with_its_labels_and_no_other() {
        let text = snapshot().text();
        let mut named = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().expect("a name");
            let metric = METRICS.iter().find(|metric| metric.exposed() == name);
            let metric = metric.unwrap_or_else(|| panic!("{line} is not in the table"));
            assert!(metric.labels.iter().all(|label| line.contains(&format!("{label}=\""))), "{line}");
            named.insert(metric.exposed());
        }
        assert_eq!(named, METRICS.iter().map(Metric::exposed).collect(), "{text}");
        for line in [
            "fabric_drop_packets_total{hook=\"from_container\",reason=\"spoof_ip\"} 3",
            "fabric_action_bytes_total{hook=\"from_container\",action=\"local\"} 180",
            "fabric_rule_packets_total{rule=\"ClusterNetworkPolicy/a/egress/\\\"x\\\\\"} 5",
            "fabric_flows{state=\"established\"} 4",
            "fabric_map_max_entries{map=\"flows\"} 8",
            "fabric_endpoints{location=\"remote\"} 2",
            "fabric_store_up 1",
            "# TYPE fabric_drop_packets counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grafana/fabric.json");
        let text = fs::read_to_string(file).expect("the dashboard");
        let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let panels = dashboard["panels"].as_array().expect("panels");
        let queries: Vec<&str> = panels
            .iter()
            .filter_map(|panel| panel["targets"].as_array())
            .flatten()
            .map(|target| target["expr"].as_str().expect("a query"))
            .collect();
        assert!(queries.len() > 10, "{queries:?}");
        let mut asked = BTreeSet::new();
        for query in &queries {
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let named: Vec<&Metric> = words
                .filter(|word| word.starts_with("fabric_"))
                .map(|word| {
                    METRICS
                        .iter()
                        .find(|m| m.exposed() == word)
                        .unwrap_or_else(|| panic!("{word} in {query}"))
                })
                .collect();
            assert!(!named.is_empty(), "{query} asks for nothing of ours");
            asked.extend(named.iter().map(|metric| metric.exposed()));
            for grouped in query.split("by (").skip(1) {
                let labels = grouped.split(')').next().expect("labels").split(',').map(str::trim);
                for label in labels.filter(|label| *label != "instance") {
                    assert!(named.iter().all(|metric| metric.labels.contains(&label)), "{label} in {query}");
                }
            }
        }
        let all: BTreeSet<String> = METRICS.iter().map(Metric::exposed).collect();
        let unused: Vec<_> = all.difference(&asked).collect();
        assert!(unused.len() < all.len() / 2, "the dashboard leaves out {unused:?}");
    }
}
