//! The kernel matrix: every program is loaded, and a lab scenario runs, on the kernels that Fabric supports.
//!
//! The running kernel is tried as it is, the others in QEMU ([`guest`]) with kernels from Debian ([`packages`]). The
//! same script with the same test binaries runs on all of them; it prints marked lines, which become the table.

mod cpio;
mod guest;
mod packages;
mod report;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use packages::Choice;
use report::Row;

use crate::{
    setup, ui,
    workspace::{bin_dir, target},
};

/// The kernels beside the running one: the oldest that is supported, a later one that hosts really run, the newest.
const CHOICES: [Choice; 3] = [Choice::Series("6.1"), Choice::Series("6.12"), Choice::Newest];
/// How many times longer than on the machine the lab waits for something in a guest.
const PATIENCE: u32 = 20;
/// A step of the script may take so long, seconds.
const STEP_LIMIT: u32 = 400;

/// A test of a binary that `cargo test` built, as a step of the script.
struct Step {
    /// What the table calls it.
    name: &'static str,
    binary: PathBuf,
    test: &'static str,
}

/// Runs the matrix and prints its table. Returns the numbers of kernels on which everything passed and of the others.
///
/// # Errors
/// If a kernel can't be made ready or the tests were not built.
pub(crate) fn run() -> Result<(u64, u64)> {
    setup::kernel_tools()?;
    let kernels = packages::prepare(&CHOICES)?;
    let script = script(&steps()?);
    let directory = target().join("kernels");
    let mut rows = vec![tried(None, || on_this_machine(&directory, &script))];
    rows.extend(
        kernels.iter().map(|kernel| tried(Some(&kernel.release), || guest::run(kernel, &directory, &script))),
    );
    println!("{}", report::table(&rows));
    let failed = rows.iter().filter(|row| !row.passed()).count() as u64;
    Ok((rows.len() as u64 - failed, failed))
}

/// Runs the script on one kernel. What it printed is shown if it failed.
fn tried(release: Option<&str>, script: impl FnOnce() -> Result<String>) -> Row {
    let release = release.map_or_else(running_release, str::to_owned);
    let step = ui::Step::start(format!("kernel {release}"));
    let start = Instant::now();
    let result = script();
    let output = result.unwrap_or_else(|error| format!("{error:#}"));
    let row = Row::new(&release, &output, start.elapsed());
    if row.passed() {
        step.done();
    } else {
        step.failed("");
        println!("{}", guest::last_lines(&output, 80));
    }
    row
}

fn running_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn on_this_machine(directory: &Path, script: &str) -> Result<String> {
    fs::create_dir_all(directory)?;
    let file = directory.join("here.sh");
    fs::write(&file, format!("exec 2>&1\n{script}"))?;
    let output = Command::new("sh").arg(&file).output().context("sh does not start")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn steps() -> Result<Vec<Step>> {
    let binaries = crate::test::binaries()?;
    let binary =
        |id: &str| binaries.get(id).cloned().with_context(|| format!("the test binary {id} was not built"));
    Ok(vec![
        Step {
            name: report::PROGRAMS,
            binary: binary("fabric-tests::verifier")?,
            test: "every_configuration_loads",
        },
        Step {
            name: report::SCENARIO,
            binary: binary("fabric-lab::lab_kernels")?,
            test: "containers_talk_whatever_the_kernel_lacks",
        },
    ])
}

/// The shell script of a run: every step with its own time limit, whatever the one before it did.
fn script(steps: &[Step]) -> String {
    let mut script = format!(
        "export FABRIC_BIN_DIR='{}' RUST_BACKTRACE=0\n[ $$ = 1 ] && export FABRIC_LAB_PATIENCE={PATIENCE}\n",
        bin_dir().display()
    );
    for step in steps {
        let _ = writeln!(
            script,
            "timeout --kill-after=5 {STEP_LIMIT} '{}' --exact {} --nocapture\necho \"{}{} $?\"",
            step.binary.display(),
            step.test,
            report::STEP,
            step.name,
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::{Step, script};

    #[test]
    fn every_step_is_bounded_and_reports_its_end() {
        let steps = ["one", "two"].map(|name| Step { name, binary: "/b".into(), test: "t" });
        let script = script(&steps);
        assert_eq!(script.matches("timeout --kill-after").count(), 2);
        assert!(script.contains("'/b' --exact t --nocapture\necho \"@step one $?\"\n"), "{script}");
    }
}
