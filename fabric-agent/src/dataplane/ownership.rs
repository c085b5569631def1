//! Every mark by which a fresh process knows what is ours. Nothing without one of these marks is ever changed or
//! removed.

use fabric_common::abi::{MAPS, MapSpec, program};

use crate::plan::desired::Attachment;

/// Source name of a bpffs that we mounted, as `/proc/self/mountinfo` shows it.
pub const MOUNT_SOURCE: &str = "fabric";
/// Directory of pinned maps under the agent's bpffs directory.
pub const MAPS_DIR: &str = "maps";
/// Directory of pinned links.
pub const LINKS_DIR: &str = "links";
/// Directory of pinned programs.
pub const PROGRAMS_DIR: &str = "programs";

/// Suffix of a map's pin while its content is being copied: worthless after a crash.
pub const COPYING: &str = "+copy";
/// Suffix of the pin of a map that is complete and takes its predecessor's name once the programs use it.
pub const SUCCESSOR: &str = "+new";

/// Priority of our filters on clsact qdiscs: near the front, where the checks belong, but not the 1 that most tools take.
pub const TC_PRIORITY: u16 = 3;
/// Handle of our filters; together with the priority and a name from [`program`] it marks a filter as ours.
pub const TC_HANDLE: u32 = 0xfab;

/// Beginning of the name of the host side of every veth of ours.
pub const PORT_PREFIX: &str = "fab";
/// Beginning of the alias (`ip link show`, ifalias) of the host side of a veth of ours; the endpoint's name follows.
pub const PORT_ALIAS: &str = "fabric:endpoint:";
/// Beginning of the name of the port side of an access port, through which the host is in a network.
pub const ACCESS_PORT_PREFIX: &str = "fah";
/// Beginning of the name of the other side, the host's own interface in the network.
pub const ACCESS_PREFIX: &str = "fac";
/// Beginning of the alias of the port side of an access port; the network's name follows.
pub const ACCESS_PORT_ALIAS: &str = "fabric:access-port:";
/// Beginning of the alias of the other side; the network's name follows.
pub const ACCESS_ALIAS: &str = "fabric:access:";
/// Name of the collect-metadata `vxlan` device.
pub const VXLAN_NAME: &str = "fabric_vxlan";
/// Alias of the `vxlan` device.
pub const VXLAN_ALIAS: &str = "fabric:vxlan";
/// Where packets enter the veth pair without offloads, to be fragmented at its other side.
pub const FRAG_NAME: &str = "fabric_frag";
/// The other side.
pub const FRAG_IN_NAME: &str = "fabric_frag_in";
/// Alias of both sides.
pub const FRAG_ALIAS: &str = "fabric:fragments";
/// Protocol number of our routes (`ip route show proto 251`).
pub const ROUTE_PROTOCOL: u8 = 251;

/// Name of a map's pin: its name and the hash of its layout, so that a map is never read with other eyes than those
/// that wrote it.
pub fn map_pin(spec: &MapSpec) -> String {
    format!("{}@{:016x}", spec.name, spec.layout)
}

/// Whether a file in the maps' directory was named by us, in this version or another.
pub fn is_map_pin(file: &str) -> bool {
    let file = file.strip_suffix(COPYING).or_else(|| file.strip_suffix(SUCCESSOR)).unwrap_or(file);
    file.split_once('@').is_some_and(|(name, layout)| {
        !name.is_empty() && layout.len() == 16 && layout.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Name of a link's pin.
pub fn link_pin(attachment: &Attachment) -> String {
    format!("{}-{}", attachment.ifindex, attachment.program)
}

/// What the name of a link's pin says: the interface, and the program if this version has it.
pub fn parse_link_pin(file: &str) -> Option<(u32, Option<&'static str>)> {
    let (ifindex, name) = file.split_once('-')?;
    // `parse` alone would also take a sign or leading zeros, which we never write.
    let ifindex: u32 = ifindex.parse().ok().filter(|n: &u32| n.to_string() == ifindex && *n != 0)?;
    (!name.is_empty()).then(|| (ifindex, known_program(name)))
}

/// The program of this name, if it is one of ours.
pub fn known_program(name: &str) -> Option<&'static str> {
    program::ALL.iter().copied().find(|ours| *ours == name)
}

/// The map of this name, if it is one of ours.
pub fn known_map(name: &str) -> Option<&'static MapSpec> {
    MAPS.iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use fabric_common::abi::{ENDPOINTS, MAPS, program};

    use super::{COPYING, SUCCESSOR, is_map_pin, link_pin, map_pin, parse_link_pin};
    use crate::plan::desired::Attachment;

    #[test]
    fn map_pins_are_recognised_and_others_are_not() {
        for spec in MAPS {
            assert!(is_map_pin(&map_pin(spec)));
            assert!(is_map_pin(&format!("{}{SUCCESSOR}", map_pin(spec))));
            assert!(is_map_pin(&format!("{}{COPYING}", map_pin(spec))));
        }
        assert!(map_pin(&ENDPOINTS).starts_with("endpoints@"));
        for other in [
            "endpoints",
            "endpoints@12",
            "@0123456789abcdef",
            "endpoints@0123456789abcdeg",
            "x@0123456789abcdef+",
        ] {
            assert!(!is_map_pin(other), "{other}");
        }
    }

    #[test]
    fn link_pins_come_back() {
        for name in program::ALL {
            let pin = link_pin(&Attachment { ifindex: 7, program: name });
            assert_eq!(parse_link_pin(&pin), Some((7, Some(*name))));
        }
        assert_eq!(parse_link_pin("7-from_the_future"), Some((7, None)));
        for bad in
            ["", "7", "-from_container", "+7-from_container", "07-from_container", "0-from_container", "7-"]
        {
            assert_eq!(parse_link_pin(bad), None, "{bad}");
        }
    }

    #[test]
    fn pin_names_have_no_dot() {
        // The kernel refuses names with a dot on a bpffs.
        assert!(MAPS.iter().all(|spec| !map_pin(spec).contains('.')));
        assert!(!SUCCESSOR.contains('.') && !COPYING.contains('.'));
    }
}
