//! How keys of maps are named to people.

use fabric_common::{
    addr::Addr,
    endpoint::EndpointKey,
    fdb::FdbKey,
    flood::FloodKey,
    names::NamedKey,
    network::MemberKey,
    policy::{INGRESS, NumberKey, PolicyKey},
};

use crate::plan::desired::{AddrPrefix, PrefixKey};

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

impl Describe for NamedKey {
    fn describe(&self) -> String {
        format!("{{port {}, address {}}}", self.ifindex, self.addr)
    }
}

impl Describe for NumberKey {
    fn describe(&self) -> String {
        format!("{{kind {}, number {}}}", self.kind, self.number)
    }
}

impl Describe for PolicyKey {
    fn describe(&self) -> String {
        let direction = if self.direction == INGRESS { "ingress" } else { "egress" };
        format!("{{policy {}, {direction}, identity {}}}", self.policy, self.identity)
    }
}

impl Describe for AddrPrefix {
    fn describe(&self) -> String {
        format!("{{prefix {}, {} bits}}", self.addr, self.bits)
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
