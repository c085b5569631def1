//! Deny sets in a draft: what they must not cover.

use fabric_api::{Object, object};

use super::{Draft, ServiceError};
use crate::{
    model::{Cluster, DenySet},
    policy,
};

impl Draft {
    /// Refuses a set that covers, without being forced to, what the fabric depends on.
    pub(super) fn deny_set(&self, new: &object::DenySet) -> Result<(), ServiceError> {
        let set = DenySet::new(new)?;
        let nodes: Vec<Object> =
            self.objects.values().filter(|o| matches!(o, Object::Node(_))).cloned().collect();
        let mut spared = policy::spared(&Cluster::from_objects(&nodes), &self.facts.guard);
        for uplink in &self.facts.uplinks {
            let own = format!("an address of this node ({})", self.settings.node);
            spared.extend(uplink.vteps.iter().map(|vtep| (*vtep, own.clone())));
        }
        for (address, what) in spared {
            if let Some(net) = set.spares(address) {
                return Err(ServiceError::invalid(format!(
                    "prefix {net} covers {address}, {what}: deny narrower prefixes, or force it (`fabric deny add --force`, spec.forced)"
                )));
            }
        }
        Ok(())
    }
}
