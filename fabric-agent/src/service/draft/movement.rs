//! The steps of a move, each one transaction. Who takes a step says which state it rests on; if somebody has changed that, the
//! step is not done.

use fabric_api::{
    Endpoint, Object,
    object::{Attachment, Destination, Movement, MovementPhase},
    status::EndpointStatus,
};

use super::{super::ServiceError, Draft, Owner};
use crate::model;

/// Name of the note with the connections that an endpoint takes along.
pub(in crate::service) fn flows_note(endpoint: &str) -> String {
    format!("flows/{endpoint}")
}

impl Draft {
    fn stored_endpoint(&self, name: &str) -> Result<Endpoint, ServiceError> {
        match self.get("Endpoint", name) {
            Some(Object::Endpoint(endpoint)) => Ok(endpoint.clone()),
            _ => Err(ServiceError::not_found("Endpoint", name)),
        }
    }

    fn own_endpoint(&self, owner: &Owner, name: &str) -> Result<Endpoint, ServiceError> {
        let endpoint = self.stored_endpoint(name)?;
        owner.check(&Object::Endpoint(endpoint.clone()))?;
        Ok(endpoint)
    }

    fn set_endpoint(&mut self, endpoint: Endpoint) {
        let key = ("Endpoint".to_owned(), endpoint.metadata.name.clone());
        self.objects.insert(key.clone(), Object::Endpoint(endpoint));
        self.touched.insert(key);
    }

    /// Writes down where an endpoint is to go. Asking for the same again goes on with what was begun, also after a failure.
    pub(in crate::service) fn request_move(
        &mut self,
        owner: &Owner,
        name: &str,
        to: &Destination,
        activate: bool,
    ) -> Result<(), ServiceError> {
        let mut endpoint = self.own_endpoint(owner, name)?;
        if !self.settings.blocks {
            return Err(ServiceError::refused(
                "endpoints move between hosts that share a store: start the agents with --store etcd://…",
            ));
        }
        let Some(own) = &endpoint.spec.attachment else {
            return Err(ServiceError::refused(format!(
                "endpoint {name} is not attached by an agent, so no agent can move it: declare its new node with `fabric apply`"
            )));
        };
        if own.engine.is_some() {
            return Err(ServiceError::refused(format!(
                "endpoint {name} belongs to a container engine, which moves no containers"
            )));
        }
        match self.before.nodes.get(&to.node) {
            None => {
                return Err(ServiceError::invalid(format!(
                    "node {} is not known: `fabric node ls` lists the nodes",
                    to.node
                )));
            }
            Some(node) if node.foreign => {
                return Err(ServiceError::invalid(format!("node {} is a foreign VTEP", to.node)));
            }
            Some(_) => self.takes_endpoints(&to.node)?,
        }
        if endpoint.spec.node.as_ref() == Some(&to.node) {
            return Err(ServiceError::conflict(format!("endpoint {name} lives on node {} already", to.node)));
        }
        let attachment = Attachment {
            netns: to.netns.clone(),
            netns_inode: 0,
            ifname: to.ifname.clone().unwrap_or_else(|| own.ifname.clone()),
            engine: None,
            container: None,
        };
        model::endpoint::check_attachment(&attachment)?;
        let fresh = Movement {
            phase: MovementPhase::Requested,
            node: to.node.clone(),
            attachment: Some(attachment.clone()),
            slot: None,
            activate,
            reason: String::new(),
        };
        let movement = match &endpoint.spec.movement {
            None => fresh,
            Some(m) if m.phase == MovementPhase::Activated => {
                return Err(ServiceError::conflict(format!(
                    "endpoint {name} has just been moved and node {} relays for it: try again, or release it first",
                    m.node
                )));
            }
            Some(m) if m.node != to.node => {
                return Err(ServiceError::conflict(format!(
                    "endpoint {name} is being moved to node {}: wait, or abort that",
                    m.node
                )));
            }
            // What is still to be prepared is prepared as it is wanted now.
            Some(m) if m.phase == MovementPhase::Requested => {
                Movement { activate: m.activate || activate, ..fresh }
            }
            Some(m) => {
                let same = m
                    .attachment
                    .as_ref()
                    .is_some_and(|a| (&a.netns, &a.ifname) == (&attachment.netns, &attachment.ifname));
                if !same {
                    return Err(ServiceError::conflict(format!(
                        "endpoint {name} is prepared for another interface there: abort that first"
                    )));
                }
                Movement { activate: m.activate || activate, reason: String::new(), ..m.clone() }
            }
        };
        if endpoint.spec.movement.as_ref() != Some(&movement) {
            endpoint.spec.movement = Some(movement);
            self.set_endpoint(endpoint);
        }
        Ok(())
    }

    /// Lets a prepared move go on.
    pub(in crate::service) fn allow_activation(
        &mut self,
        owner: &Owner,
        name: &str,
    ) -> Result<(), ServiceError> {
        let mut endpoint = self.own_endpoint(owner, name)?;
        match &mut endpoint.spec.movement {
            None => {
                return Err(ServiceError::conflict(format!(
                    "endpoint {name} is not being moved: prepare it first"
                )));
            }
            Some(m) if m.phase == MovementPhase::Activated || m.activate => return Ok(()),
            Some(m) => m.activate = true,
        }
        self.set_endpoint(endpoint);
        Ok(())
    }

    /// Undoes a move. The destination that is armed may have got packets already.
    pub(in crate::service) fn abort_move(&mut self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        let mut endpoint = self.own_endpoint(owner, name)?;
        match &endpoint.spec.movement {
            None => return Ok(()),
            Some(m) if m.phase == MovementPhase::Activated => {
                return Err(ServiceError::conflict(format!("endpoint {name} has been moved: move it back")));
            }
            Some(m) if m.phase == MovementPhase::Armed => {
                return Err(ServiceError::conflict(format!(
                    "endpoint {name} is just leaving node {}, whose agent ends the move: when that is done, move it back",
                    endpoint.spec.node.as_deref().unwrap_or("another")
                )));
            }
            Some(_) => {}
        }
        endpoint.spec.movement = None;
        self.set_endpoint(endpoint);
        self.note(&flows_note(name), None);
        Ok(())
    }

    /// Ends the relay of the former home, once the new one has taken over. `expected` is the move that is meant, if it is a certain one.
    pub(in crate::service) fn release_move(
        &mut self,
        name: &str,
        expected: Option<&Endpoint>,
    ) -> Result<(), ServiceError> {
        let mut endpoint = self.stored_endpoint(name)?;
        if expected.is_some_and(|e| e.spec.generation != endpoint.spec.generation) {
            return Ok(());
        }
        match &endpoint.spec.movement {
            None => return Ok(()),
            Some(m) if m.phase == MovementPhase::Activated => {}
            Some(_) if expected.is_some() => return Ok(()),
            Some(_) => {
                return Err(ServiceError::conflict(format!("endpoint {name} has not been moved yet")));
            }
        }
        // What the new home has not taken says that it may not know yet that it is one: who moves it on then could have two.
        if self.cursor(&flows_note(name)).is_some() {
            if expected.is_some() {
                return Ok(());
            }
            return Err(ServiceError::conflict(format!(
                "endpoint {name} has been moved, but the agent of node {} has not taken it over yet: see `fabric node ls`",
                endpoint.spec.node.as_deref().unwrap_or("another")
            )));
        }
        endpoint.spec.movement = None;
        self.set_endpoint(endpoint);
        self.note(&flows_note(name), None);
        Ok(())
    }

    /// The same for the owner's command.
    pub(in crate::service) fn release(&mut self, owner: &Owner, name: &str) -> Result<(), ServiceError> {
        self.own_endpoint(owner, name)?;
        self.release_move(name, None)
    }

    /// The endpoint and its move, if they are still as `seen`, but for whether activation was asked for.
    fn same_move(&self, seen: &Endpoint) -> Option<(Endpoint, Movement)> {
        let now = self.stored_endpoint(&seen.metadata.name).ok()?;
        let (movement, before) = (now.spec.movement.clone()?, seen.spec.movement.as_ref()?);
        let same = (movement.phase, &movement.node, &movement.attachment, movement.slot)
            == (before.phase, &before.node, &before.attachment, before.slot)
            && now.spec.generation == seen.spec.generation
            && now.spec.node == seen.spec.node;
        same.then_some((now, movement))
    }

    /// The destination, which is this node, chooses what only it can: it looks at the namespace, and takes a slot.
    pub(in crate::service) fn seat_move(&mut self, seen: &Endpoint) -> Result<(), ServiceError> {
        let Some((mut endpoint, mut movement)) = self.same_move(seen) else { return Ok(()) };
        let Some(attachment) = &mut movement.attachment else { return Ok(()) };
        self.resolve_attachment(&seen.metadata.name, attachment)?;
        movement.slot = Some(self.free_slot()?);
        endpoint.spec.movement = Some(movement);
        self.set_endpoint(endpoint);
        Ok(())
    }

    /// Says why a move does not go on; whoever asked for it undoes it.
    pub(in crate::service) fn fail_move(&mut self, seen: &Endpoint, reason: &str) {
        let Some((mut endpoint, movement)) = self.same_move(seen) else { return };
        endpoint.spec.movement = Some(Movement { reason: reason.to_owned(), ..movement });
        self.set_endpoint(endpoint);
    }

    /// The next phase, with the connections where the former home hands some over.
    pub(in crate::service) fn advance_move(
        &mut self,
        seen: &Endpoint,
        phase: MovementPhase,
        flows: Option<&str>,
    ) {
        let Some((mut endpoint, movement)) = self.same_move(seen) else { return };
        endpoint.spec.movement = Some(Movement { phase, reason: String::new(), ..movement });
        self.set_endpoint(endpoint);
        if let Some(flows) = flows {
            self.note(&flows_note(&seen.metadata.name), Some(flows.to_owned()));
        }
    }

    /// Changes the home, which is this node and has stopped delivering, to the destination, and raises the generation.
    pub(in crate::service) fn activate_move(&mut self, seen: &Endpoint, flows: &str) {
        let Some((mut endpoint, movement)) = self.same_move(seen) else { return };
        let Some(home) = endpoint.spec.node.replace(movement.node) else { return };
        endpoint.spec.generation += 1;
        endpoint.spec.attachment = movement.attachment;
        endpoint.status = Some(EndpointStatus { slot: movement.slot, ..EndpointStatus::default() });
        endpoint.spec.movement = Some(Movement {
            phase: MovementPhase::Activated,
            node: home,
            attachment: None,
            slot: None,
            activate: true,
            reason: String::new(),
        });
        self.note(&flows_note(&endpoint.metadata.name), Some(flows.to_owned()));
        self.set_endpoint(endpoint);
    }

    /// The new home, which is this node, has taken all connections.
    pub(in crate::service) fn took_flows(&mut self, name: &str, taken: &str) {
        let note = flows_note(name);
        if self.cursor(&note) == Some(taken) {
            self.note(&note, None);
        }
    }
}
