//! How keys of maps are named to people.

use fabric_common::{addr::Addr, endpoint::EndpointKey, fdb::FdbKey, flood::FloodKey, network::MemberKey};

use crate::plan::desired::PrefixKey;

/// A map key as people read it.
pub trait Describe {
    /// In braces, with the names of its fields.
    fn describe(&self) -> String;
}

impl Describe for u32 {
    fn describe(&self) -> String {
        format!("{{{self}}}")
    }
}

impl Describe for Addr {
    fn describe(&self) -> String {
        format!("{{{self}}}")
    }
}

impl Describe for MemberKey {
    fn describe(&self) -> String {
        format!("{{vni {}, node {}}}", self.vni, self.node)
    }
}

impl Describe for FloodKey {
    fn describe(&self) -> String {
        format!("{{vni {}, list {}, place {}}}", self.vni, self.list, self.place)
    }
}

impl Describe for EndpointKey {
    fn describe(&self) -> String {
        format!("{{vni {}, address {}}}", self.vni, self.addr)
    }
}

impl Describe for PrefixKey {
    fn describe(&self) -> String {
        let vni = u32::from_be_bytes(self.prefix.vni);
        format!("{{vni {vni}, prefix {}, {} bits}}", self.prefix.addr, self.bits)
    }
}

impl Describe for FdbKey {
    fn describe(&self) -> String {
        format!("{{vni {}, mac {}}}", self.vni, self.mac)
    }
}
