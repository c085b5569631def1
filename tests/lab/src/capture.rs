//! Packets of an interface, by tcpdump.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::process::{signal, stdout_of, wait_for};

/// More than any test sends on purpose; a capture never fills a disk.
const PACKET_LIMIT: &str = "200000";

/// A running capture. Dropping it ends it and removes its file.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures what `filter` (pcap syntax, may be empty) lets through on `interface` into `file` on the machine.
    /// `command` enters the namespace: `|line| host.command(line)`. Returns when the capture is running.
    ///
    /// # Errors
    /// If tcpdump does not start or refuses the filter.
    pub fn start(
        command: impl FnOnce(&[&str]) -> Command,
        interface: &str,
        filter: &str,
        file: impl Into<PathBuf>,
    ) -> Result<Self> {
        let file = file.into();
        let log_path = file.with_extension("log");
        let line = [
            "tcpdump",
            "-Z",
            "root",
            "-n",
            "-U",
            "--immediate-mode",
            // Room for a thousand frames that the kernel will cut only later; the default has room for eight.
            "-s66000",
            "-B65536",
            "-c",
            PACKET_LIMIT,
            "-i",
            interface,
            "-w",
            "-",
            filter,
        ];
        let child = command(&line)
            .stdin(Stdio::null())
            // Opened here: a host does not see the machine's files under /run.
            .stdout(File::create(&file)?)
            .stderr(File::create(&log_path)?)
            .spawn()
            .context("tcpdump does not start")?;
        let mut capture = Self { child, file };
        let log = || fs::read_to_string(&log_path).unwrap_or_default();
        let listening = wait_for("tcpdump listens", Duration::from_secs(10), || {
            log().contains("listening on") || !matches!(capture.child.try_wait(), Ok(None))
        });
        if listening.is_err() || !log().contains("listening on") {
            bail!("tcpdump on {interface} does not listen: {}", log().trim());
        }
        Ok(capture)
    }

    /// Ends the capture and returns it as lines of `tcpdump -r` with the given options (`-e`, `-v`, …).
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn text(mut self, options: &[&str]) -> Result<Vec<String>> {
        self.end();
        let text = stdout_of(Command::new("tcpdump").args(["-n", "-r"]).arg(&self.file).args(options))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Ends the capture and returns the content of the pcap file.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        self.end();
        fs::read(&self.file).with_context(|| format!("can't read {}", self.file.display()))
    }

    fn end(&mut self) {
        // tcpdump does not read what the kernel still has for it once it is told to end.
        std::thread::sleep(Duration::from_millis(200));
        if let Ok(pid) = i32::try_from(self.child.id())
            && matches!(self.child.try_wait(), Ok(None))
        {
            signal(pid, Signal::SIGINT);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
        for file in [&self.file, Path::new(&self.file.with_extension("log"))] {
            let _ = fs::remove_file(file);
        }
    }
}
