//! When the next pass begins: at once when something changed after a quiet time, at a bounded rate under churn, and
//! often enough without any reason that what was changed by hand is soon found. All of it scales with what a pass
//! costs, so that a node with many objects does not spend its CPU on looking. The cost is the agent's CPU time, not the time
//! that went by: a host that is busy with other things makes passes longer, and is no reason to look less often.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// From the beginning of a pass to that of the next one, at least: reasons that come meanwhile share one pass.
const GAP: Duration = Duration::from_millis(20);
/// A pass is followed by at least this part of its own cost without one: 1/4 leaves a fifth of a CPU under churn.
const REST: u32 = 4;
/// A comparison is followed by at least this many times its own cost until the next: 2 % of a CPU.
const COMPARISON_REST: u32 = 50;
/// How soon a failed pass is tried again, the first time; then twice as long each time, up to the period of comparisons.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// When a pass began and ended, and what it cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    started: Instant,
    ended: Instant,
    cost: Duration,
}

/// Measures a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    started: Instant,
    cpu: Option<Duration>,
}

impl Stopwatch {
    /// Begins.
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), cpu: process_cpu() }
    }

    /// What went by. What other tasks of the agent spent meanwhile is counted too, but never more than the whole time: it
    /// can't be told apart, because what a pass asks of the kernel runs in tasks of its own.
    pub(super) fn read(self) -> Taken {
        let ended = Instant::now();
        let spent = process_cpu().zip(self.cpu).map(|(now, before)| now.saturating_sub(before));
        let whole = ended - self.started;
        Taken { started: self.started, ended, cost: spent.map_or(whole, |spent| spent.min(whole)) }
    }
}

/// CPU time of all threads, in the kernel as well.
fn process_cpu() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok().map(Duration::from)
}

/// The times of the last passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    resync: Duration,
    failures: u32,
    last: Taken,
    /// The last pass that compared everything.
    compared: Taken,
}

impl Pace {
    /// Comparisons are `resync` apart, or more where they cost much.
    pub(super) fn new(resync: Duration, now: Instant) -> Self {
        let nothing = Taken { started: now, ended: now, cost: Duration::ZERO };
        Self { resync, failures: 0, last: nothing, compared: nothing }
    }

    /// Notes a pass; `full` if it compared everything with the kernel.
    pub(super) fn done(&mut self, full: bool, success: bool, taken: Taken) {
        self.last = taken;
        self.failures = if success { 0 } else { self.failures.saturating_add(1) };
        if full {
            self.compared = taken;
        }
    }

    /// When the next pass may begin, whatever the reason.
    pub(super) fn not_before(&self) -> Instant {
        let Taken { started, ended, cost } = self.last;
        (started + GAP).max(ended + cost / REST)
    }

    /// When everything is compared again if nothing happens: soon after a failure.
    pub(super) fn due(&self) -> Instant {
        let period = self.resync.max(self.compared.cost * COMPARISON_REST);
        match self.failures {
            0 => self.compared.ended + period,
            failures => {
                let retry = FIRST_RETRY * 2u32.saturating_pow(failures.min(16) - 1);
                (self.last.ended + retry.min(period)).max(self.not_before())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{GAP, Pace, Stopwatch, Taken};

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A pass that did nothing but compute.
    fn took(started: Instant, cost: Duration) -> Taken {
        Taken { started, ended: started + cost, cost }
    }

    #[test]
    fn after_a_quiet_time_a_change_is_looked_at_at_once_and_under_churn_at_a_bounded_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, start);
        pace.done(false, true, took(start, ms(1)));
        assert_eq!(pace.not_before(), start + GAP);
        assert!(pace.not_before() < start + ms(100));
        // A pass that costs much is not begun again right after it.
        pace.done(false, true, took(start, ms(400)));
        assert_eq!(pace.not_before(), start + ms(500));
    }

    #[test]
    fn comparisons_go_on_under_churn_and_cost_two_percent() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, start);
        pace.done(true, true, took(start, ms(2)));
        let due = pace.due();
        assert_eq!(due, start + ms(1002));
        for n in 1..40 {
            pace.done(false, true, took(start + ms(25 * n), ms(1)));
        }
        assert_eq!(pace.due(), due, "passes that compare nothing do not put it off");
        pace.done(true, true, took(start, ms(100)));
        assert_eq!(pace.due(), start + ms(100) + 50 * ms(100));
    }

    #[test]
    fn the_time_of_others_is_no_cost() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, start);
        pace.done(true, true, Taken { started: start, ended: start + ms(900), cost: ms(2) });
        assert_eq!(pace.due(), start + ms(900) + SECOND);
        assert_eq!(pace.not_before(), start + ms(900) + ms(2) / 4);
    }

    #[test]
    fn what_is_measured_is_work() {
        let watch = Stopwatch::start();
        while watch.read().cost < ms(20) {
            std::hint::spin_loop();
        }
        let worked = watch.read();
        assert!(worked.cost <= worked.ended - worked.started, "{worked:?}");
    }

    #[test]
    fn failures_are_tried_again_later_and_later_but_no_later_than_a_comparison() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, start);
        let nothing = took(start, Duration::ZERO);
        let waits: Vec<_> = (0..5)
            .map(|_| {
                pace.done(true, false, nothing);
                pace.due() - start
            })
            .collect();
        assert_eq!(waits, [ms(200), ms(400), ms(800), SECOND, SECOND]);
        for _ in 0..1000 {
            pace.done(true, false, nothing);
        }
        assert_eq!(pace.due() - start, SECOND);
        pace.done(false, true, nothing);
        assert_eq!(pace.due() - start, SECOND);
    }
}
