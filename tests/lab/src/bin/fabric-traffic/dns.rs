//! A small DNS server (RFC 1035, A records over UDP), and a client that asks it and connects at once to what it is told. Written by hand
//! so that the agent's library is not tested against itself.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::common::{Limit, TICK, idle, ready};

/// Bytes of a header.
const HEAD: usize = 12;
/// How long the client waits for an answer and for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// `NAME=ADDRESS`, or `NAME=ADDRESS,TTL`.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    name: String,
    addr: Ipv4Addr,
    ttl: u32,
}

impl FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("no = in it")?;
        let (addr, ttl) = rest.split_once(',').unwrap_or((rest, "60"));
        let addr = addr.parse().map_err(|_| format!("{addr} is no IPv4 address"))?;
        let ttl = ttl.parse().map_err(|_| format!("{ttl} is no number"))?;
        Ok(Self { name: name.to_ascii_lowercase(), addr, ttl })
    }
}

/// Answers until `limit`.
pub(crate) fn serve(bind: SocketAddr, records: &[Record], limit: Limit) -> Result<Value> {
    let known: BTreeMap<&str, &Record> =
        records.iter().map(|record| (record.name.as_str(), record)).collect();
    let socket = UdpSocket::bind(bind).with_context(|| format!("can't listen on {bind}"))?;
    socket.set_read_timeout(Some(TICK))?;
    ready();
    let mut answered = 0_u64;
    let mut buffer = [0; 512];
    while !limit.over() {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if idle(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some((name, end)) = question(&buffer[..length]) else { continue };
        let found = known.get(name.as_str());
        // Recursion available; no such name.
        let code = if found.is_some() { 0 } else { 3 };
        let count = u8::from(found.is_some());
        let mut answer = buffer[..end].to_vec();
        answer[2..HEAD].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        if let Some(record) = found {
            // The question's name, A, IN.
            answer.extend([0xc0, HEAD as u8, 0, 1, 0, 1]);
            answer.extend(record.ttl.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(record.addr.octets());
        }
        socket.send_to(&answer, from)?;
        answered += 1;
    }
    Ok(json!({"answered": answered}))
}

/// The name that is asked for, and where the question ends.
fn question(message: &[u8]) -> Option<(String, usize)> {
    let mut at = HEAD;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    (message.len() >= at + 4).then(|| (labels.join("."), at + 4))
}

/// Asks for a name and connects to `port` of what it is told. A refusal by the other side counts as reached.
pub(crate) fn ask(server: SocketAddr, name: &str, port: u16) -> Result<Value> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let id = (std::process::id() as u16).to_be_bytes();
    let mut query = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let start = Instant::now();
    socket.send(&query)?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).context("no answer")?;
    let resolved = start.elapsed();
    let answer = &buffer[..length];
    ensure!(answer.len() >= query.len() && answer[..2] == id, "this is no answer");
    if answer[7] == 0 {
        bail!("{name} has no address");
    }
    let last: [u8; 4] = answer[length - 4..].try_into()?;
    let addr = Ipv4Addr::from(last);
    let start = Instant::now();
    let reached = match TcpStream::connect_timeout(&SocketAddr::new(addr.into(), port), PATIENCE) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    };
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Ok(json!({
        "addr": addr.to_string(), "reached": reached,
        "resolve_us": micros(resolved), "connect_us": micros(start.elapsed()),
    }))
}
