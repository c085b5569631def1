//! The keys of a fabric in etcd. Everything is under one prefix, so that several fabrics, and other programs, share a
//! cluster:
//!
//! | key | value |
//! | --- | --- |
//! | `PREFIX/schema` | version of this layout, decimal |
//! | `PREFIX/objects/KIND/NAME` | JSON of the object, without its revision: etcd's own is that |
//! | `PREFIX/cursors/NAME` | position of an allocator |
//! | `PREFIX/live/NODE` | the node's agent, on its lease: gone when the agent is |
//! | `PREFIX/sync/NODE` | nothing: written by a node to learn from its own watch when it has seen everything before |

/// The keys under a prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// With a slash at both ends.
    prefix: String,
}

/// What a key is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    Schema,
    Object {
        kind: &'a str,
        name: &'a str,
    },
    Cursor(&'a str),
    Live(&'a str),
    Sync(&'a str),
    /// Of a newer version, or of nobody we know.
    Unknown,
}

impl Keys {
    /// `prefix` begins with a slash and does not end with one.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/") }
    }

    pub(super) fn all(&self) -> &str {
        &self.prefix
    }

    pub(super) fn schema(&self) -> String {
        format!("{}schema", self.prefix)
    }

    pub(super) fn object(&self, kind: &str, name: &str) -> String {
        format!("{}objects/{kind}/{name}", self.prefix)
    }

    pub(super) fn cursor(&self, name: &str) -> String {
        format!("{}cursors/{name}", self.prefix)
    }

    pub(super) fn live(&self, node: &str) -> String {
        format!("{}live/{node}", self.prefix)
    }

    pub(super) fn sync(&self, node: &str) -> String {
        format!("{}sync/{node}", self.prefix)
    }

    pub(super) fn entry<'a>(&self, key: &'a str) -> Entry<'a> {
        let Some(rest) = key.strip_prefix(&self.prefix) else { return Entry::Unknown };
        match rest.split_once('/') {
            None if rest == "schema" => Entry::Schema,
            Some(("objects", rest)) => match rest.split_once('/') {
                Some((kind, name)) => Entry::Object { kind, name },
                None => Entry::Unknown,
            },
            Some(("cursors", name)) => Entry::Cursor(name),
            Some(("live", node)) => Entry::Live(node),
            Some(("sync", node)) => Entry::Sync(node),
            _ => Entry::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Keys};

    #[test]
    fn every_key_is_read_as_it_was_written() {
        let keys = Keys::new("/fabric/blue");
        assert_eq!(keys.schema(), "/fabric/blue/schema");
        let (object, cursor) = (keys.object("Network", "a.b"), keys.cursor("addresses/blue"));
        let (live, sync) = (keys.live("n1"), keys.sync("n1"));
        for (key, entry) in [
            (keys.schema(), Entry::Schema),
            (object, Entry::Object { kind: "Network", name: "a.b" }),
            (
                keys.object("NetworkPolicy", "shop/db"),
                Entry::Object { kind: "NetworkPolicy", name: "shop/db" },
            ),
            (cursor, Entry::Cursor("addresses/blue")),
            (live, Entry::Live("n1")),
            (sync, Entry::Sync("n1")),
            ("/fabric/blue/later/x".to_owned(), Entry::Unknown),
            ("/fabric/red/schema".to_owned(), Entry::Unknown),
            ("/fabric/blue/objects/x".to_owned(), Entry::Unknown),
        ] {
            assert_eq!(keys.entry(&key), entry, "{key}");
            assert!(entry == Entry::Unknown || key.starts_with(keys.all()), "{key}");
        }
    }
}
