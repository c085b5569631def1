//! Domain names that rules name as peers (NPEP-133 of the network policy API, "FQDN Selector for Egress Traffic").

use std::{fmt, str::FromStr};

use super::error::{ModelError, refuse};

/// Most characters of a name (RFC 1035 section 2.3.4, in text).
const NAME_MOST: usize = 253;
/// Most characters of a label.
const LABEL_MOST: usize = 63;

/// A name, or with a wildcard all names below one. In lower case and without the dot of the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName {
    /// It stands for one or more labels in front of `name`, and not for `name` itself.
    wildcard: bool,
    name: String,
}

impl DomainName {
    /// Whether it stands for `name`, which is in lower case and without the dot of the root, as [`DomainName::exact`] makes it.
    pub fn matches(&self, name: &str) -> bool {
        if !self.wildcard {
            return self.name == name;
        }
        name.strip_suffix(self.name.as_str())
            .and_then(|front| front.strip_suffix('.'))
            .is_some_and(|front| !front.is_empty())
    }

    /// The name if it has no wildcard.
    pub fn exact(&self) -> Option<&str> {
        (!self.wildcard).then_some(self.name.as_str())
    }
}

impl FromStr for DomainName {
    type Err = ModelError;

    /// From what a rule says, in any case, with or without the dot of the root.
    fn from_str(text: &str) -> Result<Self, ModelError> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let (wildcard, name) = name.strip_prefix("*.").map_or((false, name), |name| (true, name));
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let label = |label: &str| {
            let bytes = label.as_bytes();
            let ends = [bytes.first(), bytes.last()];
            ends.into_iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
                && bytes.len() <= LABEL_MOST
                && bytes.iter().all(|c| inner(*c))
        };
        if name.contains('*') {
            refuse!("{text:?} is not valid: a wildcard is the whole first label, as in *.example.com");
        }
        if name.len() > NAME_MOST || !name.contains('.') || !name.split('.').all(label) {
            refuse!(
                "{text:?} is not a domain name: use labels with dots between them, as in www.example.com"
            );
        }
        Ok(Self { wildcard, name: name.to_owned() })
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wildcard = if self.wildcard { "*." } else { "" };
        write!(f, "{wildcard}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain(text: &str) -> DomainName {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_examples_of_the_proposal() {
        let apex = domain("kubernetes.io");
        assert!(apex.matches("kubernetes.io"));
        for other in ["www.kubernetes.io", "blog.kubernetes.io", "my-kubernetes.io", "wikipedia.org"] {
            assert!(!apex.matches(other), "{other}");
        }
        let blog = domain("blog.kubernetes.io");
        assert!(blog.matches("blog.kubernetes.io"));
        assert!(!blog.matches("www.kubernetes.io") && !blog.matches("kubernetes.io"));
        let below = domain("*.kubernetes.io");
        for name in ["www.kubernetes.io", "blog.kubernetes.io", "latest.blog.kubernetes.io"] {
            assert!(below.matches(name), "{name}");
        }
        for other in ["kubernetes.io", "wikipedia.org", "my-kubernetes.io", ".kubernetes.io"] {
            assert!(!below.matches(other), "{other}");
        }
    }

    #[test]
    fn case_and_the_dot_of_the_root_do_not_matter() {
        assert_eq!(domain("WWW.Example.COM."), domain("www.example.com"));
        assert_eq!(domain("*.Example.com.").to_string(), "*.example.com");
        assert_eq!(domain("_dmarc9.example.com".trim_start_matches('_')).exact(), Some("dmarc9.example.com"));
        assert_eq!(domain("*.example.com").exact(), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}.example.com", "a".repeat(64));
        let longer = format!("{}com", "abcdefg.".repeat(32));
        for text in [
            "",
            ".",
            "*",
            "com",
            "*.com",
            "example..com",
            ".example.com",
            "-a.example.com",
            "a-.example.com",
            "exa mple.com",
            "münchen.example",
            "10.0.0.0/8",
            "*.*.example.com",
            "a.*.example.com",
            "*a.example.com",
            "**.example.com",
            long.as_str(),
            longer.as_str(),
            "example.com..",
        ] {
            assert!(text.parse::<DomainName>().is_err(), "{text}");
        }
        let error = "www.*.example.com".parse::<DomainName>().unwrap_err().0;
        assert!(error.contains("whole first label"), "{error}");
    }

    proptest! {
        /// A wildcard stands for exactly the names that have one label or more in front of its own.
        #[test]
        fn a_wildcard_counts_labels(front in prop::collection::vec("[a-z0-9]{1,8}", 0..4),
                                    own in prop::collection::vec("[a-z0-9]{1,8}", 2..4)) {
            let own = own.join(".");
            let wildcard = domain(&format!("*.{own}"));
            let name = front.iter().map(String::as_str).chain([own.as_str()]).collect::<Vec<_>>().join(".");
            prop_assert_eq!(wildcard.matches(&name), !front.is_empty());
            prop_assert_eq!(domain(&own).matches(&name), front.is_empty());
        }
    }
}
