//! What can go wrong, one sentence each.

use std::{io, path::PathBuf};

/// An error of the dataplane. Its text says what is wrong and, where the user can do something, what.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Capabilities are missing.
    #[error("the agent needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN: {missing} is missing")]
    Privileges {
        /// The first one that is missing.
        missing: &'static str,
    },
    /// Another agent holds the directory.
    #[error("{} is in use by another fabric agent: stop it, or give this one a --bpffs of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory can't be used.
    #[error("can't {what} {}: {source}", path.display())]
    Path {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A wrong `[maps]` table.
    #[error("[maps] in the agent's file: {0}")]
    Sizes(String),
    /// A map's content does not fit the wanted size.
    #[error(
        "map `{map}` holds {content} entries and can't shrink to {wanted}: set `{map}` under [maps] in the agent's file \
         to at least {content}"
    )]
    TooSmall {
        /// The map.
        map: &'static str,
        /// Entries that it must have room for.
        content: u64,
        /// The size asked for.
        wanted: u32,
    },
    /// A map is full.
    #[error(
        "map `{map}` is full ({limit} entries), row {row} did not fit: set `{map}` under [maps] in the agent's file \
         higher and restart the agent"
    )]
    Full {
        /// The map.
        map: &'static str,
        /// Its size.
        limit: u32,
        /// Key of the row that did not fit.
        row: String,
    },
    /// A map that has a fixed size is full.
    #[error("map `{map}` is full, row {row} did not fit: it has room for {limit} entries, which is fixed")]
    FullFixed {
        /// The map.
        map: &'static str,
        /// Its size.
        limit: u32,
        /// Key of the row that did not fit.
        row: String,
    },
    /// A map operation failed.
    #[error("map `{map}`: can't {what}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The object does not fit this agent.
    #[error("the eBPF object does not fit this agent: {0}")]
    Object(String),
    /// The kernel refuses the object or a program.
    #[error("the kernel (Linux {kernel}) refuses {what}: {why}")]
    Load {
        /// Running release.
        kernel: String,
        /// What it refuses.
        what: String,
        /// Why.
        why: String,
    },
    /// A program can't be attached or detached.
    #[error("can't {what} {program} at interface {interface}: {why}")]
    Attach {
        /// `attach` or `detach`.
        what: &'static str,
        /// The program.
        program: &'static str,
        /// Name of the interface, or its index where it has none.
        interface: String,
        /// Why.
        why: String,
    },
    /// The kernel did not answer as documented.
    #[error("can't {what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl DataplaneError {
    pub(super) fn path(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { what, path, source }
    }

    pub(super) fn map(map: &'static str, what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Map { map, what, source }
    }

    pub(super) fn kernel(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Kernel { what, source }
    }
}

/// An error with everything that caused it, as one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // aya's errors often repeat their source in their own text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
