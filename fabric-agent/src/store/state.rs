//! What a transaction does to a snapshot, the same for every backend that holds one in memory. Pure.

use std::collections::BTreeMap;

use fabric_api::Object;

use super::{Cursor, Expected, Snapshot, StoreError, Write};

/// Key of an entry in a backend.
pub(super) fn object_key(kind: &str, name: &str) -> String {
    format!("{kind}/{name}")
}

/// Entries that a transaction changes: the new value, or `None` for removal.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) objects: BTreeMap<(String, String), Option<Object>>,
    pub(super) cursors: BTreeMap<String, Option<Cursor>>,
}

fn check(what: impl Fn() -> String, found: Option<u64>, expected: Expected) -> Result<(), StoreError> {
    let good = match expected {
        Expected::Any => true,
        Expected::Absent => found.is_none(),
        Expected::Revision(revision) => found == Some(revision),
    };
    if good { Ok(()) } else { Err(StoreError::Conflict { what: what() }) }
}

/// Checks every expectation against `snapshot` and gives what changes at `revision`. Expectations are about the state
/// before the transaction; the last write of an entry wins.
pub(super) fn changes(snapshot: &Snapshot, writes: Vec<Write>, revision: u64) -> Result<Changes, StoreError> {
    let mut changes = Changes::default();
    for write in writes {
        match write {
            Write::Put { mut object, expected } => {
                let key = (object.kind().to_owned(), object.id().into_owned());
                check_object(snapshot, &key, expected)?;
                object.metadata_mut().revision = revision;
                changes.objects.insert(key, Some(*object));
            }
            Write::Delete { kind, name, expected } => {
                let key = (kind, name);
                check_object(snapshot, &key, expected)?;
                changes.objects.insert(key, None);
            }
            Write::Require { kind, name, expected } => check_object(snapshot, &(kind, name), expected)?,
            Write::Cursor { name, value, expected } => {
                let found = snapshot.cursors.get(&name).map(|c| c.revision);
                check(|| format!("allocator {name}"), found, expected)?;
                changes.cursors.insert(name, value.map(|value| Cursor { revision, value }));
            }
        }
    }
    Ok(changes)
}

fn check_object(snapshot: &Snapshot, key: &(String, String), expected: Expected) -> Result<(), StoreError> {
    let found = snapshot.get(&key.0, &key.1).map(|o| o.metadata().revision);
    check(|| format!("{} {}", key.0, key.1), found, expected)
}

/// `snapshot` with `changes`, at `revision`.
pub(super) fn apply(snapshot: &Snapshot, changes: Changes, revision: u64) -> Snapshot {
    let mut objects: BTreeMap<(String, String), Object> =
        snapshot.objects.iter().map(|o| ((o.kind().to_owned(), o.id().into_owned()), o.clone())).collect();
    let mut cursors = snapshot.cursors.clone();
    for (key, object) in changes.objects {
        match object {
            Some(object) => objects.insert(key, object),
            None => objects.remove(&key),
        };
    }
    for (name, cursor) in changes.cursors {
        match cursor {
            Some(cursor) => cursors.insert(name, cursor),
            None => cursors.remove(&name),
        };
    }
    Snapshot { revision, objects: objects.into_values().collect(), cursors, live: None }
}
