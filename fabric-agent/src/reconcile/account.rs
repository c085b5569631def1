//! What the reconciler did, for people: changes because the wish changed, repairs because the kernel had.

use std::time::SystemTime;

use fabric_api::status::ReconcileStatus;

/// How many repairs are remembered by name.
const REMEMBERED: usize = 32;

/// The books of a reconciler.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    status: ReconcileStatus,
}

impl Account {
    /// Books something that was written because the desired state changed.
    pub(super) fn change(&mut self) {
        self.status.changes += 1;
    }

    /// Books something that was found different from what this agent had written.
    pub(super) fn repair(&mut self, what: String) {
        tracing::warn!("repaired: {what}");
        self.status.repairs += 1;
        self.status.last_repairs.push(what);
        let excess = self.status.last_repairs.len().saturating_sub(REMEMBERED);
        self.status.last_repairs.drain(..excess);
    }

    /// Books a pass, the rows that it left to be written or removed, and its errors.
    pub(super) fn pass(&mut self, pending_rows: u64, errors: Vec<String>) {
        self.status.passes += 1;
        self.status.pending_rows = pending_rows;
        if errors.is_empty() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.status.last_success = now.as_secs();
        } else {
            self.status.failed_passes += 1;
        }
        self.status.errors = errors;
    }

    /// The books as the API shows them.
    pub(super) fn status(&self) -> &ReconcileStatus {
        &self.status
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, REMEMBERED};

    #[test]
    fn only_the_last_repairs_are_remembered_and_all_are_counted() {
        let mut account = Account::default();
        for n in 0..REMEMBERED + 3 {
            account.repair(format!("thing {n}"));
        }
        assert_eq!(account.status().repairs, REMEMBERED as u64 + 3);
        assert_eq!(account.status().last_repairs.len(), REMEMBERED);
        assert_eq!(account.status().last_repairs[0], "thing 3");
    }

    #[test]
    fn a_pass_that_fails_is_no_success() {
        let mut account = Account::default();
        account.pass(2, vec!["no".to_owned()]);
        let status = account.status();
        assert_eq!(
            (status.passes, status.failed_passes, status.last_success, status.pending_rows),
            (1, 1, 0, 2)
        );
        account.pass(0, Vec::new());
        let status = account.status();
        assert_eq!((status.passes, status.failed_passes, status.pending_rows), (2, 1, 0));
        assert!(status.last_success > 1_700_000_000, "{}", status.last_success);
    }
}
