//! Uplinks: this node's underlay interfaces, and its own VTEP addresses.

use crate::{addr::Mac, shared};

shared! {
    /// Value of `uplinks`, keyed by interface index (`u32`). A program left on an interface without a row does nothing.
    16 bytes: pub struct UplinkValue {
        /// The interface's MAC.
        pub mac: Mac,
        /// The interface's MTU, bytes.
        pub mtu: u16,
        /// No flag is defined yet; always zero.
        pub flags: u32,
        /// Always zero.
        pub reserved: u32,
    }
}

shared! {
    /// Value of `local_vteps`, keyed by address: only a packet to one of these, on our port, is ours.
    8 bytes: pub struct LocalVtepValue {
        /// The uplink that has the address.
        pub ifindex: u32,
        /// No flag is defined yet; always zero.
        pub flags: u32,
    }
}
