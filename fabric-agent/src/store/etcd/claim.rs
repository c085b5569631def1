//! A node's name and its agent's life: a key on a lease. Who holds it is the one agent of that name, and the lease ends
//! a short time after the agent does, or after it lost its way to etcd.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use etcd_client::{Client, Compare, CompareOp, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp};

use super::{fault::Fault, follow::CALL, keys::Keys};
use crate::store::Live;

/// How long a node is held to be alive without a word from it. Addresses and flows do not depend on it.
pub(super) const TTL: Duration = Duration::from_secs(15);
/// How often it is told.
pub(super) const BEAT: Duration = Duration::from_secs(3);
/// How often another one's lease is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// The claim of a node's name.
#[derive(Debug)]
pub(super) struct Claim {
    node: String,
    own: Live,
    lease: Option<i64>,
}

/// Keeps a lease alive over one connection.
pub(super) struct Beat {
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Claim {
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), own: Live::own(), lease: None }
    }

    /// Takes the name, or goes on holding it. An agent that was here before this one, on this host since it was booted, is taken
    /// for this one.
    pub(super) async fn hold(&mut self, client: &Client, keys: &Keys) -> Result<Beat, Fault> {
        let mut leases = client.lease_client();
        let fresh = match self.lease {
            Some(lease) => match Fault::within(CALL, leases.keep_alive(lease)).await {
                Ok((keeper, answers)) => Some(Beat { keeper, answers }),
                // Expired; what else it may be the next call finds out.
                Err(_) => None,
            },
            None => None,
        };
        let beat = match fresh {
            Some(beat) => beat,
            None => {
                let ttl = i64::try_from(TTL.as_secs()).unwrap_or(i64::MAX);
                let lease = Fault::within(CALL, leases.grant(ttl, None)).await?.id();
                self.lease = Some(lease);
                let (keeper, answers) = Fault::within(CALL, leases.keep_alive(lease)).await?;
                Beat { keeper, answers }
            }
        };
        self.take(client, keys, beat.keeper.id()).await?;
        Ok(beat)
    }

    async fn take(&self, client: &Client, keys: &Keys, lease: i64) -> Result<(), Fault> {
        let key = keys.live(&self.node);
        let value = serde_json::to_string(&self.own).map_err(|e| Fault::Refused(e.to_string()))?;
        let put = || TxnOp::put(key.clone(), value.clone(), Some(PutOptions::new().with_lease(lease)));
        let mut kv = client.kv_client();
        let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let txn = Txn::new().when([absent]).and_then([put()]);
        if Fault::within(CALL, kv.txn(txn)).await?.succeeded() {
            return Ok(());
        }
        let found = Fault::within(CALL, kv.get(key.clone(), None)).await?;
        let Some(entry) = found.kvs().first() else {
            return Err(Fault::Away("the node's claim has just expired".to_owned()));
        };
        let holder: Live = serde_json::from_slice(entry.value()).unwrap_or_default();
        if holder.id != self.own.id {
            return Err(self.held(client, entry.lease(), &holder).await);
        }
        if entry.lease() == lease && holder == self.own {
            return Ok(());
        }
        let same = Compare::mod_revision(key.clone(), CompareOp::Equal, entry.mod_revision());
        let txn = Txn::new().when([same]).and_then([put()]);
        if Fault::within(CALL, kv.txn(txn)).await?.succeeded() {
            Ok(())
        } else {
            Err(Fault::Away("the node's claim has just changed".to_owned()))
        }
    }
}

impl Claim {
    /// Whether the other holder of the name is alive: then its lease is renewed while one looks at it.
    async fn held(&self, client: &Client, lease: i64, holder: &Live) -> Fault {
        let mut leases = client.lease_client();
        let start = tokio::time::Instant::now();
        let mut lowest = i64::MAX;
        while start.elapsed() < BEAT + BEAT / 2 {
            match Fault::within(CALL, leases.time_to_live(lease, None)).await {
                Ok(left) if left.ttl() > lowest => {
                    return Fault::Taken(format!(
                        "node name {} is in use by the agent on host {}: give this one another --node, or stop that one",
                        self.node, holder.host
                    ));
                }
                Ok(left) => lowest = left.ttl(),
                Err(fault) => return fault,
            }
            tokio::time::sleep(LOOK).await;
        }
        Fault::Away(format!(
            "node name {} belonged to an agent on host {} that is not heard of; it is free within {} s",
            self.node,
            holder.host,
            TTL.as_secs()
        ))
    }
}

impl Beat {
    /// Tells that the agent lives. An answer also says that the member is there and has a leader.
    pub(super) async fn tell(&mut self) -> Result<(), Fault> {
        let answer = async {
            self.keeper.keep_alive().await?;
            self.answers.message().await
        };
        match Fault::within(CALL, answer).await? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            Some(_) => Err(Fault::Away("the node's lease has expired".to_owned())),
            None => Err(Fault::Away("the member has ended the connection".to_owned())),
        }
    }
}

impl Live {
    /// This agent's: the same for every agent in this network namespace until the host boots again.
    fn own() -> Self {
        let read =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let netns = fs::metadata("/proc/self/ns/net").map(|found| found.ino()).unwrap_or_default();
        Self {
            id: format!("{}/{netns}", read("/proc/sys/kernel/random/boot_id")),
            host: read("/proc/sys/kernel/hostname"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::Live;

    #[test]
    fn an_agent_that_starts_again_is_the_same_one() {
        let (first, second) = (Live::own(), Live::own());
        assert_eq!(first, second);
        assert!(first.id.len() > 30 && !first.id.ends_with("/0"), "{first:?}");
    }
}
