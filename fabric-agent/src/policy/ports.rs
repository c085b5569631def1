//! Ranges of ports as rows of `policy_ports`, tables below tables.

use std::collections::BTreeMap;

use fabric_common::policy::{KIND_RULE, KIND_TABLE, PORT_DEPTH, PORT_RANGES, PolicyPorts, verdict};

use crate::model::policy::Treatment;

use super::{
    numbers::{Numbers, RuleNames, digest},
    ruling::{Ranges, Ruling},
};

/// Where verdicts are written to.
pub(super) struct Writer<'a> {
    pub(super) numbers: &'a mut Numbers,
    pub(super) ports: &'a mut BTreeMap<u32, PolicyPorts>,
    pub(super) rules: &'a mut RuleNames,
}

impl Writer<'_> {
    /// The verdict in 32 bits, its tables written; absent if there are more ranges than tables hold.
    pub(super) fn verdict(&mut self, ranges: &Ranges) -> Option<u32> {
        if ranges.len() > PORT_RANGES.pow(u32::try_from(PORT_DEPTH).unwrap_or(u32::MAX)) {
            return None;
        }
        Some(self.table(ranges))
    }

    fn table(&mut self, ranges: &[(u32, Ruling)]) -> u32 {
        match ranges {
            [] => verdict::DENY,
            [(_, ruling)] => self.word(ruling),
            _ => {
                let mut size = 1;
                while size * PORT_RANGES < ranges.len() {
                    size *= PORT_RANGES;
                }
                let parts: Vec<(u32, u32)> =
                    ranges.chunks(size).map(|part| (part[0].0, self.table(part))).collect();
                self.row(ranges, &parts)
            }
        }
    }

    fn row(&mut self, content: &[(u32, Ruling)], parts: &[(u32, u32)]) -> u32 {
        let mut row = PolicyPorts { starts: [0; PORT_RANGES], verdicts: [0; PORT_RANGES] };
        let last = parts.last().copied().unwrap_or_default();
        for (at, (start, verdict)) in row.starts.iter_mut().zip(&mut row.verdicts).enumerate() {
            (*start, *verdict) = parts.get(at).copied().unwrap_or(last);
        }
        // A table below another is asked for keys from its own first one on only.
        row.starts[0] = 0;
        // The first start is the same in all tables, so it must be in their contents.
        let mut content = content.to_vec();
        if let Some(first) = content.first_mut() {
            first.0 = 0;
        }
        let number = self.numbers.number(KIND_TABLE, digest(&content), verdict::NUMBER, 0);
        self.ports.insert(number, row);
        verdict::TABLE | number
    }

    fn word(&mut self, ruling: &Ruling) -> u32 {
        let kind = if ruling.accept { verdict::ALLOW } else { verdict::DENY };
        let Some(rule) = &ruling.rule else { return kind };
        let number = self.numbers.number(KIND_RULE, digest(rule), verdict::NUMBER, 0);
        self.rules.entry(number).or_insert_with(|| rule.clone());
        let Treatment { reject, audit, log } = ruling.treatment;
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        kind | flag(reject, verdict::REJECT) | flag(audit, verdict::AUDIT) | flag(log, verdict::LOG) | number
    }
}
