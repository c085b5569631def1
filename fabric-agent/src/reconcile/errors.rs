//! What went wrong in a pass.

use std::collections::BTreeMap;

use crate::kernel::KernelError;

/// What went wrong in a pass, by what it concerns.
#[derive(Debug, Default)]
pub(super) struct Errors {
    /// The node as a whole.
    pub(super) node: Vec<String>,
    /// By endpoint.
    pub(super) endpoints: BTreeMap<String, String>,
    /// By network: its access port.
    networks: BTreeMap<String, String>,
    /// Rows could not be written: why.
    pub(super) rows: Vec<String>,
    /// Programs could not be attached: why, by interface.
    pub(super) interfaces: BTreeMap<u32, String>,
    /// Something failed that another attempt may mend. A namespace that is gone is none of that: there is nothing left
    /// to be made equal.
    mendable: bool,
}

impl Errors {
    pub(super) fn endpoint(&mut self, name: &str, error: &KernelError) {
        self.mendable |= !matches!(error, KernelError::NamespaceGone { .. } | KernelError::InterfaceGone);
        self.endpoints.entry(name.to_owned()).or_insert_with(|| error.to_string());
    }

    pub(super) fn network(&mut self, name: &str, error: &KernelError) {
        self.mendable = true;
        self.networks.entry(name.to_owned()).or_insert_with(|| error.to_string());
    }

    /// What is wrong with a network's access port.
    pub(super) fn of_network(&self, name: &str) -> Option<&String> {
        self.networks.get(name)
    }

    /// Whether the kernel is as wanted, as far as it can be.
    pub(super) fn equal(&self) -> bool {
        self.node.is_empty() && self.rows.is_empty() && self.interfaces.is_empty() && !self.mendable
    }

    /// All of them as sentences.
    pub(super) fn sentences(&self) -> Vec<String> {
        let endpoints = self.endpoints.iter().map(|(name, why)| format!("endpoint {name}: {why}"));
        let networks = self.networks.iter().map(|(name, why)| format!("network {name}: {why}"));
        self.node
            .iter()
            .cloned()
            .chain(self.rows.iter().cloned())
            .chain(self.interfaces.values().cloned())
            .chain(networks)
            .chain(endpoints)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Errors;
    use crate::kernel::KernelError;

    #[test]
    fn a_namespace_that_is_gone_does_not_keep_the_node_out_of_sync() {
        let path = || "/run/netns/a".to_owned();
        let mut errors = Errors::default();
        errors.endpoint("a", &KernelError::NamespaceGone { path: path() });
        assert!(errors.equal());
        assert_eq!(errors.sentences().len(), 1, "it is said nevertheless");
        errors.endpoint("b", &KernelError::OutOfReach { path: path() });
        assert!(!errors.equal());
    }

    #[test]
    fn a_namespace_that_may_not_be_opened_is_tried_again() {
        let source = std::io::Error::from_raw_os_error(nix::libc::EACCES);
        let mut errors = Errors::default();
        errors.endpoint("a", &KernelError::NamespaceClosed { path: "/run/netns/a".to_owned(), source });
        assert!(!errors.equal());
    }
}
