//! What is in etcd under a fabric's prefix, as it was listed and as the watch went on from there. Pure.
//!
//! An entry that can't be read harms no other: what it was before stays, and it is told by name.

use std::collections::BTreeMap;

use fabric_api::Object;

use super::keys::{Entry, Keys};
use crate::store::{Cursor, Live, Snapshot};

/// The content at some revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    objects: BTreeMap<(String, String), Object>,
    cursors: BTreeMap<String, Cursor>,
    live: BTreeMap<String, Live>,
    /// Why an entry can't be read, by key.
    unreadable: BTreeMap<String, String>,
}

impl Content {
    /// Takes over an entry as it is now. True if it can be of interest to others than who wrote it.
    pub(super) fn put(&mut self, keys: &Keys, key: &str, value: &[u8], revision: u64) -> bool {
        let done = match keys.entry(key) {
            Entry::Object { kind, name } => self.put_object(kind, name, value, revision),
            Entry::Cursor(name) => match std::str::from_utf8(value) {
                Ok(value) => {
                    self.cursors.insert(name.to_owned(), Cursor { revision, value: value.to_owned() });
                    Ok(())
                }
                Err(e) => Err(e.to_string()),
            },
            Entry::Live(node) => match serde_json::from_slice::<Live>(value) {
                Ok(live) => {
                    self.live.insert(node.to_owned(), live);
                    Ok(())
                }
                Err(e) => Err(e.to_string()),
            },
            Entry::Schema => Ok(()),
            Entry::Sync(_) | Entry::Unknown => return false,
        };
        match done {
            Ok(()) => drop(self.unreadable.remove(key)),
            Err(text) => drop(self.unreadable.insert(key.to_owned(), text)),
        }
        true
    }

    fn put_object(&mut self, kind: &str, name: &str, value: &[u8], revision: u64) -> Result<(), String> {
        let mut object: Object = serde_json::from_slice(value).map_err(|e| e.to_string())?;
        if object.kind() != kind || object.id() != name {
            return Err(format!("it holds {} {}", object.kind(), object.id()));
        }
        object.metadata_mut().revision = revision;
        self.objects.insert((kind.to_owned(), name.to_owned()), object);
        Ok(())
    }

    /// Takes over that an entry is gone. True as in [`Self::put`].
    pub(super) fn delete(&mut self, keys: &Keys, key: &str) -> bool {
        self.unreadable.remove(key);
        match keys.entry(key) {
            Entry::Object { kind, name } => drop(self.objects.remove(&(kind.to_owned(), name.to_owned()))),
            Entry::Cursor(name) => drop(self.cursors.remove(name)),
            Entry::Live(node) => drop(self.live.remove(node)),
            Entry::Schema => {}
            Entry::Sync(_) | Entry::Unknown => return false,
        }
        true
    }

    /// After a new listing: what can't be read now stays as `before` had it.
    pub(super) fn keep_unreadable(&mut self, keys: &Keys, before: &Self) {
        for key in self.unreadable.keys() {
            if let Entry::Object { kind, name } = keys.entry(key) {
                let key = (kind.to_owned(), name.to_owned());
                if let Some(object) = before.objects.get(&key) {
                    self.objects.insert(key, object.clone());
                }
            }
        }
    }

    /// Entries that can't be read, one sentence each.
    pub(super) fn unreadable(&self) -> Vec<String> {
        let sentence = |(key, why): (&String, &String)| {
            format!("store entry {key} can't be read ({why}): was it written by a newer agent?")
        };
        self.unreadable.iter().map(sentence).collect()
    }

    pub(super) fn snapshot(&self, revision: u64) -> Snapshot {
        Snapshot {
            revision,
            objects: self.objects.values().cloned().collect(),
            cursors: self.cursors.clone(),
            live: Some(self.live.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> Vec<u8> {
        format!(r#"{{"kind":"Network","metadata":{{"name":"{name}"}},"spec":{{"subnets":["10.0.0.0/24"]}}}}"#)
            .into_bytes()
    }

    #[test]
    fn revisions_are_those_of_the_keys() {
        let keys = Keys::new("/fabric");
        let mut content = Content::default();
        assert!(content.put(&keys, "/fabric/objects/Network/b", &network("b"), 7));
        assert!(content.put(&keys, "/fabric/objects/Network/a", &network("a"), 9));
        assert!(content.put(&keys, "/fabric/cursors/vni", b"x", 9));
        assert!(!content.put(&keys, "/fabric/sync/n1", b"", 10), "nobody else minds");
        let snapshot = content.snapshot(10);
        assert_eq!(snapshot.get("Network", "b").unwrap().metadata().revision, 7);
        assert_eq!(snapshot.objects[0].metadata().name, "a", "in order");
        assert_eq!(snapshot.cursors["vni"], Cursor { revision: 9, value: "x".to_owned() });
        assert!(content.delete(&keys, "/fabric/objects/Network/b"));
        assert!(content.snapshot(11).get("Network", "b").is_none());
    }

    #[test]
    fn a_policy_is_kept_by_namespace_and_name_and_told_if_it_can_not_be_read() {
        let keys = Keys::new("/fabric");
        let mut content = Content::default();
        let policy = br#"{"kind":"NetworkPolicy","metadata":{"name":"db","namespace":"shop"},"spec":{}}"#;
        let key = "/fabric/objects/NetworkPolicy/shop/db";
        content.put(&keys, key, policy, 7);
        assert!(content.snapshot(7).get("NetworkPolicy", "shop/db").is_some());
        content.put(&keys, "/fabric/objects/NetworkPolicy/other/db", policy, 8);
        let newer = String::from_utf8_lossy(policy).replace("\"spec\":{}", "\"spec\":{\"later\":1}");
        content.put(&keys, key, newer.as_bytes(), 9);
        assert_eq!(content.unreadable().len(), 2);
        assert!(content.unreadable()[1].contains(key) && content.unreadable()[1].contains("later"));
        assert!(
            content.snapshot(9).get("NetworkPolicy", "shop/db").is_some(),
            "what was there stays in force"
        );
    }

    #[test]
    fn what_can_not_be_read_is_told_and_what_it_was_stays() {
        let keys = Keys::new("/fabric");
        let key = "/fabric/objects/Network/a";
        let mut content = Content::default();
        content.put(&keys, key, &network("a"), 7);
        for bad in [&b"{}"[..], &network("other"), b"\xff"] {
            content.put(&keys, key, bad, 8);
            assert_eq!(content.snapshot(8).get("Network", "a").unwrap().metadata().revision, 7);
            assert!(content.unreadable()[0].contains(key), "{:?}", content.unreadable());
        }
        let mut listed = Content::default();
        listed.put(&keys, key, b"{}", 8);
        listed.keep_unreadable(&keys, &content);
        assert!(listed.snapshot(8).get("Network", "a").is_some());
        listed.put(&keys, key, &network("a"), 9);
        assert!(listed.unreadable().is_empty());
        listed.delete(&keys, key);
        assert!(listed.snapshot(10).objects.is_empty());
    }
}
