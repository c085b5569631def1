//! Moving endpoints. The store says how far each move is; whoever's turn it is takes the next step, whenever it sees it: a move
//! goes on by itself whichever agent dies and returns, and the command that asked for it only waits.
//!
//! | phase | whose turn | what it does |
//! | --- | --- | --- |
//! | requested | destination | makes the port, its program and rows |
//! | prepared | home, once activation is asked for | reads the connections, hands them over |
//! | copied | destination | takes the connections |
//! | armed | home | takes its port away and relays; then changes the home, in one transaction |
//! | activated | former home | relays for [`RELAY`], then releases the endpoint |
//!
//! Only the home writes what makes others send to the destination, and it does so after it has stopped: at no time do two
//! nodes deliver.

use std::collections::BTreeSet;

use fabric_api::object::{Destination, MoveStep, MovementPhase};
use tokio::task::JoinSet;

use super::{draft::flows_note, *};
use crate::{service::draft::Draft, store::Snapshot};

/// How long the former home relays: every agent that reaches the store knows the new home by then.
const RELAY: Duration = Duration::from_secs(5);
/// When the new home ends it, if the former one has not.
const RELAY_LATE: Duration = Duration::from_secs(60);
/// How long a command that releases an endpoint waits for the new home to take over.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// A step that failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// What is to be done next about a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Seat,
    Prepare,
    HandOver,
    Arm,
    Activate,
    TakeRest,
    Release(Duration),
}

/// Whether it is `node`'s turn, and to do what. `flows`: whether connections are waiting to be taken.
pub(super) fn turn(endpoint: &Endpoint, node: &str, flows: bool) -> Option<Turn> {
    let movement = endpoint.spec.movement.as_ref()?;
    let (home, other) = (endpoint.spec.node.as_deref() == Some(node), movement.node == node);
    match movement.phase {
        MovementPhase::Requested if other && movement.reason.is_empty() => {
            Some(if movement.slot.is_none() { Turn::Seat } else { Turn::Prepare })
        }
        MovementPhase::Prepared if home && movement.activate => Some(Turn::HandOver),
        MovementPhase::Copied if other => Some(Turn::Arm),
        MovementPhase::Armed if home => Some(Turn::Activate),
        MovementPhase::Activated if home && flows => Some(Turn::TakeRest),
        MovementPhase::Activated if home => Some(Turn::Release(RELAY_LATE)),
        MovementPhase::Activated if other => Some(Turn::Release(RELAY)),
        MovementPhase::Requested
        | MovementPhase::Prepared
        | MovementPhase::Copied
        | MovementPhase::Armed
        | MovementPhase::Activated => None,
    }
}

fn turns(snapshot: &Snapshot, node: &str) -> Vec<(Endpoint, Turn)> {
    let flows = |name: &str| snapshot.cursors.contains_key(&flows_note(name));
    let moving =
        snapshot.objects.iter().filter_map(|o| if let Object::Endpoint(e) = o { Some(e) } else { None });
    let moving = moving.filter(|e| e.spec.movement.is_some());
    moving.filter_map(|e| Some((e.clone(), turn(e, node, flows(&e.metadata.name))?))).collect()
}

fn stored<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Endpoint, ServiceError> {
    match snapshot.get("Endpoint", name) {
        Some(Object::Endpoint(endpoint)) => Ok(endpoint),
        _ => Err(ServiceError::not_found("Endpoint", name)),
    }
}

impl Service {
    /// Takes a step of a move, or all of them, and answers when it is done. Goes on to its end even if the caller goes away.
    ///
    /// # Errors
    /// Why it can't be done. A move that was asked for and does not get as far as `armed` is undone.
    pub async fn move_endpoint(
        &self,
        owner: &Owner,
        name: &str,
        step: MoveStep,
    ) -> Result<Endpoint, ServiceError> {
        let (this, owner, name) = (self.clone(), owner.clone(), name.to_owned());
        let task = tokio::spawn(async move { this.step(&owner, &name, step).await });
        task.await.unwrap_or_else(|e| {
            Err(ServiceError::new(ErrorKind::Internal, format!("the moving task ended: {e}")))
        })
    }

    async fn step(&self, owner: &Owner, name: &str, step: MoveStep) -> Result<Endpoint, ServiceError> {
        match step {
            MoveStep::Move(to) => {
                let snapshot = self.inner.store.snapshot().await?;
                let endpoint = stored(&snapshot, name)?;
                if endpoint.spec.node.as_ref() == Some(&to.node) && endpoint.spec.movement.is_none() {
                    return self.endpoint(name).await;
                }
                self.request(owner, name, &to, true).await?;
                self.reach(owner, name, MovementPhase::Activated).await
            }
            MoveStep::Prepare(to) => {
                self.request(owner, name, &to, false).await?;
                self.reach(owner, name, MovementPhase::Prepared).await
            }
            MoveStep::Activate => {
                self.transact(|draft| draft.allow_activation(owner, name)).await?;
                self.reach(owner, name, MovementPhase::Activated).await
            }
            MoveStep::Release => {
                self.taken_over(name).await?;
                let ((), revision) = self.transact(|draft| draft.release(owner, name)).await?;
                self.settle(revision).await;
                self.endpoint(name).await
            }
            MoveStep::Abort => {
                let ((), revision) = self.transact(|draft| draft.abort_move(owner, name)).await?;
                self.settle(revision).await;
                self.endpoint(name).await
            }
        }
    }

    async fn request(
        &self,
        owner: &Owner,
        name: &str,
        to: &Destination,
        activate: bool,
    ) -> Result<(), ServiceError> {
        let change = |draft: &mut Draft| {
            draft.request_move(owner, name, to, activate)?;
            draft.validate()
        };
        self.transact(change).await.map(drop)
    }

    /// Waits until a move is at `phase` or beyond. Undoes it if it gets stuck before it is armed.
    async fn reach(&self, owner: &Owner, name: &str, phase: MovementPhase) -> Result<Endpoint, ServiceError> {
        let mut changes = self.changes();
        let limit = tokio::time::Instant::now() + self.inner.timeout;
        loop {
            changes.mark_unchanged();
            let snapshot = self.inner.store.snapshot().await?;
            let endpoint = stored(&snapshot, name)?;
            let Some(movement) = &endpoint.spec.movement else {
                // Released already, or aborted by somebody else.
                return self.endpoint(name).await;
            };
            if movement.phase >= phase {
                self.settle(snapshot.revision).await;
                return self.endpoint(name).await;
            }
            if !movement.reason.is_empty() {
                let text =
                    format!("endpoint {name} can't be moved to node {}: {}", movement.node, movement.reason);
                return Err(self.undo(owner, name, text).await);
            }
            if !matches!(tokio::time::timeout_at(limit, changes.changed()).await, Ok(Ok(()))) {
                let home = endpoint.spec.node.as_deref().unwrap_or_default();
                let waits = match movement.phase {
                    MovementPhase::Requested | MovementPhase::Copied => &movement.node,
                    MovementPhase::Prepared | MovementPhase::Armed | MovementPhase::Activated => home,
                };
                let text = format!(
                    "endpoint {name} was not moved to node {} in {} s, since the agent of node {waits} does not go on: see `fabric node ls`",
                    movement.node,
                    self.inner.timeout.as_secs()
                );
                if movement.phase == MovementPhase::Armed {
                    let text = format!("{text}; the move ends when that returns");
                    return Err(ServiceError::new(ErrorKind::Unavailable, text));
                }
                return Err(self.undo(owner, name, text).await);
            }
        }
    }

    /// Aborts a move after a failure, which `text` tells.
    async fn undo(&self, owner: &Owner, name: &str, text: String) -> ServiceError {
        let undone = self.transact(|draft| draft.abort_move(owner, name)).await;
        let also =
            undone.err().map_or(String::new(), |e| format!("; undoing it failed as well: {}", e.message));
        ServiceError::new(ErrorKind::Unavailable, format!("{text}{also}"))
    }

    /// Takes this node's part in moves, for as long as the future is polled.
    pub async fn keep_moving(self) {
        let mut changes = self.changes();
        let mut running: JoinSet<String> = JoinSet::new();
        let mut busy = BTreeSet::new();
        loop {
            changes.mark_unchanged();
            let due = match self.inner.store.snapshot().await {
                Ok(snapshot) => turns(&snapshot, self.node_name()),
                // Nothing was read yet, which the store tells by itself.
                Err(_) => Vec::new(),
            };
            for (endpoint, turn) in due {
                if busy.insert(endpoint.metadata.name.clone()) {
                    let this = self.clone();
                    running.spawn(async move { this.take_turn(endpoint, turn).await });
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                Some(done) = running.join_next() => if let Ok(name) = done { busy.remove(&name); },
            }
        }
    }

    async fn take_turn(&self, endpoint: Endpoint, turn: Turn) -> String {
        let name = endpoint.metadata.name.clone();
        tracing::debug!(endpoint = name, ?turn, "moving");
        if let Err(error) = self.one_turn(&endpoint, turn).await {
            tracing::warn!("the move of endpoint {name} does not go on: {error}");
            tokio::time::sleep(AGAIN).await;
        }
        name
    }

    /// Takes one step. Doing it again, or late, is harmless: it changes nothing that is not as `seen`.
    async fn one_turn(&self, seen: &Endpoint, turn: Turn) -> Result<(), ServiceError> {
        let name = &seen.metadata.name;
        match turn {
            Turn::Seat => {
                let change = |draft: &mut Draft| {
                    draft.seat_move(seen)?;
                    draft.validate()
                };
                match self.transact(change).await {
                    Err(e) if e.kind == ErrorKind::Unavailable => Err(e),
                    Err(e) => self.fail(seen, &e.message).await,
                    Ok(_) => Ok(()),
                }
            }
            Turn::Prepare => match self.outcome(name, seen.metadata.revision).await {
                Ok(()) => self.advance(seen, MovementPhase::Prepared, None).await,
                Err(text) => self.fail(seen, &text).await,
            },
            Turn::HandOver => {
                let flows = self.inner.kernel.flows(&seen.spec.addresses);
                self.advance(seen, MovementPhase::Copied, Some(&flows)).await
            }
            Turn::Arm => {
                self.take_flows(seen).await?;
                self.advance(seen, MovementPhase::Armed, None).await
            }
            Turn::Activate => {
                // From here on this node delivers nothing more, and has no new connections.
                let stopped = self.outcome(name, seen.metadata.revision).await;
                stopped.map_err(|text| ServiceError::new(ErrorKind::Unavailable, text))?;
                let flows = self.inner.kernel.flows(&seen.spec.addresses);
                let change = |draft: &mut Draft| {
                    draft.activate_move(seen, &flows);
                    draft.validate()
                };
                self.transact(change).await.map(drop)
            }
            Turn::TakeRest => {
                // By this the others know that the new home is one in its kernel as well.
                self.settle(seen.metadata.revision).await;
                if let Some(taken) = self.take_flows(seen).await? {
                    let change = |draft: &mut Draft| {
                        draft.took_flows(name, &taken);
                        Ok(())
                    };
                    self.transact(change).await?;
                }
                Ok(())
            }
            Turn::Release(after) => {
                if self.unchanged_for(seen, after).await {
                    self.transact(|draft| draft.release_move(name, Some(seen))).await?;
                }
                Ok(())
            }
        }
    }

    async fn fail(&self, seen: &Endpoint, reason: &str) -> Result<(), ServiceError> {
        let change = |draft: &mut Draft| {
            draft.fail_move(seen, reason);
            Ok(())
        };
        self.transact(change).await.map(drop)
    }

    async fn advance(
        &self,
        seen: &Endpoint,
        phase: MovementPhase,
        flows: Option<&str>,
    ) -> Result<(), ServiceError> {
        let change = |draft: &mut Draft| {
            draft.advance_move(seen, phase, flows);
            Ok(())
        };
        self.transact(change).await.map(drop)
    }

    /// Gives the kernel the connections that wait for it, and says what they were.
    async fn take_flows(&self, endpoint: &Endpoint) -> Result<Option<String>, ServiceError> {
        let snapshot = self.inner.store.snapshot().await?;
        let Some(note) = snapshot.cursors.get(&flows_note(&endpoint.metadata.name)) else { return Ok(None) };
        if let Some(Object::Network(network)) = snapshot.get("Network", &endpoint.spec.network)
            && let Some(vni) = network.spec.vni
        {
            self.inner.kernel.take_flows(vni, &endpoint.spec.addresses, &note.value);
        }
        Ok(Some(note.value.clone()))
    }

    /// Waits until the new home has taken over, but not for ever.
    async fn taken_over(&self, name: &str) -> Result<(), ServiceError> {
        let mut changes = self.changes();
        let end = tokio::time::Instant::now() + TAKE_OVER;
        loop {
            changes.mark_unchanged();
            let snapshot = self.inner.store.snapshot().await?;
            let over = !snapshot.cursors.contains_key(&flows_note(name));
            if over || !matches!(tokio::time::timeout_at(end, changes.changed()).await, Ok(Ok(()))) {
                return Ok(());
            }
        }
    }

    /// Whether a move and its connections stay as they are for a time.
    async fn unchanged_for(&self, seen: &Endpoint, time: Duration) -> bool {
        let mut changes = self.changes();
        let end = tokio::time::Instant::now() + time;
        loop {
            changes.mark_unchanged();
            let Ok(snapshot) = self.inner.store.snapshot().await else { return false };
            let now = stored(&snapshot, &seen.metadata.name).map(|e| (&e.spec.movement, e.spec.generation));
            let flows = snapshot.cursors.contains_key(&flows_note(&seen.metadata.name));
            let wants = turn(seen, self.node_name(), flows);
            if now != Ok((&seen.spec.movement, seen.spec.generation)) || wants == Some(Turn::TakeRest) {
                return false;
            }
            match tokio::time::timeout_at(end, changes.changed()).await {
                Err(_) => return true,
                Ok(Ok(())) => {}
                Ok(Err(_)) => return false,
            }
        }
    }
}
