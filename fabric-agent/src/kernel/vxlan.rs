//! The agent's collect-metadata `vxlan` device: the slow path's way in and out of the tunnel, and the UDP socket
//! without which a network card would not aggregate tunnelled frames.

use netlink_packet_route::link::LinkAttribute;
use rtnetlink::LinkVxlan;

use super::{
    KernelError, Netlink, explain,
    link::{Link, VxlanInfo},
    sysctl,
};
use crate::{dataplane::ownership::VXLAN_ALIAS, plan::desired::VxlanDevice};

impl VxlanDevice {
    fn info(&self) -> VxlanInfo {
        VxlanInfo { port: self.port, collect_metadata: true, zero_checksum6_rx: true, learning: false }
    }
}

/// What a link lacks to be the wanted device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VxlanGap {
    /// Nothing.
    None,
    /// MTU, alias or state, which can be set in place.
    Settings,
    /// Something that only a new device can have.
    Replace,
}

/// Compares a link with the wanted device.
pub fn gap(link: &Link, wanted: &VxlanDevice) -> VxlanGap {
    if link.vxlan != Some(wanted.info()) {
        VxlanGap::Replace
    } else if link.mtu != wanted.mtu || link.alias != VXLAN_ALIAS || !link.up {
        VxlanGap::Settings
    } else {
        VxlanGap::None
    }
}

impl Netlink {
    /// Makes the `vxlan` device be there as wanted, up, and returns its index. A device of the name that can't be
    /// changed into it is replaced, provided that it is marked as ours or is a `vxlan` device.
    ///
    /// # Errors
    /// If the name belongs to something else, or another device has the UDP port.
    pub async fn ensure_vxlan(&self, wanted: &VxlanDevice) -> Result<u32, KernelError> {
        let found = self.link(&wanted.name).await?;
        if let Some(link) = &found
            && link.vxlan.is_none()
        {
            return Err(KernelError::Unusable(format!(
                "the interface name {} is taken by something that is not a vxlan device; rename it",
                wanted.name
            )));
        }
        let index = match found {
            Some(link) if gap(&link, wanted) != VxlanGap::Replace => link.index,
            Some(link) => {
                self.delete_link(link.index).await?;
                self.create_vxlan(wanted).await?
            }
            None => self.create_vxlan(wanted).await?,
        };
        sysctl::silence(&wanted.name)?;
        self.set_alias(index, VXLAN_ALIAS).await?;
        self.set_mtu(index, wanted.mtu).await?;
        if let Err(error) = self.set_up(index).await {
            return Err(self.explain_port_conflict(wanted, error).await);
        }
        Ok(index)
    }

    async fn create_vxlan(&self, wanted: &VxlanDevice) -> Result<u32, KernelError> {
        let message = LinkVxlan::new(&wanted.name, 0)
            .collect_metadata(true)
            .port(wanted.port)
            .learning(false)
            .udp_zero_csum6_rx(true)
            .append_extra_attribute(LinkAttribute::Mtu(wanted.mtu))
            .build();
        let result = self.handle.link().add(message).execute().await;
        if let Err(error) = explain(result, || format!("creating the vxlan device {}", wanted.name)) {
            return Err(self.explain_port_conflict(wanted, error).await);
        }
        let made = self.link(&wanted.name).await?;
        made.map(|link| link.index).ok_or_else(|| KernelError::NoSuchInterface { name: wanted.name.clone() })
    }

    async fn explain_port_conflict(&self, wanted: &VxlanDevice, error: KernelError) -> KernelError {
        let taken = [nix::errno::Errno::EEXIST, nix::errno::Errno::EADDRINUSE];
        if !error.errno().is_some_and(|code| taken.contains(&nix::errno::Errno::from_raw(code))) {
            return error;
        }
        let other = self.links().await.unwrap_or_default().into_iter().find(|link| {
            link.name != wanted.name && link.vxlan.is_some_and(|vxlan| vxlan.port == wanted.port)
        });
        let by =
            other.map_or_else(|| "a socket".to_owned(), |link| format!("the vxlan device {}", link.name));
        KernelError::Unusable(format!(
            "UDP port {} is in use by {by}; free it or choose another one with --vxlan-port",
            wanted.port
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, VxlanDevice, VxlanGap, gap};

    #[test]
    fn only_what_cannot_be_set_in_place_needs_a_new_device() {
        let wanted = VxlanDevice { name: "fabric_vxlan".into(), port: 4789, mtu: 1450 };
        let made = Link {
            alias: "fabric:vxlan".into(),
            mtu: 1450,
            up: true,
            vxlan: Some(wanted.info()),
            ..Link::default()
        };
        assert_eq!(gap(&made, &wanted), VxlanGap::None);
        assert_eq!(gap(&Link { mtu: 1400, ..made.clone() }, &wanted), VxlanGap::Settings);
        assert_eq!(gap(&Link { up: false, ..made.clone() }, &wanted), VxlanGap::Settings);
        assert_eq!(gap(&made, &VxlanDevice { port: 8472, ..wanted.clone() }), VxlanGap::Replace);
        assert_eq!(gap(&Link { vxlan: None, ..made }, &wanted), VxlanGap::Replace);
    }
}
