//! The store on etcd, for the agents of many hosts. A task follows a member of the cluster: it lists the fabric's keys
//! in pages, watches them from there on, and keeps what it has read as a snapshot, which stays in force while etcd is
//! away. Writes are transactions that check the revision of every entry that they rest on.
//!
//! Every agent holds a lease (see [`claim`]); a second one of the same node name is refused.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client::Client;
use futures::future::BoxFuture;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use self::{claim::Claim, fault::Fault, follow::Follower, keys::Keys};
use super::{Snapshot, Store, StoreError, Write};

mod access;
mod claim;
mod commit;
mod content;
mod fault;
mod follow;
mod keys;

pub use access::Access;

/// How long the start waits for a cluster that does not answer before it goes on without.
const PATIENCE: Duration = Duration::from_secs(8);

/// A fabric in an etcd cluster. Dropping it ends the connection.
pub struct EtcdStore {
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

/// How far the follower is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was read yet, and why.
    Starting(Option<Fault>),
    /// What was read can be used.
    Loaded,
    /// It makes no sense to go on as this agent was started.
    Hopeless(Fault),
}

/// Shared by the follower and those who use the store.
struct Shared {
    access: Access,
    keys: Keys,
    current: Mutex<Arc<Snapshot>>,
    revision: watch::Sender<u64>,
    phase: watch::Sender<Phase>,
    /// The connection, while there is one.
    client: watch::Sender<Option<Client>>,
    /// Asks the follower to find out whether its connection is of any use.
    doubt: Notify,
    /// What is wrong, by kind.
    troubles: Mutex<BTreeMap<&'static str, Vec<String>>>,
    /// This node's name, for the entries that it writes for itself.
    node: String,
}

impl EtcdStore {
    /// Opens the fabric; `node` claims that node's name. A cluster that does not answer is waited for a few seconds, and then
    /// in the background.
    ///
    /// # Errors
    /// A newer version has written the fabric, another agent has the node's name, or the cluster does not let us in.
    pub async fn open(access: Access, node: Option<&str>) -> Result<Self, StoreError> {
        let address = access.address();
        access.check().map_err(|fault| fault.at(&address))?;
        let keys = Keys::new(&access.prefix);
        let shared = Arc::new(Shared {
            keys,
            current: Mutex::default(),
            revision: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Starting(None)),
            client: watch::Sender::new(None),
            doubt: Notify::new(),
            troubles: Mutex::default(),
            node: node.unwrap_or("-").to_owned(),
            access,
        });
        let follower = Follower::new(Arc::clone(&shared), node.map(Claim::new));
        let follower = tokio::spawn(follower.run());
        let store = Self { shared, follower };
        store.started().await.map_err(|fault| fault.at(&address))?;
        Ok(store)
    }

    /// Waits until the fabric was read or can't be.
    async fn started(&self) -> Result<(), Fault> {
        let mut phase = self.shared.phase.subscribe();
        let ready = |phase: &Phase| match phase {
            Phase::Starting(_) => false,
            Phase::Loaded | Phase::Hopeless(_) => true,
        };
        let now = match tokio::time::timeout(PATIENCE, phase.wait_for(ready)).await {
            Ok(Ok(now)) => now.clone(),
            Ok(Err(_)) => return Err(Fault::Away("the connecting task ended".to_owned())),
            Err(_) => self.shared.phase.borrow().clone(),
        };
        match now {
            Phase::Loaded => Ok(()),
            // A wrong password may be put right while the agent runs, but nobody would look for it there.
            Phase::Hopeless(fault) | Phase::Starting(Some(fault @ Fault::Refused(_))) => Err(fault),
            Phase::Starting(_) => {
                let address = self.shared.access.address();
                tracing::warn!("{address} does not answer; the agent goes on and waits for it");
                Ok(())
            }
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Store for EtcdStore {
    fn snapshot(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, StoreError>> {
        let phase = self.shared.phase.borrow().clone();
        let done = match phase {
            Phase::Loaded => Ok(self.shared.current()),
            Phase::Starting(fault) => Err(fault
                .unwrap_or_else(|| Fault::Away("it was not reached yet".to_owned()))
                .at(&self.shared.access.address())),
            Phase::Hopeless(fault) => Err(fault.at(&self.shared.access.address())),
        };
        Box::pin(async { done })
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.shared.commit(writes))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    fn address(&self) -> String {
        self.shared.access.address()
    }

    fn shared(&self) -> bool {
        true
    }

    fn limit(&self) -> usize {
        commit::LIMIT
    }

    fn catch_up(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.shared.catch_up())
    }

    fn troubles(&self) -> Vec<String> {
        let troubles = self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.values().flatten().cloned().collect()
    }
}

impl Shared {
    fn current(&self) -> Arc<Snapshot> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a snapshot in force.
    fn publish(&self, snapshot: Snapshot) {
        let revision = snapshot.revision;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Loaded) != Phase::Loaded);
        self.revision.send_replace(revision);
    }

    /// Says what is wrong, or that nothing of this kind is. What is new is logged.
    fn tell(&self, kind: &'static str, sentences: Vec<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = troubles.insert(kind, sentences.clone()).unwrap_or_default();
        for sentence in sentences.iter().filter(|sentence| !before.contains(sentence)) {
            tracing::warn!("{sentence}");
        }
    }
}
