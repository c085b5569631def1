//! The search for the largest packet that gets to one VTEP (RFC 8899): pure, with the time given.

use std::time::{Duration, Instant};

/// Probes of one size that may be lost before that size counts as too large (`MAX_PROBES`).
const ATTEMPTS: u32 = 3;
/// How long an answer may take (`PROBE_TIMER`).
const ANSWER: Duration = Duration::from_secs(1);
/// How often a size that gets through is tried again, so that a path that became smaller is noticed (`CONFIRMATION_TIMER`).
const CONFIRM: Duration = Duration::from_secs(15);
/// How long a smaller path, or a VTEP that does not answer, is taken for granted (`PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_secs(600);

/// The search toward one VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// What the uplink carries: no larger probe can be sent.
    ceiling: u32,
    /// What every path carries.
    floor: u32,
    /// The largest size that was answered since the path was last doubted; `None` if nothing was.
    good: Option<u32>,
    /// The smallest size that was not; `None` if all were.
    bad: Option<u32>,
    /// The size under way, and how often it was sent.
    size: u32,
    sent: u32,
    /// When to send next.
    due: Instant,
    /// When to try the ceiling again.
    raise: Instant,
}

impl Search {
    /// Begins at once with what the uplink carries.
    pub(super) fn new(ceiling: u32, floor: u32, now: Instant) -> Self {
        Self { ceiling, floor, good: None, bad: None, size: ceiling, sent: 0, due: now, raise: now + RAISE }
    }

    /// The ceiling it was made with.
    pub(super) fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// The size to send now, if any. What was sent before counts as lost.
    pub(super) fn send(&mut self, now: Instant) -> Option<u32> {
        if now >= self.raise && self.found().is_none_or(|found| found < self.ceiling) {
            *self = Self::new(self.ceiling, self.floor, now);
        }
        if now < self.due {
            return None;
        }
        if self.sent == ATTEMPTS {
            self.lost(now);
            if now < self.due {
                return None;
            }
        }
        self.sent += 1;
        self.due = now + ANSWER;
        Some(self.size)
    }

    /// The size under way was answered. The caller knows by the nonce.
    pub(super) fn answered(&mut self, size: u32, now: Instant) {
        if size != self.size {
            return;
        }
        self.good = Some(size);
        self.go_on(now);
    }

    /// The VTEP shows life: if it did not answer before, it is asked again.
    pub(super) fn alive(&mut self, now: Instant) {
        if self.good.is_none() && self.bad.is_some_and(|bad| bad <= self.floor) {
            *self = Self::new(self.ceiling, self.floor, now);
        }
    }

    /// What gets through, if that is known: `None` while it is searched for, and if nobody answers at all.
    pub(super) fn found(&self) -> Option<u32> {
        match (self.good, self.bad) {
            (Some(good), None) if good == self.ceiling => Some(good),
            (Some(good), Some(bad)) if bad == good + 1 => Some(good),
            _ => None,
        }
    }

    /// All attempts with the size failed.
    fn lost(&mut self, now: Instant) {
        self.bad = Some(self.size);
        // What was good before it no longer is.
        self.good = self.good.filter(|good| *good < self.size);
        if self.size == self.floor {
            // Not even that: nobody answers, which says nothing of the path.
            self.sent = 0;
            self.due = now + RAISE;
            self.raise = now + RAISE;
            return;
        }
        self.go_on(now);
    }

    /// The next size: the floor before anything is known to be good, then halves.
    fn go_on(&mut self, now: Instant) {
        self.sent = 0;
        self.due = now;
        match (self.good, self.bad) {
            (None, _) => self.size = self.floor,
            (Some(good), Some(bad)) if bad > good + 1 => self.size = good + (bad - good) / 2,
            (Some(good), _) => {
                self.size = good;
                self.due = now + CONFIRM;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Search;

    /// Runs a search over a path for some seconds; says what was found and how many probes that took.
    fn run(search: &mut Search, now: &mut Instant, seconds: u64, path: Option<u32>) -> (Option<u32>, u32) {
        let end = *now + Duration::from_secs(seconds);
        let mut probes = 0;
        while *now < end {
            if let Some(size) = search.send(*now) {
                probes += 1;
                assert!(size <= search.ceiling, "more than the uplink carries");
                if path.is_some_and(|path| size <= path) {
                    search.answered(size, *now);
                }
            }
            *now += Duration::from_millis(100);
        }
        (search.found(), probes)
    }

    #[test]
    fn every_path_is_found() {
        for path in (576..=1500).chain([9000]) {
            let mut now = Instant::now();
            let mut search = Search::new(1500, 576, now);
            let (found, probes) = run(&mut search, &mut now, 60, Some(path));
            assert_eq!(found, Some(path.min(1500)), "{path}");
            assert!(probes < 60, "{path}: {probes}");
        }
    }

    #[test]
    fn who_does_not_answer_says_nothing_of_the_path() {
        let mut now = Instant::now();
        let mut search = Search::new(1500, 576, now);
        assert_eq!(run(&mut search, &mut now, 300, None), (None, 6));
        search.alive(now);
        assert_eq!(run(&mut search, &mut now, 30, Some(1400)).0, Some(1400));
    }

    #[test]
    fn a_path_that_shrinks_is_noticed_and_one_that_grows_in_time() {
        let mut now = Instant::now();
        let mut search = Search::new(9000, 1280, now);
        assert_eq!(run(&mut search, &mut now, 60, Some(9000)).0, Some(9000));
        assert_eq!(run(&mut search, &mut now, 90, Some(1400)).0, Some(1400));
        assert_eq!(run(&mut search, &mut now, 90, Some(1300)).0, Some(1300));
        let (found, probes) = run(&mut search, &mut now, 700, Some(9000));
        assert_eq!(found, Some(9000));
        assert!(probes < 100, "{probes}");
        // An answer that came late, of another size, changes nothing.
        search.answered(1300, now);
        assert_eq!(search.found(), Some(9000));
    }

    #[test]
    fn a_probe_that_is_lost_by_chance_changes_nothing() {
        let mut now = Instant::now();
        let mut search = Search::new(1500, 576, now);
        run(&mut search, &mut now, 20, Some(1500));
        for _ in 0..10 {
            // Two of three are lost.
            let (found, _) = run(&mut search, &mut now, 2, None);
            assert_eq!(found, Some(1500));
            assert_eq!(run(&mut search, &mut now, 16, Some(1500)).0, Some(1500));
        }
    }
}
