//! What a policy's annotations ask for beside its verdicts: that who is denied is told, that the policy is only tried out, that new
//! connections are reported.

use std::collections::BTreeMap;

use super::error::{ModelError, refuse};

/// Begins the annotations that mean something to Fabric.
const PREFIX: &str = "fabric.io/";
/// `drop` (the default) or `reject`.
const ON_DENY: &str = "fabric.io/on-deny";
/// `enforce` (the default) or `audit`.
const MODE: &str = "fabric.io/mode";
/// `all`, or rules by the end of their names, separated by commas.
const LOG: &str = "fabric.io/log";

/// How a rule's verdict is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Treatment {
    /// Whoever is denied is told: TCP by a reset, the others by an ICMP error.
    pub reject: bool,
    /// The policy is only tried out: what it denies passes, and is reported.
    pub audit: bool,
    /// New connections that the rule admits are reported.
    pub log: bool,
}

/// What the annotations of one policy ask for.
#[derive(Debug)]
pub(super) struct Treatments {
    whole: Treatment,
    /// Rules that are logged, by the ends of their names; absent: all, or none.
    logged: Option<Vec<String>>,
}

impl Treatments {
    /// # Errors
    /// An annotation of ours that is not known, or whose value is not.
    pub(super) fn of(annotations: &BTreeMap<String, String>) -> Result<Self, ModelError> {
        let mut found = Self { whole: Treatment::default(), logged: None };
        for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            match (key.as_str(), value.as_str()) {
                (ON_DENY, "drop") | (MODE, "enforce") => {}
                (ON_DENY, "reject") => found.whole.reject = true,
                (MODE, "audit") => found.whole.audit = true,
                (LOG, "all") => found.whole.log = true,
                (LOG, rules) => {
                    let rules = rules.split(',').map(|rule| rule.trim().to_owned());
                    found.logged = Some(rules.collect());
                }
                (ON_DENY, _) => refuse!("annotation {key}: {value:?} is not known: use drop or reject"),
                (MODE, _) => refuse!("annotation {key}: {value:?} is not known: use enforce or audit"),
                _ => refuse!("annotation {key} is not known: use {ON_DENY}, {MODE} or {LOG}"),
            }
        }
        Ok(found)
    }

    /// That of the policy as a whole.
    pub(super) fn whole(&self) -> Treatment {
        self.whole
    }

    /// That of a rule, by the end of its name: `ingress/0`.
    pub(super) fn rule(&self, end: &str) -> Treatment {
        let listed = self.logged.iter().flatten().any(|rule| rule == end);
        Treatment { log: self.whole.log || listed, ..self.whole }
    }

    /// # Errors
    /// A rule is to be logged that is none of `rules`, which are full names behind `prefix`.
    pub(super) fn check<'a>(
        &self,
        prefix: &str,
        rules: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), ModelError> {
        for end in self.logged.iter().flatten() {
            let is =
                |rule: &str| rule.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) == Some(end);
            if !rules.clone().any(is) {
                refuse!("annotation {LOG}: the policy has no rule {end:?}: use all, or names like ingress/0");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(annotations: &[(&str, &str)]) -> Result<Treatments, String> {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Treatments::of(&annotations.collect()).map_err(|e| e.0)
    }

    #[test]
    fn annotations_of_others_mean_nothing() {
        let none = of(&[("note", "reject"), ("kubectl.kubernetes.io/x", "audit")]).unwrap();
        assert_eq!((none.whole(), none.rule("ingress/0")), Default::default());
        let same = of(&[(ON_DENY, "drop"), (MODE, "enforce")]).unwrap();
        assert_eq!(same.whole(), Treatment::default());
    }

    #[test]
    fn each_asks_for_one_thing() {
        let whole = |key, value| of(&[(key, value)]).unwrap().whole();
        assert_eq!(whole(ON_DENY, "reject"), Treatment { reject: true, ..Treatment::default() });
        assert_eq!(whole(MODE, "audit"), Treatment { audit: true, ..Treatment::default() });
        assert_eq!(whole(LOG, "all"), Treatment { log: true, ..Treatment::default() });
        let some = of(&[(LOG, "ingress/0, egress/dns")]).unwrap();
        let logged = ["ingress/0", "ingress/1", "egress/dns"].map(|end| some.rule(end).log);
        assert_eq!((some.whole().log, logged), (false, [true, false, true]));
        assert!(some.check("P/x", ["P/x/ingress/0", "P/x/egress/dns"].into_iter()).is_ok());
        let missing = some.check("P/x", ["P/x/ingress/0"].into_iter()).unwrap_err();
        assert!(missing.0.contains("no rule \"egress/dns\""), "{missing}");
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert!(
            of(&[(ON_DENY, "Reject")]).unwrap_err().contains("\"Reject\" is not known: use drop or reject")
        );
        assert!(of(&[(MODE, "dry-run")]).unwrap_err().contains("use enforce or audit"));
        assert!(
            of(&[("fabric.io/on-drop", "reject")]).unwrap_err().contains("fabric.io/on-drop is not known")
        );
    }
}
