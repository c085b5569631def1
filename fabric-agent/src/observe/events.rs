//! Drop events: raw records of the ring buffer become [`Event`]s with names and go to any number of subscribers. The
//! reader of the ring buffer never waits for them: who is too slow loses the oldest events and is told how many.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use fabric_api::Event;
use fabric_common::{
    addr::{Addr, Mac},
    event::{ALLOWED, DropEvent, WOULD_DROP},
    reason::{DropReason, Hook},
};
use nix::{
    net::if_::if_indextoname,
    time::{ClockId, clock_gettime},
};
use tokio::sync::broadcast::{self, error::RecvError};

use super::names::Names;
use crate::{
    dataplane::{self, EventsError},
    policy::RuleNames,
};

/// How many events wait for a slow subscriber.
const BACKLOG: usize = 4096;
/// How many events are kept for whoever comes later.
const RECENT: usize = 256;

/// Where drop events come together. Cheap to clone; all clones are one hub.
#[derive(Clone, Debug)]
pub struct EventHub {
    sender: broadcast::Sender<Arc<Event>>,
    recent: Arc<Mutex<VecDeque<DropEvent>>>,
    names: Arc<RwLock<Names>>,
    rules: Arc<RwLock<Arc<RuleNames>>>,
}

impl Default for EventHub {
    fn default() -> Self {
        Self::new(BACKLOG)
    }
}

impl EventHub {
    /// A hub that keeps at least `backlog` events for its slowest subscriber; 0 counts as 1.
    pub fn new(backlog: usize) -> Self {
        Self {
            sender: broadcast::Sender::new(backlog.max(1)),
            recent: Arc::default(),
            names: Arc::default(),
            rules: Arc::default(),
        }
    }

    /// Hands an event to all subscribers. Never waits and never fails; without a subscriber it is only kept for a while.
    pub fn publish(&self, raw: &DropEvent) {
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(*raw);
        }
        if self.sender.receiver_count() == 0 {
            return;
        }
        // An error means that the last subscriber has just gone.
        drop(self.sender.send(Arc::new(self.named(raw))));
    }

    /// A drop in the API's words, with the names of this moment.
    pub(super) fn named(&self, raw: &DropEvent) -> Event {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        Event { rule: rule(raw, &rules), ..named(raw, &names, &interface(raw.ifindex), wall_clock(raw.time)) }
    }

    /// The last events, oldest first, with the names of this moment.
    pub(super) fn recent(&self) -> Vec<Event> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        recent.iter().map(|raw| self.named(raw)).collect()
    }

    /// Replaces the names that later events get.
    pub fn set_names(&self, names: Names) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Replaces the names of policies' rules that later events get.
    pub fn set_rules(&self, rules: Arc<RuleNames>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Names of policies' rules by their numbers.
    pub fn rules(&self) -> Arc<RuleNames> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A subscription to everything from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), lost: 0 }
    }
}

/// Hands everything from the ring buffer to the hub. Returns only when the buffer can't be read any more.
pub async fn pump(mut events: dataplane::Events, hub: EventHub) -> EventsError {
    loop {
        match events.next().await {
            Ok(event) => hub.publish(&event),
            Err(error) => return error,
        }
    }
}

/// One subscriber's events. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<Event>>,
    lost: u64,
}

impl Subscription {
    /// The next event that `wanted` lets through, with the number of events lost since the last one; `None` once the
    /// hub is gone. Cancelling this future loses nothing.
    pub async fn next(&mut self, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        loop {
            match self.receiver.recv().await {
                Ok(event) if wanted(&event) => {
                    let lost = std::mem::take(&mut self.lost);
                    return Some(Event { lost, ..Event::clone(&event) });
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => self.lost += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// The name of the rule that denied a packet, or its number if no rule has it any more; absent if none did.
fn rule(raw: &DropEvent, rules: &RuleNames) -> Option<String> {
    (raw.rule != 0).then(|| rules.get(&raw.rule).cloned().unwrap_or_else(|| raw.rule.to_string()))
}

/// An event in the API's words.
fn named(raw: &DropEvent, names: &Names, ifname: &str, time: SystemTime) -> Event {
    let (src, dst) = addresses(raw);
    Event {
        rule: None,
        time: humantime::format_rfc3339_micros(time).to_string(),
        hook: Hook::from_number(raw.hook).map_or_else(|| raw.hook.to_string(), |hook| hook.to_string()),
        reason: match raw.reason {
            WOULD_DROP => fabric_api::event::WOULD_DROP.to_owned(),
            ALLOWED => fabric_api::event::ALLOWED.to_owned(),
            number => DropReason::from_number(number).map_or_else(|| number.to_string(), |r| r.to_string()),
        },
        network: names.network(raw),
        vni: raw.vni,
        endpoint: names.endpoint(raw),
        ifname: ifname.to_owned(),
        src_mac: mac(raw.src_mac),
        dst_mac: mac(raw.dst_mac),
        ethertype: match u16::from_be_bytes(raw.ethertype) {
            0 => String::new(),
            ethertype => format!("{ethertype:#06x}"),
        },
        protocol: if raw.ethertype == [8, 6] { "ARP".to_owned() } else { protocol(raw.protocol) },
        src,
        dst,
        src_port: u16::from_be_bytes(raw.src_port),
        dst_port: u16::from_be_bytes(raw.dst_port),
        vtep: (raw.vtep != Addr::UNSPECIFIED).then(|| raw.vtep.to_ip()),
        length: raw.length,
        suppressed: raw.suppressed,
        lost: 0,
    }
}

/// Source and destination if the IP or ARP header was reached: `::` alone is a legal source (address detection).
fn addresses(raw: &DropEvent) -> (Option<IpAddr>, Option<IpAddr>) {
    if raw.src == Addr::UNSPECIFIED && raw.dst == Addr::UNSPECIFIED {
        return (None, None);
    }
    (Some(raw.src.to_ip()), Some(raw.dst.to_ip()))
}

fn mac(mac: Mac) -> String {
    if mac == Mac::ZERO { String::new() } else { mac.to_string() }
}

pub(super) fn protocol(number: u8) -> String {
    match number {
        0 => String::new(),
        1 => "ICMP".to_owned(),
        2 => "IGMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        47 => "GRE".to_owned(),
        50 => "ESP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// The interface's name, or its number if it is gone already.
fn interface(ifindex: u32) -> String {
    if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| ifindex.to_string())
}

/// The wall clock at a time since boot, nanoseconds.
pub(super) fn wall_clock(since_boot: u64) -> SystemTime {
    let now = SystemTime::now();
    let Ok(boot) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return now };
    let age = Duration::from(boot).saturating_sub(Duration::from_nanos(since_boot));
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        time::{Duration, SystemTime},
    };

    use fabric_api::{
        object::{Endpoint, EndpointSpec, Metadata, Network, NetworkSpec},
        status::EndpointStatus,
    };
    use fabric_common::{
        addr::{Addr, Mac},
        event::{ALLOWED, DropEvent, VERSION, WOULD_DROP},
        reason::{DropReason, Hook},
    };

    use super::{EventHub, named, wall_clock};
    use crate::observe::names::Names;

    const BLUE: u32 = 4097;
    const WEB: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
    const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 99);

    fn raw() -> DropEvent {
        DropEvent {
            version: VERSION,
            hook: Hook::FromContainer as u8,
            reason: DropReason::SpoofIp as u8,
            protocol: 6,
            ifindex: 7,
            time: 0,
            vni: BLUE,
            length: 74,
            src_mac: Mac::new([2, 0xfc, 192, 168, 10, 2]),
            dst_mac: Mac::new([2, 0xfa, 0, 0, 0x10, 1]),
            ethertype: [8, 0],
            src_port: 4242_u16.to_be_bytes(),
            dst_port: 80_u16.to_be_bytes(),
            zero: [0; 2],
            rule: 0,
            src: STRANGER.into(),
            dst: WEB.into(),
            vtep: Addr::UNSPECIFIED,
            suppressed: 5,
        }
    }

    fn names() -> Names {
        let metadata = |name: &str| Metadata { name: name.to_owned(), ..Metadata::default() };
        let network = Network {
            api_version: "fabric/v1".to_owned(),
            metadata: metadata("blue"),
            spec: NetworkSpec { vni: Some(BLUE), ..NetworkSpec::default() },
            status: None,
        };
        let endpoint = |name: &str, ifindex, local, address: Ipv4Addr| Endpoint {
            api_version: "fabric/v1".to_owned(),
            metadata: metadata(name),
            spec: EndpointSpec {
                network: "blue".to_owned(),
                addresses: vec![address.into()],
                ..EndpointSpec::default()
            },
            status: Some(EndpointStatus { local, ifindex, ..EndpointStatus::default() }),
        };
        Names::new(&[network], &[endpoint("web", 7, true, WEB), endpoint("far", 0, false, STRANGER)])
    }

    #[test]
    fn numbers_become_names() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_323_045_123_456);
        let event = named(&raw(), &names(), "fab0", time);
        assert_eq!(event.time, "2026-01-02T03:04:05.123456Z");
        assert_eq!((&*event.hook, &*event.reason), ("from_container", "spoof_ip"));
        assert_eq!((&*event.network, &*event.endpoint, &*event.ifname), ("blue", "web", "fab0"));
        assert_eq!((&*event.ethertype, &*event.protocol), ("0x0800", "TCP"));
        assert_eq!((event.src, event.src_port), (Some(STRANGER.into()), 4242));
        assert_eq!((event.dst, event.dst_port), (Some(WEB.into()), 80));
        assert_eq!((event.vtep, event.length, event.suppressed), (None, 74, 5));
    }

    #[test]
    fn an_uplink_drop_names_the_endpoint_it_was_for() {
        let event = DropEvent { ifindex: 2, vtep: Ipv4Addr::new(192, 0, 2, 2).into(), ..raw() };
        assert_eq!(names().endpoint(&event), "web");
        // An endpoint of another node is no local endpoint.
        let event = DropEvent { dst: STRANGER.into(), ..event };
        assert_eq!(names().endpoint(&event), "");
    }

    #[test]
    fn arp_is_named() {
        let event = DropEvent { ethertype: [8, 6], protocol: 0, ..raw() };
        assert_eq!(named(&event, &names(), "eth1", SystemTime::UNIX_EPOCH).protocol, "ARP");
    }

    #[test]
    fn what_was_not_reached_is_empty() {
        let event = DropEvent {
            vni: 0,
            ifindex: 2,
            src: Addr::UNSPECIFIED,
            dst: Addr::UNSPECIFIED,
            ethertype: [0; 2],
            protocol: 0,
            src_mac: Mac::ZERO,
            ..raw()
        };
        let event = named(&event, &names(), "eth1", SystemTime::UNIX_EPOCH);
        assert_eq!((event.src, event.dst), (None, None));
        assert_eq!([event.network, event.endpoint, event.ethertype, event.protocol, event.src_mac], [""; 5]);
        let unknown = DropEvent { vni: 9, hook: 200, reason: 201, ..raw() };
        let event = named(&unknown, &names(), "eth1", SystemTime::UNIX_EPOCH);
        assert_eq!([event.network, event.hook, event.reason], ["9", "200", "201"]);
    }

    #[test]
    fn verdicts_that_are_no_drops_are_told_apart() {
        let told = |reason| {
            let event = named(&DropEvent { reason, ..raw() }, &names(), "eth1", SystemTime::UNIX_EPOCH);
            (event.is_drop(), event.reason)
        };
        assert_eq!(told(WOULD_DROP), (false, "would_drop".to_owned()));
        assert_eq!(told(ALLOWED), (false, "allowed".to_owned()));
        assert_eq!(told(43), (true, "policy_denied".to_owned()));
    }

    #[test]
    fn boot_time_becomes_wall_clock_time() {
        let now = super::clock_gettime(super::ClockId::CLOCK_BOOTTIME).map(Duration::from).expect("a clock");
        let then = wall_clock(u64::try_from((now - Duration::from_secs(1)).as_nanos()).expect("no century"));
        let age = SystemTime::now().duration_since(then).expect("in the past").as_secs_f64();
        assert!((0.9..2.0).contains(&age), "{age}");
    }

    #[tokio::test]
    async fn every_subscriber_gets_every_event_and_the_slow_are_told_what_they_lost() {
        let hub = EventHub::new(4);
        hub.publish(&raw());
        let (mut quick, mut slow) = (hub.subscribe(), hub.subscribe());
        for length in 1..=10 {
            hub.publish(&DropEvent { length, ..raw() });
            let event = quick.next(|_| true).await.expect("an event");
            assert_eq!((event.length, event.lost), (length, 0));
        }
        let event = slow.next(|_| true).await.expect("an event");
        assert_eq!((event.length, event.lost), (7, 6));
        let event = slow.next(|event| event.length == 10).await.expect("an event");
        assert_eq!((event.length, event.lost), (10, 0));
        drop(hub);
        assert_eq!(slow.next(|_| true).await, None);
    }
}
