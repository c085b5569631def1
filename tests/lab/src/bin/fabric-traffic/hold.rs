//! One connection that is kept busy: when it was answered last, and the longest silence.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    common::{Limit, TICK, idle},
    reach::connect_from,
};

/// After the last byte, answers are awaited this long.
const GRACE: Duration = Duration::from_millis(500);

fn unix_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_micros()).ok())
        .unwrap_or(0)
}

/// Connects to an echoing TCP server and sends a byte every `every` until `limit`. Reports bytes sent and answered, when the last
/// answer came (`last_us`, microseconds of Unix time), the longest time between two answers, and what ended it.
///
/// Beside it `silent` connections are made, and used once at the end: `silent_alive` says how many are answered.
pub(crate) fn tcp(
    to: SocketAddr,
    from: Option<IpAddr>,
    every: Duration,
    silent: usize,
    limit: Limit,
) -> Result<Value> {
    let others = (0..silent).map(|_| connect_from(to, from, Duration::from_secs(5)));
    let others: Vec<TcpStream> =
        others.collect::<io::Result<_>>().with_context(|| format!("can't connect to {to}"))?;
    let mut stream =
        connect_from(to, from, Duration::from_secs(5)).with_context(|| format!("can't connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TICK))?;
    let mut reader = stream.try_clone()?;
    let (done, answered, last, gap) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (sent, ended) = thread::scope(|scope| {
        let reading = scope.spawn(|| -> Option<io::Error> {
            let (mut buffer, mut before) = ([0; 4096], Instant::now());
            while !done.load(Ordering::Relaxed) {
                match reader.read(&mut buffer) {
                    Ok(0) => return Some(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => {
                        answered.fetch_add(n as u64, Ordering::Relaxed);
                        last.store(unix_micros(), Ordering::Relaxed);
                        let silence = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
                        gap.fetch_max(silence, Ordering::Relaxed);
                        before = Instant::now();
                    }
                    Err(error) if idle(&error) => {}
                    Err(error) => return Some(error),
                }
            }
            None
        });
        let mut sent = 0u64;
        while !limit.over() && !reading.is_finished() {
            match stream.write(&[7]) {
                Ok(n) => sent += n as u64,
                Err(error) if idle(&error) => {}
                Err(_) => break,
            }
            thread::sleep(every);
        }
        let grace = Instant::now() + GRACE;
        while Instant::now() < grace && answered.load(Ordering::Relaxed) < sent && !reading.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        done.store(true, Ordering::Relaxed);
        (sent, reading.join().ok().flatten())
    });
    let alive = others.into_iter().filter_map(|other| answered_once(other).ok()).count();
    Ok(json!({
        "silent_alive": alive,
        "sent": sent, "answered": answered.into_inner(), "last_us": last.into_inner(),
        "longest_gap_us": gap.into_inner(), "ended": ended.map(|error| error.to_string()),
    }))
}

/// Sends a byte on a connection that was silent, and waits for its answer.
fn answered_once(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(&[9])?;
    stream.read_exact(&mut [0])
}
