//! Addresses as they stand in packets: byte arrays in wire order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::shared;

shared! {
    /// An IPv4 or IPv6 address in network byte order; IPv4 is held IPv4-mapped (RFC 4291 section 2.5.5.2), so that
    /// one key type serves both families, inside the tunnel and outside.
    ///
    /// Aligned to 4 so that the programs copy, compare and clear it by words.
    #[repr(align(4))]
    16 bytes: pub struct Addr {
        /// Network byte order.
        pub bytes: [u8; 16],
    }
}

shared! {
    /// An Ethernet address in wire order. Aligned to 2 for the same reason.
    #[repr(align(2))]
    6 bytes: pub struct Mac {
        /// Wire order.
        pub bytes: [u8; 6],
    }
}

impl Addr {
    /// Bits of an address; a prefix of IPv4 has 96 more than it has on paper.
    pub const BITS: u32 = 128;

    /// `::`, which stands for "no address" in map values.
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };

    /// The IPv4-mapped form of four bytes in wire order.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]] }
    }

    /// An IPv6 address of sixteen bytes in wire order.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// Whether no host may have it as its source (RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5 and 2.7): this network
    /// (0/8), loopback, multicast, reserved (240/4) and broadcast; `::`, `::1` and multicast.
    #[inline(always)]
    pub fn is_martian(&self) -> bool {
        let b = &self.bytes;
        if self.is_v4() {
            return matches!(b[12], 0 | 127 | 224..);
        }
        b[0] == 0xff || u128::from_be_bytes(self.bytes) <= 1
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let b = &self.bytes;
        b[0] | b[1] | b[2] | b[3] | b[4] | b[5] | b[6] | b[7] | b[8] | b[9] == 0
            && b[10] == 0xff
            && b[11] == 0xff
    }

    /// The last four bytes: the IPv4 address of a mapped one.
    #[inline(always)]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        let b = &self.bytes;
        [b[12], b[13], b[14], b[15]]
    }

    /// The standard library's form of this address.
    pub fn to_ip(self) -> IpAddr {
        if self.is_v4() { IpAddr::V4(self.v4_bytes().into()) } else { IpAddr::V6(self.bytes.into()) }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl Mac {
    /// All zero: "no MAC" in map values, never valid as a source.
    pub const ZERO: Self = Self { bytes: [0; 6] };

    /// Wraps six bytes in wire order.
    #[inline(always)]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self { bytes }
    }

    /// Whether the group bit (IEEE 802: lowest bit of the first byte) is set: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.bytes[0] & 1 != 0
    }

    /// Whether a frame may carry this as its source: neither a group address nor all zero.
    #[inline(always)]
    pub const fn is_valid_source(&self) -> bool {
        let b = &self.bytes;
        !self.is_group() && (b[0] | b[1] | b[2] | b[3] | b[4] | b[5]) != 0
    }

    /// The link-local IPv6 address that a host makes of this MAC (modified EUI-64, RFC 4291 appendix A).
    pub const fn link_local(&self) -> Addr {
        let m = &self.bytes;
        Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let b = &self.bytes;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5])
    }
}

/// Text that is not six hexadecimal bytes with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacParseError;

impl core::fmt::Display for MacParseError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not a MAC address like 02:00:5e:10:00:01")
    }
}

impl core::error::Error for MacParseError {}

impl core::str::FromStr for Mac {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(MacParseError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacParseError)?;
        }
        if parts.next().is_some() { Err(MacParseError) } else { Ok(Self { bytes }) }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::{Addr, Mac};

    #[test]
    fn v4_is_held_mapped_and_comes_back() {
        let addr = Addr::from(Ipv4Addr::new(192, 0, 2, 1));
        assert!(addr.is_v4());
        assert_eq!(addr.to_ip(), Ipv4Addr::new(192, 0, 2, 1));
        assert!(!Addr::UNSPECIFIED.is_v4());
    }

    #[test]
    fn macs_parse_strictly() {
        assert_eq!("02:00:5e:10:00:01".parse(), Ok(Mac::new([2, 0, 0x5e, 0x10, 0, 1])));
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "2:0:5e:10:0:1",
            "02-00-5e-10-00-01",
            "02:00:5e:10:00:0g",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn link_local_flips_the_universal_bit() {
        let mac = Mac::new([0x02, 0x42, 0xc0, 0xa8, 0x0a, 0x0b]);
        assert_eq!(mac.link_local().to_ip().to_string(), "fe80::42:c0ff:fea8:a0b");
    }

    extern crate std;
    use std::string::ToString;

    #[test]
    fn martians() {
        use std::net::IpAddr;
        let is = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap()).is_martian();
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
        ] {
            assert!(is(text), "{text}");
        }
        for text in
            ["1.0.0.1", "126.255.255.255", "223.255.255.255", "169.254.1.1", "::2", "fe80::1", "2001:db8::1"]
        {
            assert!(!is(text), "{text}");
        }
    }
}
