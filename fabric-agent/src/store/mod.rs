//! The store: the only truth about what was declared. A backend keeps objects and cursors under one revision that
//! every transaction raises: [`embedded`] in a file, for one agent, [`etcd`] in a cluster, for the agents of many hosts.

use std::{collections::BTreeMap, sync::Arc};

use fabric_api::Object;
use futures::future::BoxFuture;
use tokio::sync::watch;

pub mod embedded;
pub mod etcd;
mod fresh;
mod state;

pub use embedded::EmbeddedStore;
pub use etcd::{Access as EtcdAccess, EtcdStore};
pub use fresh::Fresh;

/// Everything in the store at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Rises with every transaction; 0 for a new store.
    pub revision: u64,
    /// All objects, by kind and name. `metadata.revision` is that of an object's last change.
    pub objects: Vec<Object>,
    /// Positions of allocators, by name.
    pub cursors: BTreeMap<String, Cursor>,
    /// Nodes whose agents are alive, by name; `None` where the backend can't tell.
    pub live: Option<BTreeMap<String, Live>>,
}

/// The agent of a node that is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Live {
    /// Tells agents apart that have the same node name.
    pub id: String,
    /// The host's own name, for people.
    pub host: String,
    /// The agent's version.
    pub version: String,
}

impl Snapshot {
    /// The object of a kind and name; that of a NetworkPolicy is `NAMESPACE/NAME` ([`Object::id`]).
    pub fn get(&self, kind: &str, name: &str) -> Option<&Object> {
        let key = (kind, name);
        let at = self.objects.binary_search_by(|o| (o.kind(), &*o.id()).cmp(&key));
        at.ok().map(|i| &self.objects[i])
    }
}

/// The position of an allocator. Every transaction that allocates writes its cursor, so that two of them at once
/// conflict instead of giving one thing away twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    /// Revision of the last change.
    pub revision: u64,
    /// Whatever the allocator needs.
    pub value: String,
}

/// What a write requires of the entry that it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Any,
    /// The entry does not exist.
    Absent,
    /// The entry's last change has this revision.
    Revision(u64),
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Creates or replaces an object; its `metadata.revision` is set by the store.
    Put {
        /// The object.
        object: Box<Object>,
        /// What it must find.
        expected: Expected,
    },
    /// Removes an object. Removing the absent is fine with [`Expected::Any`].
    Delete {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What it must find.
        expected: Expected,
    },
    /// Changes nothing, but the whole transaction is done only if it finds what it expects.
    Require {
        /// The object's kind.
        kind: String,
        /// Its name.
        name: String,
        /// What it must find.
        expected: Expected,
    },
    /// Sets the position of an allocator, or removes it.
    Cursor {
        /// Its name.
        name: String,
        /// The position; `None` removes it.
        value: Option<String>,
        /// What it must find.
        expected: Expected,
    },
}

/// Why the store did not do it. Nothing of the transaction was done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An entry is not as the transaction expected: somebody else was faster. Read again and retry.
    #[error("{what} was changed at the same time; try again")]
    Conflict {
        /// The entry.
        what: String,
    },
    /// Another process has the store open.
    #[error("store {path} is in use by another agent: give each agent its own --store")]
    InUse {
        /// The file.
        path: String,
    },
    /// The store was written by a newer version.
    #[error(
        "store {path} has schema version {found}, this version knows {known}: use the newer agent, or another --store"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// The file is not a store, or is damaged.
    #[error(
        "store {path} can't be read ({detail}): restore it from an export, or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The operating system refused.
    #[error("store {path}: {detail}")]
    Io {
        /// The file.
        path: String,
        /// What happened.
        detail: String,
    },
}

/// A store. Cancelling a `commit` leaves it done or not done, never half done.
pub trait Store: Send + Sync {
    /// Everything, at the newest revision.
    ///
    /// # Errors
    /// The backend can't be read.
    fn snapshot(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, StoreError>>;

    /// Does all writes durably, or none; returns the new revision. No writes are no transaction: the revision stays.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if an entry is not as expected; otherwise the backend failed.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Tells the newest revision; changes only after a snapshot shows that revision.
    fn watch(&self) -> watch::Receiver<u64>;

    /// The store's address, as in `--store`.
    fn address(&self) -> String;

    /// Whether agents of several hosts share it.
    fn shared(&self) -> bool {
        false
    }

    /// How many entries a transaction may be about.
    fn limit(&self) -> usize {
        usize::MAX
    }

    /// Makes the snapshot at least as new as this moment, for who was told of a change by others.
    ///
    /// # Errors
    /// The backend can't be reached.
    fn catch_up(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    /// What is wrong with it now, one sentence each; what was read last stays in force.
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Takes a node and its endpoints out of a store that hosts share, in as many transactions as it takes. Says what is gone.
///
/// # Errors
/// The store can't be read or written, or somebody changes these objects at the same time.
pub async fn leave(store: &dyn Store, node: &str) -> Result<Vec<String>, StoreError> {
    let snapshot = store.snapshot().await?;
    let lives_here = |object: &&Object| {
        if let Object::Endpoint(endpoint) = object {
            endpoint.spec.node.as_deref() == Some(node)
        } else {
            false
        }
    };
    let endpoints = snapshot.objects.iter().filter(lives_here);
    // Last: a node that has endpoints is never missing.
    let all: Vec<&Object> = endpoints.chain(snapshot.get("Node", node)).collect();
    for part in all.chunks(store.limit().min(all.len().max(1))) {
        let delete = |object: &&Object| Write::Delete {
            kind: object.kind().to_owned(),
            name: object.id().into_owned(),
            expected: Expected::Revision(object.metadata().revision),
        };
        store.commit(part.iter().map(delete).collect()).await?;
    }
    Ok(all.iter().map(|object| format!("{} {}", object.kind().to_lowercase(), object.id())).collect())
}

/// All objects as YAML documents, without what the agents add (status, revisions, moves that are going on, nodes that register
/// themselves), fit for `fabric apply`.
///
/// # Errors
/// An object has no YAML form, which would be a fault of this program.
pub fn export_yaml(snapshot: &Snapshot) -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    let registered = |o: &&Object| o.kind() == "Node" && o.metadata().owner == crate::model::node::REGISTERED;
    for object in snapshot.objects.iter().filter(|object| !registered(object)) {
        let mut object = object.clone();
        object.metadata_mut().revision = 0;
        object.clear_status();
        if let Object::Endpoint(endpoint) = &mut object {
            endpoint.spec.movement = None;
        }
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&object)?);
    }
    Ok(text)
}
