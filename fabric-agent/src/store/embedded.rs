//! The embedded store: one redb file, for one agent. Values are JSON, so that they can be read without this program.

use std::{
    borrow::Cow,
    fs::{DirBuilder, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use fabric_api::Object;
use futures::future::BoxFuture;
use redb::{Database, DatabaseError, ReadableTable, TableDefinition, backends::FileBackend};
use tokio::sync::watch;

use super::{
    Cursor, Snapshot, Store, StoreError, Write,
    state::{self, Changes, object_key},
};

/// The layout of the tables below; a higher one in a file means that a newer version wrote it.
const SCHEMA: u64 = 1;
/// The file inside the store's directory.
pub(super) const FILE: &str = "fabric.redb";

/// `KIND/NAME` to JSON of the object.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Name to JSON of the cursor.
const CURSORS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cursors");
/// `schema` and `revision`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// An open store. Only one agent can have it open.
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    directory: PathBuf,
    /// One writer at a time; redb would block a second one anyway.
    database: Mutex<Database>,
    current: Mutex<Arc<Snapshot>>,
    revision: watch::Sender<u64>,
}

impl EmbeddedStore {
    /// Whether there is a store in `directory`.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Removes the store in `directory`, and the directory if nothing else is in it. Says whether there was one.
    ///
    /// # Errors
    /// An agent has it open, or the operating system refuses. One that is damaged is removed like others.
    pub fn purge(directory: &Path) -> Result<bool, StoreError> {
        if !Self::exists(directory) {
            return Ok(false);
        }
        if let Err(error @ StoreError::InUse { .. }) = Self::open(directory) {
            return Err(error);
        }
        let path = directory.join(FILE);
        std::fs::remove_file(&path)
            .map_err(|e| StoreError::Io { path: path.display().to_string(), detail: e.to_string() })?;
        // Other files are not ours to remove.
        let _ = std::fs::remove_dir(directory);
        Ok(true)
    }

    /// Opens the store in `directory`, creating both if absent (readable by the owner only).
    ///
    /// # Errors
    /// In use, damaged, written by a newer version, or refused by the operating system.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let io =
            |e: std::io::Error| StoreError::Io { path: path.display().to_string(), detail: e.to_string() };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        // A new or empty file becomes a store; anything else must be one.
        let database = FileBackend::new(file)
            // Without the check, a damaged page would be noticed in the middle of a transaction.
            .and_then(|backend| {
                Database::builder().set_check_integrity_on_open(true).create_with_backend(backend)
            })
            .map_err(|e| open_error(&path, e))?;
        let snapshot = load(&database).map_err(|fault| fault.at(&path))?;
        let revision = watch::Sender::new(snapshot.revision);
        let current = Mutex::new(Arc::new(snapshot));
        let directory = directory.to_owned();
        Ok(Self {
            inner: Arc::new(Inner { path, directory, database: Mutex::new(database), current, revision }),
        })
    }
}

impl Store for EmbeddedStore {
    fn snapshot(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, StoreError>> {
        Box::pin(async { Ok(self.inner.current()) })
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<u64, StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let path = inner.path.display().to_string();
            let done = tokio::task::spawn_blocking(move || inner.commit(writes)).await;
            done.unwrap_or_else(|e| {
                Err(StoreError::Io { path, detail: format!("the writing task ended: {e}") })
            })
        })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    fn address(&self) -> String {
        format!("local://{}", self.inner.directory.display())
    }
}

impl Inner {
    fn current(&self) -> Arc<Snapshot> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current();
        if writes.is_empty() {
            return Ok(before.revision);
        }
        let revision = before.revision + 1;
        let changes = state::changes(&before, writes, revision)?;
        write(&database, &changes, revision).map_err(|fault| fault.at(&self.path))?;
        let after = Arc::new(state::apply(&before, changes, revision));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = after;
        self.revision.send_replace(revision);
        Ok(revision)
    }
}

/// What goes wrong inside, before the path is known.
enum Fault {
    Newer(u64),
    Damaged(String),
    Database(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(e: E) -> Self {
        Self::Database(e.into())
    }
}

impl Fault {
    fn at(self, path: &Path) -> StoreError {
        let path = path.display().to_string();
        match self {
            Self::Newer(found) => StoreError::Newer { path, found, known: SCHEMA },
            Self::Damaged(detail) => StoreError::Corrupt { path, detail },
            Self::Database(e) => database_error(path, &e),
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "redb has many errors; all but damage are passed on as they are"
)]
fn database_error(path: String, e: &redb::Error) -> StoreError {
    match e {
        redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => {
            StoreError::Corrupt { path, detail: e.to_string() }
        }
        _ => StoreError::Io { path, detail: e.to_string() },
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all but the two below are told alike")]
fn open_error(path: &Path, e: DatabaseError) -> StoreError {
    let shown = path.display().to_string();
    match e {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: shown },
        DatabaseError::Storage(redb::StorageError::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::Corrupt { path: shown, detail: "it is not a store".to_owned() }
        }
        e => database_error(shown, &e.into()),
    }
}

/// Reads everything; a new file gets its tables.
fn load(database: &Database) -> Result<Snapshot, Fault> {
    let transaction = database.begin_write()?;
    let mut snapshot = Snapshot::default();
    {
        let mut meta = transaction.open_table(META)?;
        let schema = meta.get("schema")?.map(|v| v.value());
        match schema {
            None => {
                meta.insert("schema", SCHEMA)?;
            }
            Some(found) if found > SCHEMA => return Err(Fault::Newer(found)),
            Some(_) => {}
        }
        snapshot.revision = meta.get("revision")?.map_or(0, |v| v.value());
        for row in transaction.open_table(OBJECTS)?.iter()? {
            let (key, value) = row?;
            snapshot.objects.push(parse(key.value(), value.value())?);
        }
        for row in transaction.open_table(CURSORS)?.iter()? {
            let (key, value) = row?;
            let cursor: Cursor = parse(key.value(), value.value())?;
            snapshot.cursors.insert(key.value().to_owned(), cursor);
        }
    }
    transaction.commit()?;
    snapshot.objects.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(snapshot)
}

fn order(object: &Object) -> (&str, Cow<'_, str>) {
    (object.kind(), object.id())
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(value).map_err(|e| Fault::Damaged(format!("entry {key}: {e}")))
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|e| Fault::Damaged(e.to_string()))
}

/// One durable transaction: redb's default durability returns after fsync.
fn write(database: &Database, changes: &Changes, revision: u64) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for ((kind, name), object) in &changes.objects {
            let key = object_key(kind, name);
            match object {
                Some(object) => objects.insert(key.as_str(), json(object)?.as_slice())?,
                None => objects.remove(key.as_str())?,
            };
        }
        let mut cursors = transaction.open_table(CURSORS)?;
        for (name, cursor) in &changes.cursors {
            match cursor {
                Some(cursor) => cursors.insert(name.as_str(), json(cursor)?.as_slice())?,
                None => cursors.remove(name.as_str())?,
            };
        }
        transaction.open_table(META)?.insert("revision", revision)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
