//! The outer UDP source port, which carries the inner flow's entropy to the underlay's hashing (RFC 7348 section 5).

/// The outer source port for a flow hash: 49152 to 65535, the range that RFC 7348 recommends. Host byte order.
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    // Both halves count, so that a hash whose low bits are poor still spreads.
    0xc000 | ((hash ^ (hash >> 16)) as u16 & 0x3fff)
}

#[cfg(test)]
mod tests {
    use super::source_port;

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
