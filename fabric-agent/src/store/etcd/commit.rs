//! Transactions: every entry that a change rests on is compared by its revision, in the same step that writes.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::Instant;

use super::{
    Shared,
    fault::{Fault, SCHEMA},
    follow::CALL,
};
use crate::store::{Expected, StoreError, Write};

/// etcd takes so many comparisons or operations in a transaction, if it is not told otherwise; one is ours.
pub(super) const LIMIT: usize = 127;
/// How long a transaction is tried while members are away.
const TRY: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Until our own watch must have told what was written.
const ECHO: Duration = Duration::from_secs(5);

/// A write by its key.
struct Step {
    /// For people.
    what: String,
    expected: Expected,
    action: Action,
}

enum Action {
    Put(String),
    Delete,
    Nothing,
}

impl Shared {
    pub(super) async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        if writes.is_empty() {
            return Ok(self.current().revision);
        }
        let done = self.try_commit(writes).await;
        done.map_err(|fault| match fault {
            Failed::Conflict(what) => StoreError::Conflict { what },
            Failed::Fault(fault) => fault.at(&self.access.address()),
        })
    }

    async fn try_commit(&self, writes: Vec<Write>) -> Result<u64, Failed> {
        let steps = self.steps(writes)?;
        let deadline = Instant::now() + TRY;
        // Whether an attempt may have been done without our knowing.
        let mut doubtful = false;
        loop {
            let client = self.connected(deadline).await.map_err(|fault| unknown(fault, doubtful))?;
            match Fault::within(CALL, client.kv_client().txn(self.txn(&steps))).await {
                Ok(answer) if answer.succeeded() => {
                    let changed = answer.op_responses().iter().any(|response| match response {
                        TxnOpResponse::Put(_) | TxnOpResponse::Txn(_) => true,
                        TxnOpResponse::Delete(deleted) => deleted.deleted() > 0,
                        TxnOpResponse::Get(_) => false,
                    });
                    if !changed {
                        return Ok(self.current().revision);
                    }
                    let revision = answer.header().map_or(0, |header| header.revision());
                    let revision = u64::try_from(revision).unwrap_or_default();
                    self.echo(revision).await;
                    return Ok(revision);
                }
                Ok(answer) => {
                    if doubtful && let Some(revision) = self.done_already(&client, &steps).await? {
                        self.echo(revision).await;
                        return Ok(revision);
                    }
                    return Err(self.why(&steps, &answer.op_responses()));
                }
                Err(Fault::Away(text)) => {
                    doubtful = true;
                    self.doubt.notify_one();
                    if Instant::now() + PAUSE >= deadline {
                        return Err(unknown(Fault::Away(text), true));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    /// One step a key: of several writes of one entry the last one counts, and expectations are about what was before all.
    fn steps(&self, writes: Vec<Write>) -> Result<BTreeMap<String, Step>, Fault> {
        let mut steps: BTreeMap<String, Step> = BTreeMap::new();
        for write in writes {
            let (key, step) = match write {
                Write::Put { mut object, expected } => {
                    let what = format!("{} {}", object.kind(), object.id());
                    let key = self.keys.object(object.kind(), &object.id());
                    object.metadata_mut().revision = 0;
                    let value =
                        serde_json::to_string(&object).map_err(|e| Fault::Refused(format!("{what}: {e}")))?;
                    (key, Step { what, expected, action: Action::Put(value) })
                }
                Write::Delete { kind, name, expected } => {
                    let key = self.keys.object(&kind, &name);
                    (key, Step { what: format!("{kind} {name}"), expected, action: Action::Delete })
                }
                Write::Require { kind, name, expected } => {
                    let key = self.keys.object(&kind, &name);
                    (key, Step { what: format!("{kind} {name}"), expected, action: Action::Nothing })
                }
                Write::Cursor { name, value, expected } => {
                    let action = value.map_or(Action::Delete, Action::Put);
                    (self.keys.cursor(&name), Step { what: format!("allocator {name}"), expected, action })
                }
            };
            match steps.get_mut(&key) {
                Some(before) => {
                    if before.expected == Expected::Any {
                        before.expected = step.expected;
                    }
                    if !matches!(step.action, Action::Nothing) {
                        before.action = step.action;
                    }
                }
                None => drop(steps.insert(key, step)),
            }
        }
        if steps.len() > LIMIT {
            return Err(Fault::Refused(format!(
                "a change of {} entries is more than a transaction of etcd takes ({LIMIT}): make it in smaller parts",
                steps.len()
            )));
        }
        Ok(steps)
    }

    fn txn(&self, steps: &BTreeMap<String, Step>) -> Txn {
        // A newer agent may have changed the layout since this one has started.
        let mut compares = vec![Compare::value(self.keys.schema(), CompareOp::Equal, SCHEMA.to_string())];
        let mut looks = vec![look(&self.keys.schema())];
        let mut operations = Vec::new();
        for (key, step) in steps {
            let compare = match step.expected {
                Expected::Any => None,
                Expected::Absent => Some(Compare::create_revision(key.as_str(), CompareOp::Equal, 0)),
                Expected::Revision(revision) => {
                    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
                    Some(Compare::mod_revision(key.as_str(), CompareOp::Equal, revision))
                }
            };
            if let Some(compare) = compare {
                compares.push(compare);
                looks.push(look(key));
            }
            match &step.action {
                Action::Put(value) => operations.push(TxnOp::put(key.as_str(), value.as_str(), None)),
                Action::Delete => operations.push(TxnOp::delete(key.as_str(), None)),
                Action::Nothing => {}
            }
        }
        Txn::new().when(compares).and_then(operations).or_else(looks)
    }

    /// The connection, once there is one.
    async fn connected(&self, deadline: Instant) -> Result<Client, Fault> {
        let mut client = self.client.subscribe();
        let there = tokio::time::timeout_at(deadline, client.wait_for(Option::is_some)).await;
        match there {
            Ok(Ok(client)) => client.clone().ok_or_else(|| Fault::Away("no connection".to_owned())),
            Ok(Err(_)) | Err(_) => Err(Fault::Away("no member answers".to_owned())),
        }
    }

    /// Waits until our own watch has told of a revision, so that who writes reads it.
    async fn echo(&self, revision: u64) {
        let mut seen = self.revision.subscribe();
        // A watch that is cut just now tells later; what was written is written.
        let _ = tokio::time::timeout(ECHO, seen.wait_for(|seen| *seen >= revision)).await;
    }

    /// The revision at which an earlier attempt was done after all: every entry is as we wrote it.
    async fn done_already(
        &self,
        client: &Client,
        steps: &BTreeMap<String, Step>,
    ) -> Result<Option<u64>, Fault> {
        let mut at = None;
        let mut revision = 0;
        for (key, step) in steps {
            let found = Fault::within(CALL, client.kv_client().get(key.as_str(), None)).await?;
            revision = revision.max(found.header().map_or(0, |header| header.revision()));
            let entry = found.kvs().first();
            let ours = match &step.action {
                Action::Put(value) => {
                    let same = |entry: &&etcd_client::KeyValue| entry.value() == value.as_bytes();
                    match entry.filter(same) {
                        Some(entry) => *at.get_or_insert(entry.mod_revision()) == entry.mod_revision(),
                        None => false,
                    }
                }
                Action::Delete => entry.is_none(),
                Action::Nothing => true,
            };
            if !ours {
                return Ok(None);
            }
        }
        Ok(u64::try_from(at.unwrap_or_else(|| self.current().revision.try_into().unwrap_or_default())).ok())
    }

    /// The first entry that is not as it was expected.
    fn why(&self, steps: &BTreeMap<String, Step>, looked: &[TxnOpResponse]) -> Failed {
        let found = looked.iter().map(|response| match response {
            TxnOpResponse::Get(found) => found.kvs().first().cloned(),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        let mut found = found.collect::<Vec<_>>().into_iter();
        let schema = found.next().flatten();
        let expected = steps.values().filter(|step| step.expected != Expected::Any);
        for (step, entry) in expected.zip(found) {
            let revision = entry.map(|entry| u64::try_from(entry.mod_revision()).unwrap_or_default());
            let good = match step.expected {
                Expected::Any => true,
                Expected::Absent => revision.is_none(),
                Expected::Revision(wanted) => revision == Some(wanted),
            };
            if !good {
                return Failed::Conflict(step.what.clone());
            }
        }
        match schema.as_ref().and_then(|entry| entry.value_str().ok()?.parse().ok()) {
            Some(newer) if newer > SCHEMA => Failed::Fault(Fault::Newer(newer)),
            Some(_) => Failed::Conflict("the store".to_owned()),
            None => Failed::Fault(Fault::Refused("the fabric has vanished from it".to_owned())),
        }
    }

    /// Makes the snapshot at least as new as this moment: writes an entry of our own and waits until the watch tells of it.
    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        let done = async {
            let client = self.connected(Instant::now() + CALL).await?;
            let key = self.keys.sync(&self.node);
            // Several of this node may wait at once: each for its own write.
            let answer = Fault::within(CALL, client.kv_client().put(key, "", None::<PutOptions>)).await?;
            let revision = answer.header().map_or(0, |header| header.revision());
            self.echo(u64::try_from(revision).unwrap_or_default()).await;
            Ok(())
        };
        done.await.map_err(|fault: Fault| fault.at(&self.access.address()))
    }
}

/// An entry without its value.
fn look(key: &str) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new()))
}

/// Says so where it is not known whether a change was made.
fn unknown(fault: Fault, doubtful: bool) -> Failed {
    Failed::Fault(match &fault {
        Fault::Away(text) if doubtful => Fault::Away(format!(
            "{text}; it is not known whether the change was made, so look before you try again"
        )),
        Fault::Away(_) | Fault::Refused(_) | Fault::Compacted | Fault::Newer(_) | Fault::Taken(_) => fault,
    })
}

/// Why a transaction was not done.
enum Failed {
    /// An entry is not as expected.
    Conflict(String),
    Fault(Fault),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
