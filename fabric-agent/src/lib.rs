//! Fabric's agent. State flows one way: front doors ([`api`], [`manifests`], [`docker`]) call [`service`], which writes the
//! [`store`]; [`plan`] turns the store's content and this node's facts into the exact content of every map and every
//! link (pure: no I/O, no clock); [`reconcile`] makes the kernel equal to that through its drivers, [`dataplane`]
//! (maps, programs) and [`kernel`] (links, addresses, routes). [`observe`] reads back what the kernel saw,
//! [`probe`] asks other nodes' agents what their paths carry, [`querier`] asks containers which
//! groups they have joined, [`advertiser`] tells them of their network's router.

pub mod advertiser;
pub mod api;
pub mod config;
pub mod dataplane;
pub mod delta;
pub mod docker;
pub mod kernel;
pub mod manifests;
pub mod model;
pub mod names;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod probe;
pub mod querier;
pub mod reconcile;
pub mod service;
pub mod store;
