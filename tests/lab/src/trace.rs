//! What `fabric trace` foretells.

use anyhow::{Context, Result};
use fabric_api::trace::TraceReport;

use crate::{Container, Lab};

impl Lab {
    /// `fabric trace` on host 1 with further arguments; where the packet leaves the host, the trace goes on with the agent of
    /// host 2. `witness` is any container: its process sees the directories of all hosts.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn trace(&self, args: &[&str], witness: &Container) -> Result<Vec<TraceReport>> {
        // A host has a /run of its own; a container's process sees the machine's.
        let directory = self.host(2).directory();
        let far = format!("/proc/{}/root{}/run/fabric/fabric.sock", witness.pid(), directory.display());
        let line = [&["trace", "--far-socket", &far, "-o", "json"], args].concat();
        serde_json::from_str(&self.host(1).fabric(&line)?).context("fabric trace")
    }
}
