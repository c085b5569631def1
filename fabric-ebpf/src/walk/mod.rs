//! The journeys of packets, one file each. Every walk returns an `Outcome`; `outcome` turns it into the kernel's code.

pub mod from_container;
pub mod from_frag;
pub mod from_uplink;
pub mod from_uplink_xdp;
pub mod from_vxlan;
