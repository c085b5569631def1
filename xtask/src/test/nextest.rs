//! Runs of nextest and their counts.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    setup,
    workspace::{cargo, root},
};

/// Which tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything that needs no privileges.
    Unit,
    /// Packages `fabric-tests` and `fabric-lab`: programs, namespaces, agents.
    Privileged,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// A run's counts, and what its tests counted, by what it is (`fuzz frames`, `policy verdicts`).
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) counts: Counts,
    pub(crate) counted: BTreeMap<String, u64>,
}

/// What `cargo xtask test wire` chooses: everything that shows how packets are handled. Labs of the control plane, and those
/// that boot other kernels, are not.
const WIRE: &str = "(binary(~walk_) | binary(~fuzz_) | binary(~oracle_) | (binary(~lab_) \
     - binary(~lab_input) - binary(~lab_manifests) - binary(~lab_restart) - binary(~lab_kernels) \
     - binary(~lab_bugreport)))";

/// What `cargo xtask test policy` chooses: every test about policies, from what they mean to live containers under them.
const POLICY: &str = "(test(policy) | test(policies) | test(recipe) | binary(~policy))";

/// Refuses a filter that would not be a plain part of a name.
///
/// # Errors
/// If it has other characters than those of test names.
pub(crate) fn check(filter: &str) -> Result<()> {
    ensure!(
        !filter.is_empty() && filter.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:".contains(&b)),
        "filter {filter:?} is not a part of a test's name: letters, digits, `_`, `-` and `:`"
    );
    Ok(())
}

fn nextest() -> Result<Command> {
    let mut command = Command::new(setup::tool("cargo-nextest")?);
    command.arg("nextest").current_dir(root());
    Ok(command)
}

/// Always the whole workspace, so that all runs share one build; `kind` and `filter` choose among its tests.
fn select(command: &mut Command, kind: Kind, filter: Option<&str>) {
    const PRIVILEGED: &str = "(package(fabric-tests) | package(fabric-lab))";
    let mut expression = match kind {
        Kind::Unit => format!("not {PRIVILEGED}"),
        Kind::Privileged => PRIVILEGED.to_owned(),
    };
    if let Some(filter) = filter {
        expression = match filter {
            "wire" => format!("{expression} & {WIRE}"),
            "policy" => format!("{expression} & {POLICY}"),
            filter => format!("{expression} & (test({filter}) | binary(~{filter}))"),
        };
    }
    command.args(["--workspace", "-E", &expression]);
}

/// Runs tests to the end, whatever fails. The output is nextest's.
///
/// # Errors
/// If they don't compile or nextest itself fails.
pub(crate) fn run(kind: Kind, filter: Option<&str>) -> Result<Ran> {
    // nextest keeps its reports there, whatever cargo's target directory is.
    let report = root().join("target/nextest/default/junit.xml");
    let _ = fs::remove_file(&report);
    let mut command = nextest()?;
    command.args(["run", "--no-fail-fast", "--no-tests=pass", "--cargo-quiet"]);
    // What could be skipped is run.
    command.args(["--run-ignored", "all"]);
    select(&mut command, kind, filter);
    let status = command.status().context("cargo-nextest does not start")?;
    let ran = match fs::read_to_string(&report) {
        Ok(text) => Ran {
            counts: counts(&text).with_context(|| format!("{} has no counts", report.display()))?,
            counted: counted(&text),
        },
        Err(_) if filter.is_some() => Ran::default(),
        Err(error) => bail!("cargo-nextest wrote no report ({error})"),
    };
    // 100: a test failed.
    if !status.success() && (status.code() != Some(100) || ran.counts.failed == 0) {
        bail!("cargo-nextest ended with {status}");
    }
    Ok(ran)
}

/// Lines `counted NUMBER WHAT` of the tests' output, summed by what was counted.
fn counted(junit: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in junit.lines() {
        if let Some((_, rest)) = line.split_once("counted ")
            && let Some((number, what)) = rest.split_once(' ')
            && let Ok(number) = number.parse::<u64>()
        {
            *sums.entry(what.to_owned()).or_default() += number;
        }
    }
    sums
}

/// Privileged tests that are marked as ignored.
///
/// # Errors
/// If nextest fails.
pub(crate) fn ignored() -> Result<Vec<String>> {
    let mut command = nextest()?;
    command.args(["list", "--run-ignored", "only", "--message-format", "oneline", "--cargo-quiet"]);
    select(&mut command, Kind::Privileged, None);
    let output = command.output().context("cargo-nextest does not start")?;
    ensure!(
        output.status.success(),
        "cargo-nextest list: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect())
}

/// Test binaries by nextest's name for them, `package::target`.
///
/// # Errors
/// If nextest fails.
pub(crate) fn binaries() -> Result<BTreeMap<String, PathBuf>> {
    let mut command = nextest()?;
    command.args(["list", "--workspace", "--list-type", "binaries-only", "--message-format", "json"]);
    let output = command.arg("--cargo-quiet").output().context("cargo-nextest does not start")?;
    ensure!(
        output.status.success(),
        "cargo-nextest list: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let list: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let binaries = list["rust-binaries"].as_object().context("cargo-nextest lists no binaries")?;
    let path = |entry: &serde_json::Value| Some(PathBuf::from(entry["binary-path"].as_str()?));
    Ok(binaries.iter().filter_map(|(id, entry)| Some((id.clone(), path(entry)?))).collect())
}

/// Examples in the documentation, which nextest does not run.
///
/// # Errors
/// If cargo fails without a failed test.
pub(crate) fn doctests() -> Result<Counts> {
    let output = cargo()
        .args(["test", "--doc", "--quiet", "--workspace", "--exclude=fabric-ebpf"])
        .output()
        .context("cargo does not start")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let counts = doctest_counts(&text);
    if !output.status.success() {
        print!("{text}");
        ensure!(counts.failed > 0, "{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(counts)
}

fn doctest_counts(text: &str) -> Counts {
    let mut sum = Counts::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        let number = |what: &str| -> u64 {
            let words: Vec<_> = line.split_whitespace().collect();
            words.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        sum.passed += number("passed;");
        sum.failed += number("failed;");
    }
    sum
}

/// The counts in the first element of a JUnit file.
fn counts(junit: &str) -> Option<Counts> {
    let element = junit.split("<testsuites").nth(1)?.split('>').next()?;
    let number = |name: &str| -> Option<u64> {
        element.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?.parse().ok()
    };
    let failed = number("failures")? + number("errors")?;
    Some(Counts { passed: number("tests")?.checked_sub(failed)?, failed })
}

#[cfg(test)]
mod tests {
    use super::{Counts, check, counted, counts, doctest_counts};

    #[test]
    fn junit_counts() {
        let text = r#"<?xml version="1.0"?><testsuites name="n" tests="7" failures="2" errors="1" uuid="x" time="0.1">"#;
        assert_eq!(counts(text), Some(Counts { passed: 4, failed: 3 }));
        assert_eq!(counts("<testsuites name=\"n\">"), None);
    }

    #[test]
    fn what_is_counted_is_summed() {
        let text = "<system-out>test a ... \ncounted 300 fuzz frames\ncounted x fuzz frames\ncounted 7 others\n\
                    counted 40 fuzz frames\nok";
        let sums: Vec<_> = counted(text).into_iter().collect();
        assert_eq!(sums, [("fuzz frames".to_owned(), 340), ("others".to_owned(), 7)]);
    }

    #[test]
    fn doctests_of_all_crates_are_summed() {
        let text = "test result: ok. 2 passed; 0 failed; 0 ignored;\nx\ntest result: FAILED. 1 passed; 3 failed; 0 ignored;";
        assert_eq!(doctest_counts(text), Counts { passed: 3, failed: 3 });
    }

    #[test]
    fn filters_can_not_be_expressions() {
        assert!(check("walk_egress").is_ok());
        assert!(check("a) | all(").is_err());
    }
}
