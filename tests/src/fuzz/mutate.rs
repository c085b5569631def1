//! Changes that know what they change: lengths, flags, tags, options, extension headers, fragments, checksums, nested
//! tunnels, and bytes at random.

use crate::{
    cast::{
        self, BLUE, CONTAINERS, FAMILIES, GREEN, HOST_A, HOST_B, HOSTS, NOBODY_MAC, STRANGER, VXLAN_PORT,
    },
    frame::{self, BROADCAST, ETH, INNER_OVER_V6, IPV4, IPV6, Outer, UDP, VXLAN},
    random::Random,
};

/// Longer frames than this a test run does not take.
const LONGEST: usize = 3000;

/// One of `seeds`, changed up to four times, or now and then noise. Never shorter than an Ethernet header.
pub fn frame(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    if random.once_in(64) {
        let length = ETH + random.below(300);
        return (0..length).map(|_| random.next_u64() as u8).collect();
    }
    let mut frame = seeds[random.below(seeds.len())].clone();
    // A few stay as they are: what is right must stay right beside what is not.
    for _ in 0..random.below(5) {
        change(random, &mut frame, seeds);
    }
    if !random.once_in(4) {
        repair(&mut frame, 0, !random.once_in(3));
        if let Some(inner) = tunnel_payload(&frame).filter(|_| random.once_in(2)) {
            repair(&mut frame, inner, random.once_in(2));
        }
    }
    frame.resize(frame.len().clamp(ETH, LONGEST), 0);
    frame
}

/// Offset of the inner frame, if there is room for one.
fn tunnel_payload(frame: &[u8]) -> Option<usize> {
    let (header, protocol) = match *frame.get(12..ETH)? {
        [8, 0] => (IPV4, ETH + 9),
        [0x86, 0xdd] => (IPV6, ETH + 6),
        _ => return None,
    };
    let (port, inner) = (ETH + header + 2, ETH + header + UDP + VXLAN);
    let is = frame.len() >= inner + ETH
        && frame[protocol] == 17
        && frame[port..port + 2] == VXLAN_PORT.to_be_bytes();
    is.then_some(inner)
}

/// The first byte behind the Ethernet header at `at` and its tags, and whether IPv4 or IPv6 is there.
fn ip_at(frame: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut at = at + 12;
    loop {
        match frame.get(at..at + 2)? {
            [0x81, 0] | [0x88, 0xa8] => at += 4,
            [8, 0] if frame.len() >= at + 2 + IPV4 => return Some((at + 2, true)),
            [0x86, 0xdd] if frame.len() >= at + 2 + IPV6 => return Some((at + 2, false)),
            _ => return None,
        }
    }
}

/// Makes the IP header of the frame at `at` agree with the frame: its length if asked, and its checksum.
fn repair(frame: &mut [u8], at: usize, length: bool) {
    let Some((ip, v4)) = ip_at(frame, at) else { return };
    let room = frame.len() - ip;
    if !v4 {
        if length {
            let payload = ((room - IPV6) as u16).to_be_bytes();
            frame[ip + 4..ip + 6].copy_from_slice(&payload);
            if at == 0 && frame[ip + 6] == 17 && room >= IPV6 + UDP {
                frame[ip + IPV6 + 4..ip + IPV6 + 6].copy_from_slice(&payload);
            }
        }
        return;
    }
    let header = usize::from(frame[ip] & 0xf) * 4;
    if header < IPV4 || header > room {
        return;
    }
    if length {
        frame[ip + 2..ip + 4].copy_from_slice(&(room as u16).to_be_bytes());
        if at == 0 && frame[ip + 9] == 17 && room >= header + UDP {
            let udp = ((room - header) as u16).to_be_bytes();
            frame[ip + header + 4..ip + header + 6].copy_from_slice(&udp);
        }
    }
    frame::fix_ip_checksum(frame, ip);
}

fn change(random: &mut Random, frame: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    if frame.len() < ETH {
        return;
    }
    // Half of the changes to a tunnel packet are to what is inside.
    let at = tunnel_payload(frame).filter(|_| random.once_in(2)).unwrap_or(0);
    match random.below(16) {
        0 => length(random, frame, at),
        1 => ip_field(random, frame, at),
        2 | 3 => address(random, frame, at),
        4 | 5 => mac(random, frame, at),
        6 => ether_type(random, frame, at),
        7 => tag(random, frame, at),
        8 => options(random, frame, at),
        9 => vxlan(random, frame),
        10 => ports(random, frame, at),
        11 => tail(random, frame),
        12 => nest(random, frame),
        13 => checksum(random, frame, at),
        14 => splice(random, frame, seeds),
        _ => bytes(random, frame),
    }
}

fn length(random: &mut Random, frame: &mut [u8], at: usize) {
    let Some((ip, v4)) = ip_at(frame, at) else { return };
    let field = match (v4, random.below(2)) {
        (true, 0) => ip + 2,
        (true, _) if frame.len() >= ip + IPV4 + 6 => ip + IPV4 + 4,
        (true, _) => return,
        (false, 0) => ip + 4,
        (false, _) if frame.len() >= ip + IPV6 + 6 => ip + IPV6 + 4,
        (false, _) => return,
    };
    let now = u16::from_be_bytes([frame[field], frame[field + 1]]);
    let value = match random.below(4) {
        0 => random.of(&[0, 1, 7, 8, 19, 20, 28, 36, 49, 50, 0x7fff, 0xffff]),
        1 => random.next_u64() as u16,
        _ => now.wrapping_add(random.below(17) as u16).wrapping_sub(8),
    };
    frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

fn ip_field(random: &mut Random, frame: &mut [u8], at: usize) {
    let Some((ip, v4)) = ip_at(frame, at) else { return };
    const PROTOCOLS: [u8; 14] = [0, 1, 2, 6, 17, 43, 44, 47, 50, 51, 58, 59, 60, 132];
    let byte = random.next_u64() as u8;
    let (field, value) = match (v4, random.below(6)) {
        (_, 0) => (ip, byte),
        (true, 1) => (ip, 0x40 | byte & 0xf),
        (_, 1 | 2) => (ip + 1, byte),
        (true, 3) => (ip + 6 + random.below(2), random.of(&[0x20, 0x40, 0x80, 0x60, 1, byte])),
        (true, 4) => (ip + 8, random.of(&[0, 1, 2, 64, 255])),
        (true, _) => (ip + 9, random.of(&PROTOCOLS)),
        (false, 3) => (ip + 7, random.of(&[0, 1, 2, 64, 255])),
        (false, _) => (ip + 6, random.of(&PROTOCOLS)),
    };
    frame[field] = value;
}

/// Addresses of every kind that somebody should refuse, and those of the cast.
fn address(random: &mut Random, frame: &mut [u8], at: usize) {
    const V4: [[u8; 4]; 12] = [
        [0; 4],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [239, 1, 1, 1],
        [240, 0, 0, 1],
        [255; 4],
        [169, 254, 1, 1],
        [192, 168, 10, 1],
        [192, 168, 10, 70],
        [192, 168, 10, 200],
        [192, 168, 10, 255],
    ];
    let Some((ip, v4)) = ip_at(frame, at) else { return };
    let source = random.once_in(2);
    let container = CONTAINERS[random.below(CONTAINERS.len())];
    if v4 {
        let host = HOSTS[random.below(HOSTS.len())];
        let value = match random.below(4) {
            0 => random.of(&V4),
            1 => random.of(&[host, &STRANGER]).vtep.octets(),
            2 => host.blue_address.unwrap_or(cast::NOBODY_V4).octets(),
            _ => container.v4.octets(),
        };
        let field = ip + if source { 12 } else { 16 };
        frame[field..field + 4].copy_from_slice(&value);
        return;
    }
    let mut odd = [0; 16];
    let host = HOSTS[random.below(HOSTS.len())];
    match random.below(6) {
        // `::` and `::1`.
        0 => odd[15] = random.below(2) as u8,
        1 => odd = container.v4.to_ipv6_mapped().octets(),
        2 => odd[..2].copy_from_slice(&[0xff, 2]),
        4 => odd = random.of(&[host, &STRANGER]).vtep_v6().octets(),
        3 => odd = container.link_local().octets(),
        _ => odd = container.v6.octets(),
    }
    let field = ip + if source { 8 } else { 24 };
    frame[field..field + 16].copy_from_slice(&odd);
}

fn mac(random: &mut Random, frame: &mut [u8], at: usize) {
    let node = fabric_agent::model::ids::node_mac;
    let value = match random.below(3) {
        0 => random.of(&[
            BROADCAST.bytes,
            [0; 6],
            [1, 0, 0x5e, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
            NOBODY_MAC.bytes,
            [1, 0x80, 0xc2, 0, 0, 0],
        ]),
        1 => {
            random
                .of(&[
                    BLUE.gateway_mac,
                    GREEN.gateway_mac,
                    node(HOST_A.name),
                    node(HOST_B.name),
                    HOST_A.mac,
                    HOST_B.mac,
                ])
                .bytes
        }
        _ => CONTAINERS[random.below(CONTAINERS.len())].mac.bytes,
    };
    let field = at + 6 * random.below(2);
    frame[field..field + 6].copy_from_slice(&value);
}

fn ether_type(random: &mut Random, frame: &mut [u8], at: usize) {
    const TYPES: [u16; 11] = [0, 46, 1500, 0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x8847, 0x88cc, 0xffff];
    let value = random.of(&TYPES);
    frame[at + 12..at + 14].copy_from_slice(&value.to_be_bytes());
}

fn tag(random: &mut Random, frame: &mut Vec<u8>, at: usize) {
    let kind = random.of(&[[0x81, 0], [0x88, 0xa8]]);
    let id = random.of(&[0_u16, 1, 5, 4095]).to_be_bytes();
    frame.splice(at + 12..at + 12, [kind, id].concat());
}

/// IPv4 options or IPv6 extension headers, up to more of them than anybody looks through; the length often still says
/// the old.
fn options(random: &mut Random, frame: &mut Vec<u8>, at: usize) {
    let Some((ip, v4)) = ip_at(frame, at) else { return };
    if v4 {
        let words = 1 + random.below(10);
        let options: Vec<u8> = match random.below(3) {
            // No operation, router alert, loose source route.
            0 => vec![1; words * 4],
            1 => [0x94, 4, 0, 0].repeat(words),
            _ => (0..words * 4).map(|_| random.next_u64() as u8).collect(),
        };
        frame.splice(ip + IPV4..ip + IPV4, options);
        frame[ip] = 0x45 + words as u8;
        return;
    }
    for _ in 0..1 + random.below(8) {
        let kind = random.of(&[0, 43, 44, 51, 60]);
        let next = frame[ip + 6];
        let second = match kind {
            // A fragment header's reserved byte.
            44 => 0,
            51 => 4,
            _ => random.of(&[0, 0, 0, 1, 200]),
        };
        let mut header = vec![next, second, 1, 4, 0, 0, 0, 0];
        if kind == 44 {
            header[3] = random.of(&[0, 1, 8, 9]);
        }
        if kind == 51 {
            header.resize(24, 0);
        }
        frame.splice(ip + IPV6..ip + IPV6, header);
        frame[ip + 6] = kind;
    }
}

fn vxlan(random: &mut Random, frame: &mut [u8]) {
    let Some(inner) = tunnel_payload(frame) else { return };
    let header = &mut frame[inner - VXLAN..inner];
    match random.below(3) {
        0 => header[0] = random.of(&[0, 0x08, 0x0c, 0x88, 0xff, 0xf7]),
        1 => header[random.of(&[1, 2, 3, 7])] = random.next_u64() as u8,
        _ => {
            let vni = random.of(&[0, 1, BLUE.vni, GREEN.vni, BLUE.vni << 8, 0xff_ffff]);
            header[4..7].copy_from_slice(&vni.to_be_bytes()[1..]);
        }
    }
}

fn ports(random: &mut Random, frame: &mut [u8], at: usize) {
    let Some((ip, v4)) = ip_at(frame, at) else { return };
    let field = ip + if v4 { IPV4 } else { IPV6 } + 2 * random.below(2);
    if let Some(port) = frame.get_mut(field..field + 2) {
        let value = random.of(&[0, 53, 1024, VXLAN_PORT, 8472, 6081, 49152, 65535]);
        port.copy_from_slice(&value.to_be_bytes());
    }
}

/// Cut or padded: runts, trailers, jumbo frames.
fn tail(random: &mut Random, frame: &mut Vec<u8>) {
    let end = frame.len();
    match random.below(4) {
        0 => frame.truncate(ETH + random.below(end)),
        1 => {
            frame.truncate(random.of(&[14, 18, 22, 34, 38, 42, 46, 50, 54, 62, 64, 70, 74, 84, 104]).min(end))
        }
        2 => frame.extend((0..=random.below(46)).map(|_| random.next_u64() as u8)),
        _ => frame.resize(random.of(&[60, 1400, 1464, 1465, 1514, 1515, 1564, 2900]).max(end), 0xa5),
    }
}

/// A tunnel packet as the payload of another one, or a container's own tunnel packet.
fn nest(random: &mut Random, frame: &mut Vec<u8>) {
    let (from, to) = (HOSTS[random.below(HOSTS.len())], HOSTS[random.below(HOSTS.len())]);
    if frame.len() + INNER_OVER_V6 <= LONGEST {
        let underlay = random.of(&FAMILIES);
        *frame = Outer::over(underlay, from, to, random.of(&[BLUE.vni, GREEN.vni])).around(frame);
    }
}

fn checksum(random: &mut Random, frame: &mut [u8], at: usize) {
    let Some((ip, v4)) = ip_at(frame, at) else { return };
    let field = if v4 { random.of(&[ip + 10, ip + IPV4 + 6, ip + IPV4 + 2]) } else { ip + IPV6 + 6 };
    if let Some(sum) = frame.get_mut(field..field + 2) {
        let any = random.next_u64() as u16;
        let value = random.of(&[0, 0xffff, any]);
        sum.copy_from_slice(&value.to_be_bytes());
    }
}

/// The same place of another frame: right values of other fields.
fn splice(random: &mut Random, frame: &mut [u8], seeds: &[Vec<u8>]) {
    let other = &seeds[random.below(seeds.len())];
    let at = random.below(frame.len());
    let end = (at + 1 + random.below(40)).min(frame.len()).min(other.len());
    if at < end {
        frame[at..end].copy_from_slice(&other[at..end]);
    }
}

fn bytes(random: &mut Random, frame: &mut Vec<u8>) {
    let at = random.below(frame.len());
    match random.below(4) {
        0 => frame[at] ^= 1 << random.below(8),
        1 => frame[at] = random.next_u64() as u8,
        2 => frame.insert(at, random.next_u64() as u8),
        _ => {
            frame.remove(at);
        }
    }
}
