//! Takes out of a text what looks like a secret: passwords in URLs, values whose names say what they are, private keys.

use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

const GONE: &str = "[redacted]";

/// Names that say that their value is a secret, as the end of a longer name too.
const NAMES: &str = "(?:passwords?|passwd|passphrase|pwd|secrets?|tokens?|api[-_]?keys?|private[-_]?keys?|preshared[-_]?keys?|psk|credentials?|authorization)";

static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [
        // Private keys in the PEM form, whole.
        r"()(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z))()".to_owned(),
        // User and password of a URL.
        r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@]+(@)".to_owned(),
        r"(?i)(\b(?:bearer|basic)\s+)[a-z0-9+/=._~-]{8,}()".to_owned(),
        // JSON, TOML and YAML with quotes.
        format!(r#"(?i)("?[\w.-]*{NAMES}"?\s*[:=]\s*")(?:[^"\\]|\\.)*(")"#),
        format!(r"(?i)('?[\w.-]*{NAMES}'?\s*[:=]\s*')[^']*(')"),
        // Without.
        format!(r#"(?i)(\b[\w.-]*{NAMES}"?\s*[:=]\s*)[^\s"',;{{}}\[\]]+()"#),
        format!(r"(?i)(--[\w-]*{NAMES}\s+)[^\s-]\S*()"),
    ];
    patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
});

/// The text without secrets, and how many there were.
pub(super) fn redact(text: &str) -> (String, usize) {
    let mut count = 0;
    let mut text = text.to_owned();
    for pattern in &*PATTERNS {
        let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
            if !found[0].contains(GONE) {
                count += 1;
            }
            format!("{}{GONE}{}", &found[1], &found[2])
        });
        text = replaced.into_owned();
    }
    (text, count)
}

#[cfg(test)]
mod tests {
    use super::{PATTERNS, redact};

    #[test]
    fn secrets_are_taken_out() {
        assert_eq!(PATTERNS.len(), 7, "a pattern is not understood");
        for text in [
            "store = \"etcd://fabric:hunter2@10.0.0.1:2379/x\"",
            "password = hunter2",
            "\"dbPassword\": \"hunter2 and \\\" more hunter2\"",
            "api_key: 'hunter2'",
            "FABRIC_STORE_TOKEN=hunter2",
            "fabric-agent --etcd-password hunter2 --node h1",
            "Authorization: Bearer hunter2hunter2",
            "-----BEGIN EC PRIVATE KEY-----\nhunter2\nhunter2\n-----END EC PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nhunter2",
            "\"labels\": {\"app-secret\": \"hunter2\"}",
        ] {
            let (redacted, count) = redact(text);
            assert!(!redacted.contains("hunter2") && count >= 1, "{text}: {redacted}");
        }
        let (redacted, _) = redact("store = \"etcd://fabric:hunter2@10.0.0.1:2379/x\"");
        assert_eq!(redacted, "store = \"etcd://[redacted]@10.0.0.1:2379/x\"");
        let (redacted, _) = redact("fabric-agent --etcd-password hunter2 --node h1");
        assert!(redacted.ends_with("--node h1"), "{redacted}");
    }

    #[test]
    fn the_rest_stays() {
        for text in [
            "\"key\": {\"vni\": 100, \"addr\": \"192.168.10.2\"}",
            "u0: <BROADCAST> mtu 1500 qdisc noqueue",
            "socket = \"/run/fabric/fabric.sock\"",
            "tokens pass here",
        ] {
            assert_eq!(redact(text), (text.to_owned(), 0));
        }
    }
}
