//! Policies as a host's agent takes, shows and explains them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use fabric_api::status::State;
use serde_json::Value;

use crate::{Host, until};

/// A policy as an agent shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// Its namespace, if it is a NetworkPolicy.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Whether this host enforces it.
    pub ready: bool,
    /// Its status.
    pub status: Value,
}

impl Host {
    /// Applies a file; returns the names of the objects in it.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn apply(&self, file: &Path) -> Result<Vec<String>> {
        let file = file.to_str().context("the file's path is not UTF-8")?;
        let text = self.fabric(&["apply", "-f", file, "-o", "json"])?;
        let applied: Vec<fabric_api::status::Applied> =
            serde_json::from_str(&text).context("fabric apply")?;
        Ok(applied.into_iter().filter(|a| a.kind.ends_with("NetworkPolicy")).map(|a| a.name).collect())
    }

    /// Every policy that this host's agent knows.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn policies(&self) -> Result<Vec<Policy>> {
        let listed: Vec<Value> = serde_json::from_str(&self.fabric(&["policy", "ls", "-o", "json"])?)?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let ready = serde_json::to_value(State::Ready)?;
        let policy = |object: Value| {
            Some(Policy {
                kind: text(&object["kind"])?,
                namespace: text(&object["metadata"]["namespace"]),
                name: text(&object["metadata"]["name"])?,
                ready: object["status"]["state"] == ready,
                status: object["status"].clone(),
            })
        };
        listed.into_iter().map(|object| policy(object).context("a policy without kind or name")).collect()
    }

    /// Waits until this host enforces the policies of these names (`NAME`, or `NAMESPACE/NAME`).
    ///
    /// # Errors
    /// If it does not within 20 seconds; the message holds what it shows instead.
    pub fn wait_for_policies(&self, names: &[String]) -> Result<()> {
        let mut seen = Vec::new();
        let result = until("policies are enforced", || {
            seen = self.policies().unwrap_or_default();
            names.iter().all(|name| {
                let bare = name.rsplit('/').next().unwrap_or(name);
                seen.iter().any(|policy| policy.name == bare && policy.ready)
            })
        });
        if let Err(error) = result {
            bail!("{}: {error}; wanted {names:?}, saw {seen:?}\n{}", self.name(), self.agent_log_tail(20));
        }
        Ok(())
    }

    /// What `fabric policy test` says: whether a packet would pass, and its whole answer.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn policy_test(&self, from: &str, to: &str, protocol: &str, port: u16) -> Result<(bool, Value)> {
        let port = port.to_string();
        let line = [
            "policy", "test", "--from", from, "--to", to, "--proto", protocol, "--port", &port, "-o", "json",
        ];
        let answer: Value = serde_json::from_str(&self.fabric(&line)?)?;
        let allowed = answer["allowed"].as_bool();
        Ok((allowed.with_context(|| format!("{from} to {to}: {answer} says nothing"))?, answer))
    }
}
