//! What container `a` sends.

use anyhow::{Context, Result};
use etherparse::{IpFragOffset, IpHeaders, IpNumber, Ipv4Header, PacketBuilder, UdpHeader};

/// Nobody listens there; a capture finds what arrives.
pub(crate) const PORT: u16 = 7777;
/// Addresses of the sender.
pub(crate) const A: ([u8; 4], [u8; 16]) = ([192, 168, 10, 11], v6(0x10, 0x11));
pub(crate) const TTL: u8 = 64;

/// `fd00:SUBNET::HOST`.
pub(crate) const fn v6(subnet: u8, host: u8) -> [u8; 16] {
    [0xfd, 0, 0, subnet, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

/// What `a` sends: its MAC, and the MAC of the next hop.
pub(crate) struct Sender {
    pub(crate) own: [u8; 6],
    pub(crate) gateway: [u8; 6],
}

impl Sender {
    pub(crate) fn udp4(&self, to: [u8; 6], dst: [u8; 4], ttl: u8, length: usize) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, to).ipv4(A.0, dst, ttl).udp(4000, PORT);
        builder.write(&mut frame, &vec![0xa5; length])?;
        Ok(frame)
    }

    /// The same without the DF bit, which the library sets.
    pub(crate) fn may_be_cut(&self, dst: [u8; 4], length: usize) -> Result<Vec<u8>> {
        let mut ip = Ipv4Header::new(0, TTL, IpNumber::UDP, A.0, dst)?;
        ip.dont_fragment = false;
        ip.identification = 4711;
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, self.gateway);
        let builder = builder.ip(IpHeaders::Ipv4(ip, Default::default())).udp(4000, PORT);
        builder.write(&mut frame, &vec![0xa5; length])?;
        Ok(frame)
    }

    pub(crate) fn udp6(&self, to: [u8; 6], dst: [u8; 16], ttl: u8, length: usize) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, to).ipv6(A.1, dst, ttl).udp(4000, PORT);
        builder.write(&mut frame, &vec![0xa5; length])?;
        Ok(frame)
    }

    /// The first packet of a connection.
    pub(crate) fn syn4(&self, dst: [u8; 4]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, self.gateway).ipv4(A.0, dst, TTL);
        builder.tcp(4000, PORT, 1, 1024).syn().write(&mut frame, &[])?;
        Ok(frame)
    }

    pub(crate) fn syn6(&self, dst: [u8; 16]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, self.gateway).ipv6(A.1, dst, TTL);
        builder.tcp(4000, PORT, 1, 1024).syn().write(&mut frame, &[])?;
        Ok(frame)
    }

    /// A fragment behind the first: no transport header.
    pub(crate) fn later_fragment(&self, dst: [u8; 4]) -> Result<Vec<u8>> {
        self.fragment(dst, 64, false, &[0xa5; 40])
    }

    /// The first of several: it has the ports.
    pub(crate) fn first_fragment(&self, dst: [u8; 4]) -> Result<Vec<u8>> {
        let udp = UdpHeader { source_port: 4000, destination_port: PORT, length: 512, checksum: 0 };
        self.fragment(dst, 0, true, &[&udp.to_bytes()[..], &[0xa5; 32]].concat())
    }

    /// `offset` in units of eight bytes.
    fn fragment(&self, dst: [u8; 4], offset: u16, more: bool, body: &[u8]) -> Result<Vec<u8>> {
        let length = u16::try_from(body.len())?;
        let mut ip = Ipv4Header::new(length, TTL, IpNumber::UDP, A.0, dst)?;
        ip.dont_fragment = false;
        ip.more_fragments = more;
        ip.identification = 4712;
        ip.fragment_offset = IpFragOffset::try_new(offset)?;
        ip.header_checksum = ip.calc_header_checksum();
        let head = [&self.gateway[..], &self.own, &[8, 0]].concat();
        Ok([&head[..], &ip.to_bytes(), body].concat())
    }

    pub(crate) fn ping(&self, dst: [u8; 4]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, self.gateway).ipv4(A.0, dst, TTL);
        builder.icmpv4_echo_request(7, 1).write(&mut frame, b"who is there")?;
        Ok(frame)
    }

    pub(crate) fn ping6(&self, dst: [u8; 16]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, self.gateway).ipv6(A.1, dst, TTL);
        builder.icmpv6_echo_request(7, 1).write(&mut frame, b"who is there")?;
        Ok(frame)
    }

    /// RFC 826. `sender` is the address that it claims.
    pub(crate) fn who_has(&self, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = [&[0xff; 6][..], &self.own, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        [&head[..], &self.own, &sender, &[0; 6], &target].concat()
    }

    /// RFC 4861 section 4.3, with the sender's MAC as its option.
    pub(crate) fn solicits(&self, target: [u8; 16]) -> Result<Vec<u8>> {
        let group = [&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff][..], &target[13..]].concat();
        let group: [u8; 16] = group.try_into().ok().context("a group")?;
        let group_mac = [0x33, 0x33, 0xff, target[13], target[14], target[15]];
        let body = [&target[..], &[1, 1], &self.own].concat();
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.own, group_mac).ipv6(A.1, group, 255);
        builder.icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &body)?;
        Ok(frame)
    }
}
