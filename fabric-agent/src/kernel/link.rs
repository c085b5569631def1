//! Links in general: listing with our marks, up and down, MTU, alias, delete.

use fabric_common::addr::Mac;
use futures::TryStreamExt;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{KernelError, Netlink, explain};
use crate::dataplane::ownership::{
    ACCESS_ALIAS, ACCESS_PORT_ALIAS, ACCESS_PORT_PREFIX, ACCESS_PREFIX, PORT_ALIAS, PORT_PREFIX,
};

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Alias; empty if there is none.
    pub alias: String,
    /// Kind (`veth`, `vxlan`, …); empty for real devices.
    pub kind: String,
    /// MTU, bytes.
    pub mtu: u32,
    /// Ethernet address; zero for what is not Ethernet.
    pub mac: Mac,
    /// Interface index of the other side of a veth, in the namespace that it is in; 0 if there is none.
    pub peer: u32,
    /// Whether that other side is in another namespace.
    pub peer_elsewhere: bool,
    /// Whether it is set up (administratively).
    pub up: bool,
    /// Whether it has a carrier: of a veth, whether both sides are up.
    pub running: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Most segments of a packet that it takes whole.
    pub gso_max_segs: u32,
    /// Of a `vxlan` device: its settings that matter to us.
    pub vxlan: Option<VxlanInfo>,
}

/// Settings of a `vxlan` device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VxlanInfo {
    /// UDP port.
    pub port: u16,
    /// Whether tunnel metadata comes with each packet.
    pub collect_metadata: bool,
    /// Whether it takes IPv6 packets without a UDP checksum.
    pub zero_checksum6_rx: bool,
    /// Whether it learns from packets.
    pub learning: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            index: 0,
            name: String::new(),
            alias: String::new(),
            kind: String::new(),
            mtu: 0,
            mac: Mac::ZERO,
            peer: 0,
            peer_elsewhere: false,
            up: false,
            running: false,
            loopback: false,
            gso_max_segs: 0,
            vxlan: None,
        }
    }
}

impl Link {
    /// The endpoint that this is the host side of, by its alias.
    pub fn endpoint(&self) -> Option<&str> {
        if self.kind == "veth" { self.alias.strip_prefix(PORT_ALIAS) } else { None }
    }

    /// The network whose access port this is the port side of, by its alias.
    pub fn access(&self) -> Option<&str> {
        if self.kind == "veth" { self.alias.strip_prefix(ACCESS_PORT_ALIAS) } else { None }
    }

    /// Whether this is the host's own interface in a network, by its alias.
    pub fn is_access_side(&self) -> bool {
        self.kind == "veth" && self.alias.starts_with(ACCESS_ALIAS)
    }

    /// Whether programs of ours must look at what comes in here.
    pub fn is_port(&self) -> bool {
        self.endpoint().is_some() || self.access().is_some()
    }

    /// Whether this is a veth that an agent began to make and did not live to mark: our name, no alias.
    pub fn is_half_made(&self) -> bool {
        let prefixes = [PORT_PREFIX, ACCESS_PORT_PREFIX, ACCESS_PREFIX];
        let hash = prefixes.iter().find_map(|prefix| self.name.strip_prefix(prefix)).unwrap_or_default();
        self.kind == "veth"
            && self.alias.is_empty()
            && hash.len() == 12
            && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }
}

impl Netlink {
    /// Every link in the namespace.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn links(&self) -> Result<Vec<Link>, KernelError> {
        let messages = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        Ok(explain(messages, || "listing links".to_owned())?.iter().map(from_message).collect())
    }

    /// The link of that name; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, KernelError> {
        let message = self.handle.link().get().match_name(name).execute().try_next().await;
        match explain(message, || format!("looking for the interface {name}")) {
            Ok(message) => Ok(message.as_ref().map(from_message)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_up(&self, index: u32) -> Result<(), KernelError> {
        self.change(LinkUnspec::new_with_index(index).up(), || format!("setting interface {index} up")).await
    }

    /// Sets a link down.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_down(&self, index: u32) -> Result<(), KernelError> {
        self.change(LinkUnspec::new_with_index(index).down(), || format!("setting interface {index} down"))
            .await
    }

    /// Sets a link's MTU.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), KernelError> {
        let what = || format!("setting the MTU of interface {index} to {mtu}");
        self.change(LinkUnspec::new_with_index(index).mtu(mtu), what).await
    }

    /// Sets a link's alias, by which a later process recognises it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()));
        self.change(message, || format!("setting the alias of interface {index}")).await
    }

    /// Deletes a link. One that is gone already is success.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_link(&self, index: u32) -> Result<(), KernelError> {
        let result = self.handle.link().del(index).execute().await;
        match explain(result, || format!("deleting interface {index}")) {
            Err(error) if !error.is_absent() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn change(
        &self,
        message: LinkMessageBuilder<LinkUnspec>,
        what: impl FnOnce() -> String,
    ) -> Result<(), KernelError> {
        explain(self.handle.link().change(message.build()).execute().await, what)
    }
}

fn from_message(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias.clone_from(alias);
        } else if let LinkAttribute::Link(peer) = attribute {
            link.peer = *peer;
        } else if let LinkAttribute::LinkNetNsId(_) = attribute {
            // The kernel gives it only where the other side is in another namespace.
            link.peer_elsewhere = true;
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::GsoMaxSegs(segments) = attribute {
            link.gso_max_segs = *segments;
        } else if let LinkAttribute::Address(bytes) = attribute {
            link.mac = <[u8; 6]>::try_from(bytes.as_slice()).map_or(Mac::ZERO, Mac::new);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            read_info(&mut link, infos);
        }
    }
    link
}

fn read_info(link: &mut Link, infos: &[LinkInfo]) {
    for info in infos {
        if let LinkInfo::Kind(kind) = info {
            link.kind = if *kind == InfoKind::Veth { "veth".to_owned() } else { kind.to_string() };
        } else if let LinkInfo::Data(InfoData::Vxlan(data)) = info {
            link.vxlan = Some(vxlan_info(data));
        }
    }
}

fn vxlan_info(data: &[InfoVxlan]) -> VxlanInfo {
    let mut vxlan = VxlanInfo::default();
    for info in data {
        if let InfoVxlan::Port(port) = info {
            vxlan.port = *port;
        } else if let InfoVxlan::CollectMetadata(on) = info {
            vxlan.collect_metadata = *on;
        } else if let InfoVxlan::UDPZeroCsumRX(on) = info {
            vxlan.zero_checksum6_rx = *on;
        } else if let InfoVxlan::Learning(on) = info {
            vxlan.learning = *on;
        }
    }
    vxlan
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn half_made_ports_are_recognised_by_name_and_kind_only_without_an_alias() {
        let port = Link { name: "fab0123456789ab".into(), kind: "veth".into(), ..Link::default() };
        assert!(port.is_half_made());
        for name in ["fah0123456789ab", "fac0123456789ab"] {
            assert!(Link { name: name.into(), ..port.clone() }.is_half_made(), "{name}");
        }
        assert!(!Link { alias: "mine".into(), ..port.clone() }.is_half_made());
        assert!(!Link { kind: "dummy".into(), ..port.clone() }.is_half_made());
        for name in ["fabric0", "fab0123456789a", "fab0123456789xy", "eth0", "fab0123456789AB"] {
            assert!(!Link { name: name.into(), ..port.clone() }.is_half_made(), "{name}");
        }
    }

    #[test]
    fn the_alias_names_the_endpoint() {
        let port = Link { alias: "fabric:endpoint:web".into(), kind: "veth".into(), ..Link::default() };
        assert_eq!((port.endpoint(), port.access(), port.is_port()), (Some("web"), None, true));
        assert_eq!(Link { kind: "dummy".into(), ..port.clone() }.endpoint(), None);
        let access = Link { alias: "fabric:access-port:blue".into(), ..port.clone() };
        assert_eq!((access.endpoint(), access.access(), access.is_port()), (None, Some("blue"), true));
        let host = Link { alias: "fabric:access:blue".into(), ..port };
        assert_eq!((host.access(), host.is_port(), host.is_access_side()), (None, false, true));
    }
}
