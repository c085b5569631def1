//! What goes wrong with etcd, by what is to be done about it.

use std::{error::Error as _, future::Future, time::Duration};

use crate::store::StoreError;

/// The newest layout of keys that is known here.
pub(super) const SCHEMA: u64 = 1;

/// A fault of a call or of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The member did not answer, or not usefully: another one may, or this one later. Whether a write was done is not
    /// known.
    Away(String),
    /// etcd has understood and refuses; nothing was done.
    Refused(String),
    /// What was asked for can't be had from there on, because it was compacted or is too much at once: list everything anew.
    Compacted,
    /// The fabric was written by a newer version.
    Newer(u64),
    /// Another agent has this node's name.
    Taken(String),
}

impl Fault {
    /// What a call gives, within a time.
    pub(super) async fn within<T>(
        limit: Duration,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Self> {
        match tokio::time::timeout(limit, call).await {
            Ok(done) => done.map_err(Self::from),
            Err(_) => Err(Self::Away(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// Of a login.
    #[must_use]
    pub(super) fn of_login(self) -> Self {
        if let Self::Refused(text) = self { Self::Refused(format!("login: {text}")) } else { self }
    }

    /// For whoever waits for an answer.
    pub(super) fn at(self, address: &str) -> StoreError {
        let path = address.to_owned();
        match self {
            Self::Away(detail) | Self::Refused(detail) | Self::Taken(detail) => {
                StoreError::Io { path, detail }
            }
            Self::Compacted => StoreError::Io { path, detail: "the revision was compacted".to_owned() },
            Self::Newer(found) => StoreError::Newer { path, found, known: SCHEMA },
        }
    }
}

impl From<etcd_client::Error> for Fault {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all but these two are told alike")]
    fn from(e: etcd_client::Error) -> Self {
        /// Numbers of gRPC's codes (its `statuscodes.md`): the server has looked at the request and refuses it.
        const REFUSED: [i32; 7] = [3, 5, 6, 7, 8, 9, 16];
        const OUT_OF_RANGE: i32 = 11;
        match &e {
            etcd_client::Error::GRpcStatus(status) => {
                let code = status.code() as i32;
                let text = status.message().to_owned();
                if code == OUT_OF_RANGE {
                    Self::Compacted
                } else if REFUSED.contains(&code) {
                    Self::Refused(text)
                } else {
                    Self::Away(chain(status.message(), status.source()))
                }
            }
            etcd_client::Error::TransportError(transport) => {
                Self::Away(chain(&transport.to_string(), transport.source()))
            }
            other => Self::Away(other.to_string()),
        }
    }
}

/// A text with the causes that it does not name.
fn chain(text: &str, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = text.to_owned();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Fault, chain};

    #[test]
    fn a_cause_is_named_once() {
        let cause = std::io::Error::other("connection refused");
        assert_eq!(chain("transport error", Some(&cause)), "transport error: connection refused");
        assert_eq!(chain("a: connection refused", Some(&cause)), "a: connection refused");
    }

    #[tokio::test]
    async fn a_call_that_takes_too_long_is_a_member_that_is_away() {
        let never = std::future::pending::<Result<(), etcd_client::Error>>();
        let done = Fault::within(std::time::Duration::ZERO, never).await;
        assert_eq!(done, Err(Fault::Away("no answer within 0 s".to_owned())));
    }
}
