//! The one layer that every front door calls: checks a request, chooses what it left open (VNI, addresses, MAC, slot),
//! writes the store in one transaction, and says how far the kernel is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fabric_api::{
    Endpoint, Network, Node, Object,
    status::{Applied, Status},
};

mod deny;
mod draft;
mod engine;
pub mod error;
pub mod kernel;
mod movement;
mod netns;
mod owner;
mod policy;
mod read;
mod register;
mod replace;
#[cfg(test)]
mod tests;
mod write;

pub use engine::Part;
pub use error::{ErrorKind, ServiceError};
pub use kernel::Kernel;
pub use owner::Owner;
pub use replace::Replaced;

use crate::store::Store;

/// How long a request waits for the kernel. An attach is undone after it; others are answered, and their state says
/// that they are pending.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(30);

/// What the service needs to know of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSettings {
    /// This node's name.
    pub node: String,
    /// How many local endpoints there is room for: the smaller of `ports` and `port_counters`.
    pub slots: u32,
    /// Whether nodes that share the store take addresses from blocks of their own.
    pub blocks: bool,
}

/// The service; clones share everything.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    kernel: Arc<dyn Kernel>,
    settings: ServiceSettings,
    /// Serialises read-choose-write in this process; the store's expectations guard against other processes.
    writing: tokio::sync::Mutex<()>,
    /// Problems that front doors report, by front door.
    reports: Mutex<BTreeMap<Owner, Vec<String>>>,
    resolve: netns::Resolve,
    timeout: Duration,
}

impl Service {
    /// A service on a store and a reconciler.
    pub fn new(store: Arc<dyn Store>, kernel: Arc<dyn Kernel>, settings: ServiceSettings) -> Self {
        Self::with(store, kernel, settings, netns::resolve, PROGRAM_TIMEOUT)
    }

    fn with(
        store: Arc<dyn Store>,
        kernel: Arc<dyn Kernel>,
        settings: ServiceSettings,
        resolve: netns::Resolve,
        timeout: Duration,
    ) -> Self {
        let (writing, reports) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { store, kernel, settings, writing, reports, resolve, timeout }) }
    }

    /// This node's name.
    pub fn node_name(&self) -> &str {
        &self.inner.settings.node
    }

    /// Whether agents of other hosts use the same store.
    pub fn shares_store(&self) -> bool {
        self.inner.store.shared()
    }

    /// Tells when the store changes.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.store.watch()
    }

    /// Replaces what a front door reports as wrong; it appears in the node's status.
    pub fn report(&self, owner: &Owner, problems: Vec<String>) {
        let mut reports = self.inner.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.insert(owner.clone(), problems);
    }
}
