//! Counters, for whoever shows them without seeing a map.

use std::collections::BTreeMap;

use fabric_api::status::Counter;
use fabric_common::counters::Tally;

use crate::{dataplane::Counters, policy::RuleNames};

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

/// What each rule that is counted has decided on, by its name.
///
/// # Errors
/// The map can't be read.
pub fn by_name(counters: &dyn CounterSource, names: &RuleNames) -> anyhow::Result<BTreeMap<String, Tally>> {
    let mut sums: BTreeMap<String, Tally> = BTreeMap::new();
    for (rule, tally) in counters.rules()? {
        if let Some(name) = names.get(&rule) {
            let sum = sums.entry(name.clone()).or_insert(Tally { packets: 0, bytes: 0 });
            *sum = Tally { packets: sum.packets + tally.packets, bytes: sum.bytes + tally.bytes };
        }
    }
    Ok(sums)
}

impl CounterSource for Counters {
    fn read(&self) -> anyhow::Result<Vec<Counter>> {
        Ok(self.all()?)
    }

    fn rules(&self) -> anyhow::Result<BTreeMap<u32, Tally>> {
        Ok(Self::rules(self)?)
    }
}
