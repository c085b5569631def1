//! Pools of the IPAM driver: how they are called, and what was given away and is not in use yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::model::ids;

/// Docker uses what it asked for at once: within one request of a person.
const PROMPT: Duration = Duration::from_secs(60);

/// A pool: what it is is in its name, so that nothing has to be remembered of it and asking again gives the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) subnet: IpNet,
    /// `--ip-range`.
    pub(super) range: Option<IpNet>,
    /// `--ipam-opt fabric.network=NAME`.
    pub(super) network: Option<String>,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.subnet)?;
        if let Some(range) = self.range {
            write!(f, " range={range}")?;
        }
        if let Some(network) = &self.network {
            write!(f, " network={network}")?;
        }
        Ok(())
    }
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("pool {text:?} is not one of this driver");
        let mut words = text.split(' ');
        let subnet = words.next().and_then(|net| net.parse().ok()).ok_or_else(bad)?;
        let mut pool = Self { subnet, range: None, network: None };
        for word in words {
            match word.split_once('=') {
                Some(("range", net)) => pool.range = Some(net.parse().map_err(|_| bad())?),
                Some(("network", name)) => pool.network = Some(name.to_owned()),
                _ => return Err(bad()),
            }
        }
        Ok(pool)
    }
}

/// What was given away and is not in use yet. In memory only: what is in use is in the store, and an agent that dies in between has
/// Docker start over.
#[derive(Debug, Default)]
pub(super) struct Pools {
    addresses: Mutex<BTreeMap<(IpNet, IpAddr), Instant>>,
    subnets: Mutex<BTreeMap<IpNet, Instant>>,
}

impl Pools {
    /// Addresses of a subnet for which endpoints are about to be made.
    pub(super) fn promised(&self, subnet: IpNet) -> BTreeSet<IpAddr> {
        let mut all = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, since| since.elapsed() < PROMPT);
        all.keys().filter(|(net, _)| *net == subnet).map(|(_, address)| *address).collect()
    }

    /// Promises an address, unless it is promised already.
    pub(super) fn promise(&self, subnet: IpNet, address: IpAddr) -> bool {
        let mut all = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, since| since.elapsed() < PROMPT);
        all.insert((subnet, address), Instant::now()).is_none()
    }

    /// Takes a promise back.
    pub(super) fn release(&self, subnet: IpNet, address: IpAddr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).remove(&(subnet, address));
    }

    /// The promises are kept: there is an endpoint now.
    pub(super) fn settled(&self, subnets: &[IpNet], addresses: &[IpAddr]) {
        for subnet in subnets {
            addresses.iter().for_each(|address| self.release(*subnet, *address));
        }
    }

    /// A subnet that overlaps with none in use and none that was offered a moment ago: Docker asks on while one that it got clashes
    /// with what it has.
    pub(super) fn offer(&self, v6: bool, node: &str, used: &[IpNet]) -> Option<IpNet> {
        let mut offered = self.subnets.lock().unwrap_or_else(PoisonError::into_inner);
        offered.retain(|_, since| since.elapsed() < PROMPT);
        let apart = |net: &IpNet| {
            used.iter().chain(offered.keys()).all(|other| !other.contains(net) && !net.contains(other))
        };
        let found = candidates(v6, node).find(apart)?;
        offered.insert(found, Instant::now());
        Some(found)
    }

    /// A subnet is given back.
    pub(super) fn withdraw(&self, subnet: IpNet) {
        self.subnets.lock().unwrap_or_else(PoisonError::into_inner).remove(&subnet);
    }
}

/// Private subnets to choose from, /24 and /64, beginning elsewhere on each node.
fn candidates(v6: bool, node: &str) -> impl Iterator<Item = IpNet> {
    let hash = ids::hash32(node);
    (0..0x4000_u32).map(move |n| {
        if v6 {
            let [a, b, c, d] = hash.to_be_bytes().map(u16::from);
            let address = [0xfdfa, a << 8 | b, c << 8 | d, n as u16, 0, 0, 0, 0];
            IpNet::new_assert(IpAddr::from(address), 64)
        } else {
            // 10.192.0.0/10
            let third = (hash.wrapping_add(n)) & 0x3fff;
            IpNet::new_assert(IpAddr::from((0x0ac0_0000 | third << 8).to_be_bytes()), 24)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{IpNet, Pool, Pools};

    #[test]
    fn a_pool_is_its_name() {
        for name in ["10.1.0.0/24", "10.1.0.0/24 range=10.1.0.128/25", "fd00::/64 network=blue"] {
            let pool: Pool = name.parse().expect("a pool");
            assert_eq!(pool.to_string(), name);
        }
        for bad in ["", "x", "10.1.0.0/24 range=x", "10.1.0.0/24 y"] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
    }

    #[test]
    fn offers_differ_and_keep_away_from_what_is_used() {
        let pools = Pools::default();
        let used: IpNet = "10.192.0.0/10".parse().expect("a prefix");
        assert_eq!(pools.offer(false, "n1", &[used]), None);
        for v6 in [false, true] {
            let first = pools.offer(v6, "n1", &[]).expect("one");
            let second = pools.offer(v6, "n1", &[]).expect("another one");
            assert_ne!(first, second);
            let third = pools.offer(v6, "n1", &[]).expect("a third one");
            pools.withdraw(second);
            assert_eq!(pools.offer(v6, "n1", &[]), Some(second));
            assert_ne!(third, second);
        }
    }

    #[test]
    fn an_address_is_promised_once() {
        let pools = Pools::default();
        let subnet: IpNet = "10.1.0.0/24".parse().expect("a prefix");
        let address = "10.1.0.9".parse().expect("an address");
        assert!(pools.promise(subnet, address) && !pools.promise(subnet, address));
        assert_eq!(pools.promised(subnet).len(), 1);
        pools.settled(&[subnet], &[address]);
        assert!(pools.promised(subnet).is_empty());
    }
}
