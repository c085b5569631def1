//! Numbered datagrams at a fixed rate, echoed: what was lost, doubled or late.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    common::{Limit, TICK, idle},
    udp::connect,
};

/// After the last datagram, answers are awaited this long.
const GRACE: Duration = Duration::from_millis(500);

/// Sends until `limit`; a number that does not come back within half a second after the end is lost.
pub(crate) fn run(to: SocketAddr, rate: u32, limit: Limit) -> Result<Value> {
    ensure!((1..=100_000).contains(&rate), "--rate {rate} is not 1 to 100000");
    let socket = connect(to, None)?;
    socket.set_read_timeout(Some(TICK))?;
    let receiver = socket.try_clone()?;
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (sent, errors, arrivals) = thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let mut arrivals = Vec::new();
            let mut buffer = [0; 64];
            let mut end = None;
            loop {
                if done.load(Ordering::Relaxed) && Instant::now() > *end.get_or_insert(Instant::now() + GRACE)
                {
                    return arrivals;
                }
                match receiver.recv(&mut buffer) {
                    Ok(16) => arrivals.push((number(&buffer, 0), number(&buffer, 8), micros(start))),
                    Ok(_) => {}
                    // Also an ICMP error on the socket: that number is then missing.
                    Err(error) if idle(&error) => {}
                    Err(_) => {}
                }
            }
        });
        let (mut sent, mut errors) = (0u64, 0u64);
        while !limit.over() {
            let due = start + Duration::from_secs_f64(sent as f64 / f64::from(rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut datagram = [0; 16];
            datagram[..8].copy_from_slice(&sent.to_be_bytes());
            datagram[8..].copy_from_slice(&micros(start).to_be_bytes());
            errors += u64::from(socket.send(&datagram).is_err());
            sent += 1;
        }
        done.store(true, Ordering::Relaxed);
        (sent, errors, answers.join().unwrap_or_default())
    });
    Ok(report(sent, errors, &arrivals))
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn number(buffer: &[u8; 64], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&buffer[at..at + 8]);
    u64::from_be_bytes(bytes)
}

/// `arrivals`: number, time of sending, time of arrival (µs).
fn report(sent: u64, errors: u64, arrivals: &[(u64, u64, u64)]) -> Value {
    let mut seen = vec![false; usize::try_from(sent).unwrap_or(0)];
    let (mut duplicate, mut reordered, mut highest) = (0u64, 0u64, 0u64);
    for (n, _, _) in arrivals {
        match usize::try_from(*n).ok().and_then(|n| seen.get_mut(n)) {
            Some(seen) if !*seen => *seen = true,
            _ => duplicate += 1,
        }
        reordered += u64::from(*n < highest);
        highest = highest.max(*n);
    }
    let received = seen.iter().filter(|seen| **seen).count() as u64;
    let mut round_trips: Vec<_> = arrivals.iter().map(|(_, out, back)| back.saturating_sub(*out)).collect();
    round_trips.sort_unstable();
    let at = |share: f64| round_trips.get((round_trips.len() as f64 * share) as usize).copied().unwrap_or(0);
    let gap = arrivals.windows(2).map(|pair| pair[1].2.saturating_sub(pair[0].2)).max().unwrap_or(0);
    json!({
        "sent": sent, "received": received, "lost": sent - received, "duplicate": duplicate, "reordered": reordered,
        "errors": errors, "longest_gap_us": gap, "rtt_p50_us": at(0.5), "rtt_p99_us": at(0.99),
    })
}

#[cfg(test)]
mod tests {
    use super::report;

    #[test]
    fn lost_duplicate_and_reordered_are_told_apart() {
        let arrivals = [(0, 0, 10), (2, 20, 30), (1, 10, 31), (2, 20, 40)];
        let report = report(4, 0, &arrivals);
        assert_eq!(report["lost"], 1);
        assert_eq!(report["received"], 3);
        assert_eq!(report["duplicate"], 1);
        assert_eq!(report["reordered"], 1);
    }
}
