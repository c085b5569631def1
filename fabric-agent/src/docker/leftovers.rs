//! What Docker leaves behind: it ignores a driver that could not be told of an end, and says nothing at all when it is killed. An
//! endpoint whose interface is in no container is a leftover once its engine's process has ended, or after some time: an engine that
//! lives moves the interface at once. One whose interface is in a container is never touched: the container may run on without its
//! engine (`--live-restore`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::engine;
use crate::service::{Owner, Service};

/// How often to look.
const PERIOD: Duration = Duration::from_secs(2);
/// How long an interface must have been out of a container: longer than what is known of the links may be old, and than an engine
/// takes from moving it back to removing it.
const SETTLED: Duration = Duration::from_secs(10);
/// How long a living engine may take from making an endpoint to moving its interface.
const PATIENCE: Duration = Duration::from_secs(300);

/// Looks for leftovers.
pub struct Leftovers {
    service: Service,
    /// Endpoints whose interface is in a container, as of the last look.
    plugged: BTreeSet<String>,
    /// Those whose interface is in none: since when, and how long that is to be borne while the engine lives.
    loose: BTreeMap<String, (Instant, Duration)>,
}

impl Leftovers {
    /// Of this node.
    pub fn new(service: Service) -> Self {
        Self { service, plugged: BTreeSet::new(), loose: BTreeMap::new() }
    }

    /// Looks again and again, for ever.
    pub async fn run(mut self) {
        loop {
            self.sweep(Instant::now()).await;
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Looks once.
    async fn sweep(&mut self, now: Instant) {
        let owner = Owner::docker();
        let Ok(endpoints) = self.service.own_endpoints(&owner).await else { return };
        let plugged = self.service.plugged();
        let mut loose = BTreeMap::new();
        for endpoint in endpoints {
            let name = endpoint.metadata.name;
            let engine = endpoint.spec.attachment.and_then(|attachment| attachment.engine);
            let Some(engine) = engine.filter(|_| !plugged.contains(&name)) else { continue };
            // What was moved back is about to be removed; what was never moved may be about to be.
            let limit = if self.plugged.contains(&name) { SETTLED } else { PATIENCE };
            let (since, limit) = self.loose.get(&name).copied().unwrap_or((now, limit));
            let ended = engine::ended(&engine);
            if now.duration_since(since) < if ended { SETTLED } else { limit } {
                loose.insert(name, (since, limit));
                continue;
            }
            let why = if ended { "its engine has ended" } else { "its engine has no use for it" };
            match self.service.detach_endpoint(&owner, &name).await {
                Ok(()) => tracing::info!("endpoint {name} is left over, {why}: it is removed"),
                // It is tried again; it may also be gone by now.
                Err(error) => tracing::warn!("endpoint {name} is left over, {why}: {}", error.message),
            }
        }
        self.loose = loose;
        self.plugged = plugged;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{
        super::tests::{Bench, GONE, endpoint_call},
        Leftovers, PATIENCE, SETTLED,
    };

    /// A bench with an endpoint of an engine that lives.
    async fn bench() -> (Bench, String) {
        let bench = Bench::with_network().await;
        bench.call("NetworkDriver.CreateEndpoint", &endpoint_call("1", "10.50.0.9/24")).await;
        let name = bench.endpoints().await.pop().expect("one endpoint");
        (bench, name)
    }

    #[tokio::test]
    async fn what_is_in_a_container_stays_whoever_has_ended() {
        let (bench, name) = bench().await;
        bench.set_engine(&name, GONE).await;
        bench.plug(&name);
        let mut leftovers = Leftovers::new(bench.service.clone());
        let start = Instant::now();
        leftovers.sweep(start).await;
        leftovers.sweep(start + PATIENCE * 2).await;
        assert_eq!(bench.endpoints().await, [name]);
    }

    #[tokio::test]
    async fn what_is_in_none_goes_once_its_engine_has_ended() {
        let (bench, name) = bench().await;
        bench.set_engine(&name, GONE).await;
        let mut leftovers = Leftovers::new(bench.service.clone());
        let start = Instant::now();
        leftovers.sweep(start).await;
        assert_eq!(bench.endpoints().await.len(), 1, "what is known of the links may be old");
        leftovers.sweep(start + SETTLED).await;
        assert!(bench.endpoints().await.is_empty());
    }

    #[tokio::test]
    async fn a_living_engine_has_time_to_take_it_and_less_once_it_has_given_it_back() {
        let (bench, name) = bench().await;
        let mut leftovers = Leftovers::new(bench.service.clone());
        let start = Instant::now();
        leftovers.sweep(start).await;
        leftovers.sweep(start + PATIENCE - Duration::from_secs(1)).await;
        assert_eq!(bench.endpoints().await.len(), 1, "it may be about to be taken");
        bench.plug(&name);
        leftovers.sweep(start + PATIENCE).await;
        bench.unplug(&name);
        leftovers.sweep(start + PATIENCE).await;
        leftovers.sweep(start + PATIENCE + SETTLED).await;
        assert!(bench.endpoints().await.is_empty());
        bench.call("NetworkDriver.CreateEndpoint", &endpoint_call("2", "10.50.0.9/24")).await;
        leftovers.sweep(start).await;
        leftovers.sweep(start + PATIENCE).await;
        assert!(bench.endpoints().await.is_empty(), "never taken");
    }
}
