//! An access port: a veth with both sides in the host's namespace. The port side carries the programs like a container's;
//! the other one, the access side, is the host's interface in the network.
//!
//! The same order as for a container's port: both sides down, programs and rows, port side up, access side up.

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{KernelError, Netlink, explain, link::Link, sysctl};
use crate::{
    dataplane::ownership::{ACCESS_ALIAS, ACCESS_PORT_ALIAS},
    plan::desired::AccessLink,
};

impl Netlink {
    /// Creates the veth of an access port, both sides down, and returns the port side's index. After a failure nothing of
    /// it is left.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn create_access(&self, access: &AccessLink) -> Result<u32, KernelError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(&access.ifname)
            .address(access.mac.bytes.to_vec())
            .append_extra_attribute(LinkAttribute::Mtu(u32::from(access.mtu)))
            .build();
        let pair = LinkVeth::new(&access.port_ifname, &access.ifname)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .append_extra_attribute(LinkAttribute::Mtu(u32::from(access.mtu)))
            .build();
        let what =
            || format!("creating the access port {} of network {}", access.port_ifname, access.network);
        explain(self.handle.link().add(pair).execute().await, what)?;
        let made = self.mark_access(access).await;
        if made.is_err()
            && let Ok(Some(link)) = self.link(&access.port_ifname).await
        {
            self.delete_link(link.index).await?;
        }
        made
    }

    /// The port side's mark comes last: a pair without it is half made.
    async fn mark_access(&self, access: &AccessLink) -> Result<u32, KernelError> {
        let missing = |name: &str| KernelError::NoSuchInterface { name: name.to_owned() };
        let host = self.link(&access.ifname).await?.ok_or_else(|| missing(&access.ifname))?;
        let port = self.link(&access.port_ifname).await?.ok_or_else(|| missing(&access.port_ifname))?;
        self.set_alias(host.index, &format!("{ACCESS_ALIAS}{}", access.network)).await?;
        sysctl::silence(&access.port_ifname)?;
        self.set_alias(port.index, &format!("{ACCESS_PORT_ALIAS}{}", access.network)).await?;
        Ok(port.index)
    }

    /// Makes both sides be as wanted: MTU, the host's addresses (others go), up; the port side first. Its programs and rows
    /// must be in place. Says whether something had to be changed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn access_up(
        &self,
        access: &AccessLink,
        port: &Link,
        host: &Link,
    ) -> Result<bool, KernelError> {
        let mtu = u32::from(access.mtu);
        let mut changed = false;
        for side in [port, host] {
            if side.mtu != mtu {
                self.set_mtu(side.index, mtu).await?;
                changed = true;
            }
        }
        sysctl::access(&host.name, access.addresses.iter().any(|net| net.addr().is_ipv6()))?;
        for side in [port, host] {
            if !side.up {
                self.set_up(side.index).await?;
                changed = true;
            }
        }
        let present = self.addresses().await?;
        let present: Vec<_> = present.iter().filter(|address| address.ifindex == host.index).collect();
        for address in
            present.iter().filter(|address| address.global && !access.addresses.contains(&address.net))
        {
            self.remove_address(host.index, address.net).await?;
            changed = true;
        }
        for net in access.addresses.iter().filter(|net| !present.iter().any(|address| address.net == **net)) {
            self.add_address(host.index, *net).await?;
            changed = true;
        }
        Ok(changed)
    }
}
