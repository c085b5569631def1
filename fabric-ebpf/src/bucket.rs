//! A token bucket in one word: the time up to which tokens are used up. It fills by one token each [`INTERVAL`] and holds a
//! burst of them.

/// Nanoseconds that a token takes to come back: 1000 a second, as many as Linux answers (`icmp_msgs_per_sec`).
pub const INTERVAL: u64 = 1_000_000;
/// ICMP errors of a bucket that was not used for a while (`icmp_msgs_burst`).
pub const BURST: u64 = 50;
/// Broadcast and multicast frames of a port that sent none for a while.
pub const FLOOD_BURST: u64 = 1000;

/// Takes `count` tokens at the time `now`, nanoseconds, out of a bucket of `burst`. Returns the bucket's new word, or nothing
/// if there are not as many.
#[inline(always)]
pub const fn take(used: u64, now: u64, count: u64, burst: u64) -> Option<u64> {
    let full = now.saturating_sub(burst * INTERVAL);
    let next = if used < full { full } else { used } + count * INTERVAL;
    if now < next { None } else { Some(next) }
}

#[cfg(test)]
mod tests {
    use super::{BURST, INTERVAL, take};

    /// How many of `tries` at the times that `now` gives get a token.
    fn taken(used: &mut u64, tries: u64, now: impl Fn(u64) -> u64) -> u64 {
        let mut count = 0;
        for i in 0..tries {
            if let Some(next) = take(*used, now(i), 1, BURST) {
                *used = next;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = 3_600 * 1_000_000_000;
        let mut used = 0;
        assert_eq!(taken(&mut used, 10 * BURST, |_| start), BURST);
        // Ten tries for each token that comes back.
        assert_eq!(taken(&mut used, 1000, |i| start + i * INTERVAL / 10), 99);
        let later = start + 100 * INTERVAL + 5 * BURST * INTERVAL;
        assert_eq!(taken(&mut used, 10 * BURST, |_| later), BURST, "it holds no more than a burst");
    }

    #[test]
    fn a_frame_that_stands_for_several_takes_as_many() {
        let start = 3_600 * 1_000_000_000;
        let Some(used) = take(0, start, 40, BURST) else { panic!("a full bucket has them") };
        assert_eq!(take(used, start, 11, BURST), None);
        assert!(take(used, start, 10, BURST).is_some());
        assert_eq!(take(0, start, BURST + 1, BURST), None, "more than it ever holds");
    }

    #[test]
    fn the_first_second_of_a_machine_has_tokens_too() {
        assert_eq!(taken(&mut 0, 10, |_| 3 * INTERVAL), 3);
    }
}
