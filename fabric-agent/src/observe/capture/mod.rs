//! Captures: frames that pass the containers' interfaces and the uplinks, seen by packet sockets as tcpdump sees them, and the
//! frames that the programs drop, with the reason. While nobody captures there is no socket, and the programs look at one
//! word for each drop.

mod merge;
mod pcapng;
mod select;
mod stream;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fabric_api::{capture::CaptureRequest, object::Attachment};
use fabric_common::capture::CapturedDrop;
use futures::stream::BoxStream;
use pcap_file::pcapng::PcapNgWriteError;
use tokio::sync::broadcast;

pub use self::select::Known;
use self::{
    merge::Packet,
    pcapng::Writer,
    select::{Inside, Selection},
    stream::{Capture, Channel},
};
use super::events::EventHub;
use crate::{
    dataplane::{CaptureSwitch, CapturedDrops, DataplaneError, EventsError},
    kernel::{
        KernelError,
        netns::Netns,
        tap::{LARGEST, Tap},
    },
    service::{ErrorKind, ServiceError},
};

/// How long the programs go on copying what they drop after the last word of a capture.
const LEASE: Duration = Duration::from_secs(3);
/// Dropped packets that wait for a capture.
const BACKLOG: usize = 1024;

/// Where captures come from. Cheap to clone.
#[derive(Clone)]
pub struct Captures {
    drops: broadcast::Sender<Arc<CapturedDrop>>,
    switch: Arc<Mutex<CaptureSwitch>>,
    events: EventHub,
}

/// Whoever captures; the API knows no more of it.
pub trait CaptureSource: Send + Sync {
    /// Begins a capture: from now on nothing is missed. The stream is in the pcapng format, each item whole blocks. It ends
    /// by itself as the request says, or when nothing is left to listen to; dropping it ends the capture.
    ///
    /// # Errors
    /// The request is wrong, or the kernel gives no socket.
    fn capture(
        &self,
        request: &CaptureRequest,
        known: &Known,
    ) -> Result<BoxStream<'static, Vec<u8>>, ServiceError>;
}

impl Captures {
    /// The switch of the programs, and the hub that knows names.
    pub fn new(switch: CaptureSwitch, events: EventHub) -> Self {
        Self { drops: broadcast::Sender::new(BACKLOG), switch: Arc::new(Mutex::new(switch)), events }
    }

    /// Hands every dropped packet to the captures. Returns only when they can't be read any more.
    pub async fn pump(self, mut drops: CapturedDrops) -> EventsError {
        loop {
            match drops.next().await {
                // An error means that nobody captures any more.
                Ok(drop) => std::mem::drop(self.drops.send(drop.into())),
                Err(error) => return error,
            }
        }
    }

    /// Keeps the programs copying what they drop for a while, and says how many found no room so far.
    fn renew(&self) -> Result<u64, ServiceError> {
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: DataplaneError| ServiceError::new(ErrorKind::Unavailable, error.to_string());
        switch.extend(LEASE).map_err(failed)?;
        switch.lost().map_err(failed)
    }

    /// Ends the copying at once if this was the last capture.
    fn end(&self) {
        if self.drops.receiver_count() > 0 {
            return;
        }
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = switch.extend(Duration::ZERO) {
            tracing::warn!("the end of a capture could not be told: {error}; it ends by itself");
        }
    }
}

impl CaptureSource for Captures {
    fn capture(
        &self,
        request: &CaptureRequest,
        known: &Known,
    ) -> Result<BoxStream<'static, Vec<u8>>, ServiceError> {
        let invalid = |sentence: &str| ServiceError::new(ErrorKind::Invalid, sentence);
        if request.count == Some(0) || request.seconds == Some(0) || request.snaplen == Some(0) {
            return Err(invalid("a capture of nothing: count, duration and snaplen begin at 1"));
        }
        let (selection, endpoints) = Selection::new(request, known)?;
        let snaplen = request.snaplen.map_or(LARGEST, |snaplen| LARGEST.min(snaplen as usize));
        let internal = |error: PcapNgWriteError| {
            ServiceError::new(ErrorKind::Internal, format!("the capture can't be written: {error}"))
        };
        let mut writer = Writer::new(snaplen as u32).map_err(internal)?;
        let mut channels = Vec::new();
        let failed = |error: KernelError| ServiceError::new(ErrorKind::Unavailable, error.to_string());
        if !request.drops && selection.inner() {
            for endpoint in endpoints {
                let Inside { name, network, ifindex, attachment } = endpoint;
                let tap = match container(attachment, snaplen) {
                    Ok(tap) => tap,
                    // The others are captured all the same.
                    Err(error) if request.endpoint.is_none() => {
                        writer
                            .channel(name, &format!("endpoint {name}, not captured: {error}"))
                            .map_err(internal)?;
                        continue;
                    }
                    Err(error) => {
                        let sentence = format!("endpoint {name} can't be captured: {error}");
                        return Err(ServiceError::new(ErrorKind::Unavailable, sentence));
                    }
                };
                let about =
                    format!("endpoint {name} of network {network}, {} in its namespace", attachment.ifname);
                let number = writer.channel(name, &about).map_err(internal)?;
                channels.push(Channel { number, ifindex, underlay: false, tap });
            }
        }
        if !request.drops && selection.outer() {
            for uplink in &known.status.uplinks {
                let tap =
                    Tap::open(None, &uplink.name, Some(known.status.vxlan_port), snaplen).map_err(failed)?;
                let about = format!("tunnel packets at uplink {} of node {}", uplink.name, known.status.node);
                let number = writer.channel(&uplink.name, &about).map_err(internal)?;
                channels.push(Channel { number, ifindex: uplink.ifindex, underlay: true, tap });
            }
        }
        let about = format!("packets that node {} dropped and no interface here has seen", known.status.node);
        let dropped = writer.channel("dropped", &about).map_err(internal)?;
        let drops = self.drops.subscribe();
        let lost = self.renew()?;
        let capture = Capture {
            captures: self.clone(),
            selection,
            writer,
            channels,
            dropped,
            drops,
            lost,
            count: request.count.unwrap_or(u64::MAX),
            time: request.seconds.map(Duration::from_secs),
        };
        Ok(capture.start())
    }
}

/// A tap on a container's own interface.
fn container(attachment: &Attachment, snaplen: usize) -> Result<Tap, KernelError> {
    let namespace = Netns::open_same(&attachment.netns, attachment.netns_inode)?;
    Tap::open(Some(&namespace), &attachment.ifname, None, snaplen)
}
