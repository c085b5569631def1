//! The agent's own devices beside the containers' ports.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    drivers::{Datapath, Links},
    errors::Errors,
    pass::Engine,
};
use crate::{dataplane::ownership::FRAG_NAME, kernel::link::Link, plan::desired::RouteFacts};

/// Says which paths became smaller than was known, and which are no longer known to be small.
pub(super) fn tell_paths(before: &BTreeMap<IpAddr, RouteFacts>, now: &BTreeMap<IpAddr, RouteFacts>) {
    for (vtep, route) in now {
        let old = before.get(vtep).and_then(|route| route.mtu);
        match route.mtu {
            Some(mtu) if old != Some(mtu) => tracing::info!("the path to {vtep} carries {mtu} bytes"),
            None if old.is_some() => {
                tracing::info!("the path to {vtep} may carry what the uplink does again")
            }
            _ => {}
        }
    }
}

impl<L: Links, D: Datapath> Engine<L, D> {
    /// Makes the pair of veths for fragments be there. Says whether links were touched.
    pub(super) async fn ensure_frag(&mut self, links: &[Link], errors: &mut Errors) -> bool {
        match self.links.ensure_frag(links).await {
            Ok(false) => {
                self.frag_made = true;
                false
            }
            Ok(true) if self.frag_made => {
                self.account.repair(format!("veth {FRAG_NAME}"));
                true
            }
            Ok(true) => {
                self.frag_made = true;
                self.account.change();
                true
            }
            Err(error) => {
                errors.node.push(error.to_string());
                false
            }
        }
    }
}
