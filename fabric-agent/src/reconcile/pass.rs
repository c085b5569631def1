//! One pass: look, plan, apply. Level-triggered: a pass that was cut short at any line is completed by the next one.
//!
//! The order is a contract. What is referred to comes first (the agent's own devices, veths with both sides down), then
//! programs, then rows (in the order of `abi::MAPS`), then ports are set up, host side before container side, so that
//! a container's first packet finds everything in place. Deletes come last: rows, links, programs. A port goes before
//! its program, since without it the host's own stack would hear the container. Nothing is deleted before every source
//! was read completely.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    access::Accessible,
    account::Account,
    devices,
    drivers::{Datapath, Links, Observed},
    errors::Errors,
    report::{self, Finished, Report},
    rows::{self, RowDeltas},
};
use crate::{
    dataplane::{Seated, ownership},
    delta::DeltaTracker,
    kernel::{KernelError, frag, link::Link, vxlan},
    model::Cluster,
    plan::{
        self,
        desired::{Attachment, Desired, NodeFacts, PlanSettings, PortLink, Watched},
    },
    policy::{Change, RuleNames, State},
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
    pub(super) rows: RowDeltas,
    /// Names of policies' rules, as they were planned last.
    pub(super) rules: Arc<RuleNames>,
    /// Local endpoints whose policies have domain names, as they were planned last.
    pub(super) watched: Arc<BTreeMap<u32, Watched>>,
    pub(super) attachments: DeltaTracker<Attachment, Seated>,
    /// Ports that were set up completely, as which they were, and their host side's index.
    pub(super) finished: BTreeMap<String, (PortLink, u32)>,
    /// Access ports that were set up completely, as which they were.
    pub(super) accessible: Accessible,
    vxlan_made: bool,
    pub(super) frag_made: bool,
    retired: bool,
    /// Whether the last pass left the kernel as wanted, as far as it can be.
    pub(super) equal: bool,
    pub(super) account: Account,
}

impl<L: Links, D: Datapath> Engine<L, D> {
    pub(super) fn new(links: L, datapath: D, node: &str, settings: PlanSettings) -> Self {
        Self {
            links,
            datapath,
            settings,
            facts: NodeFacts { node: node.to_owned(), ..NodeFacts::default() },
            rows: RowDeltas::default(),
            rules: Arc::default(),
            watched: Arc::default(),
            attachments: DeltaTracker::new(),
            finished: BTreeMap::new(),
            accessible: Accessible::new(),
            vxlan_made: false,
            frag_made: false,
            retired: false,
            equal: false,
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
        if *self.rules != desired.rules {
            self.rules = Arc::new(desired.rules.clone());
        }
        if *self.watched != desired.watched {
            self.watched = Arc::new(desired.watched.clone());
        }
        let done = Finished {
            endpoints: self.finished.keys().map(String::as_str).collect(),
            access: self.accessible.keys().map(String::as_str).collect(),
        };
        let report = report::make(cluster, &desired, &self.facts, &self.rows, &done, &errors);
        self.equal = errors.equal();
        self.account.pass(self.rows.unfinished(), errors.sentences());
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
        self.read_rows(mode.full, errors);
        let mut desired = plan::plan(cluster, &self.facts, &self.settings);
        if mode.full {
            self.repair_pins(errors);
        }
        let mut links = observed.links;
        let created_vxlan = self.ensure_vxlan(&desired, &links, errors).await;
        let created_frag = self.ensure_frag(&links, errors).await;
        let created_ports = self.create_ports(&desired, &links, errors).await;
        let created_access = self.create_access(&desired, &links, errors).await;
        if created_vxlan || created_frag || created_ports || created_access {
            let observed = self.links.observe().await?;
            self.look(cluster, &observed, errors).await;
            desired = plan::plan(cluster, &self.facts, &self.settings);
            links = observed.links;
        }
        self.attach(&desired, errors);
        self.shut_unguarded(&links, errors).await;
        self.write_rows(&desired, errors);
        self.set_up(cluster, &desired, &links, errors).await;
        self.set_up_access(cluster, &desired, &links, mode.full, errors).await;
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
        let vxlan = ownership::VXLAN_NAME;
        self.facts.vxlan_ifindex = observed
            .links
            .iter()
            .find(|link| link.name == vxlan && link.vxlan.is_some())
            .map(|link| link.index);
        let frag = |name| observed.links.iter().find(|link| frag::is_side(link, name)).map(|link| link.index);
        self.facts.frag = frag(ownership::FRAG_NAME).zip(frag(ownership::FRAG_IN_NAME));
        self.facts.ports = observed
            .links
            .iter()
            .filter_map(|link| Some((link.endpoint()?.to_owned(), link.index)))
            .collect();
        let elsewhere = observed.links.iter().filter(|link| link.peer_elsewhere);
        self.facts.plugged = elsewhere.filter_map(|link| Some(link.endpoint()?.to_owned())).collect();
        self.facts.access =
            observed.links.iter().filter_map(|link| Some((link.access()?.to_owned(), link.index))).collect();
        match self.links.routes(cluster.remote_vteps(&self.facts.node)).await {
            Ok(routes) => {
                devices::tell_paths(&self.facts.routes, &routes);
                self.facts.routes = routes;
            }
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

    fn attach(&mut self, desired: &Desired, errors: &mut Errors) {
        let drifted: BTreeSet<Attachment> = match self.datapath.attachments() {
            Ok(found) => {
                let drift = self.attachments.observe(found);
                drift.iter().map(|drift| *drift.key()).collect()
            }
            Err(error) => {
                errors.node.push(error.to_string());
                return;
            }
        };
        self.attachments
            .set_desired(desired.attachments.iter().map(|attachment| (*attachment, Seated::Current)));
        let pending: Vec<Attachment> =
            self.attachments.pending_upserts().map(|(attachment, _)| *attachment).collect();
        for attachment in pending {
            match self.datapath.attach(&attachment) {
                Ok(()) => {
                    self.attachments.wrote(attachment, Seated::Current);
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

    /// Reads the maps. Before anything is planned: the numbers that are taken are in one of them.
    fn read_rows(&mut self, full: bool, errors: &mut Errors) {
        if full || !self.rows.loaded() {
            match self.datapath.dump() {
                Ok(found) => self.rows.observe(found, true),
                Err(error) => errors.rows.push(error.to_string()),
            }
        }
        if *self.facts.numbers != *self.rows.numbers() {
            self.facts.numbers = Arc::new(self.rows.numbers().clone());
        }
    }

    fn write_rows(&mut self, desired: &Desired, errors: &mut Errors) {
        self.rows.set_desired(&desired.tables);
        let mut batch = self.rows.upserts();
        if !self.rows.loaded() || rows::is_empty(&batch) {
            return;
        }
        let change = Change { actual: self.rows.state(), wanted: State::from(&desired.tables) };
        batch.policies.extend(change.transition());
        let failed = self.datapath.upsert(&batch, change);
        if failed.is_empty() {
            self.rows.wrote(&batch);
        } else if let Ok(found) = self.datapath.dump() {
            self.rows.observe(found, false);
        }
        errors.rows.extend(failed.iter().map(ToString::to_string));
        self.rows.account(&batch, &mut self.account);
    }

    async fn delete(&mut self, desired: &Desired, links: &[Link], errors: &mut Errors) {
        self.delete_rows(errors);
        let kept = self.delete_links(desired, links, errors).await;
        let pending: Vec<Attachment> = self.attachments.pending_deletes().copied().collect();
        for attachment in pending.into_iter().filter(|attachment| !kept.contains(&attachment.ifindex)) {
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
    }

    /// Removes ports that nobody wants. Returns the indices of those that could not be removed.
    async fn delete_links(
        &mut self,
        desired: &Desired,
        links: &[Link],
        errors: &mut Errors,
    ) -> BTreeSet<u32> {
        let mut kept = BTreeSet::new();
        for link in links {
            let stale = link.endpoint().is_some_and(|name| !desired.ports.contains_key(name))
                || link.access().is_some_and(|name| !desired.access.contains_key(name))
                || link.is_half_made();
            if !stale {
                continue;
            }
            match self.links.delete(link.index).await {
                Ok(()) => self.account.change(),
                Err(error) => {
                    kept.insert(link.index);
                    errors.node.push(error.to_string());
                }
            }
        }
        kept
    }

    fn delete_rows(&mut self, errors: &mut Errors) {
        let mut batch = self.rows.deletes();
        if !errors.rows.is_empty() {
            // A row that could not be written anew may still hold a number that nothing else does.
            batch.numbers.clear();
        }
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
        if self.retired || !errors.equal() {
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
