//! Probes of the paths to other VTEPs (RFC 8899), for where routers' ICMP errors do not arrive: UDP packets that may not be
//! fragmented, which the agent at the other side answers. What is found limits what is sent there, like what routers say.
//!
//! The port is no reflector: only declared VTEPs are answered, from the same port, with less than they sent, and a limited
//! number of times a second. An answer counts only with the number that was drawn for its probe.

mod search;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::libc;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinHandle};

use self::{
    search::Search,
    wire::{LEN, Message},
};
use crate::{
    plan::{
        desired::{NodeFacts, PeerFacts},
        path_floor,
    },
    reconcile::Handle,
    service::Kernel as _,
};

/// How often nodes are looked at and probes are sent. A VTEP is sent at most one a tick, and one more for an answer.
const TICK: Duration = Duration::from_secs(1);
/// Most answers a tick, to all.
const ANSWERS: u32 = 200;
/// How long something is believed that was not confirmed since.
const LIFE: Duration = Duration::from_secs(600);

/// A datagram that came in.
struct Received {
    local: IpAddr,
    from: SocketAddr,
    message: Message,
    /// Bytes of its IP packet.
    size: u32,
}

/// One of this node's VTEP addresses.
struct Local {
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
    /// MTU of its uplink, bytes.
    mtu: u32,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Another VTEP.
struct Peer {
    local: IpAddr,
    search: Search,
    nonce: u64,
    known: PeerFacts,
    confirmed: Instant,
}

/// Probes every declared VTEP until the agent ends, and tells the reconciler what was found.
pub async fn run(port: u16, handle: Handle) {
    let (received, mut receiver) = mpsc::channel(64);
    let mut prober = Prober {
        port,
        handle,
        received,
        facts: NodeFacts::default(),
        locals: BTreeMap::new(),
        peers: BTreeMap::new(),
        refused: BTreeSet::new(),
        answers: ANSWERS,
        drawn: 0,
        random: RandomState::new(),
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => prober.tick(),
            Some(received) = receiver.recv() => prober.receive(&received),
        }
    }
}

struct Prober {
    port: u16,
    handle: Handle,
    received: mpsc::Sender<Received>,
    facts: NodeFacts,
    locals: BTreeMap<IpAddr, Local>,
    peers: BTreeMap<IpAddr, Peer>,
    /// Local addresses whose port could not be had, which was said.
    refused: BTreeSet<IpAddr>,
    /// Answers that may still be sent in this tick.
    answers: u32,
    drawn: u64,
    random: RandomState,
}

impl Prober {
    fn tick(&mut self) {
        self.answers = ANSWERS;
        self.facts = self.handle.facts();
        let now = Instant::now();
        self.open();
        self.meet(now);
        let peers: Vec<IpAddr> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send(peer, now);
        }
        self.tell(now);
    }

    /// Sockets for this node's VTEP addresses, as they are now.
    fn open(&mut self) {
        let own: BTreeMap<IpAddr, u32> =
            self.facts.uplinks.iter().flat_map(|u| u.vteps.iter().map(|vtep| (*vtep, u.mtu))).collect();
        self.locals.retain(|address, _| own.contains_key(address));
        for (address, mtu) in own {
            if let Some(local) = self.locals.get_mut(&address) {
                local.mtu = mtu;
                continue;
            }
            match listen(SocketAddr::new(address, self.port)) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let reader = tokio::spawn(read(address, Arc::clone(&socket), self.received.clone()));
                    self.refused.remove(&address);
                    self.locals.insert(address, Local { socket, reader, mtu });
                }
                Err(error) if self.refused.insert(address) => {
                    tracing::warn!(
                        "paths from {address} are not probed: UDP port {} is refused: {error}",
                        self.port
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// Other VTEPs, as they are now.
    fn meet(&mut self, now: Instant) {
        let facts = &self.facts;
        let mut found = BTreeMap::new();
        for (remote, route) in &facts.routes {
            let Some(uplink) = facts.uplinks.iter().find(|u| u.ifindex == route.ifindex) else { continue };
            let own = uplink.vteps.iter().find(|own| own.is_ipv6() == remote.is_ipv6());
            if let Some(local) = own {
                found.insert(*remote, (*local, uplink.mtu));
            }
        }
        self.peers.retain(|remote, peer| found.get(remote) == Some(&(peer.local, peer.search.ceiling())));
        for (remote, (local, ceiling)) in found {
            self.peers.entry(remote).or_insert_with(|| Peer {
                local,
                search: Search::new(ceiling, path_floor(remote.is_ipv6()), now),
                nonce: 0,
                known: PeerFacts::default(),
                confirmed: now,
            });
        }
    }

    /// The next probe of a VTEP, if it is time.
    fn send(&mut self, remote: IpAddr, now: Instant) {
        let Some(peer) = self.peers.get_mut(&remote) else { return };
        let Some(local) = self.locals.get(&peer.local) else { return };
        let Some(size) = peer.search.send(now) else { return };
        self.drawn += 1;
        peer.nonce = self.random.hash_one(self.drawn);
        let message = Message { answer: false, size, uplink: local.mtu, nonce: peer.nonce };
        let mut bytes = message.encode().to_vec();
        bytes.resize(LEN.max((size - headers(remote)) as usize), 0);
        // What can't be sent is lost: the next attempt finds out.
        let _ = local.socket.try_send_to(&bytes, SocketAddr::new(remote, self.port));
    }

    fn receive(&mut self, received: &Received) {
        let remote = received.from.ip();
        if received.from.port() != self.port || !self.facts.routes.contains_key(&remote) {
            return;
        }
        let now = Instant::now();
        if !received.message.answer {
            self.answer(received);
            if let Some(peer) = self.peers.get_mut(&remote) {
                peer.search.alive(now);
            }
            return;
        }
        let Some(peer) = self.peers.get_mut(&remote).filter(|peer| peer.nonce == received.message.nonce)
        else {
            return;
        };
        peer.nonce = 0;
        peer.confirmed = now;
        peer.known.uplink_mtu = Some(received.message.uplink);
        peer.search.answered(received.message.size, now);
        self.send(remote, now);
    }

    fn answer(&mut self, received: &Received) {
        let Some(local) = self.locals.get(&received.local).filter(|_| self.answers != 0) else { return };
        self.answers -= 1;
        let Message { nonce, .. } = received.message;
        let answer = Message { answer: true, size: received.size, uplink: local.mtu, nonce };
        // A lost answer is a lost probe.
        let _ = local.socket.try_send_to(&answer.encode(), received.from);
    }

    /// Tells the reconciler what is known now.
    fn tell(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            if let Some(found) = peer.search.found() {
                peer.known.path_mtu = Some(found);
            }
            if now.duration_since(peer.confirmed) > LIFE {
                peer.known = PeerFacts::default();
            }
        }
        let known = self.peers.iter().filter(|(_, peer)| peer.known != PeerFacts::default());
        self.handle.set_peers(known.map(|(remote, peer)| (*remote, peer.known)).collect());
    }
}

/// Bytes of IP and UDP headers.
fn headers(remote: IpAddr) -> u32 {
    if remote.is_ipv6() { 48 } else { 28 }
}

/// A socket whose packets are never fragmented, and may be larger than the kernel believes of the path.
fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    let (level, name, value) = if address.is_ipv6() {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    };
    // SAFETY: the option is an integer that lives as long as the call, which reads it.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    UdpSocket::from_std(socket)
}

/// Hands on what arrives at one of this node's addresses. More than can be worked on is lost, as on the way.
async fn read(local: IpAddr, socket: Arc<UdpSocket>, to: mpsc::Sender<Received>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // An error is an ICMP error that came back: nobody listens there.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(message) = Message::decode(&buffer[..length]) else { continue };
        let size = u32::try_from(length).unwrap_or(u32::MAX).saturating_add(headers(from.ip()));
        if to.try_send(Received { local, from, message, size }).is_err() && to.is_closed() {
            return;
        }
    }
}
