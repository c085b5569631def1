//! Which addresses endpoints were told for which names, and until when. Pure: times are nanoseconds since boot.
//!
//! Everything is bounded, per endpoint first: an endpoint that asks much, or whose DNS server says much, displaces what itself was told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use super::message::{Exchange, Record};
use crate::plan::desired::KnownNames;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;
/// An address is known for at least so long: whoever was told one with a lifetime of nothing wants to connect all the same.
pub const LEAST_TTL: u64 = 30 * SECOND;
/// And for at most so long, until it is told again.
pub const MOST_TTL: u64 = 86_400 * SECOND;
/// How much longer than its lifetime an address is known: an application that was just told it has yet to connect.
pub const GRACE: u64 = 10 * SECOND;
/// How long an address that is in use is known on, before that is looked at again.
pub const IN_USE: u64 = 30 * SECOND;
/// Names that an endpoint may know.
pub const MOST_NAMES: usize = 1000;
/// Addresses of a name. NPEP-133 asks for 100.
pub const MOST_ADDRESSES: usize = 256;
/// Addresses of all names that an endpoint may know.
pub const MOST_OF_PORT: usize = 4096;
/// Addresses that all endpoints together may know: half of what the maps have room for if nothing else is said.
pub const MOST: usize = 32_768;
/// Queries of an endpoint that wait for an answer.
const MOST_QUERIES: usize = 256;
/// How long they do.
const PATIENCE: u64 = 10 * SECOND;

/// What one endpoint knows.
#[derive(Clone, Debug, Default)]
struct Port {
    /// When each address of each name expires.
    names: BTreeMap<String, BTreeMap<IpAddr, u64>>,
    count: usize,
    queries: VecDeque<(u64, Exchange)>,
}

/// An address that an endpoint knows by a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The endpoint's port.
    pub ifindex: u32,
    /// The name.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
    /// When it expires.
    pub expires: u64,
}

/// What all endpoints know.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    ports: BTreeMap<u32, Port>,
}

impl Cache {
    /// Takes over what an earlier agent knew.
    pub fn restore(known: impl IntoIterator<Item = Known>, now: u64) -> Self {
        let mut cache = Self::default();
        for Known { ifindex, name, addr, expires } in known {
            cache.ports.entry(ifindex).or_default().learn(&name, addr, expires.min(now + MOST_TTL + GRACE));
        }
        cache.bound();
        cache
    }

    /// The endpoint behind a port asks, and its policies let it.
    pub fn asked(&mut self, ifindex: u32, query: Exchange, now: u64) {
        let queries = &mut self.ports.entry(ifindex).or_default().queries;
        queries.retain(|(time, _)| now.saturating_sub(*time) < PATIENCE);
        if queries.len() == MOST_QUERIES {
            queries.pop_front();
        }
        queries.push_back((now, query));
    }

    /// Whether the endpoint waits for this answer. It waits for it no longer.
    pub fn answered(&mut self, ifindex: u32, answer: &Exchange, now: u64) -> bool {
        let Some(port) = self.ports.get_mut(&ifindex) else { return false };
        let waits = |(time, query): &(u64, Exchange)| query == answer && now.saturating_sub(*time) < PATIENCE;
        let Some(at) = port.queries.iter().position(waits) else { return false };
        port.queries.remove(at);
        true
    }

    /// The endpoint was told addresses of a name. Returns whether it knows one that it did not.
    pub fn learn(&mut self, ifindex: u32, name: &str, records: &[Record], now: u64) -> bool {
        let port = self.ports.entry(ifindex).or_default();
        let mut new = false;
        for record in records.iter().take(MOST_ADDRESSES) {
            let lifetime = (u64::from(record.ttl) * SECOND).clamp(LEAST_TTL, MOST_TTL);
            new |= port.learn(name, record.addr, now + lifetime + GRACE);
        }
        self.bound();
        new
    }

    fn bound(&mut self) {
        while self.ports.values().map(|port| port.count).sum::<usize>() > MOST {
            let Some(largest) = self.ports.values_mut().max_by_key(|port| port.count) else { return };
            largest.forget_oldest();
        }
    }

    /// What has expired, with the addresses of one port after the other.
    pub fn expired(&self, now: u64) -> BTreeMap<u32, BTreeSet<IpAddr>> {
        let of = |port: &Port| {
            let addresses = port.names.values().flatten().filter(|(_, expires)| **expires <= now);
            addresses.map(|(addr, _)| *addr).collect::<BTreeSet<_>>()
        };
        let all = self.ports.iter().map(|(ifindex, port)| (*ifindex, of(port)));
        all.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    /// Forgets what has expired, but what `used` says is in use. Returns whether anything was forgotten.
    pub fn expire(&mut self, now: u64, used: &BTreeMap<u32, BTreeSet<IpAddr>>) -> bool {
        let mut forgotten = false;
        for (ifindex, port) in &mut self.ports {
            let used = used.get(ifindex);
            for addresses in port.names.values_mut() {
                let before = addresses.len();
                addresses.retain(|addr, expires| {
                    if *expires <= now && used.is_some_and(|used| used.contains(addr)) {
                        *expires = now + IN_USE;
                    }
                    *expires > now
                });
                port.count -= before - addresses.len();
                forgotten |= before != addresses.len();
            }
            port.names.retain(|_, addresses| !addresses.is_empty());
        }
        forgotten
    }

    /// Forgets ports that are gone, and of the others names that `wanted` does not want. Returns whether anything was forgotten.
    pub fn retain(&mut self, wanted: impl Fn(u32, Option<&str>) -> bool) -> bool {
        let mut forgotten = false;
        self.ports.retain(|ifindex, port| {
            let stays = wanted(*ifindex, None);
            forgotten |= !stays && port.count > 0;
            stays
        });
        for (ifindex, port) in &mut self.ports {
            let before = port.count;
            port.names.retain(|name, _| wanted(*ifindex, Some(name)));
            port.count = port.names.values().map(BTreeMap::len).sum();
            forgotten |= port.count != before;
        }
        forgotten
    }

    /// Everything that is known.
    pub fn known(&self) -> impl Iterator<Item = Known> + '_ {
        self.ports.iter().flat_map(|(ifindex, port)| {
            port.names.iter().flat_map(move |(name, addresses)| {
                let known = move |(addr, expires): (&IpAddr, &u64)| Known {
                    ifindex: *ifindex,
                    name: name.clone(),
                    addr: *addr,
                    expires: *expires,
                };
                addresses.iter().map(known)
            })
        })
    }

    /// The same for planning.
    pub fn facts(&self) -> Arc<KnownNames> {
        let mut facts = KnownNames::new();
        for Known { ifindex, name, addr, .. } in self.known() {
            facts.entry(ifindex).or_default().entry(addr).or_default().insert(name);
        }
        Arc::new(facts)
    }
}

impl Port {
    /// Returns whether it is new.
    fn learn(&mut self, name: &str, addr: IpAddr, expires: u64) -> bool {
        if !self.names.contains_key(name) && self.names.len() >= MOST_NAMES {
            let last = |addresses: &BTreeMap<IpAddr, u64>| addresses.values().max().copied();
            let oldest = self.names.iter().min_by_key(|(_, addresses)| last(addresses));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.count -= self.names.remove(&oldest).map_or(0, |addresses| addresses.len());
            }
        }
        let addresses = self.names.entry(name.to_owned()).or_default();
        // Told again: never for a shorter time than before.
        if let Some(known) = addresses.get_mut(&addr) {
            *known = expires.max(*known);
            return false;
        }
        if addresses.len() >= MOST_ADDRESSES
            && let Some(oldest) = addresses.iter().min_by_key(|(_, expires)| **expires).map(|(addr, _)| *addr)
        {
            addresses.remove(&oldest);
            self.count -= 1;
        }
        addresses.insert(addr, expires);
        self.count += 1;
        if self.count > MOST_OF_PORT {
            self.forget_oldest();
        }
        true
    }

    fn forget_oldest(&mut self) {
        let all = self
            .names
            .iter()
            .flat_map(|(name, addresses)| addresses.iter().map(move |(a, e)| (*e, name, *a)));
        let Some((_, name, addr)) = all.min().map(|(e, name, a)| (e, name.clone(), a)) else { return };
        if let Some(addresses) = self.names.get_mut(&name) {
            addresses.remove(&addr);
            self.count -= 1;
            if addresses.is_empty() {
                self.names.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1000 * SECOND;

    fn addr(number: u32) -> IpAddr {
        Ipv4Addr::from(0xc633_6400 + number).into()
    }

    fn record(number: u32, ttl: u32) -> Record {
        Record { addr: addr(number), ttl }
    }

    fn exchange(id: u16, name: &str) -> Exchange {
        let at = |text: &str| text.parse().expect("an address");
        Exchange {
            client: at("10.0.0.2:4000"),
            server: at("192.0.2.53:53"),
            id,
            name: name.to_owned(),
            v6: false,
        }
    }

    fn names(cache: &Cache) -> Vec<(u32, String, IpAddr)> {
        cache.known().map(|known| (known.ifindex, known.name, known.addr)).collect()
    }

    #[test]
    fn an_answer_is_believed_once_and_only_if_it_was_asked_for() {
        let mut cache = Cache::default();
        cache.asked(1, exchange(7, "a.com"), NOW);
        let other = |change: fn(&mut Exchange)| {
            let mut other = exchange(7, "a.com");
            change(&mut other);
            other
        };
        let forged = [
            other(|e| e.id = 8),
            other(|e| e.name = "b.com".to_owned()),
            other(|e| e.v6 = true),
            other(|e| e.server.set_port(54)),
            other(|e| e.client.set_port(4001)),
            other(|e| e.server.set_ip("192.0.2.54".parse().expect("an address"))),
        ];
        assert!(forged.iter().all(|answer| !cache.answered(1, answer, NOW)));
        assert!(!cache.answered(2, &exchange(7, "a.com"), NOW), "another endpoint asked");
        assert!(cache.answered(1, &exchange(7, "a.com"), NOW + SECOND));
        assert!(!cache.answered(1, &exchange(7, "a.com"), NOW + SECOND), "a second answer");
        cache.asked(1, exchange(7, "a.com"), NOW);
        assert!(!cache.answered(1, &exchange(7, "a.com"), NOW + PATIENCE), "too late");
    }

    #[test]
    fn lifetimes_are_kept_within_bounds_and_connections_are_not_cut() {
        let mut cache = Cache::default();
        assert!(cache.learn(1, "a.com", &[record(1, 0), record(2, 300), record(3, u32::MAX)], NOW));
        assert!(!cache.learn(1, "a.com", &[record(2, 1)], NOW), "known already");
        let expires: Vec<u64> = cache.known().map(|known| (known.expires - NOW) / SECOND).collect();
        assert_eq!(expires, [40, 310, 86_410]);
        let nobody = BTreeMap::new();
        assert!(!cache.expire(NOW + 39 * SECOND, &nobody));
        assert!(cache.expire(NOW + 40 * SECOND, &nobody));
        let late = NOW + 310 * SECOND;
        assert_eq!(cache.expired(late), BTreeMap::from([(1, BTreeSet::from([addr(2)]))]));
        assert!(!cache.expire(late, &cache.expired(late)), "in use");
        assert!(cache.expired(late + IN_USE - 1).is_empty());
        assert!(cache.expire(late + IN_USE, &nobody), "in use no longer");
        assert_eq!(names(&cache), [(1, "a.com".to_owned(), addr(3))]);
    }

    #[test]
    fn an_endpoint_displaces_only_what_itself_was_told() {
        let mut cache = Cache::default();
        cache.learn(1, "kept.com", &[record(1, 1)], NOW);
        for name in 0..=MOST_NAMES as u32 {
            cache.learn(2, &format!("n{name}.com"), &[record(name, 100 + name)], NOW);
        }
        assert_eq!(cache.ports[&2].names.len(), MOST_NAMES);
        assert!(!cache.ports[&2].names.contains_key("n0.com"), "that which expires first");
        for addresses in 0..20 {
            let records: Vec<Record> = (0..300).map(|n| record(addresses * 300 + n, 5000)).collect();
            cache.learn(3, &format!("m{addresses}.com"), &records, NOW);
        }
        assert_eq!(cache.ports[&3].count, MOST_OF_PORT);
        assert!(cache.ports[&3].names.values().all(|addresses| addresses.len() <= MOST_ADDRESSES));
        for query in 0..2000 {
            cache.asked(2, exchange(query, "a.com"), NOW);
        }
        assert_eq!(cache.ports[&2].queries.len(), MOST_QUERIES);
        assert_eq!(names(&cache)[0], (1, "kept.com".to_owned(), addr(1)));
    }

    #[test]
    fn all_together_displace_the_largest() {
        let known = |ifindex: u32, count: u32| {
            (0..count).map(move |n| Known {
                ifindex,
                name: format!("n{}.com", n / 200),
                addr: addr(n),
                expires: NOW + u64::from(n),
            })
        };
        let small = known(99, 10);
        let cache =
            Cache::restore((1..=9).flat_map(|port| known(port, MOST_OF_PORT as u32)).chain(small), NOW);
        let counts: Vec<usize> = cache.ports.values().map(|port| port.count).collect();
        assert_eq!(counts.iter().sum::<usize>(), MOST);
        assert_eq!(counts.last(), Some(&10));
    }

    #[test]
    fn ports_and_names_that_nobody_wants_go() {
        let mut cache = Cache::default();
        cache.learn(1, "a.com", &[record(1, 1)], NOW);
        cache.learn(1, "b.com", &[record(2, 1)], NOW);
        cache.learn(2, "a.com", &[record(1, 1)], NOW);
        assert!(!cache.retain(|_, _| true));
        assert!(cache.retain(|ifindex, name| ifindex == 1 && name.is_none_or(|name| name == "a.com")));
        assert_eq!(names(&cache), [(1, "a.com".to_owned(), addr(1))]);
        let again = Cache::restore(cache.known(), NOW);
        assert_eq!(names(&again), names(&cache));
    }

    proptest! {
        /// The counts are those of what is there, whatever was learned and forgotten, and the bounds hold.
        #[test]
        fn counts_are_right(steps in prop::collection::vec((0..3u32, 0..4u32, 0..6u32, 0..200u32, any::<bool>()), 0..60)) {
            let mut cache = Cache::default();
            let mut now = NOW;
            for (port, name, number, ttl, wait) in steps {
                cache.learn(port, &format!("n{name}.com"), &[record(number, ttl)], now);
                if wait {
                    now += u64::from(ttl) * SECOND;
                    cache.expire(now, &BTreeMap::new());
                    prop_assert!(cache.expired(now).is_empty());
                }
                for port in cache.ports.values() {
                    prop_assert_eq!(port.count, port.names.values().map(BTreeMap::len).sum::<usize>());
                }
            }
        }
    }
}
