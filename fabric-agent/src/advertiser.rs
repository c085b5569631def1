//! The advertiser of networks with router advertisements: sends to every container's port what the programs answer there
//! (RFC 4861 section 6.2.4), and one last time, with a router lifetime of 0, when a network has them no more (section 6.2.5).
//!
//! Every agent tells its own ports alone; nothing of it goes through the tunnel. What is advertised is read from the map, so that it is
//! what the programs answer, and so that a new agent knows what its predecessor advertised.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use fabric_common::advertisement::AdvertisementValue;

use crate::{
    dataplane::{Advertised, Advertisements, DataplaneError},
    kernel::packet::Injector,
    model::ids,
    plan::advertisement,
    reconcile::Handle,
};

/// Between the first advertisements: `MAX_INITIAL_RTR_ADVERT_INTERVAL` of RFC 4861 section 10.
const FIRST: Duration = Duration::from_secs(16);
/// How many of them: `MAX_INITIAL_RTR_ADVERTISEMENTS`.
const FIRST_COUNT: u32 = 3;
/// Between all others, seconds: `MinRtrAdvInterval` and `MaxRtrAdvInterval` as section 6.2.1 has them by default.
const REST: (u64, u64) = (198, 600);

/// Sends advertisements as long as the agent runs.
pub struct Advertiser {
    reader: Advertisements,
    schedule: Schedule,
}

impl Advertiser {
    /// One that goes on where an earlier agent ended. To be made before the first pass.
    ///
    /// # Errors
    /// The maps can't be read.
    pub fn new(reader: Advertisements) -> Result<Self, DataplaneError> {
        let schedule = Schedule::after(reader.read()?);
        Ok(Self { reader, schedule })
    }

    /// Advertises until the agent ends.
    pub async fn run(mut self, handle: Handle) {
        let injector = match Injector::new() {
            Ok(injector) => injector,
            Err(error) => {
                tracing::warn!("router advertisements are sent only to who asks: {error}");
                return;
            }
        };
        let mut said = String::new();
        // Passes come at least every few seconds.
        while handle.passed().await {
            let text = match self.reader.read() {
                Ok(now) => {
                    self.turn(now, |ifindex, frame| injector.send(ifindex, frame));
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            if !text.is_empty() && text != said {
                tracing::warn!("router advertisements are sent only to who asks: {text}");
            }
            said = text;
        }
    }

    fn turn(&mut self, now: Advertised, send: impl Fn(u32, &[u8]) -> io::Result<()>) {
        for (ifindex, value) in self.schedule.due(Instant::now(), now) {
            let frame = usize::try_from(value.len).ok().and_then(|len| value.frame.get(..len));
            // A port that is just going, or not up yet: its container asks when it is.
            if let Some(Err(error)) = frame.map(|frame| send(ifindex, frame)) {
                tracing::debug!(ifindex, "an advertisement was not sent: {error}");
            }
        }
    }
}

/// When a network's ports hear of it next.
#[derive(Debug)]
struct Rounds {
    next: Instant,
    count: u32,
}

/// What was sent, and when more is to be.
#[derive(Debug, Default)]
struct Schedule {
    last: Advertised,
    rounds: BTreeMap<u32, Rounds>,
}

impl Schedule {
    /// One whose predecessor sent this, nobody knows when: everything is due.
    fn after(last: Advertised) -> Self {
        Self { last, rounds: BTreeMap::new() }
    }

    /// What is to be sent to which ports, given what is advertised from now on.
    fn due(&mut self, time: Instant, now: Advertised) -> Vec<(u32, AdvertisementValue)> {
        self.rounds.retain(|vni, _| now.networks.contains_key(vni));
        let mut all = BTreeMap::new();
        for (vni, value) in &now.networks {
            let changed = self.last.networks.get(vni) != Some(value);
            all.insert(*vni, self.begin(*vni, time, changed));
        }
        let mut due = Vec::new();
        for (ifindex, vni) in &now.ports {
            let known = self.last.ports.get(ifindex) == Some(vni);
            let last = self.last.networks.get(vni).filter(|_| known);
            match (now.networks.get(vni), last) {
                (Some(value), _) if all[vni] || !known => due.push((*ifindex, *value)),
                (None, Some(value)) => due.push((*ifindex, advertisement::last(value))),
                _ => {}
            }
        }
        self.last = now;
        due
    }

    /// Begins a round if it is time, from the first if what is sent is `changed`.
    fn begin(&mut self, vni: u32, time: Instant, changed: bool) -> bool {
        let rounds = self.rounds.entry(vni).or_insert(Rounds { next: time, count: 0 });
        if changed {
            *rounds = Rounds { next: time, count: 0 };
        }
        if time < rounds.next {
            return false;
        }
        rounds.count += 1;
        let wait = if rounds.count < FIRST_COUNT { FIRST } else { interval(vni, rounds.count) };
        rounds.next = time + wait;
        true
    }
}

/// Differs from network to network and from round to round, so that they do not all come at once.
fn interval(vni: u32, count: u32) -> Duration {
    let (least, most) = REST;
    Duration::from_secs(least + u64::from(ids::hash32(&format!("{vni}/{count}"))) % (most - least + 1))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use fabric_common::advertisement::{AdvertisementValue, ROOM};

    use super::{Schedule, interval};
    use crate::dataplane::Advertised;

    /// A frame with this mark in it.
    fn value(mark: u8) -> AdvertisementValue {
        let mut frame = [0; ROOM];
        frame[60..62].copy_from_slice(&[0x12, 0x34]);
        frame[70] = mark;
        AdvertisementValue { len: 86, zero: 0, frame }
    }

    /// Networks with their marks, ports with their networks.
    fn advertised(networks: &[(u32, u8)], ports: &[(u32, u32)]) -> Advertised {
        Advertised {
            networks: networks.iter().map(|(vni, mark)| (*vni, value(*mark))).collect(),
            ports: ports.iter().copied().collect(),
        }
    }

    /// What goes to which port: the mark and whether the router stays one.
    fn sent(due: Vec<(u32, AdvertisementValue)>) -> Vec<(u32, u8, bool)> {
        due.into_iter().map(|(port, value)| (port, value.frame[70], value.frame[60..62] != [0, 0])).collect()
    }

    #[test]
    fn ports_hear_at_once_three_times_and_then_now_and_then() {
        let start = Instant::now();
        let now = advertised(&[(100, 1)], &[(7, 100), (8, 200)]);
        // As an earlier agent left it, or from nothing.
        for before in [now.clone(), Advertised::default()] {
            let mut schedule = Schedule::after(before);
            let mut times = Vec::new();
            for seconds in 0..2000 {
                let due = sent(schedule.due(start + Duration::from_secs(seconds), now.clone()));
                if !due.is_empty() {
                    assert_eq!(due, [(7, 1, true)], "and nobody in another network");
                    times.push(seconds);
                }
            }
            assert_eq!(times[..3], [0, 16, 32]);
            let gaps: Vec<u64> = times[2..].windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(gaps.len() >= 3 && gaps.iter().all(|gap| (198..=600).contains(gap)), "{gaps:?}");
            assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "{gaps:?}");
        }
        assert_ne!(interval(100, 3), interval(101, 3));
    }

    #[test]
    fn changes_are_told_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::after(Advertised::default());
        let mut at = |seconds, now| sent(schedule.due(start + Duration::from_secs(seconds), now));
        assert_eq!(at(0, advertised(&[], &[(7, 100)])), []);
        assert_eq!(at(1, advertised(&[(100, 1)], &[(7, 100)])), [(7, 1, true)], "it is turned on");
        let two = advertised(&[(100, 1)], &[(7, 100), (8, 100)]);
        assert_eq!(at(2, two.clone()), [(8, 1, true)], "a new port");
        assert_eq!(at(3, two), []);
        let two = advertised(&[(100, 2)], &[(7, 100), (8, 100)]);
        assert_eq!(at(4, two.clone()), [(7, 2, true), (8, 2, true)], "another MTU, for example");
        assert_eq!(at(19, two.clone()), []);
        assert_eq!(at(20, two), [(7, 2, true), (8, 2, true)], "and again, as if it were new");
        assert_eq!(at(21, advertised(&[(100, 2)], &[(8, 100)])), [], "a port goes");
    }

    #[test]
    fn the_end_is_told_once() {
        let start = Instant::now();
        // The setting went while no agent ran.
        let mut schedule = Schedule::after(advertised(&[(100, 1), (200, 2)], &[(7, 100), (8, 200)]));
        let now = advertised(&[(200, 2)], &[(7, 100), (8, 200), (9, 100)]);
        assert_eq!(
            sent(schedule.due(start, now.clone())),
            [(7, 1, false), (8, 2, true)],
            "nothing to who never heard"
        );
        assert_eq!(sent(schedule.due(start + Duration::from_secs(1), now)), []);
    }
}
