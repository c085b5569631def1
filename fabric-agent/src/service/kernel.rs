//! What the service needs of the reconciler, behind a trait so that it can be tested without a kernel.

use std::{collections::BTreeMap, net::IpAddr};

use fabric_api::status::{EndpointCounters, State, Status, ToldName};
use futures::future::BoxFuture;

use crate::{dataplane::Joined, plan::desired::NodeFacts};

/// The reconciler as the service sees it.
pub trait Kernel: Send + Sync {
    /// Resolves once a reconcile pass that saw at least this store revision has ended, well or not.
    fn programmed(&self, revision: u64) -> BoxFuture<'_, ()>;

    /// How far an object is after the last pass, and what is wrong with it (empty if nothing is). `kind` is `Network`,
    /// `Node` or `Endpoint`. None if no pass has seen it.
    fn state(&self, kind: &str, name: &str) -> Option<(State, String)>;

    /// What the kernel told about this node.
    fn facts(&self) -> NodeFacts;

    /// Counters of a local endpoint, by slot.
    fn counters(&self, slot: u32) -> Option<EndpointCounters>;

    /// Sets the counters of a slot to zero.
    fn reset_counters(&self, slot: u32);

    /// Groups that local ports have joined, by interface index.
    fn groups(&self) -> BTreeMap<u32, Joined> {
        BTreeMap::new()
    }

    /// The connections that one of `addresses` takes part in on this node, as text for [`Kernel::take_flows`] of another.
    /// Empty where nothing tracks connections.
    fn flows(&self, _addresses: &[IpAddr]) -> String {
        String::new()
    }

    /// Makes connections known that [`Kernel::flows`] of another node told of, for an endpoint in network `vni`. Best effort: what
    /// is not understood or finds no room begins anew.
    fn take_flows(&self, _vni: u32, _addresses: &[IpAddr], _flows: &str) {}

    /// What the local endpoint behind a port was told for the domain names in its policies.
    fn names(&self, _ifindex: u32) -> Vec<ToldName> {
        Vec::new()
    }

    /// The node's status, everything but what the service adds: `node`, `store` and the problems of objects.
    fn node_status(&self) -> Status;
}
