//! One pass: look, plan, apply. Level-triggered: a pass that was cut short at any line is completed by the next one.
//!
//! The order is a contract. What is referred to comes first (the `vxlan` device, veths with both sides down), then
//! programs, then rows (in the order of `abi::MAPS`), then ports are set up, host side before container side, so that
//! a container's first packet finds everything in place. Deletes come last and in the opposite order: rows, programs,
//! links. Nothing is deleted before every source was read completely.

use std::collections::{BTreeMap, BTreeSet};

use fabric_common::abi::program;

use super::{
    account::Account,
    drivers::{Datapath, Links, Observed},
    report::{self, Report},
    rows::{self, RowDeltas},
};
use crate::{
    delta::DeltaTracker,
    kernel::{KernelError, link::Link, vxlan},
    model::Cluster,
    plan::{
        self,
        desired::{Attachment, Desired, NodeFacts, PlanSettings, PortLink},
    },
};

/// How a pass is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// Every source was read completely: what is not desired may be deleted.
    pub(super) in_sync: bool,
    /// Read the maps and pins again instead of trusting what was written.
    pub(super) full: bool,
}

/// Drivers, and what is known of the kernel.
pub(super) struct Engine<L, D> {
    pub(super) links: L,
    pub(super) datapath: D,
    settings: PlanSettings,
    pub(super) facts: NodeFacts,
    rows: RowDeltas,
    attachments: DeltaTracker<Attachment, ()>,
    /// Ports that were set up completely, as which they were, and their host side's index.
    finished: BTreeMap<String, (PortLink, u32)>,
    vxlan_made: bool,
    retired: bool,
    pub(super) account: Account,
}

/// What went wrong in a pass, by what it concerns.
#[derive(Debug, Default)]
pub(super) struct Errors {
    /// The node as a whole.
    pub(super) node: Vec<String>,
    /// By endpoint.
    pub(super) endpoints: BTreeMap<String, String>,
    /// Rows could not be written: why.
    pub(super) rows: Vec<String>,
    /// Programs could not be attached: why, by interface.
    pub(super) interfaces: BTreeMap<u32, String>,
}

impl Errors {
    fn endpoint(&mut self, name: &str, error: &KernelError) {
        self.endpoints.entry(name.to_owned()).or_insert_with(|| error.to_string());
    }

    /// All of them as sentences.
    pub(super) fn sentences(&self) -> Vec<String> {
        let endpoints = self.endpoints.iter().map(|(name, why)| format!("endpoint {name}: {why}"));
        self.node
            .iter()
            .cloned()
            .chain(self.rows.iter().cloned())
            .chain(self.interfaces.values().cloned())
            .chain(endpoints)
            .collect()
    }
}

impl<L: Links, D: Datapath> Engine<L, D> {
    pub(super) fn new(links: L, datapath: D, node: &str, settings: PlanSettings) -> Self {
        Self {
            links,
            datapath,
            settings,
            facts: NodeFacts { node: node.to_owned(), ..NodeFacts::default() },
            rows: RowDeltas::default(),
            attachments: DeltaTracker::new(),
            finished: BTreeMap::new(),
            vxlan_made: false,
            retired: false,
            account: Account::default(),
        }
    }

    /// Does one pass and says how far everything is.
    pub(super) async fn pass(&mut self, cluster: &Cluster, mode: Mode) -> Report {
        let mut errors = Errors::default();
        let desired = match self.apply(cluster, mode, &mut errors).await {
            Ok(desired) => desired,
            Err(error) => {
                // Without a picture of the links nothing can be planned; what is there stays as it is.
                errors.node.push(error.to_string());
                plan::plan(cluster, &self.facts, &self.settings)
            }
        };
        let finished: BTreeSet<&str> = self.finished.keys().map(String::as_str).collect();
        let report = report::make(cluster, &desired, &self.facts, &self.rows, &finished, &errors);
        self.account.pass(errors.sentences());
        report
    }

    async fn apply(
        &mut self,
        cluster: &Cluster,
        mode: Mode,
        errors: &mut Errors,
    ) -> Result<Desired, KernelError> {
        let observed = self.links.observe().await?;
        self.look(cluster, &observed, errors).await;
        let mut desired = plan::plan(cluster, &self.facts, &self.settings);
        if mode.full {
            self.repair_pins(errors);
        }
        let mut links = observed.links;
        let created_vxlan = self.ensure_vxlan(&desired, &links, errors).await;
        let created_ports = self.create_ports(&desired, &links, errors).await;
        if created_vxlan || created_ports {
            let observed = self.links.observe().await?;
            self.look(cluster, &observed, errors).await;
            desired = plan::plan(cluster, &self.facts, &self.settings);
            links = observed.links;
        }
        self.attach(&desired, errors);
        self.write_rows(&desired, mode.full, errors);
        self.set_up(cluster, &desired, &links, errors).await;
        if mode.in_sync {
            self.delete(&desired, &links, errors).await;
            self.retire(errors);
        }
        Ok(desired)
    }

    /// Renews the facts. What can't be told stays as it was, so that a fault of the moment takes nothing down.
    async fn look(&mut self, cluster: &Cluster, observed: &Observed, errors: &mut Errors) {
        match &observed.uplinks {
            Ok(uplinks) => self.facts.uplinks.clone_from(uplinks),
            Err(error) => {
                let text = error.to_string();
                if !errors.node.contains(&text) {
                    errors.node.push(text);
                }
            }
        }
        let indices = self.facts.uplinks.iter().map(|uplink| uplink.ifindex);
        self.facts.xdp = indices.filter(|ifindex| self.datapath.xdp_wanted(*ifindex)).collect();
        let vxlan = crate::dataplane::ownership::VXLAN_NAME;
        self.facts.vxlan_ifindex = observed
            .links
            .iter()
            .find(|link| link.name == vxlan && link.vxlan.is_some())
            .map(|link| link.index);
        self.facts.ports = observed
            .links
            .iter()
            .filter_map(|link| Some((link.endpoint()?.to_owned(), link.index)))
            .collect();
        match self.links.routes(cluster.remote_vteps(&self.facts.node)).await {
            Ok(routes) => self.facts.routes = routes,
            Err(error) => errors.node.push(error.to_string()),
        }
    }

    fn repair_pins(&mut self, errors: &mut Errors) {
        match self.datapath.repair() {
            // What is left of a link that was taken is only cleared away here: the repair is to attach again, below.
            Ok(done) => done.into_iter().for_each(|what| {
                if what.ends_with("remains are removed") {
                    tracing::info!("{what}");
                } else {
                    self.account.repair(what);
                }
            }),
            Err(error) => errors.node.push(error.to_string()),
        }
    }

    async fn ensure_vxlan(&mut self, desired: &Desired, links: &[Link], errors: &mut Errors) -> bool {
        let Some(wanted) = &desired.vxlan else { return false };
        if wanted.mtu == 0 {
            return false;
        }
        let found = links.iter().find(|link| link.name == wanted.name);
        if found.is_some_and(|link| vxlan::gap(link, wanted) == vxlan::VxlanGap::None) {
            self.vxlan_made = true;
            return false;
        }
        match self.links.ensure_vxlan(wanted).await {
            Ok(_) if self.vxlan_made && found.is_none() => {
                self.account.repair(format!("vxlan device {}", wanted.name))
            }
            Ok(_) => self.account.change(),
            Err(error) => errors.node.push(error.to_string()),
        }
        self.vxlan_made = true;
        true
    }

    async fn create_ports(&mut self, desired: &Desired, links: &[Link], errors: &mut Errors) -> bool {
        let mut touched = false;
        for (name, port) in &desired.ports {
            let found =
                links.iter().find(|link| link.endpoint() == Some(name) || link.name == port.host_ifname);
            if let Some(link) = found {
                let moved = self.finished.get(name).is_some_and(|(made, _)| !same_place(made, port));
                if link.endpoint() == Some(name) && !moved {
                    continue;
                }
                if link.endpoint() != Some(name) && !link.is_half_made() {
                    errors
                        .endpoints
                        .insert(name.clone(), format!("an interface named {} exists already", link.name));
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

    fn attach(&mut self, desired: &Desired, errors: &mut Errors) {
        let drifted: BTreeSet<Attachment> = match self.datapath.attachments() {
            Ok(found) => {
                let drift = self.attachments.observe(found.into_iter().map(|attachment| (attachment, ())));
                drift.iter().map(|drift| *drift.key()).collect()
            }
            Err(error) => {
                errors.node.push(error.to_string());
                return;
            }
        };
        self.attachments.set_desired(desired.attachments.iter().map(|attachment| (*attachment, ())));
        let pending: Vec<Attachment> =
            self.attachments.pending_upserts().map(|(attachment, ())| *attachment).collect();
        for attachment in pending {
            match self.datapath.attach(&attachment) {
                Ok(()) => {
                    self.attachments.wrote(attachment, ());
                    if drifted.contains(&attachment) {
                        let Attachment { ifindex, program } = attachment;
                        self.account.repair(format!("program {program} at interface {ifindex}"));
                    } else {
                        self.account.change();
                    }
                }
                Err(error) => {
                    errors.interfaces.insert(attachment.ifindex, error.to_string());
                }
            }
        }
    }

    fn write_rows(&mut self, desired: &Desired, full: bool, errors: &mut Errors) {
        if full || !self.rows.loaded() {
            match self.datapath.dump() {
                Ok(found) => self.rows.observe(found, true),
                Err(error) => errors.rows.push(error.to_string()),
            }
        }
        self.rows.set_desired(&desired.tables);
        let batch = self.rows.upserts();
        if !self.rows.loaded() || rows::is_empty(&batch) {
            return;
        }
        let failed = self.datapath.upsert(&batch);
        if failed.is_empty() {
            self.rows.wrote(&batch);
        } else if let Ok(found) = self.datapath.dump() {
            self.rows.observe(found, false);
        }
        errors.rows.extend(failed.iter().map(ToString::to_string));
        self.rows.account(&batch, &mut self.account);
    }

    /// Sets ports up whose programs and rows are in place.
    async fn set_up(&mut self, cluster: &Cluster, desired: &Desired, links: &[Link], errors: &mut Errors) {
        for (name, port) in &desired.ports {
            let Some(link) = links.iter().find(|link| link.endpoint() == Some(name)) else { continue };
            let attachment = Attachment { ifindex: link.index, program: program::FROM_CONTAINER };
            let attached = self.attachments.actual().contains_key(&attachment);
            if !attached || report::rows_pending(cluster, name, Some(link.index), &self.rows) {
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
        self.links.host_side_up(port, link).await?;
        if done {
            self.account.repair(format!("state of interface {}", port.host_ifname));
            return Ok(());
        }
        match self.links.container_side_up(port, link.index).await {
            Ok(()) => {
                self.finished.insert(port.endpoint.clone(), (port.clone(), link.index));
                Ok(())
            }
            Err(error) => {
                // It is another container's, from before this agent started: the next pass makes the right one.
                if matches!(error, KernelError::Elsewhere { .. }) {
                    self.links.delete(link.index).await?;
                }
                Err(error)
            }
        }
    }

    async fn delete(&mut self, desired: &Desired, links: &[Link], errors: &mut Errors) {
        self.delete_rows(errors);
        let pending: Vec<Attachment> = self.attachments.pending_deletes().copied().collect();
        for attachment in pending {
            match self.datapath.detach(&attachment) {
                Ok(()) => {
                    self.attachments.removed(&attachment);
                    self.account.change();
                }
                Err(error) => {
                    errors.interfaces.insert(attachment.ifindex, error.to_string());
                }
            }
        }
        for link in links {
            let stale =
                link.endpoint().is_some_and(|name| !desired.ports.contains_key(name)) || link.is_half_made();
            if !stale {
                continue;
            }
            match self.links.delete(link.index).await {
                Ok(()) => self.account.change(),
                Err(error) => errors.node.push(error.to_string()),
            }
        }
    }

    fn delete_rows(&mut self, errors: &mut Errors) {
        let batch = self.rows.deletes();
        if rows::is_empty(&batch) {
            return;
        }
        let failed = self.datapath.delete(&batch);
        if failed.is_empty() {
            self.rows.removed(&batch);
        } else if let Ok(found) = self.datapath.dump() {
            self.rows.observe(found, false);
        }
        errors.rows.extend(failed.iter().map(ToString::to_string));
        self.rows.account(&batch, &mut self.account);
    }

    /// Once, when the programs of this process are in force everywhere: removes what only older ones used.
    fn retire(&mut self, errors: &mut Errors) {
        if self.retired || !errors.sentences().is_empty() {
            return;
        }
        match self.datapath.retire() {
            Ok(done) => {
                self.retired = true;
                done.iter().for_each(|what| tracing::info!("retired: {what}"));
            }
            Err(error) => errors.node.push(error.to_string()),
        }
    }
}

/// Whether a veth made for one is good for the other: the same interface in the same namespace.
fn same_place(made: &PortLink, wanted: &PortLink) -> bool {
    (made.netns_inode, &made.ifname, made.mac) == (wanted.netns_inode, &wanted.ifname, wanted.mac)
}
