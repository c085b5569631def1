//! The outer UDP source port, which carries the inner flow's entropy to the underlay's hashing (RFC 7348 section 5).

/// The outer source port for a flow hash: 49152 to 65535, the range that RFC 7348 recommends. Host byte order.
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    // Both halves count, so that a hash whose low bits are poor still spreads.
    0xc000 | ((hash ^ (hash >> 16)) as u16 & 0x3fff)
}

/// Takes one more word into a flow hash.
#[inline(always)]
pub const fn mix(hash: u32, word: u32) -> u32 {
    (hash ^ word).wrapping_mul(0x9e37_79b1).rotate_left(13)
}

/// Lets every bit of a flow hash count in every other (the finaliser of MurmurHash3).
#[inline(always)]
pub const fn finish(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::{finish, mix, source_port};

    #[test]
    fn neighbouring_flows_spread() {
        extern crate std;
        let addresses = mix(mix(17, 0x0b0a_a8c0), 0x150a_a8c0);
        for step in [1u32, 0x100, 0x1_0000] {
            let ports: std::collections::BTreeSet<u16> =
                (0..1000).map(|n: u32| source_port(finish(mix(addresses, n.wrapping_mul(step))))).collect();
            assert!(ports.len() > 900, "{} ports with step {step:#x}", ports.len());
        }
    }

    #[test]
    fn stays_in_the_dynamic_range() {
        for hash in [0, 1, 0x3fff, 0x4000, 0xffff, 0x10000, u32::MAX, 0xdead_beef] {
            assert!(source_port(hash) >= 49152);
        }
    }

    #[test]
    fn high_bits_count() {
        assert_ne!(source_port(0x0001_0000), source_port(0x0002_0000));
    }
}
