//! From JSON values to objects, with errors that name the field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::{
    ClusterNetworkPolicy, DenySet, Endpoint, Namespace, Network, NetworkPolicy, Node, Object,
};

/// Why a value is not an object: one sentence part that names the object and the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// The kinds that there are, for messages.
const KINDS: &str = "Network, Node, Endpoint, Namespace, NetworkPolicy, ClusterNetworkPolicy or DenySet";

/// Reads one object of any kind. Only the form is checked, not whether the object makes sense.
///
/// # Errors
/// The value is not a map, its `kind` is absent or unknown, or a field is unknown, absent or of the wrong type; the
/// message says which and what is expected.
pub fn object(value: Value) -> Result<Object, ParseError> {
    let Value::Object(mut map) = value else {
        return Err(ParseError(format!("this is not an object: a map with `kind` ({KINDS}) is expected")));
    };
    let kind = match map.remove("kind") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(ParseError(format!("`kind` is not text: {KINDS} is expected"))),
        None => return Err(ParseError(format!("`kind` is missing: {KINDS} is expected"))),
    };
    let name = map.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
    let what = name.map_or_else(|| kind.clone(), |name| format!("{kind} {name}"));
    let value = Value::Object(map);
    match kind.as_str() {
        "Network" => typed::<Network>(value).map(Object::Network),
        "Node" => typed::<Node>(value).map(Object::Node),
        "Endpoint" => typed::<Endpoint>(value).map(Object::Endpoint),
        "Namespace" => typed::<Namespace>(value).map(Object::Namespace),
        "NetworkPolicy" => typed::<NetworkPolicy>(value).map(Object::NetworkPolicy),
        "ClusterNetworkPolicy" => typed::<ClusterNetworkPolicy>(value).map(Object::ClusterNetworkPolicy),
        "DenySet" => typed::<DenySet>(value).map(Object::DenySet),
        _ => return Err(ParseError(format!("kind {kind:?} is not known: {KINDS} is expected"))),
    }
    .map_err(|error| ParseError(format!("{what}: {error}")))
}

/// Reads a value of a known type.
///
/// # Errors
/// As serde's, with the path of the field in front.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ParseError> {
    serde_path_to_error::deserialize(value).map_err(|error| sentence(&error))
}

/// Reads a value of a known type from JSON text.
///
/// # Errors
/// As serde's, with the path of the field in front, or the place where the text stops being JSON.
pub fn text<T: DeserializeOwned>(json: &[u8]) -> Result<T, ParseError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        if error.inner().is_data() {
            sentence(&error)
        } else {
            ParseError(format!("not JSON: {}", error.inner()))
        }
    })?;
    reader.end().map_err(|error| ParseError(format!("not JSON: {error}")))?;
    Ok(value)
}

fn sentence(error: &serde_path_to_error::Error<serde_json::Error>) -> ParseError {
    let message = error.inner().to_string();
    // Line and column are of no use once the field is named.
    let message = message.split(" at line ").next().unwrap_or(&message);
    let path = error.path().to_string();
    ParseError(if path == "." { message.to_owned() } else { format!("{path}: {message}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{object, text};
    use crate::object::Network;

    fn refused(value: serde_json::Value) -> String {
        object(value).expect_err("this should be refused").to_string()
    }

    #[test]
    fn kinds_are_checked_by_name() {
        assert!(refused(json!([])).contains("not an object"));
        assert!(refused(json!({"metadata": {"name": "a"}})).contains("`kind` is missing"));
        assert!(refused(json!({"kind": 3})).contains("`kind` is not text"));
        assert!(
            refused(json!({"kind": "Netwrok"}))
                .contains("\"Netwrok\" is not known: Network, Node, Endpoint, Namespace")
        );
    }

    #[test]
    fn the_object_and_the_field_are_named() {
        let message =
            refused(json!({"kind": "Network", "metadata": {"name": "blue"}, "spec": {"subnet": []}}));
        assert!(message.starts_with("Network blue: spec.subnet: unknown field `subnet`"), "{message}");
        let message = refused(
            json!({"kind": "Network", "metadata": {"name": "blue"}, "spec": {"subnets": ["10.0.0.0/8", "10.1.2"]}}),
        );
        assert!(message.starts_with("Network blue: spec.subnets[1]: "), "{message}");
    }

    #[test]
    fn a_policy_is_refused_by_the_field_that_is_wrong() {
        let policy = |spec: serde_json::Value| {
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                   "metadata": {"name": "db", "namespace": "shop"}, "spec": spec})
        };
        let message = refused(policy(json!({"podSelector": {}, "ingres": []})));
        assert!(message.starts_with("NetworkPolicy db: spec.ingres: unknown field"), "{message}");
        let message = refused(policy(json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]})));
        assert!(message.starts_with("NetworkPolicy db: spec.ingress[0].from[0].ipBlock.cidr: "), "{message}");
        let message = refused(policy(json!({"ingress": [{"ports": [{"port": [1]}]}]})));
        assert!(message.contains("spec.ingress[0].ports[0].port: a port number or the name"), "{message}");
    }

    #[test]
    fn a_policy_as_recipes_write_it_is_kept_as_it_is() {
        let value = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "web", "namespace": "shop", "annotations": {"note": "x"}},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
                     "ingress": [{}, {"from": [{"namespaceSelector": {}}], "ports": [{"port": 80}, {"port": "http"}]}]}});
        let parsed = object(value.clone()).expect("a policy");
        assert_eq!(parsed.id(), "shop/web");
        assert_eq!(serde_json::to_value(&parsed).expect("JSON"), value);
        // As the recipes select everything.
        let null = json!({"kind": "NetworkPolicy", "metadata": {"name": "all"},
                          "spec": {"podSelector": {"matchLabels": null}, "ingress": [{"from": null}]}});
        assert_eq!(object(null).expect("a policy").id(), "default/all");
    }

    #[test]
    fn broken_json_says_where() {
        let message = text::<Network>(b"{\"metadata\": ").expect_err("cut off").to_string();
        assert!(message.starts_with("not JSON: ") && message.contains("line 1"), "{message}");
        assert!(text::<Network>(b"{\"metadata\":{\"name\":\"a\"},\"spec\":{\"subnets\":[]}} x").is_err());
    }
}
