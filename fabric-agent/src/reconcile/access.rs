//! The host's access ports: made with both sides down, set up once their programs and rows are in place.

use std::collections::BTreeMap;

use fabric_common::abi::program;

use super::{
    drivers::{Datapath, Links},
    errors::Errors,
    pass::Engine,
};
use crate::{
    kernel::{KernelError, link::Link},
    model::Cluster,
    plan::desired::{AccessLink, Attachment, Desired},
};

impl<L: Links, D: Datapath> Engine<L, D> {
    /// Makes the veths that are missing or of no use. Says whether links were touched.
    pub(super) async fn create_access(
        &mut self,
        desired: &Desired,
        links: &[Link],
        errors: &mut Errors,
    ) -> bool {
        let marked = by_network(links);
        let mut touched = false;
        for (name, access) in &desired.access {
            let own = marked.get(name.as_str()).copied();
            if own.is_some_and(|port| host_side(port, links).is_some_and(|host| host.mac == access.mac)) {
                continue;
            }
            let taken = [&access.port_ifname, &access.ifname];
            let strangers = links.iter().filter(|link| taken.contains(&&link.name));
            let mut in_the_way: Vec<&Link> = own.into_iter().collect();
            let mut foreign = None;
            for link in strangers {
                if link.is_half_made() || link.is_access_side() || link.access().is_some() {
                    in_the_way.push(link);
                } else {
                    foreign = Some(link);
                }
            }
            if let Some(link) = foreign {
                let text = format!("an interface named {} exists already: remove or rename it", link.name);
                errors.network(name, &KernelError::Unusable(text));
                continue;
            }
            touched |= !in_the_way.is_empty();
            if let Err(error) = self.remove(&in_the_way).await {
                errors.network(name, &error);
                continue;
            }
            let repair = self.accessible.remove(name).is_some();
            match self.links.create_access(access).await {
                Ok(_) if repair => {
                    self.account.repair(format!("access port {} of network {name}", access.port_ifname));
                }
                Ok(_) => self.account.change(),
                Err(error) => {
                    errors.network(name, &error);
                    continue;
                }
            }
            touched = true;
        }
        touched
    }

    async fn remove(&mut self, links: &[&Link]) -> Result<(), KernelError> {
        for link in links {
            self.links.delete(link.index).await?;
        }
        Ok(())
    }

    /// Sets access ports up whose programs and rows are in place, and keeps them as wanted.
    pub(super) async fn set_up_access(
        &mut self,
        cluster: &Cluster,
        desired: &Desired,
        links: &[Link],
        full: bool,
        errors: &mut Errors,
    ) {
        let marked = by_network(links);
        let pending = self.rows.pending();
        for (name, access) in &desired.access {
            let Some(port) = marked.get(name.as_str()).copied() else { continue };
            let Some(host) = host_side(port, links) else { continue };
            let attachment = Attachment { ifindex: port.index, program: program::FROM_CONTAINER };
            let attached = self.attachments.actual().contains_key(&attachment);
            let vni = cluster.networks.get(name).map(|network| network.vni.get());
            let rows = vni.is_some_and(|vni| !pending.network(vni)) && !self.rows.port_pending(port.index);
            if !attached || !rows || pending.node {
                continue;
            }
            let known = self.accessible.get(name) == Some(access);
            let shown = [port, host].iter().all(|link| link.up && link.mtu == u32::from(access.mtu));
            if known && shown && !full {
                continue;
            }
            match self.links.access_up(access, port, host).await {
                Ok(changed) => {
                    if changed && known {
                        self.account.repair(format!("state of interface {}", access.ifname));
                    }
                    self.accessible.insert(name.clone(), access.clone());
                }
                Err(error) => errors.network(name, &error),
            }
        }
        self.accessible.retain(|name, _| desired.access.contains_key(name));
    }
}

/// Port sides by network.
fn by_network(links: &[Link]) -> BTreeMap<&str, &Link> {
    links.iter().filter_map(|link| Some((link.access()?, link))).collect()
}

/// The access side of a port, if it is still in this namespace.
fn host_side<'a>(port: &Link, links: &'a [Link]) -> Option<&'a Link> {
    let peer = |link: &&Link| link.index == port.peer && link.peer == port.index && link.is_access_side();
    links.iter().find(peer)
}

/// What a pass has set up, by network.
pub(super) type Accessible = BTreeMap<String, AccessLink>;
