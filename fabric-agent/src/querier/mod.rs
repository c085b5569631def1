//! The querier of networks that replicate multicast: asks every port of this node what it has joined (RFC 3376 section 6, RFC 3810
//! section 6), and takes away what nobody has reported any more.
//!
//! The programs keep memberships without a clock. So they last while no agent runs, and a new agent, which asks first, learns those that
//! its predecessor knew nothing of. A membership ends when it is left, when its port goes, or when two queries in a row went unanswered.
//!
//! Every agent asks its own ports alone: queries do not go through the tunnel, so there is no election.

mod message;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use self::message::{INTERVAL, queries};
use crate::{
    dataplane::{Groups, Listeners, boot_time},
    kernel::packet::Injector,
    reconcile::Handle,
};

/// Between the first queries of an agent (RFC 3376 section 8.6).
const FIRST: Duration = Duration::from_secs(31);
/// How many of them (RFC 3376 section 8.7).
const FIRST_COUNT: u32 = 2;
/// Between all others.
const REST: Duration = Duration::from_secs(INTERVAL as u64);

/// When queries were sent and are to be.
#[derive(Debug)]
struct Rounds {
    next: Instant,
    count: u32,
    /// Times of the last two rounds, nanoseconds since boot.
    last: VecDeque<u64>,
}

impl Rounds {
    fn new(now: Instant) -> Self {
        Self { next: now, count: 0, last: VecDeque::new() }
    }

    /// Begins a round if it is time. Returns the time since when whoever is there has reported, if enough queries were sent.
    fn begin(&mut self, now: Instant, since_boot: u64) -> Option<Option<u64>> {
        if now < self.next {
            return None;
        }
        self.count += 1;
        self.next = now + if self.count < FIRST_COUNT { FIRST } else { REST };
        let full = self.last.len() == 2;
        let before = full.then(|| self.last.pop_front()).flatten();
        self.last.push_back(since_boot);
        Some(before)
    }
}

/// Asks until the agent ends.
pub async fn run(groups: Groups, handle: Handle) {
    let injector = match Injector::new() {
        Ok(injector) => injector,
        Err(error) => {
            tracing::warn!("nobody is asked which groups it has joined: {error}");
            return;
        }
    };
    let mut querier =
        Querier { groups, injector, asked: Listeners::new(), rounds: Rounds::new(Instant::now()) };
    let mut said = String::new();
    loop {
        let text = querier.turn().err().map(|error| error.to_string()).unwrap_or_default();
        if !text.is_empty() && text != said {
            tracing::warn!("memberships in groups are not followed: {text}");
        }
        said = text;
        // Passes come at least every few seconds.
        if !handle.passed().await {
            return;
        }
    }
}

struct Querier {
    groups: Groups,
    injector: Injector,
    /// Ports as they were asked last.
    asked: Listeners,
    rounds: Rounds,
}

impl Querier {
    /// Asks everybody if it is time, else who is new.
    fn turn(&mut self) -> Result<(), crate::dataplane::DataplaneError> {
        let listeners = self.groups.listeners()?;
        let round = self.rounds.begin(Instant::now(), boot_time());
        let gone = self.asked.keys().any(|ifindex| !listeners.contains_key(ifindex));
        if round.is_some() || gone {
            let silent = self.groups.tidy(&listeners, round.flatten())?;
            tracing::debug!(silent, "memberships taken away");
        }
        for (ifindex, listener) in &listeners {
            if round.is_none() && self.asked.get(ifindex) == Some(listener) {
                continue;
            }
            for frame in queries(&listener.1) {
                // A port that is just going, or not up yet: the next round asks again.
                if let Err(error) = self.injector.send(*ifindex, &frame) {
                    tracing::debug!(ifindex, "a query was not sent: {error}");
                }
            }
        }
        self.asked = listeners;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Rounds;

    #[test]
    fn two_queries_may_go_unanswered() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rounds = Rounds::new(start);
        assert_eq!(rounds.begin(at(0), 1), Some(None), "at once");
        assert_eq!(rounds.begin(at(30), 30), None);
        assert_eq!(rounds.begin(at(31), 31), Some(None), "soon again");
        assert_eq!(rounds.begin(at(155), 155), None);
        assert_eq!(rounds.begin(at(156), 156), Some(Some(1)), "what has not answered since the first");
        assert_eq!(rounds.begin(at(280), 280), None);
        assert_eq!(rounds.begin(at(300), 300), Some(Some(31)));
        assert_eq!(rounds.begin(at(424), 424), None);
        assert_eq!(rounds.begin(at(425), 425), Some(Some(156)));
    }
}
