//! One packet through the real programs, in words: what was asked becomes a frame, the marks of the walk become sentences.

mod frame;
mod words;

use std::{collections::BTreeSet, net::IpAddr};

use fabric_api::{
    object::{Endpoint, Network},
    trace::{TraceReport, TraceRequest, TraceStage},
};
use fabric_common::{
    abi::{self, program},
    addr::{Addr, Mac},
    endpoint::{EndpointKey, EndpointValue},
    fdb::{FdbKey, FdbValue},
    network::NetworkValue,
    node::NodeValue,
    prefix::VniPrefix,
    reason::{Action, Hook},
    route::RouteValue,
    stage::{Mark, Stage},
    uplink::{LocalVtepValue, UplinkValue},
};

use self::{
    frame::{ETH, Payload},
    words::Words,
};
use crate::{
    dataplane::{DataplaneError, Tracer, Walked},
    plan::desired::PrefixKey,
    service::{ErrorKind, ServiceError},
};

/// What is declared, as the service gives it: for names.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// This node's name.
    pub node: String,
    /// Networks with their status.
    pub networks: Vec<Network>,
    /// Endpoints with their status.
    pub endpoints: Vec<Endpoint>,
    /// Number and name of every node.
    pub nodes: Vec<(u32, String)>,
    /// Interface indices of uplinks whose XDP stage is on.
    pub xdp: BTreeSet<u32>,
}

/// Whoever walks packets; the API knows no more of it.
pub trait TraceSource: Send + Sync {
    /// Walks the packet that the request describes.
    ///
    /// # Errors
    /// The request is wrong, or the kernel refuses to run the programs.
    fn trace(&self, request: &TraceRequest, known: &Known) -> Result<TraceReport, ServiceError>;
}

/// A frame and where it comes in.
struct Start<'a> {
    hook: Hook,
    program: &'static str,
    ifindex: u32,
    frame: Vec<u8>,
    port: Option<Port<'a>>,
}

/// A local sender.
#[derive(Clone, Copy)]
struct Port<'a> {
    endpoint: &'a Endpoint,
    vni: u32,
    ifindex: u32,
    mac: Mac,
}

impl TraceSource for Tracer {
    fn trace(&self, request: &TraceRequest, known: &Known) -> Result<TraceReport, ServiceError> {
        let start = match start(self, request, known)? {
            Ok(start) => start,
            Err(report) => return Ok(report),
        };
        let walk = |start: &Start<'_>| self.walk(start.program, start.ifindex, &start.frame).map_err(failed);
        let mut early = None;
        if start.port.is_none() && known.xdp.contains(&start.ifindex) {
            let (hook, program) = (Hook::FromUplinkXdp, program::FROM_UPLINK_XDP);
            let start = Start { hook, program, frame: start.frame.clone(), ..start };
            let walked = walk(&start)?;
            if !walked.goes_on {
                return describe(self, known, &start, &walked);
            }
            early = Some(words::let_through(&start, &walked));
        }
        let walked = walk(&start)?;
        let mut report = describe(self, known, &start, &walked)?;
        report.stages.splice(..0, early);
        Ok(report)
    }
}

fn failed(error: DataplaneError) -> ServiceError {
    ServiceError::new(ErrorKind::Unavailable, format!("the packet can't be traced: {error}"))
}

fn invalid(sentence: impl Into<String>) -> ServiceError {
    ServiceError::new(ErrorKind::Invalid, sentence)
}

/// The frame, or the report if no packet leaves the container.
fn start<'a>(
    tracer: &Tracer,
    request: &TraceRequest,
    known: &'a Known,
) -> Result<Result<Start<'a>, TraceReport>, ServiceError> {
    let port = request.from.as_deref().map(|name| port(known, name)).transpose()?;
    let frame = match (&request.packet, port, &request.to) {
        (Some(_), _, Some(_)) => {
            return Err(invalid("a packet says itself where it goes: give --packet or --to, not both"));
        }
        (Some(text), _, None) => {
            frame::from_hex(text).filter(|frame| frame.len() >= ETH).ok_or_else(|| {
                invalid("the packet is not a frame in hexadecimal digits, Ethernet header first")
            })?
        }
        (None, Some(port), Some(to)) => match built(tracer, request, known, port, to)? {
            Ok(frame) => frame,
            Err(report) => return Ok(Err(report)),
        },
        (None, _, _) => {
            return Err(invalid("give the sender and the destination (--from, --to), or a packet"));
        }
    };
    if let Some(port) = port {
        let (hook, program, ifindex) = (Hook::FromContainer, program::FROM_CONTAINER, port.ifindex);
        return Ok(Ok(Start { hook, program, ifindex, frame, port: Some(port) }));
    }
    arriving(tracer, frame).map(Ok)
}

fn port<'a>(known: &'a Known, name: &str) -> Result<Port<'a>, ServiceError> {
    let endpoint = endpoint(known, name).ok_or_else(|| {
        let sentence = format!("endpoint {name} does not exist; `fabric endpoint ls` lists what does");
        ServiceError::new(ErrorKind::NotFound, sentence)
    })?;
    let status = endpoint.status.as_ref().filter(|status| status.local);
    let Some(status) = status else {
        let node = endpoint.spec.node.as_deref().unwrap_or("another node");
        let sentence = format!("endpoint {name} lives on {node}: ask the agent there to trace what it sends");
        return Err(ServiceError::new(ErrorKind::Conflict, sentence));
    };
    let mac = endpoint.spec.mac.as_deref().and_then(|mac| mac.parse().ok());
    let (Some(mac), Some(vni), true) = (mac, vni(known, &endpoint.spec.network), status.ifindex != 0) else {
        let sentence = format!("endpoint {name} is not attached yet: see `fabric endpoint inspect {name}`");
        return Err(ServiceError::new(ErrorKind::Unavailable, sentence));
    };
    Ok(Port { endpoint, vni, ifindex: status.ifindex, mac })
}

fn endpoint<'a>(known: &'a Known, name: &str) -> Option<&'a Endpoint> {
    known.endpoints.iter().find(|endpoint| endpoint.metadata.name == name)
}

fn vni(known: &Known, network: &str) -> Option<u32> {
    let network = known.networks.iter().find(|candidate| candidate.metadata.name == network)?;
    network.status.as_ref().map(|status| status.vni).or(network.spec.vni)
}

/// The packet as the container's stack would send it: its own MAC, and the MAC that it is told for the next hop.
fn built(
    tracer: &Tracer,
    request: &TraceRequest,
    known: &Known,
    port: Port<'_>,
    to: &str,
) -> Result<Result<Vec<u8>, TraceReport>, ServiceError> {
    let payload = payload(request)?;
    let own = &port.endpoint.spec.addresses;
    let (source, dst) = match (endpoint(known, to), to.parse::<IpAddr>()) {
        (Some(other), _) => own
            .iter()
            .find_map(|a| Some((*a, *other.spec.addresses.iter().find(|b| a.is_ipv4() == b.is_ipv4())?)))
            .ok_or_else(|| invalid(format!("{to} has no address of a family that the sender has")))?,
        (None, Ok(dst)) => {
            let source = own.iter().find(|a| a.is_ipv4() == dst.is_ipv4());
            let source =
                source.ok_or_else(|| invalid(format!("the sender has no address of the family of {to}")))?;
            (*source, dst)
        }
        (None, Err(_)) => {
            let sentence =
                format!("{to} is neither an endpoint nor an address; `fabric endpoint ls` lists endpoints");
            return Err(ServiceError::new(ErrorKind::NotFound, sentence));
        }
    };
    let network = known.networks.iter().find(|network| network.metadata.name == port.endpoint.spec.network);
    let inside =
        network.is_some_and(|network| network.spec.subnets.iter().any(|subnet| subnet.contains(&dst)));
    let next_hop = if inside {
        let key = EndpointKey { vni: port.vni, addr: Addr::from(dst) };
        tracer.row::<_, EndpointValue>(&abi::ENDPOINTS, &key).map_err(failed)?.map(|row| row.mac)
    } else {
        let row = tracer.row::<_, NetworkValue>(&abi::NETWORKS, &port.vni).map_err(failed)?;
        row.map(|row| row.gateway_mac)
    };
    Ok(match next_hop {
        Some(mac) => Ok(frame::build(port.mac, mac, source, dst, payload)),
        None => Err(TraceReport {
            node: known.node.clone(),
            verdict: "unresolved".to_owned(),
            sentence: format!(
                "nobody in network {} has {dst}: the container asks for its MAC, gets no answer and sends nothing",
                port.endpoint.spec.network
            ),
            ..TraceReport::default()
        }),
    })
}

fn payload(request: &TraceRequest) -> Result<Payload, ServiceError> {
    match (request.protocol.as_deref().unwrap_or("icmp"), request.port) {
        ("icmp", None) => Ok(Payload::Echo),
        ("icmp", Some(_)) => Err(invalid("icmp has no ports: leave --port out, or add --proto tcp or udp")),
        ("tcp", Some(port)) => Ok(Payload::Tcp(port)),
        ("udp", Some(port)) => Ok(Payload::Udp(port)),
        ("tcp" | "udp", None) => Err(invalid("tcp and udp need a port: add --port N")),
        (other, _) => Err(invalid(format!("protocol {other} is not known: choose tcp, udp or icmp"))),
    }
}

/// A tunnel packet as it reaches the uplink that has its outer destination. The last hop's MACs are the underlay's business, so
/// that they are set to what they are on arrival.
fn arriving(tracer: &Tracer, mut frame: Vec<u8>) -> Result<Start<'static>, ServiceError> {
    let (_, dst) = frame::addresses(&frame, ETH)
        .ok_or_else(|| invalid("the packet has no whole IP header behind 14 bytes"))?;
    let vtep = tracer.row::<_, LocalVtepValue>(&abi::LOCAL_VTEPS, &dst).map_err(failed)?;
    let vtep = vtep.ok_or_else(|| {
        invalid(format!("{dst} is no VTEP address of this node, so that no packet to it is Fabric's here"))
    })?;
    if let Some(uplink) = tracer.row::<_, UplinkValue>(&abi::UPLINKS, &vtep.ifindex).map_err(failed)? {
        frame[..6].copy_from_slice(&uplink.mac.bytes);
    }
    let v6 = frame[ETH] >> 4 == 6;
    frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
    let (hook, program) = (Hook::FromUplink, program::FROM_UPLINK);
    Ok(Start { hook, program, ifindex: vtep.ifindex, frame, port: None })
}

fn describe(
    tracer: &Tracer,
    known: &Known,
    start: &Start<'_>,
    walked: &Walked,
) -> Result<TraceReport, ServiceError> {
    let inner =
        if start.port.is_some() { 0 } else { frame::outer(&start.frame).map_or(0, |outer| outer.inner) };
    let (vni, dst) = destination(tracer, start, walked)?;
    let entry: Option<FdbValue> = tracer.row(&abi::FDB, &FdbKey::new(vni, dst)).map_err(failed)?;
    let node: Option<NodeValue> = match entry {
        Some(entry) => tracer.row(&abi::NODES, &entry.node).map_err(failed)?,
        None => None,
    };
    let words = Words { known, start, walked, inner, vni, dst, entry, node };
    let stages = walked
        .stages
        .iter()
        .map(|stage| TraceStage { name: stage.as_str().to_owned(), text: words.stage(*stage) });
    let mut report = TraceReport {
        node: known.node.clone(),
        hook: start.hook.as_str().to_owned(),
        packet: frame::to_hex(&start.frame),
        stages: stages.collect(),
        ..TraceReport::default()
    };
    words.end(&mut report);
    Ok(report)
}

/// Where the frame is bridged to in the end: network and MAC, zero if it was not said. Routing changes both.
fn destination(tracer: &Tracer, start: &Start<'_>, walked: &Walked) -> Result<(u32, Mac), ServiceError> {
    let tunnelled = if start.port.is_some() { &walked.frame } else { &start.frame };
    let local = start.port.filter(|_| walked.end != Some(Mark::Done(Action::Remote)));
    Ok(match (local, frame::outer(tunnelled)) {
        (Some(port), _) if walked.stages.contains(&Stage::Routed) => {
            (routed_into(tracer, port.vni, &start.frame)?, frame::mac(&walked.frame, 0))
        }
        (Some(port), _) => (port.vni, frame::mac(&start.frame, 0)),
        (None, Some(outer)) => (outer.vni, frame::mac(tunnelled, outer.inner)),
        (None, None) => (0, Mac::ZERO),
    })
}

/// The network that a packet of network `vni` is in once it was routed: asked of the row that the programs ask, because a MAC
/// alone may be one of several networks.
fn routed_into(tracer: &Tracer, vni: u32, frame: &[u8]) -> Result<u32, ServiceError> {
    let Some((_, dst)) = frame::addresses(frame, ETH) else { return Ok(vni) };
    let key = PrefixKey { bits: VniPrefix::BITS, prefix: VniPrefix::new(vni, dst) };
    let route: Option<RouteValue> = tracer.row(&abi::ROUTES, &key).map_err(failed)?;
    Ok(route.map_or(vni, |route| route.vni))
}
