//! What others see of the reconciler: wait until something is programmed, ask for a pass, read the state.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use fabric_api::status::{EndpointCounters, ReconcileStatus, State, Status, ToldName, UplinkStatus};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::{
    Settings,
    drivers::{Datapath, Links},
    pass::Engine,
    report::Report,
};
use crate::{
    dataplane::{Counters, Flows, Groups, Joined, boot_time},
    names::cache::{Known, SECOND},
    plan::desired::{KnownNames, NodeFacts, PeerFacts, Watched},
    policy::RuleNames,
    service::Kernel,
};

/// What the last pass found.
struct Published {
    rules: Arc<RuleNames>,
    watched: Option<Arc<BTreeMap<u32, Watched>>>,
    facts: NodeFacts,
    report: Report,
    status: Status,
}

/// What the last pass covered.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// The store's revision, once a pass ended.
    revision: Option<u64>,
    /// Whether a pass was made that knew every source, so that it deleted what nobody wants.
    complete: bool,
    /// The generation of what endpoints were told for domain names.
    names: u64,
}

/// Shared by the loop and its handles.
pub(super) struct Shared {
    published: RwLock<Published>,
    done: watch::Sender<Done>,
    trigger: mpsc::Sender<()>,
    counters: Option<Counters>,
    flows: Option<Flows>,
    groups: OnceLock<Groups>,
    ready: AtomicBool,
    peers: RwLock<BTreeMap<IpAddr, PeerFacts>>,
    /// What endpoints were told for domain names, and how often that has changed.
    names: watch::Sender<(u64, Arc<KnownNames>)>,
    /// The same with the times, for people.
    told: RwLock<Arc<Vec<Known>>>,
}

impl Shared {
    pub(super) fn new(
        trigger: mpsc::Sender<()>,
        (counters, flows): (Option<Counters>, Option<Flows>),
        settings: &Settings,
        facts: NodeFacts,
    ) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: settings.node.clone(),
            kernel: kernel.trim().to_owned(),
            bpffs: settings.bpffs.clone(),
            vxlan_port: settings.plan.vxlan_port,
            ..Status::default()
        };
        let published = RwLock::new(Published {
            rules: Arc::default(),
            watched: None,
            facts,
            report: Report::new(),
            status,
        });
        Self {
            published,
            done: watch::Sender::new(Done::default()),
            trigger,
            counters,
            flows,
            groups: OnceLock::new(),
            ready: AtomicBool::new(false),
            peers: RwLock::default(),
            names: watch::Sender::default(),
            told: RwLock::default(),
        }
    }

    pub(super) fn sources_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn peers(&self) -> BTreeMap<IpAddr, PeerFacts> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn names(&self) -> watch::Receiver<(u64, Arc<KnownNames>)> {
        self.names.subscribe()
    }

    pub(super) fn publish<L: Links, D: Datapath>(
        &self,
        engine: &Engine<L, D>,
        report: Report,
        reconcile: ReconcileStatus,
        in_sync: bool,
        (revision, names): (u64, u64),
    ) {
        let facts = engine.facts.clone();
        let named: Vec<(String, u32)> = facts.uplinks.iter().map(|u| (u.name.clone(), u.ifindex)).collect();
        let uplinks = facts.uplinks.iter().map(|uplink| {
            let (mode, why) = engine.datapath.mode(uplink.ifindex);
            let (name, vteps) = (uplink.name.clone(), uplink.vteps.clone());
            UplinkStatus { name, ifindex: uplink.ifindex, mtu: uplink.mtu, vteps, mode, why }
        });
        let uplinks = uplinks.collect();
        let features = engine.datapath.features(&named);
        {
            let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
            published.rules = Arc::clone(&engine.rules);
            published.watched = Some(Arc::clone(&engine.watched));
            published.facts = facts;
            published.report = report;
            let status = &mut published.status;
            status.in_sync |= in_sync && engine.equal;
            status.problems.clone_from(&reconcile.errors);
            status.reconcile = reconcile;
            status.uplinks = uplinks;
            status.features = features;
        }
        self.done.send_modify(|done| {
            done.revision = Some(revision);
            done.complete |= in_sync;
            done.names = names;
        });
    }

    /// A pass that could not even begin.
    pub(super) fn publish_failure(&self, errors: Vec<String>) {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        published.status.problems.clone_from(&errors);
        published.status.reconcile.errors = errors;
    }
}

/// A handle of the reconciler. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Says that every source beside the store was read completely once: from now on what nobody wants is deleted.
    pub fn sources_ready(&self) {
        self.shared.ready.store(true, Ordering::Release);
        self.trigger();
    }

    /// Resolves once a pass was made that knew every source, successful or not.
    pub async fn complete(&self) {
        let mut done = self.shared.done.subscribe();
        // The loop is gone only when the agent stops.
        let _ = done.wait_for(|done| done.complete).await;
    }

    /// Says what probes of other VTEPs have found; asks for a pass if that is new.
    pub fn set_peers(&self, peers: BTreeMap<IpAddr, PeerFacts>) {
        let mut known = self.shared.peers.write().unwrap_or_else(PoisonError::into_inner);
        if *known == peers {
            return;
        }
        for (vtep, peer) in peers.iter().filter(|(vtep, peer)| known.get(vtep) != Some(peer)) {
            if let Some(mtu) = peer.path_mtu {
                tracing::info!("probes find that the path to {vtep} carries {mtu} bytes");
            }
            if let Some(mtu) = peer.uplink_mtu {
                tracing::info!("the uplink of {vtep} has an MTU of {mtu} bytes");
            }
        }
        *known = peers;
        drop(known);
        self.trigger();
    }

    /// Says how memberships in groups are read. Once.
    pub fn set_groups(&self, groups: Groups) {
        // A second reader would read the same maps.
        let _ = self.shared.groups.set(groups);
    }

    /// Says what endpoints were told for domain names, and asks for a pass. Returns its generation, see [`Handle::names_written`].
    pub fn set_names(&self, names: Arc<KnownNames>) -> u64 {
        self.shared.names.send_modify(|(generation, known)| {
            *generation += 1;
            *known = names;
        });
        self.shared.names.borrow().0
    }

    /// Says what endpoints were told, and until when they know it, for people.
    pub fn set_told(&self, told: Arc<Vec<Known>>) {
        *self.shared.told.write().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Resolves once a pass has ended, successful or not, that knew what was said in this generation.
    pub async fn names_written(&self, generation: u64) {
        let mut done = self.shared.done.subscribe();
        // The loop is gone only when the agent stops.
        let _ = done.wait_for(|done| done.names >= generation).await;
    }

    /// Local endpoints whose policies have domain names, by port, of the last pass; absent before the first.
    pub fn watched(&self) -> Option<Arc<BTreeMap<u32, Watched>>> {
        self.shared.published.read().unwrap_or_else(PoisonError::into_inner).watched.clone()
    }

    /// Names of policies' rules by the numbers that the programs know, of the last pass.
    pub fn rules(&self) -> Arc<RuleNames> {
        Arc::clone(&self.shared.published.read().unwrap_or_else(PoisonError::into_inner).rules)
    }

    /// Resolves once another pass has ended; false if there will be none.
    pub async fn passed(&self) -> bool {
        self.shared.done.subscribe().changed().await.is_ok()
    }

    /// Asks for a pass that compares everything, soon.
    pub fn trigger(&self) {
        // A full channel means that one is asked for already.
        let _ = self.shared.trigger.try_send(());
    }
}

impl Kernel for Handle {
    fn programmed(&self, revision: u64) -> BoxFuture<'_, ()> {
        let mut done = self.shared.done.subscribe();
        Box::pin(async move {
            // The loop is gone only when the agent stops; nobody waits for an answer then.
            let _ = done.wait_for(|done| done.revision.is_some_and(|done| done >= revision)).await;
        })
    }

    fn state(&self, kind: &str, name: &str) -> Option<(State, String)> {
        let published = self.shared.published.read().unwrap_or_else(PoisonError::into_inner);
        let kind =
            *["Network", "Node", "Endpoint", "Namespace", "NetworkPolicy", "ClusterNetworkPolicy", "DenySet"]
                .iter()
                .find(|known| **known == kind)?;
        published.report.get(&(kind, name.to_owned())).cloned()
    }

    fn facts(&self) -> NodeFacts {
        self.shared.published.read().unwrap_or_else(PoisonError::into_inner).facts.clone()
    }

    fn counters(&self, slot: u32) -> Option<EndpointCounters> {
        self.shared.counters.as_ref()?.port(slot).ok()
    }

    fn reset_counters(&self, slot: u32) {
        if let Some(Err(error)) = self.shared.counters.as_ref().map(|counters| counters.reset_port(slot)) {
            tracing::warn!("{error}");
        }
    }

    fn groups(&self) -> BTreeMap<u32, Joined> {
        match self.shared.groups.get().map(Groups::all) {
            Some(Ok(all)) => all,
            Some(Err(error)) => {
                tracing::warn!("{error}");
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        }
    }

    fn flows(&self, addresses: &[IpAddr]) -> String {
        let flows = self.shared.flows.as_ref().map(|flows| flows.of(addresses));
        flows
            .transpose()
            .unwrap_or_else(|error| {
                tracing::warn!("an endpoint moves without its connections: {error}");
                None
            })
            .unwrap_or_default()
    }

    fn take_flows(&self, vni: u32, addresses: &[IpAddr], text: &str) {
        match self.shared.flows.as_ref().map(|flows| flows.take(vni, addresses, text)) {
            Some(Err(error)) => {
                tracing::warn!("not all connections of an endpoint that moves are known: {error}")
            }
            Some(Ok(count)) => tracing::debug!(count, "connections taken"),
            None => {}
        }
    }

    fn names(&self, ifindex: u32) -> Vec<ToldName> {
        let told = Arc::clone(&self.shared.told.read().unwrap_or_else(PoisonError::into_inner));
        let now = boot_time();
        let own = told.iter().filter(|known| known.ifindex == ifindex);
        let name = |known: &Known| ToldName {
            name: known.name.clone(),
            address: known.addr,
            seconds: known.expires.saturating_sub(now) / SECOND,
        };
        own.map(name).collect()
    }

    fn node_status(&self) -> Status {
        let mut status = self.shared.published.read().unwrap_or_else(PoisonError::into_inner).status.clone();
        if let Some(counters) = &self.shared.counters {
            match counters.map_use() {
                Ok(maps) => status.maps = maps,
                Err(error) => status.problems.push(error.to_string()),
            }
        }
        status
    }
}
