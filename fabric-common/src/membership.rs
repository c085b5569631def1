//! Which groups the endpoints of this node have joined, as their own reports say (IGMP: RFC 1112, RFC 2236, RFC 3376; MLD: RFC 2710,
//! RFC 3810), in networks that replicate multicast.

use crate::{addr::Addr, shared};

/// Groups that one port may have joined at a time, both families together.
pub const MOST_GROUPS: u32 = 64;

shared! {
    /// Key of `groups`: a group that a port has joined.
    24 bytes: pub struct GroupKey {
        /// Network of the port, host byte order.
        pub vni: u32,
        /// The port.
        pub ifindex: u32,
        /// The group's address, IPv4 mapped.
        pub group: Addr,
    }
}

shared! {
    /// Value of `groups`. A row that is there is a membership; the agent removes it once nobody answers queries for it.
    16 bytes: pub struct GroupValue {
        /// When the last report for it came, nanoseconds since boot.
        pub seen: u64,
        /// Version of the protocol of that report: 1 to 3 of IGMP, 1 or 2 of MLD.
        pub version: u32,
        /// Always zero.
        pub zero: u32,
    }
}

shared! {
    /// Value of `group_counts`, keyed by interface index (`u32`).
    8 bytes: pub struct GroupCount {
        /// Rows of the port in `groups`.
        pub groups: u32,
        /// Joins that found no room: the port has [`MOST_GROUPS`] already, or `groups` is full.
        pub refused: u32,
    }
}

/// Who is meant by a destination address that is not one receiver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody, without asking: broadcast, the IPv4 groups of the local link (RFC 4541 section 2.1.2), all nodes.
    Everybody,
    /// Whoever has joined.
    Members,
    /// Nobody: neighbour discovery is answered from the tables, and nothing else is sent to a solicited-node address; and what must not
    /// leave its interface (RFC 4291 section 2.7).
    Nobody,
}

/// The audience of a group, or of a broadcast address.
#[inline(always)]
pub const fn audience(group: &Addr) -> Audience {
    let b = &group.bytes;
    if group.is_v4() {
        let members = b[12] & 0xf0 == 0xe0 && !(b[12] == 224 && b[13] == 0 && b[14] == 0);
        return if members { Audience::Members } else { Audience::Everybody };
    }
    if b[1] & 0xf < 2 {
        return Audience::Nobody;
    }
    // ff02::1 and ff02::1:ff00:0/104 begin alike.
    let head = b[1] == 2 && b[2] | b[3] | b[4] | b[5] | b[6] | b[7] | b[8] | b[9] | b[10] == 0;
    if head && b[11] == 1 && b[12] == 0xff {
        Audience::Nobody
    } else if head && b[11] | b[12] | b[13] | b[14] == 0 && b[15] == 1 {
        Audience::Everybody
    } else {
        Audience::Members
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::{Audience, audience};
    use crate::addr::Addr;

    #[test]
    fn each_group_has_its_audience() {
        let v4 = |text: &str| Addr::v4(text.parse::<Ipv4Addr>().expect("an address").octets());
        let v6 = |text: &str| Addr::v6(text.parse::<Ipv6Addr>().expect("an address").octets());
        for (addr, expected) in [
            (v4("255.255.255.255"), Audience::Everybody),
            (v4("192.168.10.255"), Audience::Everybody),
            (v4("224.0.0.1"), Audience::Everybody),
            (v4("224.0.0.251"), Audience::Everybody),
            (v4("224.0.1.0"), Audience::Members),
            (v4("224.1.0.1"), Audience::Members),
            (v4("225.0.0.1"), Audience::Members),
            (v4("239.255.255.255"), Audience::Members),
            (v6("ff02::1"), Audience::Everybody),
            (v6("ff02::2"), Audience::Members),
            (v6("ff02::101"), Audience::Members),
            (v6("ff02::fb"), Audience::Members),
            (v6("ff02::1:2"), Audience::Members),
            (v6("ff02::1:ff00:1"), Audience::Nobody),
            (v6("ff02::1:ffab:cdef"), Audience::Nobody),
            (v6("ff02::2:ff00:1"), Audience::Members),
            (v6("ff05::1"), Audience::Members),
            (v6("ff05::1:ff00:1"), Audience::Members),
            (v6("ff32::8000:1"), Audience::Members),
            (v6("ff01::1"), Audience::Nobody),
            (v6("ff00::1"), Audience::Nobody),
        ] {
            assert_eq!(audience(&addr), expected, "{addr:?}");
        }
    }
}
