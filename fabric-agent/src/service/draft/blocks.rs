//! Blocks of addresses, where hosts share a store: each takes addresses from blocks of its own, so that those who take one at the
//! same time do not meet. A block is an entry among the cursors, `addresses/NETWORK/BLOCK`, and whoever takes an address of it writes
//! the entry that was read: two who meet nevertheless exclude each other.
//!
//! A block belongs to the node that took it first, as long as that node is declared; one from which an address was only chosen by
//! name belongs to nobody. Where no block is left, nodes take from each other's.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{super::ServiceError, Draft, endpoint::cursor_name};
use crate::model::{
    Network, ids,
    ipam::{self, Block},
    network::Subnet,
};

/// The entry of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Whose it is; empty: nobody's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    node: String,
    /// The address that was given away last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<IpAddr>,
}

impl Draft {
    /// A free address of a subnet, from a block of this node if there is one.
    pub(super) fn block_address(
        &mut self,
        network: &Network,
        subnet: &Subnet,
        used: &BTreeMap<IpAddr, String>,
    ) -> Result<IpAddr, ServiceError> {
        let node = self.settings.node.clone();
        let entries = self.entries(&network.name, subnet.net);
        let free = |block: IpNet, last| ipam::allocate_within(network, subnet, block, used, last).ok();
        let own = entries.iter().filter(|(_, entry)| entry.node == node);
        let kept = own.map(|(block, entry)| (*block, entry.last));
        let mine = kept.into_iter().find_map(|(block, last)| Some((block, free(block, last)?)));
        let found = mine.or_else(|| {
            let mut all = ipam::blocks(subnet.net, ids::hash32(&node));
            all.find_map(|block| {
                let entry = entries.get(&block);
                entry.is_none_or(|entry| self.is_free_for_all(entry)).then_some(())?;
                Some((block, free(block, entry.and_then(|entry| entry.last))?))
            })
        });
        if let Some((block, address)) = found {
            self.set_entry(&network.name, block, &Entry { node, last: Some(address) });
            return Ok(address);
        }
        let others =
            entries.iter().find_map(|(block, entry)| Some((block, entry, free(*block, entry.last)?)));
        match others {
            Some((block, entry, address)) => {
                self.set_entry(
                    &network.name,
                    *block,
                    &Entry { node: entry.node.clone(), last: Some(address) },
                );
                Ok(address)
            }
            // Says how many are in use.
            None => Ok(ipam::allocate(network, subnet, used, None)?),
        }
    }

    /// Whether anybody may take a block over.
    fn is_free_for_all(&self, entry: &Entry) -> bool {
        entry.node.is_empty() || self.get("Node", &entry.node).is_none()
    }

    /// Makes this transaction and others that take an address of the same block exclude each other.
    pub(super) fn guard_block(&mut self, network: &str, subnet: IpNet, address: IpAddr) {
        let Some(block) = Block::of(subnet, address) else { return };
        let entry = self.entries(network, subnet).remove(&block.0).unwrap_or_default();
        self.set_entry(network, block.0, &entry);
    }

    /// Gives blocks back that hold none of an endpoint's former addresses nor anybody else's, but for the last one of a node.
    pub(super) fn release_blocks(&mut self, network: &str, addresses: &[IpAddr]) {
        let Ok(model) = self.network_model(network) else { return };
        let used = self.used(&model, "");
        for address in addresses {
            let Some(subnet) = model.subnet_of(*address) else { continue };
            let Some(Block(block)) = Block::of(subnet.net, *address) else { continue };
            let entries = self.entries(network, subnet.net);
            let Some(entry) = entries.get(&block) else { continue };
            let only = entries.values().filter(|other| other.node == entry.node).count() < 2;
            let kept = only && !self.is_free_for_all(entry);
            if !kept && !used.keys().any(|address| block.contains(address)) {
                self.cursors.insert(entry_name(network, block), None);
            }
        }
    }

    /// Forgets the blocks of a network, as many as fit a transaction. What is left harms nobody: it is as good for a network
    /// of the same name that comes later.
    pub(super) fn forget_blocks(&mut self, network: &str) {
        const AT_ONCE: usize = 64;
        let prefix = format!("{}/", cursor_name(network));
        let names: Vec<String> = self.notes(&prefix).map(|(name, _)| name.to_owned()).take(AT_ONCE).collect();
        self.cursors.extend(names.into_iter().map(|name| (name, None)));
    }

    fn entries(&self, network: &str, subnet: IpNet) -> BTreeMap<IpNet, Entry> {
        let prefix = format!("{}/", cursor_name(network));
        let parse = |(name, value): (&str, &str)| {
            let block: IpNet = name.strip_prefix(&prefix)?.parse().ok()?;
            Some((block, serde_json::from_str(value).unwrap_or_default()))
        };
        self.notes(&prefix).filter_map(parse).filter(|(block, _)| subnet.contains(block)).collect()
    }

    fn set_entry(&mut self, network: &str, block: IpNet, entry: &Entry) {
        let value = serde_json::to_string(entry).unwrap_or_else(|_| "{}".to_owned());
        self.cursors.insert(entry_name(network, block), Some(value));
    }
}

fn entry_name(network: &str, block: IpNet) -> String {
    format!("{}/{block}", cursor_name(network))
}
