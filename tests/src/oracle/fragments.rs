//! Outer packets in two fragments, which no VTEP should send and every VTEP may get.

use crate::frame::{ETH, IPV4, IPV6, fix_ip_checksum};

/// An IPv4 packet without options or an IPv6 packet without extension headers as two fragments with this ID, if there is enough
/// of it and its length is right. The second one comes first if `swapped`.
pub fn halves(frame: &[u8], id: u16, swapped: bool) -> Option<[Vec<u8>; 2]> {
    let header = match (frame[12], frame[13], frame.get(ETH)?) {
        (8, 0, 0x45) => IPV4,
        (0x86, 0xdd, _) => IPV6,
        _ => return None,
    };
    let (head, data) = frame.split_at_checked(ETH + header)?;
    let cut = data.len() / 2 / 8 * 8;
    let (length, at) = if header == IPV4 { (IPV4 + data.len(), 2) } else { (data.len(), 4) };
    if cut == 0 || head[ETH + at..ETH + at + 2] != (length as u16).to_be_bytes() {
        return None;
    }
    let part = |data: &[u8], offset: usize, more: bool| {
        let field = offset as u16 | u16::from(more) << if header == IPV4 { 13 } else { 0 };
        let mut part = head.to_vec();
        if header == IPV4 {
            part[ETH + 2..ETH + 4].copy_from_slice(&((IPV4 + data.len()) as u16).to_be_bytes());
            part[ETH + 4..ETH + 6].copy_from_slice(&id.to_be_bytes());
            part[ETH + 6..ETH + 8].copy_from_slice(&field.to_be_bytes());
            fix_ip_checksum(&mut part, ETH);
        } else {
            let [high, low] = field.to_be_bytes();
            let [id_high, id_low] = id.to_be_bytes();
            let extension = [part[ETH + 6], 0, high, low, 0, 0, id_high, id_low];
            part[ETH + 4..ETH + 6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
            part[ETH + 6] = 44;
            part.extend(extension);
        }
        part.extend(data);
        part
    };
    // In units of eight bytes, which IPv6 writes three bits further up.
    let offset = if header == IPV4 { cut / 8 } else { cut };
    let (first, second) = (part(&data[..cut], 0, true), part(&data[cut..], offset, false));
    Some(if swapped { [second, first] } else { [first, second] })
}
