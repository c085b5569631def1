//! When the next pass begins: at once when something changed after a quiet time, at a bounded rate under churn, and
//! often enough without any reason that what was changed by hand is soon found. All of it scales with what a pass
//! costs, so that a node with many objects does not spend its CPU on looking.

use std::time::{Duration, Instant};

/// From the beginning of a pass to that of the next one, at least: reasons that come meanwhile share one pass.
const GAP: Duration = Duration::from_millis(20);
/// A pass is followed by at least this part of its own duration without one: 1/4 leaves a fifth of a CPU under churn.
const REST: u32 = 4;
/// A comparison is followed by at least this many times its own duration until the next: 2 % of a CPU.
const COMPARISON_REST: u32 = 50;
/// How soon a failed pass is tried again, the first time; then twice as long each time, up to the period of comparisons.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The times of the last passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    resync: Duration,
    failures: u32,
    /// Of the last pass.
    started: Instant,
    ended: Instant,
    /// End and duration of the last comparison.
    compared: Instant,
    cost: Duration,
}

impl Pace {
    /// Comparisons are `resync` apart, or more where they cost much.
    pub(super) fn new(resync: Duration, now: Instant) -> Self {
        Self { resync, failures: 0, started: now, ended: now, compared: now, cost: Duration::ZERO }
    }

    /// Notes a pass; `full` if it compared everything with the kernel.
    pub(super) fn done(&mut self, full: bool, success: bool, started: Instant, ended: Instant) {
        (self.started, self.ended) = (started, ended);
        self.failures = if success { 0 } else { self.failures.saturating_add(1) };
        if full {
            (self.compared, self.cost) = (ended, ended - started);
        }
    }

    /// When the next pass may begin, whatever the reason.
    pub(super) fn not_before(&self) -> Instant {
        let rest = (self.ended - self.started) / REST;
        (self.started + GAP).max(self.ended + rest)
    }

    /// When everything is compared again if nothing happens: soon after a failure.
    pub(super) fn due(&self) -> Instant {
        let period = self.resync.max(self.cost * COMPARISON_REST);
        match self.failures {
            0 => self.compared + period,
            failures => {
                let retry = FIRST_RETRY * 2u32.saturating_pow(failures.min(16) - 1);
                (self.ended + retry.min(period)).max(self.not_before())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{GAP, Pace};

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn after_a_quiet_time_a_change_is_looked_at_at_once_and_under_churn_at_a_bounded_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, start);
        pace.done(false, true, start, start + ms(1));
        assert_eq!(pace.not_before(), start + GAP);
        assert!(pace.not_before() < start + ms(100));
        // A pass that takes long is not begun again right after it.
        pace.done(false, true, start, start + ms(400));
        assert_eq!(pace.not_before(), start + ms(500));
    }

    #[test]
    fn comparisons_go_on_under_churn_and_cost_two_percent() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, start);
        pace.done(true, true, start, start + ms(2));
        let due = pace.due();
        assert_eq!(due, start + ms(1002));
        for n in 1..40 {
            pace.done(false, true, start + ms(25 * n), start + ms(25 * n + 1));
        }
        assert_eq!(pace.due(), due, "passes that compare nothing do not put it off");
        pace.done(true, true, start, start + ms(100));
        assert_eq!(pace.due(), start + ms(100) + 50 * ms(100));
    }

    #[test]
    fn failures_are_tried_again_later_and_later_but_no_later_than_a_comparison() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, start);
        let waits: Vec<_> = (0..5)
            .map(|_| {
                pace.done(true, false, start, start);
                pace.due() - start
            })
            .collect();
        assert_eq!(waits, [ms(200), ms(400), ms(800), SECOND, SECOND]);
        for _ in 0..1000 {
            pace.done(true, false, start, start);
        }
        assert_eq!(pace.due() - start, SECOND);
        pace.done(false, true, start, start);
        assert_eq!(pace.due() - start, SECOND);
    }
}
