//! Numbers for contents: chosen from a hash, the same for as long as they are in use, across restarts of the agent as well.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Debug, Write},
};

use fabric_common::policy::{NumberKey, NumberValue};
use sha2::{Digest, Sha256};

/// Names of rules by their numbers, for the drops that they are the reason of.
pub type RuleNames = BTreeMap<u32, String>;

/// First half of the SHA-256 of a content.
pub(super) type Half = [u8; 16];

/// What is written to it is hashed: the text of a policy with many rules is never whole in memory.
struct Hashing(Sha256);

impl Write for Hashing {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// The digest of a content, which says everything about itself when it is printed.
pub(super) fn digest(content: &impl Debug) -> Half {
    let mut hashing = Hashing(Sha256::new());
    // Writing to a hash does not fail.
    let _ = write!(hashing, "{content:?}");
    let hash = hashing.0.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

/// Gives numbers. What a number that is taken stands for does not change: it is free once its row is gone.
#[derive(Debug)]
pub struct Numbers {
    taken: BTreeMap<NumberKey, NumberValue>,
    known: HashMap<(u32, Half), u32>,
    used: BTreeMap<NumberKey, NumberValue>,
}

impl Numbers {
    /// Begins with the numbers that are taken: the rows of the map `numbers`.
    pub fn new(taken: &BTreeMap<NumberKey, NumberValue>) -> Self {
        let known = taken.iter().map(|(key, value)| ((key.kind, value.digest), key.number)).collect();
        Self { taken: taken.clone(), known, used: BTreeMap::new() }
    }

    /// The number of a content: 1 to `most`, with the bits of `flag` set. It is used from now on.
    pub(super) fn number(&mut self, kind: u32, digest: Half, most: u32, flag: u32) -> u32 {
        let value = NumberValue { digest };
        // A former version gave numbers that are larger than today's, or have not the flag.
        let fits = |number: &&u32| **number & flag == flag && **number & !flag <= most;
        let known = self.known.get(&(kind, digest)).filter(fits);
        if let Some(number) = known {
            self.used.insert(NumberKey { kind, number: *number }, value);
            return *number;
        }
        let hash = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
        let mut low = (hash & most).max(1);
        // Fewer numbers are taken than the map has rows, so there is a free one.
        while self.taken.contains_key(&NumberKey { kind, number: low | flag }) {
            low = if low == most { 1 } else { low + 1 };
        }
        let number = low | flag;
        let key = NumberKey { kind, number };
        self.taken.insert(key, value);
        self.known.insert((kind, digest), number);
        self.used.insert(key, value);
        number
    }

    /// The numbers that were asked for: the wanted rows of the map `numbers`.
    pub fn into_used(self) -> BTreeMap<NumberKey, NumberValue> {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use fabric_common::policy::{KIND_RULE, verdict};

    use super::*;

    #[test]
    fn a_number_of_a_former_version_that_is_too_large_is_given_anew() {
        let digest = digest(&"a rule");
        let former = NumberKey { kind: KIND_RULE, number: verdict::REJECT | 5 };
        let mut numbers = Numbers::new(&[(former, NumberValue { digest })].into());
        let number = numbers.number(KIND_RULE, digest, verdict::NUMBER, 0);
        assert!(number <= verdict::NUMBER, "{number:#x}");
        assert_eq!(numbers.number(KIND_RULE, digest, verdict::NUMBER, 0), number, "and stays");
    }
}
