//! This node in the store that hosts share: it registers itself, so that whoever joins is known to all.

use super::{draft, *};

/// How often uplinks are looked at if the store does not change.
const LOOK: Duration = Duration::from_secs(1);

impl Service {
    /// Keeps this node's Node object as this host is, for as long as the future is polled.
    pub async fn keep_registered(self) {
        let mut changes = self.changes();
        let mut told = Vec::new();
        loop {
            let problem = self.register_once().await.err().map(|e| e.message);
            let problems: Vec<String> = problem.into_iter().collect();
            if problems != told {
                problems
                    .iter()
                    .for_each(|problem| tracing::warn!("this node can't be registered: {problem}"));
                self.report(&Owner::agent(), problems.clone());
                told = problems;
            }
            // Changes that come close together are looked at together.
            let wait = tokio::time::timeout(LOOK, changes.changed()).await;
            if let Ok(Err(_)) = wait {
                return;
            }
        }
    }

    pub(super) async fn register_once(&self) -> Result<(), ServiceError> {
        // Nothing was read yet, which the store tells by itself.
        let Ok(snapshot) = self.inner.store.snapshot().await else { return Ok(()) };
        if draft::is_registered(&snapshot, &self.inner.kernel.facts(), self.node_name()) {
            return Ok(());
        }
        let change = |draft: &mut draft::Draft| {
            draft.register()?;
            draft.validate()
        };
        self.transact(change).await.map(drop)
    }
}
