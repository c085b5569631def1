//! What Docker tells no driver: whose an endpoint is. Its own API does, afterwards: the container's name, and its labels
//! `fabric.label.KEY=VALUE`, which become labels of its endpoints. Asked from a task of its own and never within a call of Docker's,
//! which may hold the lock that the answer needs.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use fabric_api::Endpoint;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::network::short;
use crate::{
    model::name::check_labels,
    service::{Owner, Service},
};

/// Labels of containers that are for the fabric begin so.
const PREFIX: &str = "fabric.label.";
/// How often to ask for a container that was just made, and for how long that is just.
const SOON: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often to ask for one that is older.
const LATER: Duration = Duration::from_secs(30);
/// How long Docker may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The largest answer: room for some ten thousand containers.
const LARGEST: u64 = 64 << 20;

/// A container, of what `GET /containers/json` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    network_settings: Option<NetworkSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    networks: BTreeMap<String, Joined>,
}

#[derive(Debug, Deserialize)]
struct Joined {
    #[serde(rename = "EndpointID", default)]
    endpoint_id: String,
}

/// Asks Docker about the containers of endpoints.
pub struct Containers {
    service: Service,
    socket: PathBuf,
    /// Endpoints whose container is not known, and since when.
    unknown: BTreeMap<String, Instant>,
}

impl Containers {
    /// Of this node, by the API on `socket`.
    pub fn new(service: Service, socket: PathBuf) -> Self {
        Self { service, socket, unknown: BTreeMap::new() }
    }

    /// Asks whenever there is something to ask, for ever.
    pub async fn run(mut self) {
        let mut changes = self.service.changes();
        loop {
            changes.mark_unchanged();
            self.learn().await;
            let young = self.unknown.values().any(|since| since.elapsed() < SOON.1);
            let pause = match (self.unknown.is_empty(), young) {
                (true, _) => Duration::MAX,
                (false, true) => SOON.0,
                (false, false) => LATER,
            };
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Docker knows a moment later than its driver.
                    sleep(SOON.0).await;
                }
                () = sleep(pause) => {}
            }
        }
    }

    /// Asks once, if there is an endpoint whose container is not known.
    async fn learn(&mut self) {
        let owner = Owner::docker();
        let Ok(endpoints) = self.service.own_endpoints(&owner).await else { return };
        let unknown = |endpoint: &Endpoint| {
            endpoint.spec.attachment.as_ref().is_some_and(|a| a.engine.is_some() && a.container.is_none())
        };
        let now = Instant::now();
        let names = endpoints.into_iter().filter(unknown).map(|endpoint| endpoint.metadata.name);
        self.unknown = names
            .map(|name| {
                let since = self.unknown.get(&name).copied().unwrap_or(now);
                (name, since)
            })
            .collect();
        if self.unknown.is_empty() {
            return;
        }
        let containers = match self.containers().await {
            Ok(containers) => containers,
            // Docker may be about to start, or be stopped; it is asked again.
            Err(error) => {
                tracing::debug!("docker: {}: {error:#}", self.socket.display());
                return;
            }
        };
        for (endpoint, container) in of_endpoints(&containers) {
            if self.unknown.remove(&endpoint).is_none() {
                continue;
            }
            let name = container.names.first().map_or("", |name| name.trim_start_matches('/'));
            let labels = labels(name, &container.labels);
            let amend = |endpoint: &mut Endpoint| {
                endpoint.metadata.labels.clone_from(&labels);
                if let Some(attachment) = &mut endpoint.spec.attachment {
                    attachment.container = Some(name.to_owned());
                }
            };
            // One that is gone by now needs no name.
            if let Err(error) = self.service.amend_endpoint(&owner, &endpoint, amend).await {
                tracing::debug!("docker: container {name}: {}", error.message);
            }
        }
    }

    async fn containers(&self) -> anyhow::Result<Vec<Container>> {
        let ask = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            // An answer to this version has an end and no parts.
            stream.write_all(b"GET /containers/json HTTP/1.0\r\nHost: docker\r\n\r\n").await?;
            let mut answer = Vec::new();
            stream.take(LARGEST).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(ANSWER, ask).await??;
        let split = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = answer.split_at(split.unwrap_or(answer.len()));
        let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        anyhow::ensure!(
            first.split(|byte| *byte == b' ').nth(1) == Some(b"200"),
            "the answer is {:?}",
            String::from_utf8_lossy(first)
        );
        Ok(serde_json::from_slice(body)?)
    }
}

/// Every endpoint that the containers have in any network, by the fabric's name of it.
fn of_endpoints(containers: &[Container]) -> impl Iterator<Item = (String, &Container)> {
    containers.iter().flat_map(|container| {
        let networks = container.network_settings.iter().flat_map(|settings| settings.networks.values());
        let joined = networks.filter(|network| !network.endpoint_id.is_empty());
        joined.map(move |network| (short(&network.endpoint_id), container))
    })
}

/// The container's labels that are for the fabric. One that is not valid is left out, and said.
fn labels(container: &str, all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours =
        all.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value.clone())));
    ours.filter(|(key, value)| {
        let checked = check_labels(&BTreeMap::from([(key.clone(), value.clone())]));
        if let Err(error) = &checked {
            tracing::warn!("docker: container {container}: {error}; the label is left out");
        }
        checked.is_ok()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Container, labels, of_endpoints};

    #[test]
    fn endpoints_and_labels_are_found_in_what_docker_says() {
        // As Docker 20.10 answers, shortened.
        let text = r#"[{"Id":"c0ffee","Names":["/web1"],"Image":"busybox","Labels":{"fabric.label.app":"web","fabric.label.bad key":"x","maintainer":"me"},"State":"running","HostConfig":{"NetworkMode":"web"},"NetworkSettings":{"Networks":{"web":{"IPAMConfig":null,"Links":null,"NetworkID":"38f7","EndpointID":"450e7c7041467413a377453c051929228690ea4e5b79e4f29b88a28a2a776ffe","IPAddress":"10.50.0.2"},"bridge":{"EndpointID":""}}},"Mounts":[]},
            {"Id":"1","Names":["/host"],"Labels":{},"NetworkSettings":{"Networks":{"host":{"EndpointID":""}}}}]"#;
        let containers: Vec<Container> = serde_json::from_str(text).expect("it is read");
        let found: Vec<_> = of_endpoints(&containers).map(|(name, c)| (name, c.names[0].clone())).collect();
        assert_eq!(found, [("docker-450e7c704146".to_owned(), "/web1".to_owned())]);
        let app = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        assert_eq!(labels("web1", &containers[0].labels), app);
    }
}
