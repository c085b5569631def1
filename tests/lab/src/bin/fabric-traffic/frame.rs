//! Frames of one's own making, sent as they are.

use std::{os::fd::AsRawFd, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket},
};
use serde_json::{Value, json};

/// Sends a frame `count` times out of an interface, with a `pause` behind each.
pub(crate) fn send(ifname: &str, hex: &str, count: u32, pause: Duration) -> Result<Value> {
    let frame = bytes(hex)?;
    ensure!(frame.len() >= 14, "a frame has at least 14 bytes, not {}", frame.len());
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .context("a packet socket needs root or CAP_NET_RAW")?;
    let index = if_nametoindex(ifname).with_context(|| format!("no interface {ifname}"))?;
    let address = link_address(index)?;
    for _ in 0..count {
        sendto(raw.as_raw_fd(), &frame, &address, MsgFlags::empty())
            .with_context(|| format!("can't send {} bytes out of {ifname}", frame.len()))?;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Ok(json!({ "sent": count, "bytes": frame.len() }))
}

fn link_address(index: u32) -> Result<LinkAddr> {
    let raw = nix::libc::sockaddr_ll {
        sll_family: u16::try_from(nix::libc::AF_PACKET)?,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    // SAFETY: a complete `sockaddr_ll` of the family and length that are named.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(size_of_val(&raw) as u32)) };
    address.context("no link-layer address")
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| {
            c.to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
                .with_context(|| format!("{c:?} is no hexadecimal digit"))
        })
        .collect::<Result<_>>()?;
    if !digits.len().is_multiple_of(2) {
        bail!("an odd number of hexadecimal digits");
    }
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(bytes("0aFf 01:02").expect("hex"), [10, 255, 1, 2]);
        assert!(bytes("0").is_err() && bytes("0g").is_err());
    }
}
