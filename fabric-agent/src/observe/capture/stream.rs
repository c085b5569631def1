//! A running capture.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fabric_common::{
    capture::CapturedDrop,
    reason::{DropReason, Hook},
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use pcap_file::pcapng::PcapNgWriteError;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc, watch,
    },
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Captures, Packet, Selection, Writer,
    merge::{HOLD, Merger},
    select,
};
use crate::{
    kernel::tap::{Tap, Tapped, retag},
    observe::events::wall_clock,
};

/// How often packets that were held back long enough are handed on.
const TICK: Duration = Duration::from_millis(50);
/// How often the programs are told that somebody captures, and losses are looked at.
const RENEW: Duration = Duration::from_secs(1);
/// Packets on their way from the sockets.
const QUEUE: usize = 1024;
/// Chunks on their way to the client.
const CHUNKS: usize = 16;

/// An interface that is listened on.
pub(super) struct Channel {
    pub(super) number: u32,
    /// Interface index at which the programs drop what is seen here.
    pub(super) ifindex: u32,
    pub(super) underlay: bool,
    pub(super) tap: Tap,
}

/// All of a capture.
pub(super) struct Capture {
    pub(super) captures: Captures,
    pub(super) selection: Selection,
    pub(super) writer: Writer,
    pub(super) channels: Vec<Channel>,
    /// The channel of drops that no interface has seen.
    pub(super) dropped: u32,
    pub(super) drops: broadcast::Receiver<Arc<CapturedDrop>>,
    /// Drops that had found no room when it began.
    pub(super) lost: u64,
    pub(super) count: u64,
    pub(super) time: Option<Duration>,
}

/// What a tap tells.
enum Told {
    Packet(u32, Tapped),
    Statistics(u32, u64, u64),
}

impl Capture {
    /// Runs it on a task of its own, which ends with the stream.
    pub(super) fn start(self) -> BoxStream<'static, Vec<u8>> {
        let (chunks, receiver) = mpsc::channel(CHUNKS);
        tokio::spawn(async move {
            let captures = self.captures.clone();
            if let Err(error) = self.run(&chunks).await {
                tracing::warn!("a capture can't be written: {error}");
            }
            captures.end();
        });
        stream::unfold(receiver, |mut chunks| async { Some((chunks.recv().await?, chunks)) }).boxed()
    }

    async fn run(mut self, chunks: &mpsc::Sender<Vec<u8>>) -> Result<(), PcapNgWriteError> {
        let (told, mut tapped) = mpsc::channel(QUEUE);
        let (stop, stopped) = watch::channel(false);
        let mut taps = JoinSet::new();
        let mut seen_at = BTreeMap::new();
        for channel in std::mem::take(&mut self.channels) {
            seen_at.insert(channel.ifindex, channel.number);
            let selection = channel.underlay.then(|| self.selection.clone());
            taps.spawn(listen(channel.number, channel.tap, selection, told.clone(), stopped.clone()));
        }
        let mut tapping = !seen_at.is_empty();
        drop((told, stopped));
        let mut merger = Merger::default();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        let (mut lagged, mut lost) = (0, 0);
        let end = self.time.map(|time| Instant::now() + time);
        let ended = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ended);
        let mut left = self.count;
        // After the end only drops of what was seen are waited for.
        let mut ending: Option<Instant> = None;
        loop {
            tokio::select! {
                () = chunks.closed() => return Ok(()),
                () = &mut ended, if ending.is_none() => {
                    stop.send_replace(true);
                    ending = Some(Instant::now() + HOLD + TICK);
                }
                drop = self.drops.recv() => match drop {
                    Ok(drop) => self.dropped(&mut merger, &seen_at, &drop),
                    Err(RecvError::Lagged(missed)) => lagged += missed,
                    Err(RecvError::Closed) => return Ok(()),
                },
                _ = tick.tick() => {
                    let now = now();
                    for packet in merger.due(now) {
                        if left > 0 {
                            self.writer.packet(&packet)?;
                            left -= 1;
                        }
                    }
                    if left == 0 && ending.is_none() {
                        stop.send_replace(true);
                        ending = Some(Instant::now());
                    }
                    let last = ending.is_some_and(|at| at <= Instant::now());
                    if last || renewed.elapsed() >= RENEW {
                        renewed = Instant::now();
                        // A switch that can't be set now is tried again in a second, before it runs out.
                        let full = self.captures.renew().map_or(0, |all| all - self.lost);
                        if full + lagged > lost {
                            lost = full + lagged;
                            self.writer.statistics(self.dropped, now, 0, lost)?;
                        }
                    }
                    let chunk = self.writer.take();
                    if !chunk.is_empty() && chunks.send(chunk).await.is_err() {
                        return Ok(());
                    }
                    if last && !tapping {
                        return Ok(());
                    }
                }
                told = tapped.recv(), if tapping => match told {
                    Some(Told::Packet(channel, packet)) => merger.seen(Packet {
                        channel,
                        time: packet.time,
                        outgoing: Some(packet.outgoing),
                        length: packet.length,
                        data: packet.data,
                        comment: None,
                    }),
                    Some(Told::Statistics(channel, received, lost)) => {
                        self.writer.statistics(channel, now(), received, lost)?;
                    }
                    // Every interface is gone.
                    None => {
                        tapping = false;
                        ending.get_or_insert_with(|| Instant::now() + HOLD + TICK);
                    }
                },
            }
        }
    }

    /// A packet that the programs dropped.
    fn dropped(&self, merger: &mut Merger, seen_at: &BTreeMap<u32, u32>, drop: &CapturedDrop) {
        let event = self.captures.events.named(&drop.event);
        let Some(from) = self.selection.takes_drop(drop, &event) else { return };
        let mut data = drop.data[..drop.data.len().min(drop.captured as usize)].to_vec();
        let mut length = drop.event.length as usize;
        if drop.vlan != 0 {
            length += retag(&mut data, (drop.vlan >> 16) as u16, drop.vlan as u16);
        }
        let data = data.split_off(from.min(data.len()));
        let reason = DropReason::from_number(drop.event.reason);
        let comment = select::comment(&event, reason.map_or("", DropReason::explain));
        // XDP drops before packet sockets see anything, and the vxlan device is not listened on.
        let hook = Hook::from_number(drop.event.hook);
        let tapped = matches!(hook, Some(Hook::FromContainer | Hook::FromUplink)) && from == 0;
        let channel = seen_at.get(&drop.event.ifindex).copied().filter(|_| tapped);
        let packet = Packet {
            channel: self.dropped,
            time: wall_clock(drop.event.time).duration_since(UNIX_EPOCH).unwrap_or_default(),
            outgoing: None,
            length: length.saturating_sub(from),
            data,
            comment: Some(comment),
        };
        merger.dropped(packet, channel);
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Hands on what one interface sees, and how much was lost, until it is told to stop or the interface is gone.
async fn listen(
    channel: u32,
    mut tap: Tap,
    wanted: Option<Selection>,
    told: mpsc::Sender<Told>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut known = 0;
    let mut look = interval(RENEW);
    loop {
        tokio::select! {
            () = told_to_stop(&mut stopped) => break,
            _ = look.tick() => {
                let (received, lost) = tap.statistics();
                if lost > known {
                    known = lost;
                    if told.send(Told::Statistics(channel, received, lost)).await.is_err() {
                        return;
                    }
                }
            }
            packet = tap.next() => {
                let Ok(packet) = packet else { break };
                let takes = wanted.as_ref().is_none_or(|wanted| wanted.takes_outer(&packet.data));
                if takes && told.send(Told::Packet(channel, packet)).await.is_err() {
                    return;
                }
            }
        }
    }
    let (received, lost) = tap.statistics();
    // An error means that the capture has ended.
    drop(told.send(Told::Statistics(channel, received, lost)).await);
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    drop(stopped.wait_for(|stopped| *stopped).await);
}
