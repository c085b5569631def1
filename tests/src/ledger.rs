//! Every counter before and after: what a test does not name must not have moved.

use std::{collections::BTreeMap, fmt::Write as _};

use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf},
    util::nr_cpus,
};
use fabric_common::{
    abi,
    counters::{ACTION_SLOTS, DropKey, HOOK_SLOTS, Tally},
    event::DropEvent,
    port::PortCounters,
    reason::{Action, DropReason, Hook},
};

use crate::cast::Container;

/// Counter slots that are watched: more than any walk uses.
pub const SLOTS: u32 = 64;

/// Names of counters and by how much each moved.
pub type Lines = BTreeMap<String, u64>;

/// Lines that belong together, to be named in one word.
pub type Entry = Vec<(String, u64)>;

/// A drop of one frame: its packets, its bytes, and the event that tells of it.
pub fn dropped(hook: Hook, reason: DropReason, bytes: usize) -> Entry {
    let mut entry = tally(&format!("drops {hook} {reason}"), 1, bytes as u64);
    entry.push((format!("events {hook} {reason}"), 1));
    entry
}

/// An action taken with one frame.
pub fn action(hook: Hook, action: Action, bytes: usize) -> Entry {
    actions(hook, action, 1, bytes)
}

/// An action taken with a frame that stands for several packets.
pub fn actions(hook: Hook, action: Action, packets: u64, bytes: usize) -> Entry {
    tally(&format!("actions {hook} {action}"), packets, bytes as u64)
}

/// A container's frame that the fabric took.
pub fn sent(by: &Container, bytes: usize) -> Entry {
    sent_segments(by, 1, bytes)
}

/// A container's frame that stands for several packets and that the fabric took.
pub fn sent_segments(by: &Container, packets: u64, bytes: usize) -> Entry {
    tally(&format!("port slot {} egress", by.slot), packets, bytes as u64)
}

/// A frame delivered to a container.
pub fn received(by: &Container, bytes: usize) -> Entry {
    tally(&format!("port slot {} ingress", by.slot), 1, bytes as u64)
}

/// A frame of a container that was dropped, in the container's own counters.
pub fn sender_dropped(by: &Container) -> Entry {
    vec![(format!("port slot {} egress drops", by.slot), 1)]
}

fn tally(name: &str, packets: u64, bytes: u64) -> Entry {
    vec![(format!("{name} packets"), packets), (format!("{name} bytes"), bytes)]
}

/// What moved during a run.
#[derive(Debug, Default)]
pub struct Changes {
    lines: Lines,
    /// The events that came, in order.
    pub events: Vec<DropEvent>,
}

impl Changes {
    /// By how much each counter moved that did.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Panics with a list of all that moved unless it is exactly what `expected` names.
    #[track_caller]
    pub fn assert(&self, what: &str, expected: &[Entry]) {
        let mut wanted = Lines::new();
        for (name, count) in expected.iter().flatten() {
            *wanted.entry(name.clone()).or_default() += count;
        }
        if wanted == self.lines {
            return;
        }
        let mut text = format!("{what}: the counters tell another story\n");
        for name in wanted.keys().chain(self.lines.keys().filter(|name| !wanted.contains_key(*name))) {
            let (want, got) = (wanted.get(name).unwrap_or(&0), self.lines.get(name).unwrap_or(&0));
            let mark = if want == got { "  " } else { "->" };
            let _ = writeln!(text, "{mark} {name:50} expected +{want}, moved +{got}");
        }
        panic!("{text}");
    }
}

/// Access to all counters of one loaded object.
pub struct Ledger {
    drops: PerCpuHashMap<MapData, DropKey, Tally>,
    actions: PerCpuArray<MapData, Tally>,
    ports: PerCpuArray<MapData, PortCounters>,
    budget: PerCpuArray<MapData, [u64; 4]>,
    events: RingBuf<MapData>,
    before: Lines,
}

fn take(ebpf: &mut Ebpf, name: &str) -> Map {
    ebpf.take_map(name).unwrap_or_else(|| panic!("the object has no map {name}"))
}

impl Ledger {
    /// Takes the counters out of the object, and makes a row for every possible drop, as the agent does.
    pub fn new(ebpf: &mut Ebpf) -> Self {
        let mut ledger = Self {
            drops: take(ebpf, abi::DROPS.name).try_into().expect("a per-CPU hash"),
            actions: take(ebpf, abi::ACTIONS.name).try_into().expect("a per-CPU array"),
            ports: take(ebpf, abi::PORT_COUNTERS.name).try_into().expect("a per-CPU array"),
            budget: take(ebpf, abi::EVENT_BUDGET.name).try_into().expect("a per-CPU array"),
            events: take(ebpf, abi::EVENTS.name).try_into().expect("a ring buffer"),
            before: Lines::new(),
        };
        let cpus = nr_cpus().expect("the kernel tells how many CPUs it has");
        for hook in Hook::ALL {
            for reason in DropReason::ALL {
                let zero = PerCpuValues::try_from(vec![Tally { packets: 0, bytes: 0 }; cpus])
                    .expect("one for each CPU");
                ledger
                    .drops
                    .insert(DropKey::new(*hook, *reason), zero, 0)
                    .expect("there is room for every pair");
            }
        }
        ledger.before = ledger.read();
        ledger
    }

    /// What moved since the last call.
    pub fn changes(&mut self) -> Changes {
        let after = self.read();
        let mut changes = Changes::default();
        for (name, now) in &after {
            // All of them only rise, but for the suppressed events, which the next event takes along.
            let moved = now.saturating_sub(*self.before.get(name).unwrap_or(&0));
            if moved != 0 {
                changes.lines.insert(name.clone(), moved);
            }
        }
        changes.events = self.events();
        for event in &changes.events {
            let name = format!("events {} {}", hook(event.hook), reason(event.reason));
            *changes.lines.entry(name).or_default() += 1;
        }
        self.before = after;
        changes
    }

    /// The events since the last look, in order. They are a frame's own reason without a look at any counter.
    pub fn events(&mut self) -> Vec<DropEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            let event: &[u8] = &item;
            assert_eq!(event.len(), size_of::<DropEvent>(), "an event has another size");
            // SAFETY: the length is that of the record, which is valid for every bit pattern; read without alignment.
            events.push(unsafe { event.as_ptr().cast::<DropEvent>().read_unaligned() });
        }
        events
    }

    fn read(&self) -> Lines {
        let mut lines = Lines::new();
        for row in self.drops.iter() {
            let (key, values) = row.expect("the map can be read");
            let name = format!("drops {} {}", hook(key.hook), reason(key.reason));
            lines.extend(sum(&name, &values));
        }
        for index in 0..HOOK_SLOTS * ACTION_SLOTS {
            let values = self.actions.get(&index, 0).expect("the map can be read");
            let number = (index % ACTION_SLOTS) as u8;
            let action = Action::from_number(number).map_or(number.to_string(), |a| a.to_string());
            lines.extend(sum(&format!("actions {} {action}", hook((index / ACTION_SLOTS) as u8)), &values));
        }
        for slot in 0..SLOTS {
            let values = self.ports.get(&slot, 0).expect("the map can be read");
            lines.extend(port(slot, &values));
        }
        let budget = self.budget.get(&0, 0).expect("the map can be read");
        lines.insert(
            "events suppressed".to_owned(),
            budget.iter().map(|[_, _, suppressed, _]| suppressed).sum(),
        );
        lines
    }
}

fn sum(name: &str, values: &PerCpuValues<Tally>) -> Entry {
    tally(name, values.iter().map(|v| v.packets).sum(), values.iter().map(|v| v.bytes).sum())
}

fn port(slot: u32, values: &PerCpuValues<PortCounters>) -> Entry {
    let total = |field: fn(&PortCounters) -> u64| values.iter().map(field).sum();
    vec![
        (format!("port slot {slot} egress packets"), total(|v| v.egress_packets)),
        (format!("port slot {slot} egress bytes"), total(|v| v.egress_bytes)),
        (format!("port slot {slot} ingress packets"), total(|v| v.ingress_packets)),
        (format!("port slot {slot} ingress bytes"), total(|v| v.ingress_bytes)),
        (format!("port slot {slot} egress drops"), total(|v| v.egress_drops)),
        (format!("port slot {slot} ingress drops"), total(|v| v.ingress_drops)),
    ]
}

fn hook(number: u8) -> String {
    Hook::from_number(number).map_or(format!("hook {number}"), |hook| hook.to_string())
}

fn reason(number: u8) -> String {
    DropReason::from_number(number).map_or(format!("reason {number}"), |reason| reason.to_string())
}
