//! The containers' ports: made with both sides down, set up once their programs and rows are in place.

use std::collections::BTreeMap;

use fabric_common::abi::program;

use super::{
    drivers::{Datapath, Links},
    errors::Errors,
    pass::Engine,
    report,
};
use crate::{
    dataplane::Seated,
    kernel::{KernelError, link::Link},
    model::Cluster,
    plan::desired::{Attachment, Desired, PortLink},
};

impl<L: Links, D: Datapath> Engine<L, D> {
    /// Makes the veths that are missing. Says whether links were touched.
    pub(super) async fn create_ports(
        &mut self,
        desired: &Desired,
        links: &[Link],
        errors: &mut Errors,
    ) -> bool {
        let marked = by_endpoint(links);
        let named: BTreeMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
        let mut touched = false;
        for (name, port) in &desired.ports {
            let own = marked.get(name.as_str());
            if let Some(link) = own.or_else(|| named.get(port.host_ifname.as_str())) {
                let moved = self.finished.get(name).is_some_and(|(made, _)| !same_place(made, port));
                if own.is_some() && !moved {
                    continue;
                }
                if own.is_none() && !link.is_half_made() {
                    let text =
                        format!("an interface named {} exists already: remove or rename it", link.name);
                    errors.endpoint(name, &KernelError::Unusable(text));
                    continue;
                }
                // Begun by an agent that died before it could mark it, or made for another container of that name.
                touched = true;
                self.finished.remove(name);
                if let Err(error) = self.links.delete(link.index).await {
                    errors.endpoint(name, &error);
                    continue;
                }
            }
            // The engine would not take another one: its container is gone.
            if port.engine && self.finished.contains_key(name) {
                errors.endpoint(name, &KernelError::InterfaceGone);
                continue;
            }
            let repair = self.finished.remove(name).is_some();
            match self.links.create_port(port).await {
                Ok(_) if repair => {
                    self.account.repair(format!("veth {} of endpoint {name}", port.host_ifname))
                }
                Ok(_) => self.account.change(),
                Err(error) => {
                    errors.endpoint(name, &error);
                    continue;
                }
            }
            touched = true;
        }
        touched
    }

    /// Sets ports down whose program can't be put in force: without it the host's own stack would hear the container, and
    /// nothing would check what it sends. They are set up again once it is.
    pub(super) async fn shut_unguarded(&mut self, links: &[Link], errors: &mut Errors) {
        for link in links.iter().filter(|link| link.is_port() && link.up) {
            if !errors.interfaces.contains_key(&link.index) {
                continue;
            }
            match self.links.set_down(link.index).await {
                Ok(()) => self.account.change(),
                Err(error) => errors.node.push(error.to_string()),
            }
        }
    }

    /// Sets ports up whose programs and rows are in place.
    pub(super) async fn set_up(
        &mut self,
        cluster: &Cluster,
        desired: &Desired,
        links: &[Link],
        errors: &mut Errors,
    ) {
        let marked = by_endpoint(links);
        let pending = self.rows.pending();
        for (name, port) in &desired.ports {
            let Some(link) = marked.get(name.as_str()) else { continue };
            let attachment = Attachment { ifindex: link.index, program: program::FROM_CONTAINER };
            let attached = self.attachments.actual().get(&attachment) == Some(&Seated::Current);
            let rows = &self.rows;
            if !attached || report::rows_pending(cluster, name, Some(link.index), rows, &pending) {
                continue;
            }
            let done =
                self.finished.get(name).is_some_and(|(made, index)| made == port && *index == link.index);
            if done && link.up && link.mtu == u32::from(port.mtu) {
                continue;
            }
            if let Err(error) = self.set_up_port(port, link, done).await {
                errors.endpoint(name, &error);
            }
        }
        self.finished.retain(|name, _| desired.ports.contains_key(name));
    }

    async fn set_up_port(&mut self, port: &PortLink, link: &Link, done: bool) -> Result<(), KernelError> {
        // What this agent set up itself and is to be something else now is not done by having been up.
        let known = self.finished.contains_key(&port.endpoint);
        self.links.host_side_up(port, link).await?;
        if done {
            self.account.repair(format!("state of interface {}", port.host_ifname));
            return Ok(());
        }
        match self.links.container_side_up(port, link.index).await {
            Ok(()) => {}
            // A veth dies with the namespace of either side, so this one's is alive, only not to be found by its path;
            // and a far side that is up was set up by an earlier agent. Traffic flows; nothing is left to do.
            Err(error) if error.is_unreachable_namespace() && !known && link.up && link.running => {
                tracing::info!(
                    "endpoint {}: {} can't be opened, its interface works",
                    port.endpoint,
                    port.netns
                );
            }
            Err(error) if error.is_unreachable_namespace() => {
                return Err(KernelError::OutOfReach { path: port.netns.clone() });
            }
            Err(error) => {
                // It is another container's, from before this agent started: the next pass makes the right one.
                if matches!(error, KernelError::Elsewhere { .. }) {
                    self.links.delete(link.index).await?;
                }
                return Err(error);
            }
        }
        self.finished.insert(port.endpoint.clone(), (port.clone(), link.index));
        Ok(())
    }
}

fn by_endpoint(links: &[Link]) -> BTreeMap<&str, &Link> {
    links.iter().filter_map(|link| Some((link.endpoint()?, link))).collect()
}

/// Whether a veth made for one is good for the other: the same interface in the same namespace.
fn same_place(made: &PortLink, wanted: &PortLink) -> bool {
    (made.netns_inode, &made.ifname, made.mac) == (wanted.netns_inode, &wanted.ifname, wanted.mac)
}
