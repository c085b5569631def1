//! Messages of given sizes whose content is compared: both sides report a hash of what they sent and received.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

use crate::{
    common::{Limit, TICK, idle, ready, told},
    udp::connect,
};

/// Largest message, bytes.
const LARGEST: usize = 65_536;
/// Largest payload of a UDP datagram over IPv6 without jumbograms, bytes.
const LARGEST_UDP: usize = 65_487;

/// A sink that was told to end waits until nothing came for so many [`TICK`]s: a switch in user space takes its time.
const QUIET: u32 = 4;

/// Sizes as `1300-1460` or `1300-1460,65536`.
pub(crate) fn sizes(text: &str) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse()?, last.parse()?);
        ensure!(
            1 <= first && first <= last && last <= LARGEST,
            "--sizes {part} is not within 1 to {LARGEST}"
        );
        sizes.extend(first..=last);
    }
    Ok(sizes)
}

/// FNV-1a, 64 bits: an error of a cut, a shift or an exchange of bytes does not go unseen.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = Hash::new();
    hash.add(bytes);
    hash.0
}

/// Bytes that do not repeat within a message and differ from message to message.
fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Sends messages on one TCP connection.
pub(crate) fn tcp_send(to: SocketAddr, sizes: &[usize], limit: Limit) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
        .with_context(|| format!("can't connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let (mut hash, mut bytes) = (Hash::new(), 0);
    for (seed, size) in sizes.iter().enumerate() {
        ensure!(!limit.over(), "only {seed} of {} messages were sent in time", sizes.len());
        let message = content(*size, seed as u64);
        stream.write_all(&message)?;
        hash.add(&message);
        bytes += size;
    }
    Ok(json!({ "messages": sizes.len(), "bytes": bytes, "hash": hash.0 }))
}

/// Receives one TCP connection to its end.
pub(crate) fn tcp_sink(bind: SocketAddr, limit: Limit) -> Result<Value> {
    let listener = TcpListener::bind(bind).with_context(|| format!("can't listen on TCP {bind}"))?;
    listener.set_nonblocking(true)?;
    ready();
    let mut stream = loop {
        // Whoever tells the sink to end has sent all by then; the end of the handshake can still be on its way.
        ensure!(!limit.expired(), "nobody connected to {bind}");
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if idle(&error) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    let (mut hash, mut bytes, mut buffer, mut ended) = (Hash::new(), 0, vec![0; 256 << 10], false);
    while !limit.expired() {
        match stream.read(&mut buffer) {
            Ok(0) => {
                ended = true;
                break;
            }
            Ok(n) => {
                hash.add(&buffer[..n]);
                bytes += n;
            }
            Err(error) if idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "bytes": bytes, "hash": hash.0, "ended": ended }))
}

/// Sends datagrams, four of each size; with `gso` the four in one send that the kernel cuts (UDP_SEGMENT).
pub(crate) fn udp_send(
    to: SocketAddr,
    sizes: &[usize],
    gso: bool,
    pause: Duration,
    limit: Limit,
) -> Result<Value> {
    let socket = connect(to, None)?;
    let (mut packets, mut bytes, mut sum) = (0u64, 0, 0u64);
    for (seed, size) in sizes.iter().enumerate() {
        ensure!(!limit.over(), "only {seed} of {} sizes were sent in time", sizes.len());
        let copies = if *size * 4 <= LARGEST_UDP { 4 } else { 1 };
        ensure!(*size <= LARGEST_UDP, "a datagram of {size} bytes does not exist");
        let message = content(size * copies, seed as u64);
        if gso {
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(*size)?)
                .context("no UDP_SEGMENT on this kernel")?;
            socket.send(&message).with_context(|| format!("a send of {copies} times {size} bytes"))?;
        }
        for datagram in message.chunks(*size) {
            if !gso {
                socket.send(datagram).with_context(|| format!("a datagram of {size} bytes"))?;
            }
            packets += 1;
            bytes += datagram.len();
            sum = sum.wrapping_add(hash_of(datagram));
        }
        // The receiver's queue is finite, and that of a switch between.
        std::thread::sleep(pause);
    }
    Ok(json!({ "packets": packets, "bytes": bytes, "hash": sum }))
}

/// Receives datagrams, in any order.
pub(crate) fn udp_sink(bind: SocketAddr, limit: Limit) -> Result<Value> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("can't listen on UDP {bind}"))?;
    socket.set_read_timeout(Some(TICK))?;
    // Best effort: needs CAP_NET_ADMIN.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20));
    ready();
    let (mut packets, mut bytes, mut sum, mut buffer) = (0u64, 0, 0u64, vec![0; LARGEST]);
    let mut quiet = 0;
    while !limit.expired() {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                quiet = 0;
                packets += 1;
                bytes += n;
                sum = sum.wrapping_add(hash_of(&buffer[..n]));
            }
            Err(error) if told() && error.kind() == io::ErrorKind::WouldBlock => {
                quiet += 1;
                if quiet == QUIET {
                    break;
                }
            }
            Err(error) if idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "packets": packets, "bytes": bytes, "hash": sum }))
}

/// Sends one datagram from each of `count` source ports.
pub(crate) fn flows(to: SocketAddr, count: u16, limit: Limit) -> Result<Value> {
    let mut sent = 0u64;
    for port in 20_000..20_000 + count {
        ensure!(!limit.over(), "only {sent} of {count} flows were sent in time");
        let any: SocketAddr = if to.is_ipv4() { ([0; 4], port).into() } else { ([0u16; 8], port).into() };
        connect(to, Some(any))?.send(b"flow").with_context(|| format!("from port {port}"))?;
        sent += 1;
        if sent.is_multiple_of(16) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(json!({ "sent": sent }))
}

#[cfg(test)]
mod tests {
    use super::{content, hash_of, sizes};

    #[test]
    fn sizes_are_ranges_and_numbers() {
        assert_eq!(sizes("3-5,9").expect("sizes"), [3, 4, 5, 9]);
        for bad in ["", "0", "5-3", "1-65537", "a"] {
            assert!(sizes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contents_differ() {
        assert_ne!(hash_of(&content(100, 0)), hash_of(&content(100, 2)));
        assert_ne!(content(16, 4)[..8], content(16, 4)[8..]);
    }
}
