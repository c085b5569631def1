//! What the kernel saw, in the API's words: live drop events and exact counters.

pub mod capture;
pub mod counters;
pub mod events;
pub mod flows;
pub mod log;
pub mod metrics;
pub mod names;
pub mod report;
pub mod trace;
