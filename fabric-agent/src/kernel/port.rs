//! A container's port: a veth whose host side carries the programs and whose other side is the container's interface.
//!
//! The order, which the reconciler keeps: [`Netlink::create_port`] makes the pair with both sides down, the far one
//! inside the namespace from the start, under its final name and MAC, so that nothing of it is ever seen on the host;
//! then programs are attached and rows written; [`Netlink::host_side_up`]; and last [`container_side_up`], from when
//! on the container can send. A port that is not finished can't pass a packet.
//!
//! A container engine of Docker's kind wants the far side in the host's namespace, and moves it and sets it up by itself. It is made
//! there, down, and [`container_side_up`] is left to the engine.

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    KernelError, Netlink, explain,
    link::Link,
    netns::Netns,
    route::DefaultRoute,
    sysctl::{self, Advertisements},
};
use crate::{dataplane::ownership::PORT_ALIAS, plan::desired::PortLink};

impl Netlink {
    /// Creates the veth of a port, both sides down, and returns the host side's index. After a failure nothing of it
    /// is left.
    ///
    /// # Errors
    /// If the namespace is gone, has an interface of that name, or the kernel refuses.
    pub async fn create_port(&self, port: &PortLink) -> Result<u32, KernelError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(&port.ifname)
            .address(port.mac.bytes.to_vec())
            .append_extra_attribute(LinkAttribute::Mtu(u32::from(port.mtu)));
        // Open until the veth is made.
        let netns;
        if !port.engine {
            netns = Netns::open_same(&port.netns, port.netns_inode)?;
            if netns.netlink()?.link(&port.ifname).await?.is_some() {
                return Err(KernelError::InterfaceExists {
                    path: port.netns.clone(),
                    name: port.ifname.clone(),
                });
            }
            peer = peer.setns_by_fd(netns.raw_fd());
        }
        let peer = peer.build();
        let pair = LinkVeth::new(&port.host_ifname, &port.ifname)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .append_extra_attribute(LinkAttribute::Mtu(u32::from(port.mtu)))
            .build();
        let result = self.handle.link().add(pair).execute().await;
        explain(result, || format!("creating the veth {} of endpoint {}", port.host_ifname, port.endpoint))?;
        let made = self.mark_port(port).await;
        if made.is_err()
            && let Ok(Some(link)) = self.link(&port.host_ifname).await
        {
            self.delete_link(link.index).await?;
        }
        made
    }

    async fn mark_port(&self, port: &PortLink) -> Result<u32, KernelError> {
        let link = self.link(&port.host_ifname).await?;
        let link = link.ok_or_else(|| KernelError::NoSuchInterface { name: port.host_ifname.clone() })?;
        self.set_alias(link.index, &format!("{PORT_ALIAS}{}", port.endpoint)).await?;
        sysctl::silence(&port.host_ifname)?;
        Ok(link.index)
    }

    /// Sets the host side's MTU and state. Its programs and rows must be in place.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn host_side_up(&self, port: &PortLink, found: &Link) -> Result<(), KernelError> {
        if found.mtu != u32::from(port.mtu) {
            self.set_mtu(found.index, u32::from(port.mtu)).await?;
        }
        if found.up { Ok(()) } else { self.set_up(found.index).await }
    }
}

/// Gives the container its interface: MTU, addresses, up, and default routes of those families that have none. What is
/// there already is left alone, so doing it again is harmless. `host` is the index of the host side. Does nothing where a container
/// engine does all that.
///
/// # Errors
/// If the namespace is gone, the veth leads elsewhere, or the kernel refuses.
pub async fn container_side_up(port: &PortLink, host: u32) -> Result<(), KernelError> {
    if port.engine {
        return Ok(());
    }
    let netns = Netns::open_same(&port.netns, port.netns_inode)?;
    let inside = netns.netlink()?;
    // By its peer, not by its name: a container may rename its interfaces.
    let links = inside.links().await?;
    let link = links
        .into_iter()
        .find(|link| link.kind == "veth" && link.peer == host)
        .ok_or_else(|| KernelError::Elsewhere { name: port.host_ifname.clone(), path: port.netns.clone() })?;
    if link.mtu != u32::from(port.mtu) {
        inside.set_mtu(link.index, u32::from(port.mtu)).await?;
    }
    let ipv6 = port.addresses.iter().any(|net| net.addr().is_ipv6());
    let elsewhere = |route: &DefaultRoute| route.ipv6 && route.ifindex != link.index;
    let advertisements = if port.router_advertisement {
        // The first network gives the default routes, by whichever way.
        Advertisements::Taken { default_route: !inside.default_routes().await?.iter().any(elsewhere) }
    } else if link.up {
        Advertisements::Kept
    } else {
        Advertisements::Ignored
    };
    sysctl::container(&netns, &link.name, ipv6, advertisements)?;
    let present = inside.addresses().await?;
    for net in &port.addresses {
        if !present.iter().any(|address| address.ifindex == link.index && address.net == *net) {
            inside.add_address(link.index, *net).await?;
        }
    }
    if !link.up {
        inside.set_up(link.index).await?;
    }
    let present = inside.default_routes().await?;
    for gateway in &port.gateways {
        // An advertised route of this interface goes when the network stops advertising; ours stays.
        let counts = |route: &DefaultRoute| !(route.advertised && route.ifindex == link.index);
        if !present.iter().any(|route| route.ipv6 == gateway.is_ipv6() && counts(route)) {
            inside.add_default_route(link.index, *gateway, port.mtu).await?;
        }
    }
    Ok(())
}
