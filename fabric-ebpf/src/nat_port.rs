//! Which port of the host a translated flow is given.

/// How many ports are looked at before a flow is refused. Only flows to the same address and port of the world are in each
/// other's way, so that this many are taken at once only where nearly all are.
pub const ATTEMPTS: u32 = 24;
/// From one to the next that is looked at: a prime, so that a neighbour's run of ports is left at once.
const STEP: u32 = 7919;

/// The port of an attempt, from `first` to `last`. `start` is random, so that nobody foretells the port (RFC 6056 section 3.3.1);
/// where there are ports enough, each attempt gives another one.
#[inline(always)]
pub const fn candidate(start: u32, attempt: u32, first: u16, last: u16) -> u16 {
    let size = (last.wrapping_sub(first) as u32) + 1;
    let at = ((start & 0xffff) + attempt * STEP) % size;
    first.wrapping_add(at as u16)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::{ATTEMPTS, STEP, candidate};

    proptest! {
        #[test]
        fn every_port_is_in_the_range(start: u32, attempt in 0..ATTEMPTS, a in 1..=u16::MAX, b in 1..=u16::MAX) {
            let (first, last) = (a.min(b), a.max(b));
            prop_assert!((first..=last).contains(&candidate(start, attempt, first, last)));
        }

        #[test]
        fn attempts_differ_where_there_are_ports_enough(start: u32, a in 1..=u16::MAX, b in 1..=u16::MAX) {
            let (first, last) = (a.min(b), a.max(b));
            let ports: BTreeSet<_> = (0..ATTEMPTS).map(|n| candidate(start, n, first, last)).collect();
            let size = usize::from(last - first) + 1;
            // A multiple of the step gives up some of them.
            let cycle = if size % STEP as usize == 0 { size / STEP as usize } else { size };
            prop_assert_eq!(ports.len(), cycle.min(ATTEMPTS as usize));
        }
    }

    /// A start has sixteen bits, which is all that a range has.
    #[test]
    fn every_port_of_a_range_is_given_to_some_start() {
        let given: BTreeSet<_> = (0..=0xffff).map(|start| candidate(start, 0, 1024, 65535)).collect();
        assert_eq!(given.len(), 65536 - 1024);
        let small: BTreeSet<_> = (0..=0xffff).map(|start| candidate(start, 3, 61000, 61004)).collect();
        assert_eq!(small, (61000..=61004).collect());
    }
}
