//! The store: the only truth about what was declared. A backend keeps objects and cursors under one revision that
//! every transaction raises by one.

use std::{collections::BTreeMap, sync::Arc};

use fabric_api::Object;
use futures::future::BoxFuture;
use tokio::sync::watch;

pub mod embedded;
mod fresh;
mod state;

pub use embedded::EmbeddedStore;
pub use fresh::Fresh;

/// Everything in the store at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Number of transactions so far; 0 for a new store.
    pub revision: u64,
    /// All objects, by kind and name. `metadata.revision` is that of an object's last change.
    pub objects: Vec<Object>,
    /// Positions of allocators, by name.
    pub cursors: BTreeMap<String, Cursor>,
}

impl Snapshot {
    /// The object of a kind and name.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Object> {
        let key = (kind, name);
        let at = self.objects.binary_search_by(|o| (o.kind(), o.metadata().name.as_str()).cmp(&key));
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
}

/// All objects as YAML documents, without what the agent adds (status, revisions), fit for `fabric apply`.
///
/// # Errors
/// An object has no YAML form, which would be a fault of this program.
pub fn export_yaml(snapshot: &Snapshot) -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    for object in &snapshot.objects {
        let mut object = object.clone();
        object.metadata_mut().revision = 0;
        match &mut object {
            Object::Network(o) => o.status = None,
            Object::Node(o) => o.status = None,
            Object::Endpoint(o) => o.status = None,
        }
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&object)?);
    }
    Ok(text)
}
