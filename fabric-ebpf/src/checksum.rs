//! The Internet checksum (RFC 1071), incrementally.
//!
//! Sums run over 16-bit words as they lie in memory; RFC 1071 section 2(B) shows that byte order does not matter as
//! long as the result is stored the same way.

/// Folds a sum of 16-bit words to 16 bits and complements it: the checksum, to be stored as it is.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Adds the two 16-bit words of a 32-bit word that was loaded from memory as it lies there.
#[inline(always)]
pub const fn add(sum: u32, word: u32) -> u32 {
    sum + (word & 0xffff) + (word >> 16)
}

/// A checksum after one of its words changed, all as they stand in the packet (RFC 1624 section 3). Bytes that are all zero
/// by then would need `0xffff` where this gives 0.
#[inline(always)]
pub const fn replace(check: [u8; 2], from: [u8; 2], to: [u8; 2]) -> [u8; 2] {
    let [check, from] = [!u16::from_ne_bytes(check), !u16::from_ne_bytes(from)];
    finish(check as u32 + from as u32 + u16::from_ne_bytes(to) as u32).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::{add, finish, replace};

    #[test]
    fn a_replaced_word_gives_the_same_as_a_new_sum() {
        for other in (1..=u16::MAX).step_by(7).chain([0xffff, 0xfffe]) {
            for (from, to) in
                [([8, 0], [0, 0]), ([128, 0], [129, 0]), ([1, 1], [64, 1]), ([0, 3], [0xff, 0xff])]
            {
                let check = |word: [u8; 2]| {
                    let [a, b] = other.to_ne_bytes();
                    finish(add(0, u32::from_ne_bytes([word[0], word[1], a, b])))
                };
                let replaced = u16::from_ne_bytes(replace(check(from).to_ne_bytes(), from, to));
                assert_eq!(replaced, check(to), "{other:04x} with {from:?} for {to:?}");
            }
        }
    }

    /// RFC 1071's definition, word by word, with the carry added at once.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum: u16 = 0;
        for pair in bytes.chunks(2) {
            let word = u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            let (s, carry) = sum.overflowing_add(word);
            sum = s + u16::from(carry);
        }
        !sum
    }

    #[test]
    fn agrees_with_the_definition() {
        let mut state: u32 = 1;
        for _ in 0..10_000 {
            let mut bytes = [0u8; 40];
            for byte in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            let sum =
                bytes.chunks(4).fold(0, |sum, w| add(sum, u32::from_ne_bytes([w[0], w[1], w[2], w[3]])));
            assert_eq!(finish(sum), reference(&bytes));
        }
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        // The example of RFC 1071 section 3 extended to a real IPv4 header.
        let mut header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        let sum = header.chunks(4).fold(0, |sum, w| add(sum, u32::from_ne_bytes([w[0], w[1], w[2], w[3]])));
        header[10..12].copy_from_slice(&finish(sum).to_ne_bytes());
        assert_eq!(header[10..12], [0xb8, 0x61]);
        let sum = header.chunks(4).fold(0, |sum, w| add(sum, u32::from_ne_bytes([w[0], w[1], w[2], w[3]])));
        assert_eq!(finish(sum), 0);
    }
}
