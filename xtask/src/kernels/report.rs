//! What a run on one kernel printed, and the table of all of them.

use std::{collections::BTreeMap, time::Duration};

use crate::ui;

/// Begins a line that says how a step ended: its name and its exit status.
pub(super) const STEP: &str = "@step ";
/// Begins what a test says about the kernel: a name and a value.
const FACT: &str = "@fact ";

/// The step that loads programs.
pub(super) const PROGRAMS: &str = "programs";
/// The step that runs the lab.
pub(super) const SCENARIO: &str = "scenario";

const STEPS: [&str; 2] = [PROGRAMS, SCENARIO];
const TITLES: [&str; 6] =
    ["KERNEL", "PROGRAMS", "ATTACHED BY", "CROSS-FAMILY DECAPSULATION", "SCENARIO", "TIME"];

/// One kernel's row.
pub(super) struct Row {
    release: String,
    /// Exit status of each step that ended.
    steps: BTreeMap<String, i32>,
    facts: BTreeMap<String, String>,
    time: Duration,
}

impl Row {
    /// Reads the marked lines of `output`.
    pub(super) fn new(release: &str, output: &str, time: Duration) -> Self {
        let (mut steps, mut facts) = (BTreeMap::new(), BTreeMap::new());
        for line in output.lines() {
            if let Some((name, status)) = line.strip_prefix(STEP).and_then(|rest| rest.split_once(' ')) {
                steps.insert(name.to_owned(), status.trim().parse().unwrap_or(-1));
            } else if let Some((_, rest)) = line.split_once(FACT)
                && let Some((name, value)) = rest.split_once(' ')
            {
                // The test harness leaves a test's name in front of what it prints first.
                facts.insert(name.to_owned(), value.trim().to_owned());
            }
        }
        Self { release: release.to_owned(), steps, facts, time }
    }

    /// Whether every step ended, and well.
    pub(super) fn passed(&self) -> bool {
        STEPS.iter().all(|step| self.steps.get(*step) == Some(&0))
    }

    fn cells(&self) -> [String; 6] {
        let ended = |step: &str| match self.steps.get(step) {
            Some(0) => "passed".to_owned(),
            Some(124 | 137) => "timed out".to_owned(),
            Some(_) => "failed".to_owned(),
            None => "not run".to_owned(),
        };
        let fact = |name: &str| self.facts.get(name).cloned().unwrap_or_else(|| "-".to_owned());
        let programs = match self.steps.get(PROGRAMS) {
            Some(0) => fact("loaded"),
            _ => ended(PROGRAMS),
        };
        [
            self.release.clone(),
            programs,
            fact("attached-by"),
            fact("cross-family"),
            ended(SCENARIO),
            ui::seconds(self.time),
        ]
    }
}

/// The kernel matrix.
pub(super) fn table(rows: &[Row]) -> String {
    let cells: Vec<_> =
        std::iter::once(TITLES.map(str::to_owned)).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; TITLES.len()] = std::array::from_fn(width);
    let line = |row: &[String; TITLES.len()]| {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Row, table};

    const GOOD: &str = "test x ... @fact loaded 4 in 4 configurations\nok\n@step programs 0\n@fact attached-by clsact\n@step scenario 0\n";

    #[test]
    fn a_row_passes_only_if_every_step_ended_well() {
        let row = |output: &str| Row::new("6.1", output, Duration::from_secs(1));
        assert!(row(GOOD).passed());
        assert!(!row("@step programs 0\n").passed(), "the guest died in the scenario");
        assert!(!row(&GOOD.replace("scenario 0", "scenario 101")).passed());
        assert!(!row("").passed());
    }

    #[test]
    fn the_table_names_what_failed() {
        let rows = [
            Row::new("6.1.0-50-cloud-amd64", GOOD, Duration::from_secs(61)),
            Row::new("7.3", "@step programs 101\n@step scenario 124\n", Duration::from_secs(2)),
        ];
        let text = table(&rows);
        let words = |line: usize| -> Vec<_> { text.lines().nth(line).unwrap().split("  ").collect() };
        assert!(words(1).contains(&"4 in 4 configurations") && words(1).contains(&"clsact"), "{text}");
        assert!(text.lines().nth(2).unwrap().contains("failed"), "{text}");
        assert!(text.lines().nth(2).unwrap().contains("timed out"), "{text}");
    }
}
