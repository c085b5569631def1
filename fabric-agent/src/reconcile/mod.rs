//! The one owner of the kernel's state. It makes maps, programs and links equal to what is planned from the store and
//! from this node's facts, again and again: when the store changes, when the kernel reports that a link, an address or
//! a route changed, when asked to, and every second to find what was changed behind its back (less often where looking
//! costs much, see [`pace`]). Notifications of its own writes are not told from others: dropping one of somebody else's
//! would be worse than a pass that finds nothing to do.
//!
//! Nothing is deleted before the store was read and the manifests were scanned once ([`Handle::sources_ready`]), so
//! that an agent that starts takes nothing down that its predecessor left running. What fails stays wanted and is
//! tried again, a little later each time.

mod access;
mod account;
mod devices;
mod drivers;
mod errors;
#[cfg(test)]
mod fake;
mod handle;
#[cfg(test)]
mod loop_tests;
mod pace;
mod pass;
mod ports;
mod report;
mod rows;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

pub use self::{
    drivers::{Datapath, KernelLinks, Links, Observed},
    handle::Handle,
};
use self::{
    handle::Shared,
    pace::{Pace, Stopwatch},
    pass::{Engine, Mode},
};
use crate::{
    dataplane::{Counters, Flows},
    kernel::KernelError,
    model::{Cluster, Guard},
    plan::desired::PlanSettings,
    store::Store,
};

/// What the reconciler needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// What planning needs.
    pub plan: PlanSettings,
    /// What this node depends on.
    pub guard: Guard,
    /// How often the kernel is compared with what should be there; less often where that takes long.
    pub resync: Duration,
    /// The bpffs directory, for the status.
    pub bpffs: String,
}

/// The owner loop. Made by [`Reconciler::new`], driven by [`Reconciler::run`].
pub struct Reconciler<L, D> {
    engine: Engine<L, D>,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    pace: Pace,
    triggered: mpsc::Receiver<()>,
    cluster: Option<(u64, Cluster)>,
    /// Errors of the last pass, which were logged.
    said: BTreeSet<String>,
}

impl<L: Links, D: Datapath> Reconciler<L, D> {
    /// Looks at the underlay and makes a reconciler and its handle. Nothing in the kernel is changed yet.
    ///
    /// # Errors
    /// If the underlay interfaces or VTEP addresses that were named do not exist, or none stands out.
    pub async fn new(
        mut links: L,
        datapath: D,
        store: Arc<dyn Store>,
        readers: (Option<Counters>, Option<Flows>),
        settings: Settings,
    ) -> Result<(Self, Handle), KernelError> {
        let uplinks = links.observe().await?.uplinks?;
        let mut engine = Engine::new(links, datapath, &settings.node, settings.plan.clone());
        engine.facts.uplinks = uplinks;
        engine.facts.guard = settings.guard.clone();
        let (trigger, triggered) = mpsc::channel(1);
        let shared = Arc::new(Shared::new(trigger, readers, &settings, engine.facts.clone()));
        let handle = Handle::new(Arc::clone(&shared));
        let pace = Pace::new(settings.resync, Instant::now());
        Ok((Self { engine, store, shared, pace, triggered, cluster: None, said: BTreeSet::new() }, handle))
    }

    /// Runs until `stop` says true or is dropped. `changed` reports changes of links, addresses and routes. What was
    /// programmed stays.
    pub async fn run(mut self, mut changed: mpsc::Receiver<()>, mut stop: watch::Receiver<bool>) {
        let mut store = self.store.watch();
        let mut names = self.shared.names();
        let mut full = true;
        loop {
            // What is reported up to here is covered by the pass: it looks for itself.
            store.mark_unchanged();
            let (generation, known) = names.borrow_and_update().clone();
            self.engine.facts.names = known;
            while changed.try_recv().is_ok() {}
            full |= self.triggered.try_recv().is_ok();
            let watch = Stopwatch::start();
            // A pass ends before the loop does: it is short, and half a pass helps nobody.
            let success = self.pass(full, generation).await;
            self.pace.done(full, success, watch.read());
            let due = self.pace.due();
            full = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                Ok(()) = store.changed() => false,
                Some(()) = changed.recv() => false,
                Ok(()) = names.changed() => false,
                Some(()) = self.triggered.recv() => true,
                () = tokio::time::sleep_until(due.into()) => true,
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep_until(self.pace.not_before().into()) => {}
            }
            full |= Instant::now() >= due;
        }
    }

    /// Whether everything succeeded.
    async fn pass(&mut self, full: bool, names: u64) -> bool {
        let ready = self.shared.sources_ready();
        let (revision, read) = match self.store.snapshot().await {
            Ok(snapshot) => {
                if self.cluster.as_ref().is_none_or(|(revision, _)| *revision != snapshot.revision) {
                    self.cluster = Some((snapshot.revision, Cluster::from_objects(&snapshot.objects)));
                }
                (snapshot.revision, None)
            }
            // What was read last is still what is wanted.
            Err(error) => {
                (self.cluster.as_ref().map_or(0, |(revision, _)| *revision), Some(error.to_string()))
            }
        };
        let Some((_, cluster)) = &self.cluster else {
            // Never read: nothing is known to be wanted, so nothing is done.
            self.shared.publish_failure(read.into_iter().collect());
            return false;
        };
        let mode = Mode { in_sync: ready && read.is_none(), full };
        self.engine.facts.peers = self.shared.peers();
        let report = self.engine.pass(cluster, mode).await;
        let mut status = self.engine.account.status().clone();
        status.errors.extend(read);
        // Once, not at every retry.
        for error in status.errors.iter().filter(|error| !self.said.contains(*error)) {
            tracing::warn!("{error}");
        }
        self.said = status.errors.iter().cloned().collect();
        let success = status.errors.is_empty();
        self.shared.publish(&self.engine, report, status, mode.in_sync, (revision, names));
        success
    }
}
