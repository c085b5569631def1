//! Follows a member of the cluster: lists, watches, resumes, lists again where the watch can't be resumed.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, KeyValue, Txn, TxnOp, WatchOptions, WatchResponse,
    WatchStream,
};
use futures::FutureExt;

use super::{
    Phase, Shared,
    claim::{BEAT, Beat, Claim},
    content::Content,
    fault::{Fault, SCHEMA},
};

/// How long a call may take.
pub(super) const CALL: Duration = Duration::from_secs(4);
/// Entries of a page.
const PAGE: i64 = 256;
/// The largest answer that is taken, bytes. A watch that was away for long gets up to a thousand revisions at once.
const MESSAGE: usize = 64 << 20;
/// Messages of the watch that are taken together if they are there already.
const BATCH: usize = 256;
/// Pauses between attempts, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The one who keeps the snapshot up to date.
pub(super) struct Follower {
    shared: Arc<Shared>,
    claim: Option<Claim>,
    content: Content,
    /// Revision that `content` has, as etcd counts.
    revision: i64,
    /// The cluster that it is from; none: nothing was read yet.
    cluster: Option<u64>,
    /// Whether the watch can't be resumed from `revision`.
    stale: bool,
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, claim: Option<Claim>) -> Self {
        Self { shared, claim, content: Content::default(), revision: 0, cluster: None, stale: false }
    }

    /// Goes from member to member, for ever.
    pub(super) async fn run(mut self) {
        let members = self.shared.access.members.clone();
        let mut pause = FIRST_PAUSE;
        for member in members.iter().cycle() {
            let mut served = false;
            let Err(fault) = self.session(member, &mut served).await else { continue };
            self.shared.client.send_replace(None);
            if served {
                pause = FIRST_PAUSE;
            }
            tracing::debug!("etcd member {member}: {fault:?}");
            self.told(member, fault);
            // The next member may be well; a round of them without success is a reason to wait.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Says what a session ended with.
    fn told(&mut self, member: &str, fault: Fault) {
        if fault == Fault::Compacted {
            tracing::info!("the watch can't be resumed; everything is listed again");
            self.stale = true;
            return;
        }
        let text = match &fault {
            Fault::Newer(_) => fault.clone().at(&self.shared.access.address()).to_string(),
            Fault::Taken(text) => text.clone(),
            Fault::Away(text) | Fault::Refused(text) => format!(
                "store {} can't be used: member {member}: {text}; what was read last stays in force",
                self.shared.access.address()
            ),
            Fault::Compacted => return,
        };
        self.shared.tell("connection", vec![text]);
        let hopeless = matches!(fault, Fault::Newer(_) | Fault::Taken(_));
        self.shared.phase.send_if_modified(|phase| {
            let Phase::Starting(_) = phase else { return false };
            *phase = if hopeless { Phase::Hopeless(fault) } else { Phase::Starting(Some(fault)) };
            true
        });
    }

    /// Follows one member until something goes wrong.
    async fn session(&mut self, member: &str, served: &mut bool) -> Result<(), Fault> {
        let client = self.shared.access.connect(member).await?;
        self.check(&client).await?;
        if self.cluster.is_none() || self.stale {
            self.list(&client).await?;
        }
        // What was claimed comes after what was listed, so that it is not missed there; the watch tells of it.
        let mut beat = match &mut self.claim {
            Some(claim) => Some(claim.hold(&client, &self.shared.keys).await?),
            None => None,
        };
        let options = WatchOptions::new().with_prefix().with_start_revision(self.revision + 1);
        let mut watcher = client.watch_client().max_decoding_message_size(MESSAGE);
        let watching = watcher.watch(self.shared.keys.all(), Some(options));
        let mut stream = Fault::within(CALL, watching).await?;
        *served = true;
        self.publish();
        self.shared.client.send_replace(Some(client.clone()));
        self.shared.tell("connection", Vec::new());
        tracing::info!(member, revision = self.revision, "the store is followed");
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.message() => {
                    let message = message?;
                    self.take(message, &mut stream)?;
                }
                _ = tick.tick() => self.feel(&client, beat.as_mut()).await?,
                () = self.shared.doubt.notified() => self.feel(&client, beat.as_mut()).await?,
            }
        }
    }

    /// Whether the member is there and has a leader; tells it that we are.
    async fn feel(&self, client: &Client, beat: Option<&mut Beat>) -> Result<(), Fault> {
        match beat {
            Some(beat) => beat.tell().await,
            None => {
                Fault::within(CALL, client.kv_client().get(self.shared.keys.schema(), None)).await.map(drop)
            }
        }
    }

    /// Checks the layout's version, and whether this is the cluster that was followed before and has gone on since.
    async fn check(&mut self, client: &Client) -> Result<(), Fault> {
        let key = self.shared.keys.schema();
        let mut kv = client.kv_client();
        let mut found = Fault::within(CALL, kv.get(key.clone(), None)).await?;
        if found.kvs().is_empty() {
            if self.cluster.is_some() {
                return Err(Fault::Away(
                    "the fabric that was there has vanished from etcd: restore it from a snapshot, or stop all agents and \
                     start them again to begin anew"
                        .to_owned(),
                ));
            }
            let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
            let put = TxnOp::put(key.clone(), SCHEMA.to_string(), None);
            // Another agent may be faster with the same.
            Fault::within(CALL, kv.txn(Txn::new().when([absent]).and_then([put]))).await?;
            found = Fault::within(CALL, kv.get(key, None)).await?;
        }
        let header = found.header().map(|header| (header.cluster_id(), header.revision()));
        let (cluster, revision) = header.unwrap_or_default();
        let text = found.kvs().first().and_then(|entry| entry.value_str().ok()).unwrap_or_default();
        match text.parse::<u64>() {
            Ok(SCHEMA) => {}
            Ok(newer) if newer > SCHEMA => return Err(Fault::Newer(newer)),
            _ => return Err(Fault::Refused(format!("its schema version is {text:?}"))),
        }
        // One that was restored from a snapshot goes on from an older state.
        if self.cluster.is_some_and(|known| known != cluster) || revision < self.revision {
            self.stale = true;
        }
        Ok(())
    }

    /// Reads everything, in pages of one revision.
    async fn list(&mut self, client: &Client) -> Result<(), Fault> {
        let keys = &self.shared.keys;
        let mut kv = client.kv_client().max_decoding_message_size(MESSAGE);
        let end = prefix_end(keys.all());
        let mut from = keys.all().as_bytes().to_vec();
        let mut content = Content::default();
        let mut revision = 0;
        let mut cluster = 0;
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let page = Fault::within(CALL, kv.get(from.clone(), Some(options))).await?;
            if let Some(header) = page.header().filter(|_| revision == 0) {
                (revision, cluster) = (header.revision(), header.cluster_id());
            }
            for entry in page.kvs() {
                put(&mut content, &self.shared, entry);
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else { break };
            from = last.key().to_vec();
            from.push(0);
        }
        content.keep_unreadable(keys, &self.content);
        (self.content, self.revision, self.cluster, self.stale) = (content, revision, Some(cluster), false);
        Ok(())
    }

    /// Takes what the watch tells, and what else it has told by now.
    fn take(&mut self, first: Option<WatchResponse>, stream: &mut WatchStream) -> Result<(), Fault> {
        let mut news = self.take_one(first)?;
        for _ in 1..BATCH {
            let Some(message) = stream.message().now_or_never() else { break };
            news |= self.take_one(message?)?;
        }
        if news {
            self.publish();
        }
        Ok(())
    }

    /// True if there is something new in it for this agent.
    fn take_one(&mut self, message: Option<WatchResponse>) -> Result<bool, Fault> {
        let Some(message) = message else {
            return Err(Fault::Away("the member has ended the watch".to_owned()));
        };
        if message.compact_revision() != 0 {
            return Err(Fault::Compacted);
        }
        if message.canceled() {
            return Err(Fault::Away(format!("the watch was ended: {}", message.cancel_reason())));
        }
        let mut news = false;
        for event in message.events() {
            let Some(entry) = event.kv() else { continue };
            // A message holds all events of a revision, so that no half of a transaction is ever seen.
            self.revision = self.revision.max(entry.mod_revision());
            let key = String::from_utf8_lossy(entry.key());
            news |= match event.event_type() {
                EventType::Put => put(&mut self.content, &self.shared, entry),
                EventType::Delete => self.content.delete(&self.shared.keys, &key),
            };
            news |= key == self.shared.keys.sync(&self.shared.node);
        }
        Ok(news)
    }

    fn publish(&self) {
        self.shared.tell("entries", self.content.unreadable());
        let revision = u64::try_from(self.revision).unwrap_or_default();
        self.shared.publish(self.content.snapshot(revision));
    }
}

/// Takes an entry over. True if it is of interest here.
fn put(content: &mut Content, shared: &Shared, entry: &KeyValue) -> bool {
    let key = String::from_utf8_lossy(entry.key());
    let revision = u64::try_from(entry.mod_revision()).unwrap_or_default();
    content.put(&shared.keys, &key, entry.value(), revision)
}

/// The first key behind those with a prefix that ends with a slash.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
