//! The test ladder: what is cheap to find comes first; everything runs even after a failure.

mod leftovers;
mod nextest;

use std::{collections::BTreeMap, process::Command, time::Instant};

use anyhow::{Result, bail, ensure};

pub(crate) use self::nextest::binaries;
use crate::{
    agent, docs, ebpf, kernels, lab, lint, setup, ui,
    workspace::{cargo, is_root},
};

/// The kernel matrix, as a step and as a filter.
const KERNELS: &str = "kernels";

/// What the ladder has seen so far.
#[derive(Default)]
struct Ladder {
    failures: Vec<String>,
    passed: u64,
    failed: u64,
    counted: BTreeMap<String, u64>,
}

impl Ladder {
    /// A step that succeeds or explains itself. `note` may say something about a success.
    fn step(&mut self, name: &str, work: impl FnOnce(&ui::Step) -> Result<String>) -> bool {
        let step = ui::Step::start(name);
        match work(&step) {
            Ok(note) => {
                step.done_with(&note);
                true
            }
            Err(error) => {
                step.failed("");
                println!("{error:#}");
                self.failures.push(name.to_owned());
                false
            }
        }
    }

    fn command(&mut self, name: &str, command: &mut Command) -> bool {
        self.step(name, |step| ui::run_quiet(command, |line| step.progress(line)).map(|_| String::new()))
    }

    /// A run of tests; its output is shown as it comes.
    fn tests(&mut self, name: &str, run: impl FnOnce() -> Result<nextest::Ran>) {
        println!("{} {name}", ui::dim("·"));
        let step = ui::Step::start(name);
        match run() {
            Ok(nextest::Ran { counts, counted }) => {
                for (what, number) in counted {
                    *self.counted.entry(what).or_default() += number;
                }
                self.passed += counts.passed;
                self.failed += counts.failed;
                let note = format!("{} passed, {} failed", counts.passed, counts.failed);
                if counts.failed == 0 {
                    step.done_with(&note);
                } else {
                    step.failed(&note);
                    self.failures.push(name.to_owned());
                }
            }
            Err(error) => {
                step.failed("");
                println!("{error:#}");
                // A run that did not come to its end is not a success of anything.
                self.failed += 1;
                self.failures.push(name.to_owned());
            }
        }
    }

    fn end(self, start: Instant) -> Result<()> {
        println!();
        for (what, number) in &self.counted {
            println!("{} {number} {what}", ui::dim("·"));
        }
        if self.failures.is_empty() {
            println!("{} everything passed in {}", ui::green("✓"), ui::seconds(start.elapsed()));
        } else {
            println!(
                "{} failed after {}: {}",
                ui::red("✗"),
                ui::seconds(start.elapsed()),
                self.failures.join(", ")
            );
        }
        // The last line of standard output, for scripts.
        println!("{} passed, {} failed", self.passed, self.failed);
        ensure!(self.failures.is_empty(), "{} of the ladder's steps failed", self.failures.len());
        Ok(())
    }
}

/// Runs the ladder, or the tests that match `filter`.
///
/// # Errors
/// If a step failed.
pub(crate) fn run(filter: Option<&str>, quick: bool) -> Result<()> {
    let start = Instant::now();
    if let Some(filter) = filter {
        nextest::check(filter)?;
    }
    setup::test_tools(quick)?;
    lab::point_at_binaries();
    let mut ladder = Ladder::default();
    if filter.is_none() {
        static_checks(&mut ladder, quick)?;
    }
    if quick {
        ladder.tests("unit tests", || nextest::run(nextest::Kind::Unit, filter));
    } else if ladder.step("build", |_| agent::build_all().map(|()| String::new())) {
        ladder.tests("unit tests", || nextest::run(nextest::Kind::Unit, filter));
        if filter.is_none() {
            ladder.tests("documentation tests", || {
                Ok(nextest::Ran { counts: nextest::doctests()?, ..Default::default() })
            });
        }
        privileged(&mut ladder, filter);
    } else {
        ladder.failed += 1;
    }
    if let Some(filter) = filter.filter(|_| ladder.passed + ladder.failed == 0) {
        bail!("no test has {filter:?} in its name or in that of its binary");
    }
    ladder.end(start)
}

fn static_checks(ladder: &mut Ladder, quick: bool) -> Result<()> {
    ladder.command("rustfmt", cargo().args(["fmt", "--all", "--check", "--", "-l"]));
    if !quick {
        ladder.step("house rules: sizes and rooms", |_| lint::run());
        ladder.command(
            "cargo-deny: bans, licences, sources",
            Command::new(setup::tool("cargo-deny")?)
                .args(["--log-level", "error", "check", "bans", "licenses", "sources"])
                .current_dir(crate::workspace::root()),
        );
    }
    let deny = ["--", "-D", "warnings"];
    ladder.command(
        "clippy",
        cargo().args(["clippy", "--workspace", "--exclude=fabric-ebpf", "--all-targets"]).args(deny),
    );
    ladder.command(
        "clippy: kernel crate on the host",
        cargo().args(["clippy", "--package=fabric-ebpf", "--lib", "--tests"]).args(deny),
    );
    let mut programs = ebpf::clippy()?;
    ladder.command("clippy: kernel crate for BPF", &mut programs);
    if !quick {
        ladder.step("generated documents", |_| docs::check());
    }
    Ok(())
}

/// The tests that need namespaces and eBPF, and what they must not leave behind.
fn privileged(ladder: &mut Ladder, filter: Option<&str>) {
    const NAME: &str = "privileged tests";
    if !is_root() {
        ladder.tests(NAME, || {
            bail!("they need root; run `cargo xtask test` as root, or `cargo xtask test --quick`")
        });
        return;
    }
    let before = leftovers::Snapshot::take();
    ladder.tests(NAME, || {
        let skipped = nextest::ignored()?;
        ensure!(skipped.is_empty(), "a privileged test may not be skipped: {}", skipped.join(", "));
        nextest::run(nextest::Kind::Privileged, filter)
    });
    if filter.is_none_or(|filter| filter == KERNELS) {
        ladder.tests(KERNELS, || {
            let (passed, failed) = kernels::run()?;
            Ok(nextest::Ran { counts: nextest::Counts { passed, failed }, ..Default::default() })
        });
    }
    ladder.step("nothing left behind", |_| before?.compare());
}
