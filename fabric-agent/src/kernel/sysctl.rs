//! Interface settings under `/proc/sys/net`, which belong to the namespace of the thread that opens them.

use std::{fs, io};

use super::{KernelError, netns::Netns};

/// Settings of the host side of a veth and of the `vxlan` device: the host speaks no IP there, so that nothing of its
/// own (router solicitations, neighbour discovery) mixes with the containers' packets.
///
/// # Errors
/// If a setting can't be written. A kernel without IPv6 is no error.
pub fn silence(ifname: &str) -> Result<(), KernelError> {
    set("ipv6", ifname, "disable_ipv6", "1")?;
    set("ipv6", ifname, "accept_ra", "0")
}

/// What the container side of a veth does with router advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advertisements {
    /// It asks for none and takes none.
    Ignored,
    /// As before: it may have taken some, and takes the last one too, which ends what it learned. No more can come.
    Kept,
    /// It takes them, also if it forwards: only the gateway's pass.
    Taken {
        /// Whether the default route as well.
        default_route: bool,
    },
}

/// Settings of the container side of a veth. With IPv6 addresses, its link-local address is made of
/// its MAC, because that is the one that the network knows. Without, it speaks no IPv6: its packets would all be dropped as spoofed.
///
/// # Errors
/// If the namespace can't be entered or a setting can't be written. A kernel without IPv6 is an error only if the
/// container needs it.
pub fn container(
    netns: &Netns,
    ifname: &str,
    ipv6: bool,
    advertisements: Advertisements,
) -> Result<(), KernelError> {
    netns.run(|| {
        if !ipv6 {
            return set("ipv6", ifname, "disable_ipv6", "1");
        }
        set("ipv6", ifname, "disable_ipv6", "0")?;
        set("ipv6", ifname, "addr_gen_mode", "0")?;
        match advertisements {
            Advertisements::Ignored => set("ipv6", ifname, "accept_ra", "0"),
            Advertisements::Kept => Ok(()),
            Advertisements::Taken { default_route } => {
                set("ipv6", ifname, "accept_ra_defrtr", if default_route { "1" } else { "0" })?;
                set("ipv6", ifname, "accept_ra", "2")
            }
        }
    })?
}

/// Settings of the host's own interface in a network, before it is up: as in a container. Forwarding stays the host's
/// decision.
///
/// # Errors
/// If a setting can't be written.
pub fn access(ifname: &str, ipv6: bool) -> Result<(), KernelError> {
    if !ipv6 {
        return set("ipv6", ifname, "disable_ipv6", "1");
    }
    set("ipv6", ifname, "disable_ipv6", "0")?;
    set("ipv6", ifname, "addr_gen_mode", "0")?;
    set("ipv6", ifname, "accept_dad", "0")?;
    set("ipv6", ifname, "accept_ra", "0")
}

fn set(family: &str, ifname: &str, key: &str, value: &str) -> Result<(), KernelError> {
    let path = format!("/proc/sys/net/{family}/conf/{ifname}/{key}");
    match fs::read_to_string(&path) {
        // Written only where it differs, so that a read-only /proc/sys with the right value is no obstacle.
        Ok(now) if now.trim() == value => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(_) | Err(_) => {}
    }
    fs::write(&path, value)
        .map_err(|source| KernelError::Refused { what: format!("writing {value} to {path}"), source })
}
