//! Progress on the terminal: one line a step, with its time; a command's output only when it fails.

use std::{
    io::{IsTerminal, Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Whether a person watches.
pub(crate) fn terminal() -> bool {
    std::io::stdout().is_terminal()
}

fn paint(code: &str, text: &str) -> String {
    if terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Green, where colours are wanted.
pub(crate) fn green(text: &str) -> String {
    paint("32", text)
}

/// Red, where colours are wanted.
pub(crate) fn red(text: &str) -> String {
    paint("31", text)
}

/// Yellow, where colours are wanted.
pub(crate) fn yellow(text: &str) -> String {
    paint("33", text)
}

/// Bold, where it is wanted.
pub(crate) fn bold(text: &str) -> String {
    paint("1", text)
}

/// Grey, where colours are wanted.
pub(crate) fn dim(text: &str) -> String {
    paint("2", text)
}

/// A duration as people read it.
pub(crate) fn seconds(duration: Duration) -> String {
    let s = duration.as_secs_f64();
    if s < 100.0 { format!("{s:.1} s") } else { format!("{:.0} min {:02.0} s", (s / 60.0).floor(), s % 60.0) }
}

/// A step that is under way.
#[must_use = "a step ends with `done` or `failed`"]
pub(crate) struct Step {
    name: String,
    start: Instant,
}

impl Step {
    /// Announces the step.
    pub(crate) fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        if terminal() {
            print!("{} {name} …", dim("·"));
            let _ = std::io::stdout().flush();
        }
        Self { name, start: Instant::now() }
    }

    /// Replaces what a terminal shows while the step runs.
    pub(crate) fn progress(&self, note: &str) {
        if terminal() {
            print!("\r\x1b[K{} {} … {}", dim("·"), self.name, dim(note));
            let _ = std::io::stdout().flush();
        }
    }

    fn end(&self, mark: &str, note: &str) {
        let clear = if terminal() { "\r\x1b[K" } else { "" };
        let gap = if note.is_empty() { "" } else { "  " };
        println!("{clear}{mark} {:<44}{:>9}{gap}{note}", self.name, seconds(self.start.elapsed()));
    }

    /// The step succeeded.
    pub(crate) fn done(self) {
        self.end(&green("✓"), "");
    }

    /// The step succeeded and there is something to say.
    pub(crate) fn done_with(self, note: &str) {
        self.end(&green("✓"), note);
    }

    /// The step failed.
    pub(crate) fn failed(self, note: &str) {
        self.end(&red("✗"), note);
    }
}

impl Step {
    /// Ends the step as the result says.
    ///
    /// # Errors
    /// The result's.
    pub(crate) fn end_with<T>(self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.done(),
            Err(_) => self.failed(""),
        }
        result
    }
}

/// Runs a command as one step. Its output is shown only if it fails.
///
/// # Errors
/// If the command can't be started or exits with another status than 0; the message holds its output.
pub(crate) fn run_step(name: &str, command: &mut Command) -> Result<String> {
    if !terminal() {
        // In a log as well, one must be able to see what is being waited for.
        println!("· {name} …");
    }
    let step = Step::start(name);
    match run_quiet(command, |line| step.progress(line)) {
        Ok(output) => {
            step.done();
            Ok(output)
        }
        Err(error) => {
            step.failed("");
            Err(error.context(format!("{name} failed")))
        }
    }
}

/// Runs a command and returns its standard output; `progress` sees the lines of standard error as they come.
///
/// # Errors
/// As [`run_step`].
pub(crate) fn run_quiet(command: &mut Command, progress: impl Fn(&str)) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} does not start"))?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let mut errors = String::new();
    let stderr = child.stderr.take().context("no standard error")?;
    for line in std::io::BufRead::lines(std::io::BufReader::new(stderr)) {
        let Ok(line) = line else { break };
        let short: String = line.trim().chars().take(60).collect();
        progress(&short);
        // Cargo's progress says nothing about a failure.
        if !["Checking ", "Compiling ", "Downloaded ", "Downloading "]
            .iter()
            .any(|word| line.trim_start().starts_with(word))
        {
            errors.push_str(&line);
            errors.push('\n');
        }
    }
    let status = child.wait()?;
    let output = reader.join().unwrap_or_default();
    if !status.success() {
        bail!("{program}: {status}\n{output}{errors}");
    }
    Ok(output)
}
