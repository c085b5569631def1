//! From the numbers of a drop event to the names that people gave.

use std::{collections::BTreeMap, net::IpAddr};

use fabric_api::object::{Endpoint, Network};
use fabric_common::event::DropEvent;

/// VNIs of networks by name: those in force, or the declared ones.
pub(super) fn vnis(networks: &[Network]) -> BTreeMap<&str, u32> {
    let vni = |network: &Network| network.status.as_ref().map(|status| status.vni).or(network.spec.vni);
    networks.iter().filter_map(|network| Some((network.metadata.name.as_str(), vni(network)?))).collect()
}

/// Names of networks and of this node's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    networks: BTreeMap<u32, String>,
    ports: BTreeMap<u32, String>,
    addresses: BTreeMap<(u32, IpAddr), String>,
}

impl Names {
    /// Takes the names from objects with their status, as the service gives them.
    pub fn new(networks: &[Network], endpoints: &[Endpoint]) -> Self {
        let numbers = vnis(networks);
        let networks = numbers.iter().map(|(name, vni)| (*vni, (*name).to_owned())).collect();
        let mut names = Self { networks, ..Self::default() };
        for endpoint in endpoints {
            let Some(status) = endpoint.status.as_ref().filter(|status| status.local) else { continue };
            if status.ifindex != 0 {
                names.ports.insert(status.ifindex, endpoint.metadata.name.clone());
            }
            if let Some(vni) = numbers.get(endpoint.spec.network.as_str()) {
                for address in &endpoint.spec.addresses {
                    names.addresses.insert((*vni, *address), endpoint.metadata.name.clone());
                }
            }
        }
        names
    }

    /// The network of an event: its name, or its number if no network has it; empty if it was not reached.
    pub fn network(&self, event: &DropEvent) -> String {
        match self.networks.get(&event.vni) {
            Some(name) => name.clone(),
            None if event.vni == 0 => String::new(),
            None => event.vni.to_string(),
        }
    }

    /// The local endpoint of an event: the one whose port the packet came from, else the one it was for, else the one
    /// whose address it claims to be from; empty if there is none.
    pub fn endpoint(&self, event: &DropEvent) -> String {
        let by_address = |ip: IpAddr| self.addresses.get(&(event.vni, ip));
        self.ports
            .get(&event.ifindex)
            .or_else(|| by_address(event.dst.to_ip()))
            .or_else(|| by_address(event.src.to_ip()))
            .cloned()
            .unwrap_or_default()
    }
}
