//! The differentiated services code point of outer headers (RFC 2474, RFC 2983).

use std::str::FromStr;

use super::error::{ModelError, refuse};

/// The highest one: six bits.
const MAX: u8 = 63;

/// Where the DSCP of an outer header comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// The same for every packet, at most 63: the pipe model of RFC 2983. What is inside has no say in how the underlay
    /// treats it.
    Fixed(u8),
    /// That of the inner packet, as it leaves the container: the uniform model, as far as the sender goes. Receivers leave
    /// the inner packet's own alone.
    Copy,
}

impl Default for Dscp {
    /// Best effort for all.
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl FromStr for Dscp {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        match text.parse() {
            Ok(dscp) if dscp <= MAX => Ok(Self::Fixed(dscp)),
            _ if text == "copy" => Ok(Self::Copy),
            _ => refuse!("{text:?} is no DSCP: use 0 to {MAX}, or \"copy\" to take over the inner packet's"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dscp;

    #[test]
    fn six_bits_or_copy() {
        assert_eq!("0".parse(), Ok(Dscp::default()));
        assert_eq!("63".parse(), Ok(Dscp::Fixed(63)));
        assert_eq!("copy".parse(), Ok(Dscp::Copy));
        for bad in ["64", "-1", "", "Copy", "ef", "0x2e", "256"] {
            let text = bad.parse::<Dscp>().expect_err(bad).to_string();
            assert!(text.contains("use 0 to 63"), "{text}");
        }
    }
}
