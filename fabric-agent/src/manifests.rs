//! A directory of objects, one or many in a file, that come and go with their files. They belong to the directory:
//! no other front door can change them, and the directory changes no one else's.
//!
//! A file that can't be read keeps the objects it had before. After a restart it is not known which objects those
//! were, so then nothing is removed at all until every file can be read again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fabric_api::Object;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

use crate::service::{Owner, Service};

mod files;

pub use files::parse_objects;

/// The directory is read again this often whatever the kernel tells of it: a directory that is replaced, or a network
/// file system, may tell nothing.
const RESCAN: Duration = Duration::from_secs(10);
/// After a change the directory is left alone this long, so that an editor can finish.
const SETTLE: Duration = Duration::from_millis(300);

/// A watched directory.
pub struct Manifests {
    directory: PathBuf,
    owner: Owner,
    service: Service,
    /// What each file held when it could be read last.
    known: BTreeMap<PathBuf, Vec<Object>>,
    reported: Vec<String>,
}

impl Manifests {
    /// For a directory that need not exist yet.
    pub fn new(directory: PathBuf, service: Service) -> Self {
        let owner = if service.shares_store() {
            Owner::manifests_on(&directory, service.node_name())
        } else {
            Owner::manifests(&directory)
        };
        Self { directory, owner, service, known: BTreeMap::new(), reported: Vec::new() }
    }

    /// Reads the directory once and makes the store equal to it. What is wrong is reported to the service. True if some
    /// file was being written, so that another look is needed soon.
    pub async fn scan(&mut self) -> bool {
        let directory = self.directory.clone();
        let read = tokio::task::spawn_blocking(move || files::read(&directory)).await;
        let mut problems = Vec::new();
        let mut young = false;
        match read {
            Ok(Ok(files)) => young = self.take(files, &mut problems).await,
            Ok(Err(e)) => problems.push(format!("manifest directory {}: {e}", self.directory.display())),
            Err(e) => problems.push(format!("manifest directory {}: {e}", self.directory.display())),
        }
        for problem in problems.iter().filter(|p| !self.reported.contains(p)) {
            tracing::warn!(problem, "manifests");
        }
        self.reported.clone_from(&problems);
        self.service.report(&self.owner, problems);
        young
    }

    async fn take(&mut self, files: Vec<files::Found>, problems: &mut Vec<String>) -> bool {
        let mut young = false;
        let mut complete = true;
        let now = SystemTime::now();
        self.known.retain(|path, _| files.iter().any(|f| f.path == *path));
        for file in files {
            let known = self.known.contains_key(&file.path);
            let fresh = file.changed_after(now, SETTLE);
            match file.objects {
                // An editor may have emptied the file to write it anew, or be half way through.
                Ok(_) if known && fresh => young = true,
                Ok(objects) => {
                    self.known.insert(file.path, objects);
                }
                Err(e) => {
                    young |= fresh;
                    complete &= known;
                    let kept = if known { "; the objects it had stay" } else { "" };
                    problems.push(format!("{}: {e}{kept}", file.path.display()));
                }
            }
        }
        let objects = self.known.values().flatten().cloned().collect();
        match self.service.replace_owned(&self.owner, objects, complete).await {
            Ok(replaced) => {
                let count = replaced.removed.len()
                    + replaced.applied.iter().filter(|a| a.outcome != "unchanged").count();
                if count > 0 {
                    tracing::info!(directory = %self.directory.display(), changes = count, "manifests");
                }
                problems.extend(replaced.problems);
            }
            Err(e) => problems.push(format!("manifest directory {}: {e}", self.directory.display())),
        }
        young
    }

    /// Watches the directory for as long as the future is polled. While something is wrong, a change of the store is a
    /// reason to look again as well: it may have put it right.
    pub async fn run(mut self) {
        let (tell, mut told) = mpsc::channel(1);
        let mut stored = self.service.changes();
        let mut watcher = None;
        let mut young = true;
        loop {
            if watcher.is_none() {
                watcher = watch(&self.directory, tell.clone());
            }
            let wait = if young { SETTLE } else { RESCAN };
            let wrong = !self.reported.is_empty();
            let event = async {
                tokio::select! {
                    _ = told.recv() => {}
                    Ok(()) = stored.changed(), if wrong => {}
                }
            };
            if tokio::time::timeout(wait, event).await.is_ok() {
                tokio::time::sleep(SETTLE).await;
                while told.try_recv().is_ok() {}
            }
            if !self.directory.is_dir() {
                // A new directory of this name is another one to the kernel.
                watcher = None;
            }
            stored.mark_unchanged();
            young = self.scan().await;
        }
    }
}

/// None if the directory can't be watched now; the periodic rescan does without.
fn watch(directory: &Path, tell: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_reading(event.kind)) {
            return;
        }
        // One waiting note is enough.
        let _ = tell.try_send(());
    };
    let mut watcher = notify::recommended_watcher(on_event).ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Whether an event says only that somebody reads: this agent does, at every scan, and must not call for the next one.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests;
