//! Counters, for whoever shows them without seeing a map.

use fabric_api::status::Counter;

use crate::dataplane::Counters;

/// Where counters of drops and actions come from.
pub trait CounterSource: Send + Sync {
    /// Every drop and action of every hook, zeros included, in a fixed order.
    ///
    /// # Errors
    /// The maps can't be read.
    fn read(&self) -> anyhow::Result<Vec<Counter>>;
}

impl CounterSource for Counters {
    fn read(&self) -> anyhow::Result<Vec<Counter>> {
        Ok(self.all()?)
    }
}
