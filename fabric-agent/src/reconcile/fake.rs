//! Fake drivers: a kernel in memory that keeps a journal of what was done, fails where it is told to, and can die after
//! any step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fabric_api::status::Feature;
use fabric_common::addr::Mac;
use futures::future::BoxFuture;

use super::{
    drivers::{Datapath, Links, Observed},
    rows,
};
use crate::{
    dataplane::{
        DataplaneError, Seated,
        ownership::{
            ACCESS_ALIAS, ACCESS_PORT_ALIAS, FRAG_ALIAS, FRAG_IN_NAME, FRAG_NAME, PORT_ALIAS, VXLAN_ALIAS,
        },
    },
    kernel::{
        KernelError,
        link::{Link, VxlanInfo},
    },
    plan::desired::{AccessLink, Attachment, PortLink, RouteFacts, Tables, UplinkFacts, VxlanDevice},
    policy::Change,
};

/// The state of the fake kernel. It outlives engines, as the real one outlives agents.
#[derive(Default)]
pub(super) struct World {
    pub(super) links: Vec<Link>,
    pub(super) tables: Tables,
    pub(super) attachments: BTreeMap<Attachment, Seated>,
    /// What was done, in order.
    pub(super) journal: Vec<String>,
    /// Steps whose names begin like this fail.
    pub(super) fail: Option<&'static str>,
    /// The containers' namespaces can't be opened by their paths.
    pub(super) out_of_reach: bool,
    /// There is no room for rows of gateways and nodes in `endpoints`.
    pub(super) no_gateways: bool,
    /// Writing steps that still succeed before everything fails, as if the agent had died.
    pub(super) lives: Option<u32>,
    /// How long a look at the links takes, without work: as on a host whose CPUs others use.
    pub(super) slow: Duration,
    next: u32,
}

impl World {
    fn step(&mut self, what: String) -> Result<(), String> {
        if self.fail.is_some_and(|fail| what.starts_with(fail)) {
            return Err(format!("fault injected at {what}"));
        }
        if let Some(lives) = &mut self.lives {
            if *lives == 0 {
                return Err("dead".to_owned());
            }
            *lives -= 1;
        }
        self.journal.push(what);
        Ok(())
    }

    fn add(&mut self, link: Link) -> u32 {
        self.next += 1;
        let index = 100 + self.next;
        self.links.push(Link { index, ..link });
        index
    }
}

/// Both drivers of one world.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse<T>(text: String) -> Result<T, KernelError> {
    Err(KernelError::Unusable(text))
}

fn ready<T: Send + 'static>(value: Result<T, KernelError>) -> BoxFuture<'static, Result<T, KernelError>> {
    Box::pin(std::future::ready(value))
}

impl Links for Fake {
    fn observe(&mut self) -> BoxFuture<'_, Result<Observed, KernelError>> {
        let uplink = UplinkFacts {
            name: "eth0".to_owned(),
            ifindex: 2,
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            vteps: vec![IpAddr::from([192, 0, 2, 1])],
        };
        let world = self.world();
        let (links, slow) = (world.links.clone(), world.slow);
        drop(world);
        Box::pin(async move {
            tokio::time::sleep(slow).await;
            Ok(Observed { uplinks: Ok(vec![uplink]), links })
        })
    }

    fn routes(
        &mut self,
        to: BTreeSet<IpAddr>,
    ) -> BoxFuture<'_, Result<BTreeMap<IpAddr, RouteFacts>, KernelError>> {
        ready(Ok(to.into_iter().map(|address| (address, RouteFacts { ifindex: 2, mtu: None })).collect()))
    }

    fn ensure_vxlan<'a>(&'a mut self, wanted: &'a VxlanDevice) -> BoxFuture<'a, Result<u32, KernelError>> {
        let mut world = self.world();
        if let Err(text) = world.step("vxlan".to_owned()) {
            return ready(refuse(text));
        }
        world.links.retain(|link| link.name != wanted.name);
        let vxlan =
            VxlanInfo { port: wanted.port, collect_metadata: true, zero_checksum6_rx: true, learning: false };
        let link = Link {
            name: wanted.name.clone(),
            alias: VXLAN_ALIAS.to_owned(),
            kind: "vxlan".to_owned(),
            mtu: wanted.mtu,
            up: true,
            vxlan: Some(vxlan),
            ..Link::default()
        };
        ready(Ok(world.add(link)))
    }

    fn ensure_frag<'a>(&'a mut self, links: &'a [Link]) -> BoxFuture<'a, Result<bool, KernelError>> {
        if links.iter().any(|link| link.name == FRAG_NAME) {
            return ready(Ok(false));
        }
        let mut world = self.world();
        if let Err(text) = world.step("frag".to_owned()) {
            return ready(refuse(text));
        }
        for name in [FRAG_NAME, FRAG_IN_NAME] {
            let link = Link {
                name: name.to_owned(),
                alias: FRAG_ALIAS.to_owned(),
                kind: "veth".to_owned(),
                up: true,
                ..Link::default()
            };
            world.add(link);
        }
        ready(Ok(true))
    }

    fn create_port<'a>(&'a mut self, port: &'a PortLink) -> BoxFuture<'a, Result<u32, KernelError>> {
        let mut world = self.world();
        if let Err(text) = world.step(format!("create {}", port.endpoint)) {
            return ready(refuse(text));
        }
        let link = Link {
            name: port.host_ifname.clone(),
            alias: format!("{PORT_ALIAS}{}", port.endpoint),
            kind: "veth".to_owned(),
            mtu: port.mtu.into(),
            ..Link::default()
        };
        ready(Ok(world.add(link)))
    }

    fn host_side_up<'a>(
        &'a mut self,
        port: &'a PortLink,
        link: &'a Link,
    ) -> BoxFuture<'a, Result<(), KernelError>> {
        let mut world = self.world();
        if let Err(text) = world.step(format!("host up {}", port.endpoint)) {
            return ready(refuse(text));
        }
        world.links.iter_mut().filter(|found| found.index == link.index).for_each(|found| found.up = true);
        ready(Ok(()))
    }

    fn set_down(&mut self, ifindex: u32) -> BoxFuture<'_, Result<(), KernelError>> {
        let mut world = self.world();
        if let Err(text) = world.step(format!("down {ifindex}")) {
            return ready(refuse(text));
        }
        world.links.iter_mut().filter(|found| found.index == ifindex).for_each(|found| found.up = false);
        ready(Ok(()))
    }

    fn container_side_up<'a>(
        &'a mut self,
        port: &'a PortLink,
        host: u32,
    ) -> BoxFuture<'a, Result<(), KernelError>> {
        let mut world = self.world();
        if world.out_of_reach {
            return ready(Err(KernelError::NamespaceGone { path: port.netns.clone() }));
        }
        if let Err(text) = world.step(format!("container up {}", port.endpoint)) {
            return ready(refuse(text));
        }
        world.links.iter_mut().filter(|found| found.index == host).for_each(|found| found.running = true);
        ready(Ok(()))
    }

    fn create_access<'a>(&'a mut self, access: &'a AccessLink) -> BoxFuture<'a, Result<u32, KernelError>> {
        let mut world = self.world();
        if let Err(text) = world.step(format!("create access {}", access.network)) {
            return ready(refuse(text));
        }
        let side = |name: &str, alias: &str| Link {
            name: name.to_owned(),
            alias: format!("{alias}{}", access.network),
            kind: "veth".to_owned(),
            mtu: access.mtu.into(),
            ..Link::default()
        };
        let port = world.add(side(&access.port_ifname, ACCESS_PORT_ALIAS));
        let host = world.add(Link { mac: access.mac, peer: port, ..side(&access.ifname, ACCESS_ALIAS) });
        world.links.iter_mut().filter(|link| link.index == port).for_each(|link| link.peer = host);
        ready(Ok(port))
    }

    fn access_up<'a>(
        &'a mut self,
        access: &'a AccessLink,
        port: &'a Link,
        host: &'a Link,
    ) -> BoxFuture<'a, Result<bool, KernelError>> {
        let mut world = self.world();
        let changed = !port.up || !host.up;
        if changed && let Err(text) = world.step(format!("access up {}", access.network)) {
            return ready(refuse(text));
        }
        let sides = [port.index, host.index];
        world.links.iter_mut().filter(|link| sides.contains(&link.index)).for_each(|link| link.up = true);
        ready(Ok(changed))
    }

    fn delete(&mut self, ifindex: u32) -> BoxFuture<'_, Result<(), KernelError>> {
        let mut world = self.world();
        let name = world.links.iter().find(|link| link.index == ifindex).map(|link| link.alias.clone());
        if let Err(text) = world.step(format!("delete {}", name.unwrap_or_default())) {
            return ready(refuse(text));
        }
        let peer = world.links.iter().find(|link| link.index == ifindex).map_or(0, |link| link.peer);
        world.links.retain(|link| link.index != ifindex && (peer == 0 || link.index != peer));
        world.attachments.retain(|attachment, _| attachment.ifindex != ifindex);
        ready(Ok(()))
    }
}

impl Datapath for Fake {
    fn repair(&mut self) -> Result<Vec<String>, DataplaneError> {
        Ok(Vec::new())
    }

    fn dump(&mut self) -> Result<Tables, DataplaneError> {
        Ok(self.world().tables.clone())
    }

    fn upsert(&mut self, rows: &Tables, _: Change<'_>) -> Vec<DataplaneError> {
        let mut world = self.world();
        match world.step(format!("rows +{}", rows::names(rows))) {
            Ok(()) => {
                let mut rows = rows.clone();
                let before = rows.endpoints.len();
                if world.no_gateways {
                    rows.endpoints.retain(|_, value| value.flags == 0);
                }
                let full = before != rows.endpoints.len();
                rows::merge(&mut world.tables, &rows);
                let error = || DataplaneError::Full { map: "endpoints", limit: 1, row: "{7}".to_owned() };
                full.then(error).into_iter().collect()
            }
            Err(text) => vec![DataplaneError::Object(text)],
        }
    }

    fn delete(&mut self, rows: &Tables) -> Vec<DataplaneError> {
        let mut world = self.world();
        match world.step(format!("rows -{}", rows::names(rows))) {
            Ok(()) => {
                rows::remove(&mut world.tables, rows);
                Vec::new()
            }
            Err(text) => vec![DataplaneError::Object(text)],
        }
    }

    fn attachments(&mut self) -> Result<BTreeMap<Attachment, Seated>, DataplaneError> {
        Ok(self.world().attachments.clone())
    }

    fn attach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let mut world = self.world();
        world.step(format!("attach {}", attachment.program)).map_err(DataplaneError::Object)?;
        world.attachments.insert(*attachment, Seated::Current);
        Ok(())
    }

    fn detach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let mut world = self.world();
        world.step(format!("detach {}", attachment.program)).map_err(DataplaneError::Object)?;
        world.attachments.remove(attachment);
        Ok(())
    }

    fn retire(&mut self) -> Result<Vec<String>, DataplaneError> {
        Ok(Vec::new())
    }

    fn xdp_wanted(&self, _: u32) -> bool {
        false
    }

    fn mode(&self, _: u32) -> (String, String) {
        ("tcx".to_owned(), String::new())
    }

    fn features(&self, _: &[(String, u32)]) -> Vec<Feature> {
        Vec::new()
    }
}
