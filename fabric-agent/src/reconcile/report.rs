//! How far each object is after a pass.

use std::collections::{BTreeMap, BTreeSet};

use fabric_api::status::State;
use fabric_common::{addr::Addr, endpoint::EndpointKey, fdb::FdbKey};

use super::{
    errors::Errors,
    rows::{Pending, RowDeltas},
};
use crate::{
    model::{Cluster, Endpoint, Presence},
    plan::{
        self,
        desired::{Desired, NodeFacts},
    },
};

/// State and reason by kind and name.
pub(super) type Report = BTreeMap<(&'static str, String), (State, String)>;

/// What was set up completely.
pub(super) struct Finished<'a> {
    /// Endpoints whose ports are.
    pub(super) endpoints: BTreeSet<&'a str>,
    /// Networks whose access ports are.
    pub(super) access: BTreeSet<&'a str>,
}

/// Makes the report of a pass.
pub(super) fn make(
    cluster: &Cluster,
    desired: &Desired,
    facts: &NodeFacts,
    rows: &RowDeltas,
    finished: &Finished<'_>,
    errors: &Errors,
) -> Report {
    let mut report = Report::new();
    let unwritten = rows.pending();
    let why_rows = || errors.rows.first().cloned();
    let node_wide =
        || errors.node.first().cloned().or_else(|| if unwritten.node { why_rows() } else { None });
    for network in cluster.networks.values() {
        let pending = unwritten.network(network.vni.get());
        let access = desired.access.get(&network.name);
        let port = facts.access.get(&network.name);
        let mut error = access.and(errors.of_network(&network.name)).cloned();
        error = error.or_else(|| errors.interfaces.get(port?).cloned());
        error = error.or_else(|| if pending { why_rows() } else { None });
        let accessible = access.is_none() || finished.access.contains(network.name.as_str());
        report.insert(("Network", network.name.clone()), state(error, !pending && accessible));
    }
    let ids = plan::node_ids(cluster, &facts.node);
    for node in cluster.nodes.values() {
        let id = ids.get(&node.name).copied().unwrap_or_default();
        let vteps = node.vteps.iter().map(|vtep| Addr::from(*vtep));
        let pending = node.name != facts.node && rows.remote_node_pending(id, vteps);
        report.insert(("Node", node.name.clone()), state(if pending { why_rows() } else { None }, true));
    }
    for endpoint in cluster.endpoints.values() {
        let here = matches!(
            endpoint.presence(&facts.node),
            Presence::Home | Presence::Arrived(_) | Presence::Arriving
        );
        let entry = if here {
            local(cluster, endpoint, facts, (rows, &unwritten), &finished.endpoints, errors)
        } else {
            let pending = rows_pending(cluster, &endpoint.name, None, rows, &unwritten);
            state(if pending { why_rows() } else { None }, !pending)
        };
        report.insert(("Endpoint", endpoint.name.clone()), entry);
    }
    report.insert(("Node", facts.node.clone()), state(node_wide(), true));
    for (key, problem) in &desired.problems {
        report.insert(key.clone(), (State::Degraded, problem.clone()));
    }
    report
}

fn local(
    cluster: &Cluster,
    endpoint: &Endpoint,
    facts: &NodeFacts,
    (rows, unwritten): (&RowDeltas, &Pending),
    finished: &BTreeSet<&str>,
    errors: &Errors,
) -> (State, String) {
    let ifindex = facts.ports.get(&endpoint.name).copied();
    let mut error = errors.endpoints.get(&endpoint.name).cloned();
    error = error.or_else(|| errors.interfaces.get(&ifindex?).cloned());
    if error.is_none() && rows_pending(cluster, &endpoint.name, ifindex, rows, unwritten) {
        error = errors.rows.first().cloned();
    }
    let ready = finished.contains(endpoint.name.as_str());
    // A fault of the node is the reason why nothing happened to a new endpoint; one that works is not touched by it.
    if error.is_none() && !ready {
        error = errors.node.first().cloned();
    }
    state(error, ready)
}

fn state(error: Option<String>, ready: bool) -> (State, String) {
    match error {
        Some(error) => (State::Degraded, error),
        None if ready => (State::Ready, String::new()),
        None => (State::Pending, String::new()),
    }
}

/// Whether a row that an endpoint needs is not written.
pub(super) fn rows_pending(
    cluster: &Cluster,
    name: &str,
    ifindex: Option<u32>,
    rows: &RowDeltas,
    unwritten: &Pending,
) -> bool {
    let Some(endpoint) = cluster.endpoints.get(name) else { return true };
    let Some(network) = cluster.networks.get(&endpoint.network) else { return true };
    let vni = network.vni.get();
    let own = endpoint.addresses.iter().map(|address| Addr::from(*address));
    let keys: Vec<EndpointKey> =
        own.chain([endpoint.mac.link_local()]).map(|addr| EndpointKey { vni, addr }).collect();
    unwritten.node
        || unwritten.network(vni)
        || rows.endpoint_pending(&keys, FdbKey::new(vni, endpoint.mac), ifindex)
        || ifindex.and_then(|ifindex| rows.policy(ifindex)).is_some_and(|policy| unwritten.policy(policy))
}
