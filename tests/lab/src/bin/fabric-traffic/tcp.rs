//! TCP: one stream, and request/response.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use serde_json::{Value, json};

use crate::common::{Limit, TICK, idle, ready, told};

const BLOCK: usize = 256 << 10;

/// Waits for one connection.
fn accept(bind: SocketAddr, limit: Limit) -> Result<TcpStream> {
    let listener = TcpListener::bind(bind).with_context(|| format!("can't listen on TCP {bind}"))?;
    listener.set_nonblocking(true)?;
    ready();
    while !limit.over() {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(TICK))?;
                return Ok(stream);
            }
            Err(error) if idle(&error) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("nobody connected to {bind}")
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
        .with_context(|| format!("can't connect to {to}"))?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TICK))?;
    Ok(stream)
}

/// Bytes, seconds and Gbit/s.
fn rate(bytes: u64, start: Instant) -> Value {
    let seconds = start.elapsed().as_secs_f64();
    json!({ "bytes": bytes, "seconds": seconds, "gbps": bytes as f64 * 8.0 / seconds / 1e9 })
}

/// Receives one stream to its end.
pub(crate) fn sink(bind: SocketAddr, limit: Limit) -> Result<Value> {
    let mut stream = accept(bind, limit)?;
    let (start, mut bytes, mut buffer) = (Instant::now(), 0u64, vec![0; BLOCK]);
    while !limit.expired() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => bytes += n as u64,
            Err(error) if told() && error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rate(bytes, start))
}

/// Sends one stream.
pub(crate) fn send(
    to: SocketAddr,
    congestion: Option<&str>,
    wanted: Option<u64>,
    limit: Limit,
) -> Result<Value> {
    let mut stream = connect(to)?;
    if let Some(name) = congestion {
        setsockopt(&stream, sockopt::TcpCongestion, &OsString::from(name))
            .with_context(|| format!("this kernel has no congestion control {name}"))?;
    }
    let congestion = getsockopt(&stream, sockopt::TcpCongestion)?;
    let (start, mut bytes, block) = (Instant::now(), 0u64, vec![0xfa; BLOCK]);
    while !limit.over() && wanted.is_none_or(|wanted| bytes < wanted) {
        let room = wanted.map_or(BLOCK, |wanted| usize::try_from(wanted - bytes).unwrap_or(BLOCK).min(BLOCK));
        match stream.write(&block[..room]) {
            Ok(n) => bytes += n as u64,
            Err(error) if idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut report = rate(bytes, start);
    // The kernel ends the name with zeros.
    report["congestion"] = congestion.to_string_lossy().trim_end_matches('\0').into();
    Ok(report)
}

/// Answers bytes until the peer closes.
pub(crate) fn rr_server(bind: SocketAddr, limit: Limit) -> Result<Value> {
    let mut stream = accept(bind, limit)?;
    stream.set_nodelay(true)?;
    let (mut transactions, mut byte) = (0u64, [0]);
    while !limit.over() {
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {
                stream.write_all(&byte)?;
                transactions += 1;
            }
            Err(error) if idle(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "transactions": transactions }))
}

/// One byte there and back.
pub(crate) fn rr(to: SocketAddr, limit: Limit) -> Result<Value> {
    let mut stream = connect(to)?;
    stream.set_nodelay(true)?;
    let (start, mut times, mut byte) = (Instant::now(), Vec::new(), [7]);
    'all: while !limit.over() {
        let begin = Instant::now();
        stream.write_all(&byte)?;
        loop {
            match stream.read(&mut byte) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(_) => break,
                Err(error) if idle(&error) && limit.over() => break 'all,
                Err(error) if idle(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        times.push(begin.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        times.get((times.len() as f64 * share) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    Ok(json!({
        "transactions": times.len(), "seconds": seconds, "per_second": times.len() as f64 / seconds,
        "p50_us": at(0.5), "p99_us": at(0.99),
    }))
}
