//! Why a request was not done.

use crate::{model::ModelError, store::StoreError};

/// What kind of failure it is; the API makes its HTTP status of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong.
    Invalid,
    /// No such object.
    NotFound,
    /// The name is taken, or somebody else changed the object.
    Conflict,
    /// Another front door owns it, or others depend on it.
    Refused,
    /// It can't be done now: the kernel refused, or the answer took too long. Nothing is left of it.
    Unavailable,
    /// A fault of the agent.
    Internal,
}

/// Why a request was not done: a kind and one sentence. Nothing of the request was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ServiceError {
    /// The kind.
    pub kind: ErrorKind,
    /// The sentence: what is wrong and what to do.
    pub message: String,
}

impl ServiceError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    pub(super) fn not_found(kind: &str, name: &str) -> Self {
        let kind = kind.to_lowercase();
        let noun = if kind.ends_with("policy") { "policy" } else { &kind };
        Self::new(
            ErrorKind::NotFound,
            format!("{kind} {name} does not exist; `fabric {noun} ls` lists what does"),
        )
    }
}

impl From<ModelError> for ServiceError {
    fn from(e: ModelError) -> Self {
        Self::invalid(e.0)
    }
}

impl From<StoreError> for ServiceError {
    fn from(e: StoreError) -> Self {
        let kind = match &e {
            StoreError::Conflict { .. } => ErrorKind::Conflict,
            StoreError::InUse { .. } | StoreError::Io { .. } => ErrorKind::Unavailable,
            StoreError::Newer { .. } | StoreError::Corrupt { .. } => ErrorKind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}
