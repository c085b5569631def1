//! Broadcast and multicast over UDP.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context, Result, ensure};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{setsockopt, sockopt},
};
use serde_json::{Value, json};

use crate::common::{Limit, TICK, idle, ready, told};

/// Counts the datagrams that come to a group, which is joined at an interface, or to the broadcast address; and the different
/// ones, by the number that they begin with.
pub(crate) fn sink(group: SocketAddr, ifname: &str, limit: Limit) -> Result<Value> {
    let group = scoped(group, ifname)?;
    let socket = UdpSocket::bind(group).with_context(|| format!("can't listen on UDP {group}"))?;
    socket.set_read_timeout(Some(TICK))?;
    match group.ip() {
        IpAddr::V4(ip) if ip.is_multicast() => {
            let request = nix::libc::ip_mreqn {
                imr_multiaddr: nix::libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                imr_address: nix::libc::in_addr { s_addr: 0 },
                imr_ifindex: i32::try_from(index(ifname)?)?,
            };
            join_v4(&socket, &request).with_context(|| format!("can't join {ip}"))?;
        }
        IpAddr::V4(_) => {}
        IpAddr::V6(ip) => {
            socket.join_multicast_v6(&ip, index(ifname)?).with_context(|| format!("can't join {ip}"))?;
        }
    }
    ready();
    let mut seen = std::collections::BTreeSet::new();
    let mut packets = 0u64;
    let mut buffer = [0; 65536];
    while !limit.expired() {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                packets += 1;
                seen.insert(buffer[..length.min(4)].to_vec());
            }
            Err(error) if told() && error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "packets": packets, "different": seen.len() }))
}

/// Sends numbered datagrams to a group or a broadcast address out of an interface, with a sixteenth of a second between
/// sixteen of them.
pub(crate) fn send(to: SocketAddr, ifname: &str, size: usize, count: u32, gso: bool) -> Result<Value> {
    ensure!((4..=65_000).contains(&size), "--size {size} is not from 4 to 65000");
    let any = if to.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0u16; 8], 0)) };
    let socket = UdpSocket::bind(any).context("can't open a UDP socket")?;
    socket.set_broadcast(true)?;
    setsockopt(&socket, sockopt::BindToDevice, &ifname.into())
        .with_context(|| format!("no interface {ifname}"))?;
    let to = scoped(to, ifname)?;
    let segments = if gso { 4 } else { 1 };
    if gso {
        let size = i32::try_from(size)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &size).context("no UDP_SEGMENT on this kernel")?;
    }
    for first in (0..count).step_by(segments) {
        let mut buffer = vec![0; size * segments];
        for (number, part) in (first..).zip(buffer.chunks_mut(size)) {
            part[..4].copy_from_slice(&number.to_be_bytes());
        }
        socket.send_to(&buffer, to).with_context(|| format!("can't send to {to}"))?;
        std::thread::sleep(std::time::Duration::from_millis(4));
    }
    Ok(json!({ "sent": count }))
}

/// A link-local group says nothing without its link.
fn scoped(address: SocketAddr, ifname: &str) -> Result<SocketAddr> {
    Ok(match address {
        SocketAddr::V6(mut address) => {
            address.set_scope_id(index(ifname)?);
            address.into()
        }
        SocketAddr::V4(_) => address,
    })
}

fn index(ifname: &str) -> Result<u32> {
    if_nametoindex(ifname).with_context(|| format!("no interface {ifname}"))
}

fn join_v4(socket: &UdpSocket, request: &nix::libc::ip_mreqn) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: a complete request of the size that is named.
    let result = unsafe {
        nix::libc::setsockopt(
            socket.as_raw_fd(),
            nix::libc::IPPROTO_IP,
            nix::libc::IP_ADD_MEMBERSHIP,
            (&raw const *request).cast(),
            size_of_val(request) as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
