//! Who owns an object.

use std::path::Path;

use fabric_api::Object;

use super::error::ServiceError;

/// Who registers nodes.
pub(super) const AGENT: &str = crate::model::node::REGISTERED;

/// A front door. It changes and removes only what it owns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(String);

impl Owner {
    /// The CLI and the API's verbs.
    pub fn cli() -> Self {
        Self("cli".to_owned())
    }

    /// A manifest directory.
    pub fn manifests(directory: &Path) -> Self {
        Self(format!("manifests:{}", directory.display()))
    }

    /// A manifest directory of one of the hosts that share a store: the same path elsewhere is another directory.
    pub fn manifests_on(directory: &Path, node: &str) -> Self {
        Self(format!("manifests:{} on {node}", directory.display()))
    }

    /// The agents themselves, of the Node objects that they register.
    pub fn agent() -> Self {
        Self(AGENT.to_owned())
    }

    /// The Docker engines of this host.
    pub fn docker() -> Self {
        Self("docker".to_owned())
    }

    /// As it is written into objects.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the object is this owner's.
    ///
    /// # Errors
    /// It is another one's; the sentence says whose.
    pub fn check(&self, object: &Object) -> Result<(), ServiceError> {
        let owner = &object.metadata().owner;
        if *owner == self.0 {
            return Ok(());
        }
        let kind = object.kind().to_lowercase();
        let name = object.id();
        let hint = match owner.strip_prefix("manifests:") {
            Some(directory) => format!("change the files in {directory}"),
            None if owner == "docker" => "use `docker`".to_owned(),
            None if owner == AGENT => "the agent there registers it by itself".to_owned(),
            None => format!("use what created it ({owner})"),
        };
        Err(ServiceError::refused(format!("{kind} {name} belongs to {owner}: {hint}")))
    }
}
