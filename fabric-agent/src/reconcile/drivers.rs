//! What a pass needs of the kernel, as two small traits: links through netlink, the datapath through its maps and
//! programs. Tests put fakes in their place.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fabric_api::status::Feature;
use futures::future::BoxFuture;

use crate::{
    dataplane::{Dataplane, DataplaneError, Seated},
    kernel::{KernelError, Netlink, link::Link, port},
    plan::desired::{AccessLink, Attachment, PortLink, RouteFacts, Tables, UplinkFacts, VxlanDevice},
    policy::Change,
};

/// What there is of links.
#[derive(Debug)]
pub struct Observed {
    /// Underlay interfaces, or why they can't be told.
    pub uplinks: Result<Vec<UplinkFacts>, KernelError>,
    /// Every link of the host.
    pub links: Vec<Link>,
}

/// Links, addresses and routes.
pub trait Links: Send {
    /// Looks at everything.
    fn observe(&mut self) -> BoxFuture<'_, Result<Observed, KernelError>>;
    /// The route toward each address, where there is one.
    fn routes(
        &mut self,
        to: BTreeSet<IpAddr>,
    ) -> BoxFuture<'_, Result<BTreeMap<IpAddr, RouteFacts>, KernelError>>;
    /// Makes the `vxlan` device be there as wanted.
    fn ensure_vxlan<'a>(&'a mut self, wanted: &'a VxlanDevice) -> BoxFuture<'a, Result<u32, KernelError>>;
    /// Makes the pair of veths for fragments be there; `links` are those that were observed. Says whether something had
    /// to be done.
    fn ensure_frag<'a>(&'a mut self, links: &'a [Link]) -> BoxFuture<'a, Result<bool, KernelError>>;
    /// Makes a port's veth, both sides down.
    fn create_port<'a>(&'a mut self, port: &'a PortLink) -> BoxFuture<'a, Result<u32, KernelError>>;
    /// Sets the host side up.
    fn host_side_up<'a>(
        &'a mut self,
        port: &'a PortLink,
        link: &'a Link,
    ) -> BoxFuture<'a, Result<(), KernelError>>;
    /// Sets a link down.
    fn set_down(&mut self, ifindex: u32) -> BoxFuture<'_, Result<(), KernelError>>;
    /// Gives the container its addresses and sets its side up. `host` is the host side's index.
    fn container_side_up<'a>(
        &'a mut self,
        port: &'a PortLink,
        host: u32,
    ) -> BoxFuture<'a, Result<(), KernelError>>;
    /// Makes the veth of a network's access port, both sides down.
    fn create_access<'a>(&'a mut self, access: &'a AccessLink) -> BoxFuture<'a, Result<u32, KernelError>>;
    /// Makes both sides of an access port be as wanted and up. Says whether something had to be changed.
    fn access_up<'a>(
        &'a mut self,
        access: &'a AccessLink,
        port: &'a Link,
        host: &'a Link,
    ) -> BoxFuture<'a, Result<bool, KernelError>>;
    /// Deletes a link.
    fn delete(&mut self, ifindex: u32) -> BoxFuture<'_, Result<(), KernelError>>;
}

/// Maps and programs.
pub trait Datapath: Send {
    /// Brings back pins; one sentence each.
    fn repair(&mut self) -> Result<Vec<String>, DataplaneError>;
    /// Reads every map that the agent fills.
    fn dump(&mut self) -> Result<Tables, DataplaneError>;
    /// Writes rows, first table first; the errors, if any. `change`: what policies are and should be.
    fn upsert(&mut self, rows: &Tables, change: Change<'_>) -> Vec<DataplaneError>;
    /// Removes rows, last table first; the errors, if any.
    fn delete(&mut self, rows: &Tables) -> Vec<DataplaneError>;
    /// Every place where a program of ours sits, and whose.
    fn attachments(&mut self) -> Result<BTreeMap<Attachment, Seated>, DataplaneError>;
    /// Puts a program in force.
    fn attach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError>;
    /// Takes a program off.
    fn detach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError>;
    /// Removes what is no longer used.
    fn retire(&mut self) -> Result<Vec<String>, DataplaneError>;
    /// Whether an uplink gets the XDP stage.
    fn xdp_wanted(&self, ifindex: u32) -> bool;
    /// How an uplink's programs are attached, and why.
    fn mode(&self, ifindex: u32) -> (String, String);
    /// What the kernel offers.
    fn features(&self, uplinks: &[(String, u32)]) -> Vec<Feature>;
}

/// The real links.
#[derive(Debug)]
pub struct KernelLinks {
    netlink: Netlink,
    underlay: Vec<String>,
    vteps: Vec<IpAddr>,
}

impl KernelLinks {
    /// Links of the calling thread's namespace, with the underlay interfaces and VTEP addresses that were named; none
    /// named means to choose. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the kernel gives no socket.
    pub fn new(underlay: Vec<String>, vteps: Vec<IpAddr>) -> Result<Self, KernelError> {
        Ok(Self { netlink: Netlink::new()?, underlay, vteps })
    }
}

impl Links for KernelLinks {
    fn observe(&mut self) -> BoxFuture<'_, Result<Observed, KernelError>> {
        Box::pin(async {
            let links = match self.netlink.links().await {
                // The socket is of no more use; the next look gets a new one.
                Err(error @ KernelError::Netlink { .. }) => {
                    self.netlink = Netlink::new()?;
                    return Err(error);
                }
                links => links?,
            };
            let uplinks = self.netlink.uplinks(&self.underlay, &self.vteps).await;
            Ok(Observed { uplinks, links })
        })
    }

    fn routes(
        &mut self,
        to: BTreeSet<IpAddr>,
    ) -> BoxFuture<'_, Result<BTreeMap<IpAddr, RouteFacts>, KernelError>> {
        Box::pin(async move {
            let mut routes = BTreeMap::new();
            for address in to {
                if let Some(route) = self.netlink.route_to(address).await? {
                    routes.insert(address, route);
                }
            }
            Ok(routes)
        })
    }

    fn ensure_vxlan<'a>(&'a mut self, wanted: &'a VxlanDevice) -> BoxFuture<'a, Result<u32, KernelError>> {
        Box::pin(self.netlink.ensure_vxlan(wanted))
    }

    fn ensure_frag<'a>(&'a mut self, links: &'a [Link]) -> BoxFuture<'a, Result<bool, KernelError>> {
        Box::pin(self.netlink.ensure_frag(links))
    }

    fn create_port<'a>(&'a mut self, port: &'a PortLink) -> BoxFuture<'a, Result<u32, KernelError>> {
        Box::pin(self.netlink.create_port(port))
    }

    fn host_side_up<'a>(
        &'a mut self,
        port: &'a PortLink,
        link: &'a Link,
    ) -> BoxFuture<'a, Result<(), KernelError>> {
        Box::pin(self.netlink.host_side_up(port, link))
    }

    fn set_down(&mut self, ifindex: u32) -> BoxFuture<'_, Result<(), KernelError>> {
        Box::pin(self.netlink.set_down(ifindex))
    }

    fn container_side_up<'a>(
        &'a mut self,
        port: &'a PortLink,
        host: u32,
    ) -> BoxFuture<'a, Result<(), KernelError>> {
        Box::pin(port::container_side_up(port, host))
    }

    fn create_access<'a>(&'a mut self, access: &'a AccessLink) -> BoxFuture<'a, Result<u32, KernelError>> {
        Box::pin(self.netlink.create_access(access))
    }

    fn access_up<'a>(
        &'a mut self,
        access: &'a AccessLink,
        port: &'a Link,
        host: &'a Link,
    ) -> BoxFuture<'a, Result<bool, KernelError>> {
        Box::pin(self.netlink.access_up(access, port, host))
    }

    fn delete(&mut self, ifindex: u32) -> BoxFuture<'_, Result<(), KernelError>> {
        Box::pin(self.netlink.delete_link(ifindex))
    }
}

impl Datapath for Dataplane {
    fn repair(&mut self) -> Result<Vec<String>, DataplaneError> {
        Self::repair(self)
    }

    fn dump(&mut self) -> Result<Tables, DataplaneError> {
        Self::dump(self)
    }

    fn upsert(&mut self, rows: &Tables, change: Change<'_>) -> Vec<DataplaneError> {
        Self::upsert(self, rows, change)
    }

    fn delete(&mut self, rows: &Tables) -> Vec<DataplaneError> {
        self.tables().delete(rows)
    }

    fn attachments(&mut self) -> Result<BTreeMap<Attachment, Seated>, DataplaneError> {
        Self::attachments(self)
    }

    fn attach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError> {
        Self::attach(self, attachment).map(drop)
    }

    fn detach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError> {
        Self::detach(self, attachment)
    }

    fn retire(&mut self) -> Result<Vec<String>, DataplaneError> {
        Self::retire(self)
    }

    fn xdp_wanted(&self, ifindex: u32) -> bool {
        Self::xdp_wanted(self, ifindex)
    }

    fn mode(&self, ifindex: u32) -> (String, String) {
        Self::mode(self, ifindex)
    }

    fn features(&self, uplinks: &[(String, u32)]) -> Vec<Feature> {
        Self::features(self, uplinks)
    }
}
