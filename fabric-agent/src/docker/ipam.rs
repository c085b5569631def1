//! `IpamDriver`: addresses come from the networks of the fabric, so that Docker's containers keep clear of every other endpoint of the
//! network, here and elsewhere, and of the addresses that nodes have in it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    Door, Engine, Fault,
    pool::Pool,
    read,
    wire::{Note, PoolCall, RequestPool, address},
};
use crate::{
    model::network::{check_subnet, first_usable},
    service::Part,
};

/// Option of a pool that names the network it is of.
const NETWORK: &str = "fabric.network";
/// What kind of address is asked for.
const KIND: &str = "RequestAddressType";
/// The kind that is asked for when a network is created.
const GATEWAY: &str = "com.docker.network.gateway";
/// How often another address is tried where a subnet is used in several networks.
const TRIES: usize = 64;

impl Door {
    pub(super) async fn ipam_call(&self, method: &str, body: &[u8], _: &Engine) -> Result<Value, Fault> {
        match method {
            "GetCapabilities" => Ok(json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})),
            "GetDefaultAddressSpaces" => Ok(
                json!({"LocalDefaultAddressSpace": "fabric", "GlobalDefaultAddressSpace": "fabric-global"}),
            ),
            "RequestPool" => self.request_pool(&read(body)?).await,
            "ReleasePool" => {
                self.pools.withdraw(pool(&read(body)?)?.subnet);
                Ok(json!({}))
            }
            "RequestAddress" => self.request_address(&read(body)?).await,
            "ReleaseAddress" => {
                let call: PoolCall = read(body)?;
                self.pools.release(pool(&call)?.subnet, address(&call.address)?);
                Ok(json!({}))
            }
            _ => Err(Fault::Unknown),
        }
    }

    async fn request_pool(&self, call: &RequestPool) -> Result<Value, Fault> {
        let known = |key: &&String| key.as_str() == NETWORK || key.starts_with("com.docker.");
        if let Some(key) = call.options.keys().find(|key| !known(key)) {
            return Err(Fault::Refused(format!("IPAM option {key} is not known: use {NETWORK}")));
        }
        let network = call.options.get(NETWORK).cloned();
        let subnet = match (&network, call.pool.as_str()) {
            (_, "") if !call.sub_pool.is_empty() => {
                let sentence = format!("range {} has no subnet: give --subnet as well", call.sub_pool);
                return Err(Fault::Refused(sentence));
            }
            (Some(name), "") => self.subnet_of(name, call.v6).await?,
            (None, "") => self.offer(call.v6).await?,
            (_, text) => prefix("subnet", text)?,
        };
        check_subnet(subnet).map_err(|error| error.to_string())?;
        let range = match call.sub_pool.as_str() {
            "" => None,
            text => Some(prefix("range", text)?),
        };
        if let Some(range) = range.filter(|range| !subnet.contains(range)) {
            return Err(Fault::Refused(format!(
                "range {range} is not in subnet {subnet}: choose one that is"
            )));
        }
        let pool = Pool { subnet, range, network };
        Ok(json!({"PoolID": pool.to_string(), "Pool": subnet, "Data": {}}))
    }

    async fn subnet_of(&self, network: &str, v6: bool) -> Result<IpNet, Fault> {
        let found = self.service.network(network).await?;
        let subnet = found.spec.subnets.iter().copied().find(|net| net.addr().is_ipv6() == v6);
        subnet.ok_or_else(|| {
            let family = if v6 { "IPv6" } else { "IPv4" };
            Fault::Refused(format!(
                "network {network} has no {family} subnet: create one with it, or ask for none"
            ))
        })
    }

    async fn offer(&self, v6: bool) -> Result<IpNet, Fault> {
        let networks = self.service.networks().await?;
        let used: Vec<IpNet> = networks.into_iter().flat_map(|network| network.spec.subnets).collect();
        let offer = self.pools.offer(v6, self.service.node_name(), &used);
        offer.ok_or_else(|| Fault::Refused("no subnet is left to choose from: give --subnet".to_owned()))
    }

    async fn request_address(&self, call: &PoolCall) -> Result<Value, Fault> {
        let pool = pool(call)?;
        let wanted = match call.address.as_str() {
            "" => None,
            text => Some(address(text)?),
        };
        if let Some(wanted) = wanted.filter(|wanted| !pool.subnet.contains(wanted)) {
            return Err(Fault::Refused(format!("address {wanted} is not in subnet {}", pool.subnet)));
        }
        let given = if call.options.get(KIND).is_some_and(|kind| kind == GATEWAY) {
            match wanted {
                Some(wanted) => wanted,
                None => self.gateway(&pool).await,
            }
        } else {
            let notes = self.notes().await?;
            let used: Vec<&Note> = notes
                .iter()
                .map(|(_, note)| note)
                .filter(|note| {
                    note.subnets.contains(&pool.subnet)
                        && pool.network.as_ref().is_none_or(|network| *network == note.network)
                })
                .collect();
            match wanted {
                Some(wanted) => self.chosen(&pool, &used, wanted).await?,
                None => self.next(&pool, &used).await?,
            }
        };
        Ok(json!({"Address": format!("{given}/{}", pool.subnet.prefix_len()), "Data": {}}))
    }

    /// The network's, if the pool says whose it is; otherwise the one that a network without a named gateway has.
    async fn gateway(&self, pool: &Pool) -> IpAddr {
        let mut gateways = Vec::new();
        if let Some(name) = &pool.network
            && let Ok(network) = self.service.network(name).await
        {
            gateways = network.spec.gateways;
        }
        let named = gateways.into_iter().find(|gateway| pool.subnet.contains(gateway));
        named.unwrap_or_else(|| first_usable(pool.subnet))
    }

    /// An address that was asked for. Without a network it is one that is to be left out of one that is about to be created.
    async fn chosen(&self, pool: &Pool, networks: &[&Note], wanted: IpAddr) -> Result<IpAddr, Fault> {
        if networks.iter().any(|note| note.reserved.contains(&wanted)) {
            return Err(Fault::Refused(format!(
                "address {wanted} is reserved (--aux-address): choose another one"
            )));
        }
        if !self.pools.promise(pool.subnet, wanted) {
            return Err(Fault::Refused(format!("address {wanted} is being given to another container")));
        }
        for note in networks {
            let free = async {
                self.vacate(&note.network, wanted, false).await?;
                Ok::<_, Fault>(self.service.check_free(&note.network, wanted).await?)
            };
            if let Err(fault) = free.await {
                self.pools.release(pool.subnet, wanted);
                return Err(fault);
            }
        }
        Ok(wanted)
    }

    async fn next(&self, pool: &Pool, networks: &[&Note]) -> Result<IpAddr, Fault> {
        let Some((first, others)) = networks.split_first() else {
            return Err(Fault::Refused(format!(
                "pool {} is of no network of this driver: use `--ipam-driver fabric` together with `-d fabric`",
                pool.subnet
            )));
        };
        let part = Part { subnet: pool.subnet, range: pool.range };
        let mut taken: BTreeSet<IpAddr> = networks.iter().flat_map(|note| &note.reserved).copied().collect();
        for _ in 0..TRIES {
            taken.extend(self.pools.promised(pool.subnet));
            let address = self.service.next_address(&first.network, part, &taken).await?;
            let mut free = self.pools.promise(pool.subnet, address);
            for note in others.iter().filter(|note| note.network != first.network) {
                free &= self.service.check_free(&note.network, address).await.is_ok();
            }
            if free {
                return Ok(address);
            }
            taken.insert(address);
        }
        Err(Fault::Refused(format!("no address of {} is free in all networks that use it", pool.subnet)))
    }
}

fn pool(call: &PoolCall) -> Result<Pool, Fault> {
    Ok(call.pool_id.parse()?)
}

fn prefix(what: &str, text: &str) -> Result<IpNet, Fault> {
    text.parse().map_err(|_| Fault::Refused(format!("{what} {text:?} is not a prefix, like 10.1.0.0/24")))
}
