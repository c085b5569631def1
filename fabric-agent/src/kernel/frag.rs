//! The agent's veth pair without offloads: what goes through it arrives segmented and with its checksums filled in, so
//! that a program can cut it into fragments.

use std::{io, os::fd::AsRawFd};

use netlink_packet_route::link::LinkAttribute;
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use rtnetlink::{LinkUnspec, LinkVeth};

use super::{KernelError, Netlink, explain, link::Link, sysctl};
use crate::dataplane::ownership::{FRAG_ALIAS, FRAG_IN_NAME, FRAG_NAME};

/// The largest MTU that a veth has, and the largest IP packet, bytes.
const MTU: u32 = 65535;
/// A packet of more segments than this is segmented before it enters, whatever the features say.
const SEGMENTS: u32 = 1;

/// Whether a link is one side of the pair: by name and kind.
pub fn is_side(link: &Link, name: &str) -> bool {
    link.kind == "veth" && link.name == name
}

/// Whether a side lacks nothing that a link shows.
fn is_right(link: &Link) -> bool {
    link.alias == FRAG_ALIAS && link.up && link.mtu == MTU && link.gso_max_segs == SEGMENTS
}

impl Netlink {
    /// Makes the pair be there, up and without offloads. Says whether something had to be done.
    ///
    /// # Errors
    /// If a name belongs to something else, or the kernel refuses.
    pub async fn ensure_frag(&self, links: &[Link]) -> Result<bool, KernelError> {
        let find = |name| links.iter().find(|link| link.name == name);
        let found = [find(FRAG_NAME), find(FRAG_IN_NAME)];
        if let Some(link) = found.iter().flatten().find(|link| link.kind != "veth") {
            return Err(KernelError::Unusable(format!(
                "the interface name {} is taken by something that is not the agent's veth; rename it",
                link.name
            )));
        }
        if let [Some(enter), Some(leave)] = found
            && enter.peer == leave.index
        {
            if is_right(enter) && is_right(leave) && !checksums(FRAG_NAME, None)? {
                return Ok(false);
            }
        } else {
            // One end goes with the other.
            for link in found.iter().flatten() {
                self.delete_link(link.index).await?;
            }
            let pair = LinkVeth::new(FRAG_NAME, FRAG_IN_NAME).build();
            explain(self.handle.link().add(pair).execute().await, || {
                format!("creating the veth {FRAG_NAME}")
            })?;
        }
        checksums(FRAG_NAME, Some(false))?;
        for name in [FRAG_NAME, FRAG_IN_NAME] {
            let link = self.link(name).await?;
            let link = link.ok_or_else(|| KernelError::NoSuchInterface { name: name.to_owned() })?;
            sysctl::silence(name)?;
            self.set_alias(link.index, FRAG_ALIAS).await?;
            let message = rtnetlink::LinkMessageBuilder::<LinkUnspec>::default()
                .index(link.index)
                .append_extra_attribute(LinkAttribute::Mtu(MTU))
                .append_extra_attribute(LinkAttribute::GsoMaxSegs(SEGMENTS))
                .up();
            let done = self.handle.link().change(message.build()).execute().await;
            explain(done, || format!("setting up interface {name}"))?;
        }
        Ok(true)
    }
}

/// Whether an interface leaves checksums to its hardware; with a value, after setting it so.
fn checksums(ifname: &str, set: Option<bool>) -> Result<bool, KernelError> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_GTXCSUM: u32 = 0x16;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    /// `struct ethtool_value` (`include/uapi/linux/ethtool.h`).
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let refused =
        |source| KernelError::Refused { what: format!("checksum offload of interface {ifname}"), source };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| refused(errno.into()))?;
    let mut value = set.map_or(Value { command: ETHTOOL_GTXCSUM, data: 0 }, |on| Value {
        command: ETHTOOL_STXCSUM,
        data: on.into(),
    });
    // SAFETY: all-zero bytes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names an interface and points to a value that lives as long as the call, which reads or writes it.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if code == 0 { Ok(value.data != 0) } else { Err(refused(io::Error::last_os_error())) }
}
