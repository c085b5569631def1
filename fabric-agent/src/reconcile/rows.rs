//! The rows of every map: what is pending, what is drift, and how a row is named to people.

use std::collections::BTreeSet;

use fabric_common::{
    addr::Addr,
    advertisement::AdvertisementValue,
    denied::DeniedValue,
    endpoint::{EndpointKey, EndpointValue},
    fdb::{FdbKey, FdbValue},
    flood::{FloodKey, FloodValue},
    names::NamedKey,
    network::{MemberKey, MemberValue, NetworkValue},
    node::{NodeValue, VtepValue},
    policy::{NumberKey, NumberValue, PolicyKey, PolicyPorts, PolicyValue},
    port::PortValue,
    route::RouteValue,
    settings::Settings,
    source::SourceValue,
    uplink::{LocalVtepValue, UplinkValue},
};

use super::account::Account;
use crate::{
    dataplane::Describe,
    delta::DeltaTracker,
    plan::desired::{AddrPrefix, PrefixKey, Rows, Tables},
    policy::State,
};

/// One map.
struct TableDelta<K, V> {
    tracker: DeltaTracker<K, V>,
    /// Keys that were found different from what this agent had written, until they are repaired.
    drifted: BTreeSet<K>,
}

impl<K, V> Default for TableDelta<K, V> {
    fn default() -> Self {
        Self { tracker: DeltaTracker::default(), drifted: BTreeSet::new() }
    }
}

impl<K: Ord + Clone + Describe, V: PartialEq + Clone> TableDelta<K, V> {
    fn observe(&mut self, found: Rows<K, V>, counts: bool) {
        let drift = self.tracker.observe(found);
        if counts {
            self.drifted.extend(drift.iter().map(|drift| drift.key().clone()));
        }
    }

    fn upserts(&self) -> Rows<K, V> {
        self.tracker.pending_upserts().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn deletes(&self) -> Rows<K, V> {
        let actual = self.tracker.actual();
        self.tracker
            .pending_deletes()
            .filter_map(|key| actual.get_key_value(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    fn is_pending(&self, key: &K) -> bool {
        let (desired, actual) = (self.tracker.desired().get(key), self.tracker.actual().get(key));
        desired.is_some() && desired != actual
    }

    /// Books what of a batch is done: as a repair where the row had drifted, else as a change.
    fn account(&mut self, table: &str, batch: &Rows<K, V>, account: &mut Account) {
        for key in batch.keys() {
            if self.tracker.actual().get(key) != self.tracker.desired().get(key) {
                continue;
            }
            if self.drifted.remove(key) {
                account.repair(format!("map row {table} {}", key.describe()));
            } else {
                account.change();
            }
        }
    }
}

macro_rules! row_deltas {
    ($( $field:ident: $key:ty => $value:ty, )+) => {
        /// Every map that the agent fills.
        #[derive(Default)]
        pub(super) struct RowDeltas {
            $( $field: TableDelta<$key, $value>, )+
        }

        impl RowDeltas {
            /// Sets what should be in the maps.
            pub(super) fn set_desired(&mut self, tables: &Tables) {
                $(
                    if *self.$field.tracker.desired() != tables.$field {
                        self.$field.tracker.set_desired(tables.$field.clone());
                    }
                )+
            }

            /// Takes over what is in the maps. `counts`: whether what differs from the picture before is drift.
            pub(super) fn observe(&mut self, found: Tables, counts: bool) {
                $( self.$field.observe(found.$field, counts); )+
            }

            /// Whether the maps were read at all.
            pub(super) fn loaded(&self) -> bool {
                self.settings.tracker.loaded()
            }

            /// Rows to write.
            pub(super) fn upserts(&self) -> Tables {
                Tables { $( $field: self.$field.upserts(), )+ }
            }

            /// Rows to remove.
            pub(super) fn deletes(&self) -> Tables {
                Tables { $( $field: self.$field.deletes(), )+ }
            }

            /// How many rows are to be written or removed.
            pub(super) fn unfinished(&self) -> u64 {
                let counts = [$(
                    self.$field.tracker.pending_upserts().count() + self.$field.tracker.pending_deletes().count(),
                )+];
                counts.iter().sum::<usize>() as u64
            }

            /// Notes that these rows were written.
            pub(super) fn wrote(&mut self, batch: &Tables) {
                $(
                    for (key, value) in &batch.$field {
                        self.$field.tracker.wrote(key.clone(), value.clone());
                    }
                )+
            }

            /// Notes that these rows were removed.
            pub(super) fn removed(&mut self, batch: &Tables) {
                $(
                    for key in batch.$field.keys() {
                        self.$field.tracker.removed(key);
                    }
                )+
            }

            /// Books what of a batch is done.
            pub(super) fn account(&mut self, batch: &Tables, account: &mut Account) {
                $( self.$field.account(stringify!($field), &batch.$field, account); )+
            }
        }

        /// Whether there is no row at all.
        pub(super) fn is_empty(tables: &Tables) -> bool {
            true $( && tables.$field.is_empty() )+
        }

        /// Names of the maps that have rows.
        #[cfg(test)]
        pub(super) fn names(tables: &Tables) -> String {
            let mut names = Vec::new();
            $( if !tables.$field.is_empty() { names.push(stringify!($field)); } )+
            names.join(",")
        }

        /// Adds rows.
        #[cfg(test)]
        pub(super) fn merge(into: &mut Tables, rows: &Tables) {
            $( into.$field.extend(rows.$field.clone()); )+
        }

        /// Takes rows away.
        #[cfg(test)]
        pub(super) fn remove(from: &mut Tables, rows: &Tables) {
            $( from.$field.retain(|key, _| !rows.$field.contains_key(key)); )+
        }
    };
}

row_deltas! {
    settings: u32 => Settings,
    uplinks: u32 => UplinkValue,
    local_vteps: Addr => LocalVtepValue,
    networks: u32 => NetworkValue,
    nodes: u32 => NodeValue,
    vteps: Addr => VtepValue,
    members: MemberKey => MemberValue,
    numbers: NumberKey => NumberValue,
    policy_ports: u32 => PolicyPorts,
    policies: PolicyKey => PolicyValue,
    cidrs: AddrPrefix => u32,
    denied: AddrPrefix => DeniedValue,
    named: NamedKey => u32,
    sources: EndpointKey => SourceValue,
    source_prefixes: PrefixKey => SourceValue,
    ports: u32 => PortValue,
    endpoints: EndpointKey => EndpointValue,
    fdb: FdbKey => FdbValue,
    routes: PrefixKey => RouteValue,
    flood: FloodKey => FloodValue,
    advertisements: u32 => AdvertisementValue,
}

/// Rows that many objects need and that are not written.
pub(super) struct Pending {
    /// One that the node as a whole needs.
    pub(super) node: bool,
    /// VNIs of networks whose own rows, gateways and node addresses among them, are not all written.
    networks: BTreeSet<u32>,
    /// Policies of which a row is not written, so that what only such rows admit is dropped.
    policies: BTreeSet<u32>,
}

impl Pending {
    /// Whether a policy's rows are not all written.
    pub(super) fn policy(&self, policy: u32) -> bool {
        self.policies.contains(&policy)
    }

    /// Whether a network's own rows are not all written.
    pub(super) fn network(&self, vni: u32) -> bool {
        self.networks.contains(&vni)
    }
}

impl RowDeltas {
    /// What the map `numbers` holds.
    pub(super) fn numbers(&self) -> &Rows<NumberKey, NumberValue> {
        self.numbers.tracker.actual()
    }

    /// What the maps say of policies and identities.
    pub(super) fn state(&self) -> State<'_> {
        State {
            policies: self.policies.tracker.actual(),
            cidrs: self.cidrs.tracker.actual(),
            endpoints: self.endpoints.tracker.actual(),
            named: self.named.tracker.actual(),
        }
    }

    /// Looks through everything that is not written.
    pub(super) fn pending(&self) -> Pending {
        let own = |key: &EndpointKey| self.endpoints.tracker.desired().get(key).is_some_and(|v| v.flags != 0);
        let mut networks: BTreeSet<u32> =
            self.networks.tracker.pending_upserts().map(|(vni, _)| *vni).collect();
        networks.extend(self.members.tracker.pending_upserts().map(|(key, _)| key.vni));
        let endpoints = self.endpoints.tracker.pending_upserts().map(|(key, _)| key);
        let sources = self.sources.tracker.pending_upserts().map(|(key, _)| key);
        networks.extend(endpoints.chain(sources).filter(|key| own(key)).map(|key| key.vni));
        // Copies of records in the networks that are opened to theirs.
        let elsewhere = |key: &&EndpointKey| !self.endpoints.tracker.desired().contains_key(*key);
        let sources = self.sources.tracker.pending_upserts().map(|(key, _)| key);
        networks.extend(sources.filter(elsewhere).map(|key| key.vni));
        networks.extend(self.flood.tracker.pending_upserts().map(|(key, _)| key.vni));
        networks.extend(self.advertisements.tracker.pending_upserts().map(|(vni, _)| *vni));
        let routes = self.routes.tracker.pending_upserts();
        networks.extend(routes.map(|(key, _)| u32::from_be_bytes(key.prefix.vni)));
        let routers = self.fdb.tracker.pending_upserts().filter(|(_, value)| value.flags != 0);
        networks.extend(routers.map(|(key, _)| key.vni));
        let node = self.settings.tracker.pending_upserts().next().is_some()
            || self.uplinks.tracker.pending_upserts().next().is_some()
            || self.local_vteps.tracker.pending_upserts().next().is_some();
        let policies = self.policies.tracker.pending_upserts().map(|(key, _)| key.policy).collect();
        Pending { node, networks, policies }
    }

    /// Whether a node's own row is not written.
    pub(super) fn remote_node_pending(&self, id: u32, vteps: impl IntoIterator<Item = Addr>) -> bool {
        self.nodes.is_pending(&id) || vteps.into_iter().any(|vtep| self.vteps.is_pending(&vtep))
    }

    /// Whether the row of a port is not written.
    pub(super) fn port_pending(&self, ifindex: u32) -> bool {
        self.ports.is_pending(&ifindex)
    }

    /// Whether a row of an endpoint is not written; `ifindex` is that of its port, if it is local.
    pub(super) fn endpoint_pending(&self, keys: &[EndpointKey], fdb: FdbKey, ifindex: Option<u32>) -> bool {
        self.fdb.is_pending(&fdb)
            || ifindex.is_some_and(|ifindex| self.ports.is_pending(&ifindex))
            || keys.iter().any(|key| self.endpoints.is_pending(key) || self.sources.is_pending(key))
    }

    /// The policy that a port is to have.
    pub(super) fn policy(&self, ifindex: u32) -> Option<u32> {
        self.ports.tracker.desired().get(&ifindex).map(|port| port.policy)
    }
}
