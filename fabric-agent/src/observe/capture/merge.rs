//! One order of packets out of many sources, and the reasons of those that were dropped. A packet is seen where it passes an
//! interface before a program drops it, and the drop is told a moment later: every packet is held back for [`HOLD`], so that
//! the two become one. They are the same if the interface, the length and the bytes are; of several alike, the nearest in time.

use std::{collections::BTreeMap, time::Duration};

/// How long packets are held back.
pub(super) const HOLD: Duration = Duration::from_millis(200);
/// Bytes that are held back at most; beyond, the oldest packets go on earlier, and their drops may stand beside them.
const ROOM: usize = 64 << 20;
/// What a held packet costs beside its bytes.
const OVERHEAD: usize = 128;

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// The interface of the capture that it is written for.
    pub(super) channel: u32,
    /// Since 1970.
    pub(super) time: Duration,
    /// Direction, where it was seen at an interface.
    pub(super) outgoing: Option<bool>,
    /// Bytes that it had.
    pub(super) length: usize,
    /// The first of them.
    pub(super) data: Vec<u8>,
    /// Why it was dropped.
    pub(super) comment: Option<String>,
}

struct Held {
    packet: Packet,
    /// A drop whose packet may still come from this channel.
    awaits: Option<u32>,
}

/// Packets that are held back.
#[derive(Default)]
pub(super) struct Merger {
    held: BTreeMap<(Duration, u64), Held>,
    number: u64,
    bytes: usize,
    /// Drops that await their packet; mostly there are none.
    awaiting: usize,
}

fn alike(a: &Packet, b: &Packet) -> bool {
    let both = a.data.len().min(b.data.len());
    a.length == b.length && a.data[..both] == b.data[..both]
}

impl Merger {
    /// A packet that passed an interface.
    pub(super) fn seen(&mut self, mut packet: Packet) {
        if self.awaiting > 0
            && let Some(key) = self
                .nearest(&packet, |held| held.awaits == Some(packet.channel) && alike(&held.packet, &packet))
        {
            packet.comment = self.take(key).and_then(|held| held.packet.comment);
        }
        self.hold(packet, None);
    }

    /// A packet that was dropped; `seen_at` is the channel that has seen it or will.
    pub(super) fn dropped(&mut self, packet: Packet, seen_at: Option<u32>) {
        let found = seen_at.and_then(|channel| {
            self.nearest(&packet, |held| {
                held.packet.channel == channel
                    && held.packet.comment.is_none()
                    && alike(&held.packet, &packet)
            })
        });
        match found.and_then(|key| self.held.get_mut(&key)) {
            Some(held) => held.packet.comment = packet.comment,
            None => self.hold(packet, seen_at),
        }
    }

    /// Packets that need not be held back any more, in their order.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Packet> {
        let mut due = Vec::new();
        while let Some((key, _)) = self.held.first_key_value()
            && (self.bytes > ROOM || key.0 + HOLD <= now)
        {
            let key = *key;
            due.extend(self.take(key).map(|held| held.packet));
        }
        due
    }

    fn nearest(&self, packet: &Packet, wanted: impl Fn(&Held) -> bool) -> Option<(Duration, u64)> {
        let from = (packet.time.saturating_sub(HOLD), 0);
        let to = (packet.time + HOLD, u64::MAX);
        let found = self.held.range(from..=to).filter(|(_, held)| wanted(held));
        found.map(|(key, _)| *key).min_by_key(|key| key.0.abs_diff(packet.time))
    }

    fn hold(&mut self, packet: Packet, awaits: Option<u32>) {
        self.number += 1;
        self.bytes += packet.data.len() + OVERHEAD;
        self.awaiting += usize::from(awaits.is_some());
        self.held.insert((packet.time, self.number), Held { packet, awaits });
    }

    fn take(&mut self, key: (Duration, u64)) -> Option<Held> {
        let held = self.held.remove(&key)?;
        self.bytes -= held.packet.data.len() + OVERHEAD;
        self.awaiting -= usize::from(held.awaits.is_some());
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{HOLD, Merger, Packet};

    const TAP: u32 = 0;
    const DROPS: u32 = 1;

    fn at(micros: u64, data: &[u8]) -> Packet {
        let time = Duration::from_secs(1000) + Duration::from_micros(micros);
        Packet { channel: TAP, time, outgoing: Some(true), length: 100, data: data.to_vec(), comment: None }
    }

    fn drop(micros: u64, data: &[u8], why: &str) -> Packet {
        Packet { channel: DROPS, outgoing: None, comment: Some(why.to_owned()), ..at(micros, data) }
    }

    fn end(mut merger: Merger) -> Vec<(u32, Option<String>)> {
        let due = merger.due(Duration::from_secs(2000));
        assert_eq!((merger.bytes, merger.awaiting, merger.held.len()), (0, 0, 0));
        due.into_iter().map(|packet| (packet.channel, packet.comment)).collect()
    }

    #[test]
    fn a_drop_and_its_packet_are_one_in_either_order() {
        for first in [true, false] {
            let mut merger = Merger::default();
            merger.seen(at(0, b"other"));
            if first {
                merger.dropped(drop(15, b"gone", "why"), Some(TAP));
            }
            // The shorter of two copies counts.
            merger.seen(at(10, b"gone and more"));
            if !first {
                merger.dropped(drop(15, b"gone", "why"), Some(TAP));
            }
            assert_eq!(end(merger), [(TAP, None), (TAP, Some("why".to_owned()))]);
        }
    }

    #[test]
    fn of_several_alike_the_nearest_is_the_dropped_one() {
        let mut merger = Merger::default();
        for micros in [0, 100, 200] {
            merger.seen(at(micros, b"same"));
        }
        merger.dropped(drop(104, b"same", "second"), Some(TAP));
        merger.dropped(drop(204, b"same", "third"), Some(TAP));
        let comments: Vec<_> = end(merger).into_iter().map(|(_, comment)| comment).collect();
        assert_eq!(comments, [None, Some("second".to_owned()), Some("third".to_owned())]);
    }

    #[test]
    fn what_no_interface_has_seen_stands_alone() {
        let mut merger = Merger::default();
        merger.seen(at(0, b"same"));
        merger.dropped(drop(1, b"same", "seen nowhere"), None);
        merger.dropped(drop(2, b"other", "not seen"), Some(TAP));
        merger.dropped(Packet { length: 99, ..drop(3, b"same", "longer") }, Some(TAP));
        let alone = |why: &str| (DROPS, Some(why.to_owned()));
        assert_eq!(end(merger), [(TAP, None), alone("seen nowhere"), alone("not seen"), alone("longer")]);
    }

    #[test]
    fn packets_go_on_in_the_order_of_their_times() {
        let mut merger = Merger::default();
        merger.seen(at(200, b"b"));
        merger.seen(at(100, b"a"));
        let start = Duration::from_secs(1000);
        assert!(merger.due(start + HOLD).is_empty());
        let first = merger.due(start + HOLD + Duration::from_micros(100));
        assert_eq!(first, [at(100, b"a")]);
        assert_eq!(merger.due(start + HOLD * 2).len(), 1);
    }
}
