//! Who owns an object.

use std::path::Path;

use fabric_api::Object;

use super::error::ServiceError;

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
        let name = &object.metadata().name;
        let hint = match owner.strip_prefix("manifests:") {
            Some(directory) => format!("change the files in {directory}"),
            None if owner == "docker" => "use `docker`".to_owned(),
            None => format!("use what created it ({owner})"),
        };
        Err(ServiceError::refused(format!("{kind} {name} belongs to {owner}: {hint}")))
    }
}
