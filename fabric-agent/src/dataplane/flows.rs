//! The rows of connection tracking, `new_flows` and `flows`: read a part at a time, since there may be a million and the programs
//! write them meanwhile; and the connections of an endpoint that moves, read on one node and written on another.
//!
//! Numbers of identities, policies and rules are each node's own, and so are clocks: what goes over in a move is which flow it is, who began
//! it, how far it is and how old. A row that is written here names no policy, so that the flow's next packet asks those that
//! are in force, in the direction in which the flow began, as after any change of a policy. So a connection never gets from a move
//! what the policies of its new home do not give it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use aya::maps::MapData;
use fabric_common::{
    abi::{self, MapSpec},
    addr::Addr,
    flow::{FLAG_ANSWERED, FlowKey, FlowValue, lifetime},
    policy::{IDENTITY_ANYONE, NO_POLICY},
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::{
    error::DataplaneError,
    maps::{self, OpenMaps},
    sys::Batch,
    tables::Row,
};

/// Rows that one system call reads.
const CHUNK: usize = 4096;

/// The most that one endpoint takes along, those first that were used last. Every agent reads them with the store.
const MOST: usize = 2048;

/// One flow, without what is a node's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Flow {
    #[serde(rename = "l")]
    low: IpAddr,
    #[serde(rename = "h")]
    high: IpAddr,
    #[serde(rename = "lp")]
    low_port: u16,
    #[serde(rename = "hp")]
    high_port: u16,
    #[serde(rename = "p")]
    protocol: u8,
    #[serde(rename = "f")]
    flags: u32,
    /// Seconds since it began.
    #[serde(rename = "b")]
    began: u64,
    /// Milliseconds since its last packet.
    #[serde(rename = "s")]
    seen: u64,
}

/// A reader and writer of flows. Cheap to clone; works as long as it lives, also while a pass is running.
#[derive(Clone)]
pub struct Flows {
    maps: Arc<[(&'static MapSpec, MapData); 2]>,
}

impl Flows {
    pub(super) fn open(open: &OpenMaps) -> Result<Self, DataplaneError> {
        // A flow that is answered moves from the first to the second, so in this order none is missed, and one may come twice.
        let map = |spec| Ok::<_, DataplaneError>((spec, open.reopen(spec)?));
        Ok(Self { maps: Arc::new([map(&abi::NEW_FLOWS)?, map(&abi::FLOWS)?]) })
    }

    /// A reading from the beginning.
    pub fn cursor(&self) -> FlowCursor {
        FlowCursor { maps: Arc::clone(&self.maps), map: 0, batch: Batch::default(), room: CHUNK }
    }

    /// The flows that one of `addresses` takes part in, as text for [`Self::take`].
    ///
    /// # Errors
    /// The maps can't be read.
    pub fn of(&self, addresses: &[IpAddr]) -> Result<String, DataplaneError> {
        let addresses: Vec<Addr> = addresses.iter().map(|address| Addr::from(*address)).collect();
        let now = boot_time();
        let (mut found, mut cursor) = (BTreeMap::new(), self.cursor());
        while let Some(rows) = cursor.next_rows()? {
            found.extend(
                rows.into_iter()
                    .filter(|(key, _)| addresses.contains(&key.low) || addresses.contains(&key.high)),
            );
        }
        let mut flows: Vec<Flow> = found.iter().map(|(key, value)| Flow::new(key, value, now)).collect();
        flows.sort_by_key(|flow| flow.seen);
        flows.truncate(MOST);
        Ok(serde_json::to_string(&flows).unwrap_or_default())
    }

    /// Those of `pairs` of addresses between which a flow goes on, whoever began it.
    ///
    /// # Errors
    /// The maps can't be read.
    pub fn alive(
        &self,
        pairs: &BTreeSet<(IpAddr, IpAddr)>,
    ) -> Result<BTreeSet<(IpAddr, IpAddr)>, DataplaneError> {
        let now = boot_time();
        let (mut alive, mut cursor) = (BTreeSet::new(), self.cursor());
        while let Some(rows) = cursor.next_rows()? {
            for (key, value) in rows {
                if now.saturating_sub(value.seen) > lifetime(key.protocol, value.flags) {
                    continue;
                }
                let (low, high) = (key.low.to_ip(), key.high.to_ip());
                alive.extend([(low, high), (high, low)].into_iter().filter(|pair| pairs.contains(pair)));
            }
        }
        Ok(alive)
    }

    /// Writes flows that [`Self::of`] of another node told of, for an endpoint in network `vni` that has `addresses`. What is no
    /// text of that kind, or is about others, is left out; flows that are known here stay as they are. Returns how many were
    /// written.
    ///
    /// # Errors
    /// The maps can't be written.
    pub fn take(&self, vni: u32, addresses: &[IpAddr], text: &str) -> Result<usize, DataplaneError> {
        let flows: Vec<Flow> = serde_json::from_str(text).unwrap_or_default();
        let now = boot_time();
        let mut count = 0;
        for flow in flows.iter().take(MOST) {
            if !addresses.contains(&flow.low) && !addresses.contains(&flow.high) {
                continue;
            }
            let (key, value) = flow.row(vni, now);
            let mut known = false;
            for (spec, data) in self.maps.iter() {
                let found = maps::raw(spec, data)?.lookup(key.as_bytes());
                known |= found.map_err(DataplaneError::map(spec.name, "read it"))?.is_some();
            }
            if known {
                continue;
            }
            let (spec, data) = &self.maps[usize::from(value.flags & FLAG_ANSWERED != 0)];
            let written = maps::raw(spec, data)?.update(key.as_bytes(), value.as_bytes());
            written.map_err(DataplaneError::map(spec.name, "write it"))?;
            count += 1;
        }
        Ok(count)
    }
}

/// How far a reading of all flows has come.
pub struct FlowCursor {
    maps: Arc<[(&'static MapSpec, MapData); 2]>,
    map: usize,
    batch: Batch,
    room: usize,
}

impl FlowCursor {
    /// The next rows, expired ones among them; absent at the end. Bounded in time and memory.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn next_rows(&mut self) -> Result<Option<Vec<(FlowKey, FlowValue)>>, DataplaneError> {
        let Some((spec, data)) = self.maps.get(self.map) else { return Ok(None) };
        let raw = maps::raw(spec, data)?;
        let (entries, more) = loop {
            match raw.lookup_batch(&mut self.batch, self.room) {
                // A bucket of the hash has more rows than there is room for.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => self.room *= 2,
                result => break result.map_err(DataplaneError::map(spec.name, "read it"))?,
            }
        };
        if !more {
            self.map += 1;
            self.batch = Batch::default();
        }
        let rows = entries.iter().map(|(key, value)| FlowKey::from_row(key).zip(FlowValue::from_row(value)));
        let other = || DataplaneError::Object(format!("map `{}` has rows of another size", spec.name));
        rows.collect::<Option<_>>().ok_or_else(other).map(Some)
    }
}

impl Flow {
    /// `now`: nanoseconds since boot.
    fn new(key: &FlowKey, value: &FlowValue, now: u64) -> Self {
        Self {
            low: key.low.to_ip(),
            high: key.high.to_ip(),
            low_port: u16::from_be_bytes(key.low_port),
            high_port: u16::from_be_bytes(key.high_port),
            protocol: key.protocol,
            flags: value.flags,
            began: (now / 1_000_000_000).saturating_sub(value.began.into()),
            seen: now.saturating_sub(value.seen) / 1_000_000,
        }
    }

    fn row(&self, vni: u32, now: u64) -> (FlowKey, FlowValue) {
        let key = FlowKey {
            vni,
            low: self.low.into(),
            high: self.high.into(),
            low_port: self.low_port.to_be_bytes(),
            high_port: self.high_port.to_be_bytes(),
            protocol: self.protocol,
            zero: [0; 3],
        };
        let began = (now / 1_000_000_000).saturating_sub(self.began);
        let value = FlowValue {
            flags: self.flags,
            began: u32::try_from(began).unwrap_or(u32::MAX),
            seen: now.saturating_sub(self.seen.saturating_mul(1_000_000)),
            // Counted from here on, as the rules' packets are.
            began_bytes: 0,
            answer_bytes: 0,
            egress_policy: NO_POLICY,
            egress_identity: IDENTITY_ANYONE,
            egress_rule: 0,
            ingress_policy: NO_POLICY,
            ingress_identity: IDENTITY_ANYONE,
            ingress_rule: 0,
        };
        (key, value)
    }
}

/// Nanoseconds since boot, as `bpf_ktime_get_boot_ns` counts them.
pub fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_flow_keeps_what_it_is_and_its_age_and_loses_what_is_a_nodes_own() {
        let key = FlowKey {
            vni: 7,
            low: Addr::from("10.0.0.1".parse::<IpAddr>().unwrap()),
            high: Addr::from("10.0.0.2".parse::<IpAddr>().unwrap()),
            low_port: 80_u16.to_be_bytes(),
            high_port: 40000_u16.to_be_bytes(),
            protocol: 6,
            zero: [0; 3],
        };
        let value = FlowValue {
            flags: FLAG_ANSWERED | fabric_common::flow::FLAG_BEGAN_HIGH,
            began: 90,
            began_bytes: 5,
            answer_bytes: 6,
            seen: 95 * SECOND,
            egress_policy: 1,
            egress_identity: 2,
            egress_rule: 3,
            ingress_policy: 4,
            ingress_identity: 5,
            ingress_rule: 6,
        };
        let flow = Flow::new(&key, &value, 100 * SECOND);
        let text = serde_json::to_string(std::slice::from_ref(&flow)).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Flow>>(&text).unwrap(), std::slice::from_ref(&flow));
        assert!(text.len() < 110, "{text}");
        // Another clock, and the network that the endpoint is in there.
        let (there, row) = flow.row(9, 1000 * SECOND);
        assert_eq!(there, FlowKey { vni: 9, ..key });
        assert_eq!((row.flags, row.began, row.seen), (value.flags, 990, 995 * SECOND));
        assert_eq!((row.egress_policy, row.ingress_policy), (NO_POLICY, NO_POLICY));
        // A host that was started a moment ago: not in the future, nor before the beginning.
        let (_, row) = flow.row(9, 2 * SECOND);
        assert_eq!((row.began, row.seen), (0, 0));
    }
}
