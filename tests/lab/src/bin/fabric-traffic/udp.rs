//! UDP: sink, echo, flood.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

use crate::common::{Limit, TICK, idle, ready, told};

/// A GSO send is cut into so many datagrams.
const SEGMENTS: usize = 16;

fn listen(bind: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("can't listen on UDP {bind}"))?;
    socket.set_read_timeout(Some(TICK))?;
    // Best effort: room for bursts.
    let _ = setsockopt(&socket, sockopt::RcvBuf, &(4 << 20));
    Ok(socket)
}

/// Counts what comes in. `pps` is over the time between the first and the last datagram.
pub(crate) fn sink(bind: SocketAddr, limit: Limit) -> Result<Value> {
    let socket = listen(bind)?;
    ready();
    let (mut packets, mut bytes) = (0u64, 0u64);
    let (mut first, mut last) = (None, Instant::now());
    let mut buffer = [0; 65536];
    while !limit.expired() {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                packets += 1;
                bytes += n as u64;
                // A clock read a packet costs more than a tenth of a receive.
                if first.is_none() || packets.is_multiple_of(64) {
                    last = Instant::now();
                    first.get_or_insert(last);
                }
            }
            Err(error) if told() && error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    let pps = if seconds > 0.0 { packets as f64 / seconds } else { 0.0 };
    Ok(json!({ "packets": packets, "bytes": bytes, "seconds": seconds, "pps": pps }))
}

/// Sends every datagram back to where it came from.
pub(crate) fn echo(bind: SocketAddr, limit: Limit) -> Result<Value> {
    let socket = listen(bind)?;
    ready();
    let (mut packets, mut errors) = (0u64, 0u64);
    let mut buffer = [0; 65536];
    while !limit.over() {
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) => match socket.send_to(&buffer[..n], from) {
                Ok(_) => packets += 1,
                Err(_) => errors += 1,
            },
            Err(error) if idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "packets": packets, "errors": errors }))
}

/// How a flood is sent.
pub(crate) struct Flood {
    pub(crate) to: SocketAddr,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) size: usize,
    pub(crate) rate: Option<u32>,
    pub(crate) count: Option<u64>,
    pub(crate) gso: bool,
}

/// A socket connected to `to`.
pub(crate) fn connect(to: SocketAddr, bind: Option<SocketAddr>) -> Result<UdpSocket> {
    let any = match to.ip() {
        IpAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let socket = UdpSocket::bind(bind.unwrap_or(any)).context("can't open a UDP socket")?;
    socket.connect(to).with_context(|| format!("no route to {to}"))?;
    Ok(socket)
}

/// Sends datagrams.
pub(crate) fn flood(flood: &Flood, limit: Limit) -> Result<Value> {
    let segments = if flood.gso { SEGMENTS } else { 1 };
    ensure!(flood.size * segments <= 65_000, "--size {} is too large", flood.size);
    ensure!(flood.rate != Some(0), "--rate 0 would never send");
    let socket = connect(flood.to, flood.bind)?;
    if flood.gso {
        let size = i32::try_from(flood.size)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &size).context("no UDP_SEGMENT on this kernel")?;
    }
    let buffer = vec![0xfa; flood.size * segments];
    let (mut sent, mut errors) = (0u64, 0u64);
    let start = Instant::now();
    loop {
        // The clock is read every 64 sends.
        if ((sent + errors) / segments as u64).is_multiple_of(64) && limit.over() {
            break;
        }
        if flood.count.is_some_and(|count| sent + errors >= count) {
            break;
        }
        if let Some(rate) = flood.rate {
            let due = start + Duration::from_secs_f64((sent + errors) as f64 / f64::from(rate));
            if limit.over() {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()).min(TICK));
            if Instant::now() < due {
                continue;
            }
        }
        match socket.send(&buffer) {
            Ok(_) => sent += segments as u64,
            // A full queue or a pending ICMP error: the packet is not sent, the flood goes on.
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => errors += segments as u64,
            Err(error) => return Err(error.into()),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "sent": sent, "errors": errors, "seconds": seconds, "pps": sent as f64 / seconds }))
}
