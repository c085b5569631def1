//! Who answers whom: a server on many ports, and a client that tries many of them at once.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockopt, socket,
    sockopt,
};
use serde_json::{Value, json};

use crate::common::{Limit, TICK, idle, ready};

/// A datagram that was not answered is sent again after this time.
const AGAIN: Duration = Duration::from_millis(200);
/// More at once would be a load of its own.
const MAX_TARGETS: usize = 512;

/// An address, a port and a protocol, written `tcp/192.168.10.11:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// TCP; else UDP.
    tcp: bool,
    pub(crate) address: SocketAddr,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (protocol, address) =
            text.split_once('/').context("a target is tcp/ADDRESS:PORT or udp/ADDRESS:PORT")?;
        let tcp = match protocol {
            "tcp" => true,
            "udp" => false,
            other => bail!("protocol {other:?} is neither tcp nor udp"),
        };
        Ok(Self { tcp, address: address.parse().with_context(|| format!("{address:?} is no ADDRESS:PORT"))? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", if self.tcp { "tcp" } else { "udp" }, self.address)
    }
}

/// Sends back what comes to any of the ports, at every address, over IPv4 and IPv6. Datagrams are answered from the addresses `at`
/// alone if there are any: a socket for all addresses answers from whichever the kernel prefers.
pub(crate) fn serve(tcp: &[u16], udp: &[u16], at: &[IpAddr], limit: Limit) -> Result<Value> {
    let any = |port: &u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
    let listeners: Vec<_> = tcp
        .iter()
        .map(|port| TcpListener::bind(any(port)).with_context(|| format!("can't listen on TCP port {port}")))
        .collect::<Result<_>>()?;
    let any_address = [IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    let at = if at.is_empty() { &any_address[..] } else { at };
    let sockets: Vec<_> = udp
        .iter()
        .flat_map(|port| at.iter().map(|address| SocketAddr::from((*address, *port))))
        .map(|place| UdpSocket::bind(place).with_context(|| format!("can't listen on UDP {place}")))
        .collect::<Result<_>>()?;
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    for socket in &sockets {
        socket.set_read_timeout(Some(TICK))?;
    }
    ready();
    thread::scope(|scope| {
        let accepting: Vec<_> = listeners
            .iter()
            .map(|listener| {
                scope.spawn(|| {
                    let mut accepted = 0u64;
                    while !limit.over() {
                        match listener.accept() {
                            Ok((stream, _)) => {
                                accepted += 1;
                                scope.spawn(move || echo(stream, limit));
                            }
                            // Idle, or a peer that has gone again.
                            Err(_) => thread::sleep(Duration::from_millis(1)),
                        }
                    }
                    accepted
                })
            })
            .collect();
        let echoing: Vec<_> =
            sockets.iter().map(|socket| scope.spawn(|| echo_datagrams(socket, limit))).collect();
        let sum = |threads: Vec<thread::ScopedJoinHandle<'_, u64>>| -> u64 {
            threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
        };
        Ok(json!({ "connections": sum(accepting), "datagrams": sum(echoing) }))
    })
}

/// Sends a stream's bytes back until it ends.
fn echo(mut stream: TcpStream, limit: Limit) {
    if stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(TICK))).is_err() {
        return;
    }
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4096];
    while !limit.over() {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if stream.write_all(&buffer[..n]).is_ok() => {}
            Err(error) if idle(&error) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket, limit: Limit) -> u64 {
    let (mut datagrams, mut buffer) = (0, [0; 4096]);
    while !limit.over() {
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            datagrams += 1;
            // Nobody may be there any more.
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
    datagrams
}

/// Tries all targets at once; the report says of each what came of it: `open` (a byte went there and came back), `refused`
/// (RST, or ICMP port unreachable), `timeout`, or another error's name.
pub(crate) fn reach(targets: &[Target], from: &[IpAddr], timeout: Duration) -> Result<Value> {
    ensure!(targets.len() <= MAX_TARGETS, "{} targets are more than {MAX_TARGETS}", targets.len());
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = targets
            .iter()
            .map(|target| {
                let from = from.iter().find(|ip| ip.is_ipv6() == target.address.is_ipv6()).copied();
                scope.spawn(move || try_one(*target, from, timeout))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let rows = targets.iter().zip(outcomes).map(|(target, outcome)| {
        let outcome = match outcome {
            Ok(Ok(())) => "open".to_owned(),
            Ok(Err(error)) => name(&error),
            Err(_) => "panicked".to_owned(),
        };
        json!({ "to": target.to_string(), "outcome": outcome })
    });
    Ok(Value::Array(rows.collect()))
}

fn name(error: &io::Error) -> String {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) {
        "refused".to_owned()
    } else if idle(error) {
        "timeout".to_owned()
    } else {
        error.to_string()
    }
}

fn try_one(target: Target, from: Option<IpAddr>, timeout: Duration) -> io::Result<()> {
    let end = Instant::now() + timeout;
    if target.tcp {
        let mut stream = connect_from(target.address, from, timeout)?;
        stream.set_read_timeout(Some(end.saturating_duration_since(Instant::now()).max(TICK)))?;
        stream.write_all(&[7])?;
        return stream.read_exact(&mut [0]);
    }
    let any =
        if target.address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let from: IpAddr = from.unwrap_or(any);
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(target.address)?;
    socket.set_read_timeout(Some(AGAIN))?;
    loop {
        socket.send(&[7])?;
        match socket.recv(&mut [0]) {
            Ok(_) => return Ok(()),
            Err(error) if idle(&error) && Instant::now() < end => {}
            Err(error) => return Err(error),
        }
    }
}

/// Connects within `timeout`, from an address of one's choice.
pub(crate) fn connect_from(to: SocketAddr, from: Option<IpAddr>, timeout: Duration) -> io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect_timeout(&to, timeout) };
    let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((from, 0))))?;
    let end = Instant::now() + timeout;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(fd);
    while stream.peer_addr().is_err() {
        let error = getsockopt(&stream, sockopt::SocketError)?;
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if Instant::now() > end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn targets_are_read_and_written() {
        for text in ["tcp/192.168.10.11:80", "udp/[fd00:10::11]:53"] {
            assert_eq!(text.parse::<Target>().expect("a target").to_string(), text);
        }
        for bad in ["192.168.10.11:80", "sctp/192.168.10.11:80", "tcp/192.168.10.11"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
