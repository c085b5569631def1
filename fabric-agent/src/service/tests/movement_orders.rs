//! Moves under any order of events: nodes that read late, miss what was in between, take a step again, die or are cut off, while
//! somebody moves, aborts and releases at will. At no time do two nodes deliver, no node goes back to an older generation, and in
//! the end all agree.

use std::collections::BTreeSet;

use fabric_api::object::{Destination, MovementPhase};
use proptest::prelude::*;

use super::*;
use crate::{
    model::{self, Presence},
    service::{
        draft::Draft,
        movement::{Turn, turn},
    },
    store::{Cursor, Snapshot, Write},
};

const NODES: usize = 4;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A node reads the newest state.
    Read(usize),
    /// A node's kernel becomes as the node has read.
    Program(usize),
    /// A node takes its turn, by what it has read; its turn may be long over.
    Turn(usize),
    /// Somebody asks for a move to a node.
    Move(usize, bool),
    Activate,
    Abort,
    Release,
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 0..NODES;
    prop_oneof![
        6 => node().prop_map(Event::Read),
        6 => node().prop_map(Event::Program),
        8 => node().prop_map(Event::Turn),
        3 => (node(), any::<bool>()).prop_map(|(node, all)| Event::Move(node, all)),
        1 => Just(Event::Activate),
        1 => Just(Event::Abort),
        1 => Just(Event::Release),
    ]
}

fn name(node: usize) -> String {
    format!("n{node}")
}

/// What a node has read, and what its kernel has of it.
#[derive(Clone)]
struct View {
    read: Endpoint,
    flows: bool,
    kernel: model::Endpoint,
    /// The revision that the kernel has.
    programmed: u64,
}

struct World {
    store: Snapshot,
    views: Vec<View>,
}

fn moving(snapshot: &Snapshot) -> Endpoint {
    match snapshot.get("Endpoint", "web") {
        Some(Object::Endpoint(endpoint)) => endpoint.clone(),
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new() -> Self {
        let mut objects = vec![object(
            r#"{"kind":"Endpoint","metadata":{"name":"web","owner":"cli","revision":1},"spec":{"network":"blue","node":"n0","addresses":["10.0.0.9"],
            "mac":"02:00:00:00:00:09","namespace":"blue","attachment":{"netns":"/a","netnsInode":1,"ifname":"eth0"}},"status":{"local":true,"slot":0,"state":"pending"}}"#,
        )];
        objects.push(object(
            r#"{"kind":"Network","metadata":{"name":"blue","owner":"cli","revision":1},"spec":{"vni":100,"subnets":["10.0.0.0/24"]}}"#,
        ));
        objects.extend((0..NODES).map(|n| {
            object(&format!(
                r#"{{"kind":"Node","metadata":{{"name":"n{n}","owner":"cli","revision":1}},"spec":{{"vteps":["192.0.2.{}"]}}}}"#,
                n + 1
            ))
        }));
        let store = Snapshot { revision: 1, objects, ..Snapshot::default() };
        let read = moving(&store);
        let kernel = model::Endpoint::new(&read).unwrap();
        let view = View { read, flows: false, kernel, programmed: 1 };
        Self { store, views: vec![view; NODES] }
    }

    /// A transaction of a node's agent. What is refused changes nothing.
    fn transact<T>(
        &mut self,
        node: usize,
        change: impl FnOnce(&mut Draft) -> Result<T, ServiceError>,
    ) -> bool {
        let settings = ServiceSettings { node: name(node), slots: 3, blocks: true };
        let facts = NodeFacts { node: name(node), ..NodeFacts::default() };
        let mut draft = Draft::new(&self.store, settings, facts, resolve);
        if change(&mut draft).is_err() || draft.validate().is_err() {
            return false;
        }
        let writes = draft.into_writes(&self.store);
        let revision = self.store.revision + 1;
        for write in writes {
            match write {
                Write::Put { mut object, .. } => {
                    object.metadata_mut().revision = revision;
                    let key = (object.kind(), object.id().into_owned());
                    let at = self.store.objects.iter().position(|o| (o.kind(), o.id().into_owned()) == key);
                    self.store.objects[at.expect("nothing is created")] = *object;
                }
                Write::Cursor { name, value: Some(value), .. } => {
                    drop(self.store.cursors.insert(name, Cursor { revision, value }));
                }
                Write::Cursor { name, value: None, .. } => drop(self.store.cursors.remove(&name)),
                Write::Require { .. } => {}
                Write::Delete { .. } => panic!("nothing is deleted"),
            }
            self.store.revision = revision;
        }
        true
    }

    fn happen(&mut self, event: Event) {
        let cli = Owner::cli();
        match event {
            Event::Read(node) => {
                let view = &mut self.views[node];
                view.read = moving(&self.store);
                view.flows = self.store.cursors.contains_key("flows/web");
            }
            Event::Program(node) => {
                let view = &mut self.views[node];
                let next = model::Endpoint::new(&view.read).unwrap();
                assert!(next.generation >= view.kernel.generation, "node {node} goes back");
                view.kernel = next;
                view.programmed = view.read.metadata.revision;
            }
            Event::Turn(node) => self.turn(node),
            Event::Move(node, all) => {
                let to = Destination { node: name(node), netns: "/there".to_owned(), ifname: None };
                self.transact(node, |draft| draft.request_move(&cli, "web", &to, all));
            }
            Event::Activate => drop(self.transact(0, |draft| draft.allow_activation(&cli, "web"))),
            Event::Abort => drop(self.transact(0, |draft| draft.abort_move(&cli, "web"))),
            Event::Release if self.all_know() => drop(self.transact(0, |draft| draft.release(&cli, "web"))),
            Event::Release => {}
        }
        self.check();
    }

    /// Whether everybody has the newest home: the relay is as long as that takes. The new home itself is asked, however.
    fn all_know(&self) -> bool {
        let stored = moving(&self.store).spec;
        let home = stored.node.clone().unwrap_or_default();
        let others = (0..NODES).filter(|node| name(*node) != home);
        others.into_iter().all(|node| self.views[node].kernel.generation == stored.generation)
    }

    /// As [`Service::one_turn`] does it, without waiting.
    fn turn(&mut self, node: usize) {
        let View { read: seen, flows, programmed, .. } = self.views[node].clone();
        let Some(turn) = turn(&seen, &name(node), flows) else { return };
        let ready = programmed >= seen.metadata.revision;
        let all_know = self.all_know();
        self.transact(node, |draft| {
            match turn {
                Turn::Seat => draft.seat_move(&seen)?,
                Turn::Prepare if ready => draft.advance_move(&seen, MovementPhase::Prepared, None),
                Turn::HandOver => draft.advance_move(&seen, MovementPhase::Copied, Some("flows")),
                Turn::Arm => draft.advance_move(&seen, MovementPhase::Armed, None),
                Turn::Activate if ready => draft.activate_move(&seen, "more flows"),
                Turn::TakeRest if ready => draft.took_flows("web", "more flows"),
                Turn::Release(_) if all_know => draft.release_move("web", Some(&seen))?,
                Turn::Prepare | Turn::Activate | Turn::TakeRest | Turn::Release(_) => {}
            }
            Ok(())
        });
    }

    /// Where a packet that a container on `node` sends ends: there, or nowhere.
    fn delivered(&self, node: usize) -> Option<usize> {
        let number = |of: &str| (0..NODES).find(|n| name(*n) == of).expect("a node");
        let local = |node: usize| self.views[node].kernel.presence(&name(node));
        let mut at = match local(node) {
            Presence::Home | Presence::Arrived(_) => return Some(node),
            Presence::Left(to) => number(to),
            Presence::Arriving | Presence::Away => number(&self.views[node].kernel.node),
        };
        for _ in 0..NODES {
            match local(at) {
                Presence::Home | Presence::Arrived(_) | Presence::Arriving => return Some(at),
                Presence::Left(to) => at = number(to),
                Presence::Away => return None,
            }
        }
        panic!("a packet is relayed in a circle");
    }

    fn check(&self) {
        let places: BTreeSet<usize> = (0..NODES).filter_map(|node| self.delivered(node)).collect();
        assert!(places.len() < 2, "delivered on nodes {places:?}");
        // Whoever has no part in it is never without a way while it reads at all.
        let stored = moving(&self.store);
        assert_eq!(stored.spec.addresses.len(), 1);
        let slot = stored.status.and_then(|status| status.slot);
        assert!(slot.is_some() && stored.spec.attachment.is_some(), "a home without a place");
    }

    /// Everybody reads, programs and acts until nothing changes.
    fn settle(&mut self) {
        for _ in 0..20 {
            let (before, all_know) = (self.store.revision, self.all_know());
            for node in 0..NODES {
                self.happen(Event::Read(node));
                self.happen(Event::Program(node));
                self.happen(Event::Turn(node));
            }
            if self.store.revision == before && all_know {
                return;
            }
        }
        panic!("it never ends");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn never_two_homes_never_back_and_all_agree_in_the_end(events in proptest::collection::vec(event(), 1..150)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.settle();
        let stored = moving(&world.store);
        // What waits for its activation, or was refused, is somebody's to go on with; everything else has ended.
        if let Some(movement) = &stored.spec.movement {
            prop_assert!(movement.phase == MovementPhase::Prepared && !movement.activate, "{movement:?}");
        }
        let home = stored.spec.node.clone().unwrap();
        for node in 0..NODES {
            let there = world.delivered(node).map(name);
            prop_assert_eq!(there.as_deref(), Some(home.as_str()), "as seen from node {}", node);
            prop_assert_eq!(world.views[node].kernel.generation, stored.spec.generation);
        }
    }
}

/// The simulation reaches what it is about.
#[test]
fn a_whole_move_in_order() {
    let mut world = World::new();
    world.happen(Event::Move(2, true));
    world.settle();
    let stored = moving(&world.store);
    assert_eq!(
        (stored.spec.node.as_deref(), stored.spec.generation, stored.spec.movement),
        (Some("n2"), 2, None)
    );
    assert!(world.store.cursors.is_empty(), "{:?}", world.store.cursors);
}
