//! Namespaces: labels that policies select by.

use fabric_api::object::{API_VERSION, Namespace};

use super::{
    error::{ModelError, refuse},
    name::{check_labels, check_name},
    policy::{Labels, NAMESPACE_NAME_LABEL},
};

/// How Kubernetes calls the version of its Namespaces.
const CORE_VERSION: &str = "v1";

/// The labels of a declared namespace, [`NAMESPACE_NAME_LABEL`] among them.
///
/// # Errors
/// Version, name or a label is wrong, or that label has another value than the name.
pub fn labels(object: &Namespace) -> Result<Labels, ModelError> {
    if object.api_version != API_VERSION && object.api_version != CORE_VERSION {
        refuse!("apiVersion {:?} is not known: use {API_VERSION:?} or {CORE_VERSION:?}", object.api_version);
    }
    let name = &object.metadata.name;
    check_name("namespace name", name)?;
    check_labels(&object.metadata.labels)?;
    let mut labels = object.metadata.labels.clone();
    match labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone()) {
        Some(other) if other != *name => {
            refuse!(
                "label {NAMESPACE_NAME_LABEL} is {other:?}: it is always the namespace's name, take it out"
            )
        }
        Some(_) | None => Ok(labels),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: serde_json::Value) -> Result<Labels, String> {
        labels(&serde_json::from_value(value).expect("a namespace")).map_err(|e| e.0)
    }

    #[test]
    fn every_namespace_has_the_label_of_its_name() {
        let found =
            of(json!({"apiVersion": "v1", "metadata": {"name": "shop", "labels": {"team": "a"}}})).unwrap();
        assert_eq!(found[NAMESPACE_NAME_LABEL], "shop");
        assert_eq!(found["team"], "a");
        let own = json!({"metadata": {"name": "shop", "labels": {NAMESPACE_NAME_LABEL: "shop"}}});
        assert_eq!(of(own).unwrap().len(), 1);
        let false_name = json!({"metadata": {"name": "shop", "labels": {NAMESPACE_NAME_LABEL: "prod"}}});
        assert!(of(false_name).unwrap_err().contains("always the namespace's name"));
        assert!(
            of(json!({"apiVersion": "v2", "metadata": {"name": "shop"}})).unwrap_err().contains("\"v2\"")
        );
        assert!(of(json!({"metadata": {"name": "Shop"}})).unwrap_err().contains("namespace name"));
    }
}
