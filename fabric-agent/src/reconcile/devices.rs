//! The agent's own devices beside the containers' ports.

use super::{
    drivers::{Datapath, Links},
    errors::Errors,
    pass::Engine,
};
use crate::{dataplane::ownership::FRAG_NAME, kernel::link::Link};

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
