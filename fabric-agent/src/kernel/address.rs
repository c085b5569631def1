//! Addresses of interfaces.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::{KernelError, Netlink, explain};

/// An address that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Interface index.
    pub ifindex: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// Whether its scope is global and it can be used now.
    pub global: bool,
    /// Whether it is an IPv6 address that the kernel made for privacy and gives up by and by (RFC 8981).
    pub temporary: bool,
}

impl Netlink {
    /// Every address in the namespace, in the kernel's order.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn addresses(&self) -> Result<Vec<Address>, KernelError> {
        let messages = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let messages = explain(messages, || "listing addresses".to_owned())?;
        Ok(messages.iter().filter_map(from_message).collect())
    }

    /// Adds an address to an interface. One that is there already is success.
    ///
    /// IPv6 addresses are added without duplicate address detection: the address was allocated, so nobody else has it,
    /// and a container must be able to talk the moment that it was attached, not a second later.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn add_address(&self, ifindex: u32, net: IpNet) -> Result<(), KernelError> {
        let mut request = self.handle.address().add(ifindex, net.addr(), net.prefix_len()).replace();
        if net.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        explain(request.execute().await, || format!("adding the address {net}"))
    }

    /// Removes an address from an interface. One that is gone already is success.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove_address(&self, ifindex: u32, net: IpNet) -> Result<(), KernelError> {
        let mut message =
            self.handle.address().add(ifindex, net.addr(), net.prefix_len()).message_mut().clone();
        message.header.flags = AddressHeaderFlags::empty();
        match explain(self.handle.address().del(message).execute().await, || {
            format!("removing the address {net}")
        }) {
            Err(error) if !error.is_absent() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn from_message(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        } else if let AddressAttribute::Flags(set) = attribute {
            flags = *set;
        }
    }
    // On a point-to-point interface `Address` is the peer's.
    let ip: IpAddr = local.or(address)?;
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    Some(Address {
        ifindex: message.header.index,
        net: IpNet::new(ip, message.header.prefix_len).ok()?,
        global: message.header.scope == AddressScope::Universe && !flags.intersects(unusable),
        // `IFA_F_TEMPORARY` is the bit that marks a second address of a subnet in IPv4 (`include/uapi/linux/if_addr.h`).
        temporary: ip.is_ipv6() && flags.contains(AddressFlags::Secondary),
    })
}
