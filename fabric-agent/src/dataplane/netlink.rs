//! The few things about interfaces that attaching needs to know, by blocking netlink requests.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
        tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
    sys::{Socket, SocketAddr, protocols},
};

/// Parent of filters on the ingress side of a clsact qdisc: `ffff:fff2`.
const CLSACT_INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
/// The egress side.
const CLSACT_EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) veth: bool,
    pub(super) xdp: XdpState,
}

/// How XDP runs at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum XdpState {
    /// Not at all.
    Off,
    /// In the driver.
    Native,
    /// On skbs.
    Generic,
}

/// A BPF filter at the ingress side of a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    pub(super) name: String,
    pub(super) program: u32,
}

/// The interface with this index; absent if there is none.
pub(super) fn interface(ifindex: u32) -> io::Result<Option<Interface>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    match request(RouteNetlinkMessage::GetLink(message), 0) {
        Ok(answers) => {
            Ok(answers.iter().find_map(link_of).filter(|link| link.header.index == ifindex).map(parse_link))
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Indices of all interfaces.
pub(super) fn interfaces() -> io::Result<Vec<u32>> {
    let answers = request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    Ok(answers.iter().filter_map(link_of).map(|link| link.header.index).collect())
}

fn link_of(answer: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None }
}

fn parse_link(link: &LinkMessage) -> Interface {
    let mut interface = Interface { name: String::new(), veth: false, xdp: XdpState::Off };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            interface.name.clone_from(name);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            interface.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
        } else if let LinkAttribute::Xdp(states) = attribute {
            interface.xdp = states.iter().find_map(parse_xdp).unwrap_or(XdpState::Off);
        }
    }
    interface
}

fn parse_xdp(state: &LinkXdp) -> Option<XdpState> {
    let LinkXdp::Attached(attached) = state else { return None };
    if *attached == XdpAttached::None {
        Some(XdpState::Off)
    } else if *attached == XdpAttached::SocketBuffer {
        Some(XdpState::Generic)
    } else {
        Some(XdpState::Native)
    }
}

/// BPF filters at the ingress side of an interface's clsact qdisc; none if it has no such qdisc, or does not exist.
pub(super) fn clsact_filters(ifindex: u32) -> io::Result<Vec<Filter>> {
    Ok(filters(ifindex, CLSACT_INGRESS)?.iter().filter_map(parse_filter).collect())
}

fn filters(ifindex: u32, parent: TcHandle) -> io::Result<Vec<TcMessage>> {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = parent;
    match request(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP) {
        Ok(answers) => Ok(answers
            .into_iter()
            .filter_map(|answer| {
                if let RouteNetlinkMessage::NewTrafficFilter(filter) = answer { Some(filter) } else { None }
            })
            // A priority is announced once without a handle, as the place for its filters.
            .filter(|filter| u32::from(filter.header.handle) != 0)
            .collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse_filter(message: &TcMessage) -> Option<Filter> {
    let options = message.attributes.iter().find_map(|attribute| {
        if let TcAttribute::Options(options) = attribute { Some(options) } else { None }
    })?;
    let (mut name, mut program) = (None, None);
    for option in options {
        let TcOption::Bpf(option) = option else { return None };
        if let TcFilterBpfOption::ProgName(text) = option {
            name = Some(text.clone());
        } else if let TcFilterBpfOption::ProgId(id) = option {
            program = Some(*id);
        }
    }
    Some(Filter {
        priority: (message.header.info >> 16) as u16,
        handle: message.header.handle.into(),
        name: name?,
        program: program?,
    })
}

/// Whether the clsact qdisc of an interface has no filter of any kind, in either direction.
pub(super) fn clsact_is_empty(ifindex: u32) -> io::Result<bool> {
    for parent in [CLSACT_INGRESS, CLSACT_EGRESS] {
        if !filters(ifindex, parent)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the clsact qdisc of an interface. Absent is success.
pub(super) fn remove_clsact(ifindex: u32) -> io::Result<()> {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = TcHandle { major: 0xffff, minor: 0xfff1 };
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    match request(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK) {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The interface or its qdisc does not exist.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::EINVAL | nix::libc::ENOENT))
}

/// One request and all of its answers. An error of the kernel comes back as such.
fn request(payload: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(protocols::NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = 1;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    receive(&socket, flags & NLM_F_DUMP == NLM_F_DUMP)
}

fn receive(socket: &Socket, dump: bool) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
            if let NetlinkPayload::Done(_) = message.payload {
                return Ok(answers);
            } else if let NetlinkPayload::Error(error) = message.payload {
                return if error.code.is_none() { Ok(answers) } else { Err(error.to_io()) };
            } else if let NetlinkPayload::InnerMessage(answer) = message.payload {
                answers.push(answer);
            }
            rest = &rest[length.min(rest.len())..];
        }
        if !dump {
            return Ok(answers);
        }
    }
}
