//! Hosts without a cluster store: every host is told of the others by manifests.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result, bail};
use fabric_api::{
    object::{API_VERSION, Endpoint, Metadata, Network, Node, NodeNetwork, NodeSpec, Object},
    status::State,
};
use serde::de::DeserializeOwned;

use crate::{Host, Lab, process::wait_for};

const SETTLE: Duration = Duration::from_secs(20);

/// Reads what the CLI prints with `-o json`, an object or a list of them; a tag `kind` may be there or not.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    fn untag(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Array(items) => items.iter_mut().for_each(untag),
            serde_json::Value::Object(fields) => drop(fields.remove("kind")),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => (),
        }
    }
    let mut value: serde_json::Value = serde_json::from_str(text).context("not JSON")?;
    untag(&mut value);
    Ok(serde_json::from_value(value)?)
}

impl Host {
    /// Every endpoint that this host's agent knows.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>> {
        parse(&self.fabric(&["endpoint", "ls", "-o", "json"])?).context("fabric endpoint ls")
    }

    /// Every network that this host's agent knows.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn networks(&self) -> Result<Vec<Network>> {
        parse(&self.fabric(&["network", "ls", "-o", "json"])?).context("fabric network ls")
    }

    /// Every node that this host's agent knows, itself included.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        parse(&self.fabric(&["node", "ls", "-o", "json"])?).context("fabric node ls")
    }

    /// What the other hosts must be told of this one: itself and its endpoints.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn as_peer(&self) -> Result<Vec<Object>> {
        let networks = self.networks()?.into_iter().map(|network| NodeNetwork {
            network: network.metadata.name,
            addresses: network.status.map(|status| status.node_addresses).unwrap_or_default(),
            prefixes: Vec::new(),
        });
        let own: Node = parse(&self.fabric(&["node", "inspect", &self.name(), "-o", "json"])?)?;
        let node = Node {
            api_version: API_VERSION.to_owned(),
            metadata: Metadata { name: self.name(), ..Metadata::default() },
            spec: NodeSpec { vteps: own.spec.vteps, networks: networks.collect(), ..NodeSpec::default() },
            status: None,
        };
        let mut objects = vec![Object::Node(node)];
        for mut endpoint in self.endpoints()? {
            if !endpoint.status.take().is_some_and(|status| status.local) {
                continue;
            }
            endpoint.metadata = Metadata {
                name: endpoint.metadata.name,
                labels: endpoint.metadata.labels,
                ..Metadata::default()
            };
            endpoint.spec.node = Some(self.name());
            endpoint.spec.attachment = None;
            objects.push(Object::Endpoint(endpoint));
        }
        Ok(objects)
    }

    /// Makes the manifest directory hold exactly `objects`, one file each.
    ///
    /// # Errors
    /// If a file can't be written or removed.
    pub fn write_manifests(&self, objects: &[Object]) -> Result<()> {
        let directory = self.manifests();
        let mut wanted = BTreeSet::new();
        for object in objects {
            let name = format!("{}-{}.json", object.kind().to_lowercase(), object.metadata().name);
            // Written beside the directory and moved, so that the agent never reads half a file.
            let draft = self.directory().join("run/fabric").join(format!(".{name}"));
            fs::write(&draft, serde_json::to_vec_pretty(object)?)?;
            fs::rename(&draft, directory.join(&name))?;
            wanted.insert(name);
        }
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| wanted.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Waits until this host's agent shows these remote endpoints as ready, and no other remote ones.
    fn wait_for_peers(&self, objects: &[Object]) -> Result<()> {
        let wanted: BTreeSet<&str> = objects
            .iter()
            .filter(|object| matches!(object, Object::Endpoint(_)))
            .map(|object| object.metadata().name.as_str())
            .collect();
        let mut seen = String::new();
        let result = wait_for("peers are programmed", SETTLE, || match self.endpoints() {
            Ok(endpoints) => {
                let remote: Vec<_> = endpoints
                    .iter()
                    .filter_map(|e| {
                        e.status.as_ref().filter(|s| !s.local).map(|s| (e.metadata.name.as_str(), s))
                    })
                    .collect();
                seen = format!("{remote:?}");
                remote.len() == wanted.len()
                    && remote
                        .iter()
                        .all(|(name, status)| wanted.contains(name) && status.state == State::Ready)
            }
            Err(error) => {
                seen = format!("{error:#}");
                false
            }
        });
        if let Err(error) = result {
            bail!("{}: {error}; wanted {wanted:?}, saw {seen}\n{}", self.name(), self.agent_log_tail(20));
        }
        Ok(())
    }
}

impl Lab {
    /// Tells every host of all others: writes Node and Endpoint manifests into each host's manifest directory and
    /// waits until they are programmed. Call it again when endpoints came or went.
    ///
    /// # Errors
    /// If an agent does not answer, or does not show the objects as ready within 20 seconds.
    pub fn declare_peers(&self) -> Result<()> {
        let own = self.hosts().iter().map(Host::as_peer).collect::<Result<Vec<_>>>()?;
        let others = |n: usize| -> Vec<Object> {
            own.iter().enumerate().filter(|(i, _)| *i != n).flat_map(|(_, objects)| objects.clone()).collect()
        };
        for (n, host) in self.hosts().iter().enumerate() {
            host.write_manifests(&others(n))?;
        }
        for (n, host) in self.hosts().iter().enumerate() {
            host.wait_for_peers(&others(n))?;
        }
        Ok(())
    }

    /// Runs `fabric network create` with the same arguments on every host. Give `--vni`, so that all agree.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn create_network(&self, args: &[&str]) -> Result<()> {
        for host in self.hosts() {
            host.fabric(&[&["network", "create"], args].concat())?;
        }
        Ok(())
    }
}
