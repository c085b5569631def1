//! Explicit congestion notification across a tunnel (RFC 6040): what to make of both headers' fields.

/// Not ECN-capable transport.
pub const NOT_ECT: u8 = 0;
/// ECN-capable transport, the second codepoint (RFC 3168 section 5).
pub const ECT_1: u8 = 1;
/// ECN-capable transport.
pub const ECT_0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;

/// The inner field after decapsulation (RFC 6040 section 4.2); nothing for a packet that must be dropped, since its sender
/// would not understand that there is congestion.
#[inline(always)]
pub const fn combine(outer: u8, inner: u8) -> Option<u8> {
    match (outer, inner) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (ECT_1, ECT_0) => Some(ECT_1),
        (_, inner) => Some(inner),
    }
}

/// Whether an outer field may ask for anything but leaving the inner one alone.
#[inline(always)]
pub const fn matters(outer: u8) -> bool {
    outer & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::{CE, ECT_0, ECT_1, NOT_ECT, combine, matters};

    #[test]
    fn agrees_with_the_table_of_rfc_6040() {
        // Rows: inner field; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, want) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(combine(outer, inner), want, "outer {outer}, inner {inner}");
                assert!(matters(outer) || want == Some(inner), "outer {outer}, inner {inner}");
            }
        }
    }
}
