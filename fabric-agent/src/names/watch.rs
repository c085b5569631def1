//! The task that reads DNS packets, and delivers answers once the rows that they give rise to are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use fabric_common::names::{ANSWER, DnsPacket, NameKey, NameValue};
use nix::ifaddrs::getifaddrs;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    cache::{Cache, Known, SECOND},
    message::{self, Message, Record},
};
use crate::{
    dataplane::{DnsPackets, DnsSwitch, EventsError, Flows, NameRows, boot_time, name_row},
    kernel::inject::Injector,
    plan::desired::Watched,
    reconcile::Handle,
};

/// How often what has expired is looked for, and what is known is left for the next agent.
const TICK: Duration = Duration::from_millis(500);
/// For how long the programs believe that somebody reads. An agent that is killed keeps answers for so long at most.
const WATCHING: Duration = Duration::from_secs(2);
/// How long an answer waits for its rows at most.
const WRITTEN: Duration = Duration::from_secs(1);
/// Answers that are older are of no use any more: those that the last agent left unread.
const STALE: u64 = 5 * SECOND;

/// Everything that the task works with.
pub struct Watcher {
    packets: DnsPackets,
    switch: DnsSwitch,
    rows: NameRows,
    flows: Flows,
    injector: Arc<Injector>,
    handle: Handle,
    cache: Cache,
    saved: BTreeMap<NameKey, NameValue>,
    lost: u64,
    complained: bool,
}

impl Watcher {
    /// Takes over what the last agent knew, and tells the reconciler, which must not have made a pass yet.
    pub fn new(
        (packets, switch, rows): (DnsPackets, DnsSwitch, NameRows),
        flows: Flows,
        injector: Injector,
        handle: Handle,
    ) -> Self {
        let known = rows.load().unwrap_or_else(|error| {
            tracing::warn!("what endpoints were told for domain names is forgotten: {error}");
            Vec::new()
        });
        let saved = known.iter().filter_map(name_row).collect();
        let cache = Cache::restore(known, boot_time());
        handle.set_names(cache.facts());
        let lost = switch.lost().unwrap_or_default();
        let injector = Arc::new(injector);
        Self { packets, switch, rows, flows, injector, handle, cache, saved, lost, complained: false }
    }

    /// Runs until the packets can't be read any more.
    pub async fn run(mut self) -> EventsError {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                packet = self.packets.next() => match packet {
                    Ok(packet) => self.packet(&packet),
                    Err(error) => return error,
                },
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn packet(&mut self, packet: &DnsPacket) {
        let Some(frame) = packet.data.get(..packet.length as usize) else { return };
        let now = boot_time();
        if packet.kind != ANSWER {
            if let Some(Message::Query(query)) = message::read(frame) {
                self.cache.asked(packet.ifindex, query, packet.time);
            }
            return;
        }
        if now.saturating_sub(packet.time) > STALE {
            return;
        }
        let mut frame = frame.to_vec();
        let whole = message::finish_checksum(&mut frame);
        let learned = whole && self.learn(packet.ifindex, &frame, packet.time);
        let generation = learned.then(|| self.handle.set_names(self.cache.facts()));
        let (handle, injector, ifindex) = (self.handle.clone(), Arc::clone(&self.injector), packet.ifindex);
        let deliver = async move {
            if let Some(generation) = generation
                && timeout(WRITTEN, handle.names_written(generation)).await.is_err()
            {
                tracing::warn!(
                    "a DNS answer is delivered before its addresses are open: the rows are not written yet"
                );
            }
            if let Err(error) = injector.send(ifindex, &frame) {
                tracing::debug!(ifindex, "a DNS answer can't be delivered: {error}");
            }
        };
        // Behind others that wait only where it has to wait itself.
        tokio::spawn(deliver);
    }

    /// Whether the endpoint now knows an address that it did not.
    fn learn(&mut self, ifindex: u32, frame: &[u8], now: u64) -> bool {
        let Some(Message::Answer(exchange, mut records)) = message::read(frame) else { return false };
        if !self.cache.answered(ifindex, &exchange, now) {
            return false;
        }
        let watched = self.handle.watched();
        let wanted = watched.as_ref().and_then(|watched| watched.get(&ifindex));
        if !wanted.is_some_and(|wanted| wanted.names.iter().any(|name| name.matches(&exchange.name))) {
            return false;
        }
        let own = own_addresses();
        records.retain(|Record { addr, .. }| is_world(*addr) && !own.contains(addr));
        self.cache.learn(ifindex, &exchange.name, &records, now)
    }

    fn tick(&mut self) {
        let mut failed = self.switch.extend(WATCHING).err();
        let watched = self.handle.watched();
        let mut changed = false;
        if let Some(watched) = &watched {
            changed = self.cache.retain(|ifindex, name| {
                let Some(wanted) = watched.get(&ifindex) else { return false };
                name.is_none_or(|name| wanted.names.iter().any(|pattern| pattern.matches(name)))
            });
            changed |= self.expire(watched);
        }
        if changed {
            self.handle.set_names(self.cache.facts());
        }
        let known: Vec<Known> = self.cache.known().collect();
        let wanted: BTreeMap<_, _> = known.iter().filter_map(name_row).collect();
        self.handle.set_told(Arc::new(known));
        if wanted != self.saved {
            match self.rows.save(&self.saved, &wanted) {
                Ok(()) => self.saved = wanted,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // Once, not at every tick.
        if let Some(error) = failed.as_ref().filter(|_| !self.complained) {
            tracing::warn!("{error}");
        }
        self.complained = failed.is_some();
        self.tell_lost();
    }

    /// Forgets what has expired, but what flows are still there for. Returns whether anything was forgotten.
    fn expire(&mut self, watched: &BTreeMap<u32, Watched>) -> bool {
        let now = boot_time();
        let expired = self.cache.expired(now);
        if expired.is_empty() {
            return false;
        }
        let mut pairs = BTreeSet::new();
        for (ifindex, addresses) in &expired {
            let own = watched.get(ifindex).into_iter().flat_map(|watched| &watched.addresses);
            pairs.extend(own.flat_map(|own| addresses.iter().map(|addr| (*own, *addr))));
        }
        let alive = match self.flows.alive(&pairs) {
            Ok(alive) => alive,
            Err(error) => {
                // Rather known for too long than a connection cut.
                tracing::warn!("{error}");
                pairs
            }
        };
        let mut used: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for (ifindex, addresses) in expired {
            let own = watched.get(&ifindex).map(|watched| watched.addresses.as_slice()).unwrap_or_default();
            let is_used = |addr: &IpAddr| own.iter().any(|own| alive.contains(&(*own, *addr)));
            used.insert(ifindex, addresses.into_iter().filter(is_used).collect());
        }
        self.cache.expire(now, &used)
    }

    fn tell_lost(&mut self) {
        let Ok(lost) = self.switch.lost() else { return };
        if lost > self.lost {
            tracing::warn!(
                "{} DNS packets of endpoints with domain names in their policies found no room: they were delivered unread",
                lost - self.lost
            );
        }
        self.lost = lost;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Else answers would wait for an agent that is gone. What can't be written runs out by itself.
        let _ = self.switch.extend(Duration::ZERO);
    }
}

/// The addresses of this host.
fn own_addresses() -> BTreeSet<IpAddr> {
    let addresses = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    addresses.collect()
}

/// Where providers have their metadata services, beside link-local addresses.
const METADATA: [&str; 4] = ["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"];

/// Whether a name may stand for the address, as far as the address itself says: a DNS server must not open loopback, link-local,
/// multicast, reserved or metadata addresses (DNS rebinding). Addresses of the fabric are none of the world for the planner and the
/// programs.
fn is_world(addr: IpAddr) -> bool {
    let special = match addr {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local()
        }
        IpAddr::V6(v6) => v6.to_ipv4().is_some() || v6.is_multicast() || v6.is_unicast_link_local(),
    };
    !special && !METADATA.iter().any(|metadata| metadata.parse() == Ok(addr))
}

#[cfg(test)]
mod tests {
    use super::is_world;

    #[test]
    fn a_name_never_stands_for_what_is_not_the_world() {
        for addr in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "fd00:ec2::254",
            "::127.0.0.1",
        ] {
            assert!(!is_world(addr.parse().expect("an address")), "{addr}");
        }
        for addr in ["192.0.2.1", "10.1.2.3", "2001:db8::1", "fd00::1"] {
            assert!(is_world(addr.parse().expect("an address")), "{addr}");
        }
    }
}
