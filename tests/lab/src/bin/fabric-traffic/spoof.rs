//! IPv4 UDP packets with any source address.

use std::{net::SocketAddrV4, os::fd::AsRawFd};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use serde_json::{Value, json};

const PAYLOAD: &[u8] = b"not from me";

/// Sends `count` packets. The kernel chooses route, neighbour and source MAC; it also fills in the header's checksum.
pub(crate) fn send(from: SocketAddrV4, to: SocketAddrV4, count: u32) -> Result<Value> {
    // IPPROTO_RAW: we write the IP header.
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .context("a raw socket needs root or CAP_NET_RAW")?;
    let destination = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
    let packet = packet(from, to);
    for _ in 0..count {
        sendto(raw.as_raw_fd(), &packet, &destination, MsgFlags::empty())
            .with_context(|| format!("can't send to {to}"))?;
    }
    Ok(json!({ "sent": count }))
}

fn packet(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let udp_length = u16::try_from(8 + PAYLOAD.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_length).to_be_bytes());
    // Identification and fragment offset; TTL, UDP, checksum.
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    // No UDP checksum.
    packet.extend([0, 0]);
    packet.extend(PAYLOAD);
    packet
}
