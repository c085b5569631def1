//! Label selectors, ports and prefixes of policies, by Kubernetes' rules.

use std::collections::BTreeMap;

use fabric_api::object::{LabelRequirement, LabelSelector};
use ipnet::IpNet;

use super::{
    error::{ModelError, refuse},
    name::{check_labels, check_port_name},
    policy::{Ports, Requirement, Selector},
};

/// IP protocol numbers (<https://www.iana.org/assignments/protocol-numbers>) of those that have ports.
pub(super) const TCP: u8 = 6;
/// See [`TCP`].
pub(super) const UDP: u8 = 17;
/// See [`TCP`].
pub(super) const SCTP: u8 = 132;

/// Puts the field in front of what is wrong with it.
pub(super) fn at<T>(field: &str, checked: Result<T, ModelError>) -> Result<T, ModelError> {
    checked.map_err(|e| ModelError(format!("{field}: {}", e.0)))
}

/// A selector that was checked.
///
/// # Errors
/// A key, value or operator is wrong, or values are there with an operator that takes none, or absent with one that needs them.
pub(super) fn selector(object: &LabelSelector) -> Result<Selector, ModelError> {
    let labels = object.match_labels.clone().unwrap_or_default();
    at("matchLabels", check_labels(&labels))?;
    let mut requirements: Vec<Requirement> =
        labels.into_iter().map(|(key, value)| Requirement::In(key, vec![value])).collect();
    for (i, expression) in object.match_expressions.iter().flatten().enumerate() {
        requirements.push(at(&format!("matchExpressions[{i}]"), requirement(expression))?);
    }
    requirements.sort();
    requirements.dedup();
    Ok(Selector { requirements })
}

fn requirement(object: &LabelRequirement) -> Result<Requirement, ModelError> {
    let key = object.key.clone();
    check_labels(&BTreeMap::from([(key.clone(), String::new())]))?;
    let mut values = object.values.clone().unwrap_or_default();
    for value in &values {
        check_labels(&BTreeMap::from([(key.clone(), value.clone())]))?;
    }
    values.sort();
    values.dedup();
    let operator = object.operator.as_str();
    match (operator, values.is_empty()) {
        ("In", false) => Ok(Requirement::In(key, values)),
        ("NotIn", false) => Ok(Requirement::NotIn(key, values)),
        ("Exists", true) => Ok(Requirement::Exists(key)),
        ("DoesNotExist", true) => Ok(Requirement::DoesNotExist(key)),
        ("In" | "NotIn", true) => refuse!("operator {operator} needs values: list at least one"),
        ("Exists" | "DoesNotExist", false) => refuse!("operator {operator} takes no values: take them out"),
        _ => refuse!("operator {operator:?} is not known: use In, NotIn, Exists or DoesNotExist"),
    }
}

/// A port number, 1 to 65535.
///
/// # Errors
/// Another number.
pub(super) fn port(number: i64) -> Result<u16, ModelError> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => refuse!("{number} is not a port number: use 1 to 65535"),
    }
}

/// Ports from the first to the last.
///
/// # Errors
/// One is no port number, or the last is before the first.
pub(super) fn range(protocol: u8, first: i64, last: i64) -> Result<Ports, ModelError> {
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        refuse!("the range ends at {last}, before it begins at {first}: exchange them");
    }
    Ok(Ports::Range(protocol, first, last))
}

/// All ports of a protocol.
pub(super) fn all_of(protocol: u8) -> Ports {
    Ports::Range(protocol, 0, u16::MAX)
}

/// A named port of each of the protocols.
///
/// # Errors
/// It is no name of a port.
pub(super) fn named(protocols: &[u8], name: &str) -> Result<Vec<Ports>, ModelError> {
    check_port_name(name)?;
    Ok(protocols.iter().map(|protocol| Ports::Named(*protocol, name.to_owned())).collect())
}

/// The prefix without host bits, and the exceptions, each of which must lie inside and be smaller.
///
/// # Errors
/// An exception does not lie inside.
pub(super) fn cidr(net: IpNet, except: &[IpNet]) -> Result<(IpNet, Vec<IpNet>), ModelError> {
    let net = net.trunc();
    let mut inside = Vec::new();
    for exception in except {
        if !net.contains(exception) || exception.prefix_len() == net.prefix_len() {
            refuse!("exception {exception} does not lie inside {net}: choose a smaller prefix of it");
        }
        inside.push(exception.trunc());
    }
    inside.sort();
    inside.dedup();
    Ok((net, inside))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(value: serde_json::Value) -> Result<Selector, String> {
        selector(&serde_json::from_value(value).expect("a selector")).map_err(|e| e.0)
    }

    #[test]
    fn requirements_have_one_order_and_no_twins() {
        let one = json!({"matchLabels": {"b": "1", "a": "2"},
            "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["y", "x", "y"]},
                                 {"key": "b", "operator": "In", "values": ["1"]}]});
        let other = json!({"matchExpressions": [{"key": "b", "operator": "In", "values": ["1"]},
            {"key": "c", "operator": "NotIn", "values": ["x", "y"]}, {"key": "a", "operator": "In", "values": ["2"]}]});
        let one = parsed(one).unwrap();
        assert_eq!(one, parsed(other).unwrap());
        assert_eq!(one.requirements.len(), 3);
        assert!(parsed(json!({"matchLabels": null})).unwrap().requirements.is_empty());
    }

    #[test]
    fn wrong_requirements_are_named() {
        let of = |key: &str, operator: &str, values: &[&str]| {
            parsed(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
                .unwrap_err()
        };
        assert!(of("a", "In", &[]).contains("matchExpressions[0]: operator In needs values"));
        assert!(of("a", "Exists", &["x"]).contains("takes no values"));
        assert!(of("a", "Gt", &["1"]).contains("\"Gt\" is not known"));
        assert!(of("a b", "Exists", &[]).contains("label key \"a b\""));
        assert!(of("a", "NotIn", &["x y"]).contains("value \"x y\""));
        assert!(parsed(json!({"matchLabels": {"": "x"}})).unwrap_err().starts_with("matchLabels: "));
    }

    #[test]
    fn ports_and_prefixes() {
        assert_eq!(range(TCP, 1, 65535).unwrap(), Ports::Range(TCP, 1, 65535));
        for (first, last) in [(0, 1), (1, 65536), (-1, 5), (9, 8)] {
            assert!(range(TCP, first, last).is_err(), "{first} {last}");
        }
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let (prefix, except) = cidr(net("10.1.2.3/8"), &[net("10.9.9.9/16"), net("10.2.0.0/16")]).unwrap();
        assert_eq!((prefix, except), (net("10.0.0.0/8"), vec![net("10.2.0.0/16"), net("10.9.0.0/16")]));
        for outside in ["11.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "fd00::/64"] {
            assert!(cidr(net("10.0.0.0/8"), &[net(outside)]).is_err(), "{outside}");
        }
    }
}
