//! Names, labels, named ports and interface names.

use std::collections::BTreeMap;

use super::error::{ModelError, refuse};

/// Longest name of an object, bytes.
pub const NAME_MAX: usize = 63;
/// Longest interface name the kernel takes, bytes.
pub const IFNAME_MAX: usize = 15;

/// Checks an object's name: 1 to 63 characters of `a-z`, `0-9`, `-` and `.`, first and last a letter or digit.
///
/// # Errors
/// A sentence that names `what` and the rule.
pub fn check_name(what: &str, name: &str) -> Result<(), ModelError> {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let good = !bytes.is_empty()
        && bytes.len() <= NAME_MAX
        && bytes.iter().all(|&b| alnum(b) || b == b'-' || b == b'.')
        && alnum(bytes[0])
        && alnum(bytes[bytes.len() - 1]);
    if !good {
        refuse!(
            "{what} {name:?} is not valid: use 1 to {NAME_MAX} characters of a-z, 0-9, '-' and '.', the first and last a letter or digit"
        );
    }
    Ok(())
}

/// Checks labels by Kubernetes' rules: a key is an optional DNS prefix with `/` and a name, a value is empty or a name,
/// names have at most 63 characters of letters, digits, `-`, `_` and `.`, the first and last a letter or digit.
///
/// # Errors
/// A sentence that names the label.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ModelError> {
    for (key, value) in labels {
        let (prefix, name) = key.split_once('/').map_or((None, key.as_str()), |(p, n)| (Some(p), n));
        let prefix_good = prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(is_dns_label));
        if !prefix_good || !is_label_name(name) {
            refuse!(
                "label key {key:?} is not valid: use letters, digits, '-', '_' and '.', at most 63 characters"
            );
        }
        if !value.is_empty() && !is_label_name(value) {
            refuse!(
                "value {value:?} of label {key:?} is not valid: use letters, digits, '-', '_' and '.', at most 63 characters"
            );
        }
    }
    Ok(())
}

fn is_dns_label(text: &str) -> bool {
    check_name("", text).is_ok() && !text.contains('.')
}

fn is_label_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// Checks the name of an interface: 1 to 15 bytes without `/`, `:`, white space or control characters, not `.` or `..`.
///
/// # Errors
/// A sentence that names the interface.
pub fn check_ifname(name: &str) -> Result<(), ModelError> {
    let good = !name.is_empty()
        && name.len() <= IFNAME_MAX
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if !good {
        refuse!(
            "interface name {name:?} is not valid: use 1 to {IFNAME_MAX} characters without '/', ':' or white space"
        );
    }
    Ok(())
}

/// Checks the name of a port by RFC 6335 section 5.1: 1 to 15 of `a-z`, `0-9` and `-`, at least one letter, no `-` at
/// either end or twice in a row.
///
/// # Errors
/// A sentence that names the port.
pub fn check_port_name(name: &str) -> Result<(), ModelError> {
    let good = !name.is_empty()
        && name.len() <= 15
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if !good {
        refuse!(
            "port name {name:?} is not valid: use 1 to 15 characters of a-z, 0-9 and single '-', at least one letter"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{check_ifname, check_labels, check_name, check_port_name};

    #[test]
    fn names() {
        for good in ["a", "blue", "web-1.prod", "0", &"x".repeat(63)] {
            assert!(check_name("network", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", ".a", "A", "a b", "a/b", "a_b", "ü", &"x".repeat(64)] {
            assert!(check_name("network", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names() {
        for good in ["eth0", "a", "123456789012345", "e.100"] {
            assert!(check_ifname(good).is_ok(), "{good}");
        }
        for bad in ["", "1234567890123456", "a/b", "a b", "a\tb", ".", "..", "a:b", "a\0"] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_names() {
        for good in ["http", "h2", "web-ui"] {
            assert!(check_port_name(good).is_ok(), "{good}");
        }
        for bad in ["", "80", "-a", "a-", "a--b", "HTTP", "abcdefghijklmnop"] {
            assert!(check_port_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels() {
        let check = |k: &str, v: &str| check_labels(&[(k.to_owned(), v.to_owned())].into());
        assert!(check("app", "Web_1").is_ok());
        assert!(check("example.org/app", "").is_ok());
        assert!(check("", "x").is_err());
        assert!(check("a/b/c", "x").is_err());
        assert!(check("app", "a b").is_err());
    }
}
