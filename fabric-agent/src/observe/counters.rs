//! Counters, for whoever shows them without seeing a map.

use std::collections::BTreeMap;

use fabric_api::status::Counter;
use fabric_common::counters::Tally;

use crate::dataplane::Counters;

/// Where counters of drops and actions come from.
pub trait CounterSource: Send + Sync {
    /// Every drop and action of every hook, zeros included, in a fixed order.
    ///
    /// # Errors
    /// The maps can't be read.
    fn read(&self) -> anyhow::Result<Vec<Counter>>;

    /// What each rule of policies that is counted has decided on, by its number.
    ///
    /// # Errors
    /// The map can't be read.
    fn rules(&self) -> anyhow::Result<BTreeMap<u32, Tally>>;
}

impl CounterSource for Counters {
    fn read(&self) -> anyhow::Result<Vec<Counter>> {
        Ok(self.all()?)
    }

    fn rules(&self) -> anyhow::Result<BTreeMap<u32, Tally>> {
        Ok(Self::rules(self)?)
    }
}
