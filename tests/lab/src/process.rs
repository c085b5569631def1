//! Starting commands in namespaces, and ending processes.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a command printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// Runs a command to its end and keeps what it prints.
///
/// # Errors
/// If it can't be started.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not start", command.get_program().to_string_lossy()))?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Errors
/// If it can't be started or fails; the message holds what it printed on standard error.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let result = output(command)?;
    if !result.success() {
        let line: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        bail!(
            "`{}` failed ({}): {}{}",
            line.join(" "),
            result.code,
            result.stderr.trim(),
            result.stdout.trim()
        );
    }
    Ok(result.stdout)
}

/// Runs `ip` with words separated by spaces.
///
/// # Errors
/// As [`stdout_of`].
pub(crate) fn ip(line: &str) -> Result<String> {
    stdout_of(Command::new("ip").args(line.split_whitespace()))
}

/// Where a named network namespace is pinned.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// A command in a network namespace, and in the mount namespace of process `mounts_of` if there is one.
pub(crate) fn enter<S: AsRef<OsStr>>(netns: &str, mounts_of: Option<i32>, command: &[S]) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={}", netns_path(netns).display()));
    if let Some(pid) = mounts_of {
        nsenter.arg(format!("--mount=/proc/{pid}/ns/mnt")).arg("--wdns=/");
    }
    nsenter.arg("--").args(command);
    nsenter.env("PATH", search_path());
    nsenter
}

/// `PATH` with the built programs first and the administration tools' directories last.
pub(crate) fn search_path() -> std::ffi::OsString {
    let mut path = bin_dir().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path.push(":/usr/sbin:/sbin");
    path
}

/// Where the built programs are: `FABRIC_BIN_DIR`, or the directory above this executable's `deps`.
pub(crate) fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("FABRIC_BIN_DIR") {
        return PathBuf::from(dir);
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.parent().unwrap_or(Path::new("/"));
    if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_path_buf() } else { dir.to_path_buf() }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state is the first word after the name, which is in parentheses and may hold anything.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']))
}

/// Sends a signal; a process that is gone is fine.
pub(crate) fn signal(pid: i32, signal: Signal) {
    // 0 and negative numbers would mean process groups.
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// How many times longer than on a machine of its own something may take here: `FABRIC_LAB_PATIENCE`, for emulated ones.
pub(crate) fn patience() -> u32 {
    std::env::var("FABRIC_LAB_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Waits until a condition holds.
///
/// # Errors
/// If it does not within `limit` (times the [`patience`]); the message says what was awaited.
pub(crate) fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let limit = limit * patience();
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs_f64());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Waits until none of the processes exists.
///
/// # Errors
/// If one is still there after ten seconds.
pub(crate) fn processes_gone(processes: &[i32]) -> Result<()> {
    wait_for("processes end", Duration::from_secs(10), || !processes.iter().any(|pid| alive(*pid)))
}
