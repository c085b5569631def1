//! Time limits, pinning and the end of a server.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::Pid,
};

use crate::Common;

/// A server asks this often whether it should end.
pub(crate) const TICK: Duration = Duration::from_millis(50);

static ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: i32) {
    ENDED.store(true, Ordering::Relaxed);
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// At this time at the latest.
    until: Instant,
}

impl Common {
    /// Pins, arms SIGTERM and starts the clock.
    pub(crate) fn begin(self) -> Result<Limit> {
        ensure!(
            self.seconds > 0.0 && self.seconds <= 600.0,
            "--seconds {} is not more than 0 and at most 600",
            self.seconds
        );
        if let Some(cpu) = self.cpu {
            let mut set = CpuSet::new();
            set.set(cpu).with_context(|| format!("--cpu {cpu}"))?;
            sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("can't pin to --cpu {cpu}"))?;
        }
        let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(Signal::SIGTERM, &action) }.context("can't catch SIGTERM")?;
        Ok(Limit { until: Instant::now() + Duration::from_secs_f64(self.seconds) })
    }
}

impl Limit {
    /// Whether it is time to stop.
    pub(crate) fn over(self) -> bool {
        told() || self.expired()
    }

    /// Whether the time is up.
    pub(crate) fn expired(self) -> bool {
        Instant::now() >= self.until
    }
}

/// Whether SIGTERM came. A sink still takes what has arrived by then.
pub(crate) fn told() -> bool {
    ENDED.load(Ordering::Relaxed)
}

/// Tells whoever started a server that it listens.
pub(crate) fn ready() {
    println!("ready");
}

/// Whether an error says that nothing came in the last [`TICK`], or that a signal did.
pub(crate) fn idle(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
