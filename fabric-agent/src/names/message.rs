//! DNS messages in frames (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, TYPE, rdata::RData};

/// The longest chain of aliases that is followed.
const MOST_ALIASES: usize = 16;

/// Who asks whom for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Who asks.
    pub client: SocketAddr,
    /// Who is asked.
    pub server: SocketAddr,
    /// The message's identifier.
    pub id: u16,
    /// The name in lower case, without the dot of the root.
    pub name: String,
    /// Whether IPv6 addresses are asked for; else IPv4 addresses.
    pub v6: bool,
}

/// An address of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The address.
    pub addr: IpAddr,
    /// Seconds for which it is one: the least of the records that lead to it.
    pub ttl: u32,
}

/// A message about the addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A query.
    Query(Exchange),
    /// An answer, with the addresses in it.
    Answer(Exchange, Vec<Record>),
}

/// Reads the DNS message in a frame. Absent if there is none, it is damaged, or about something else than addresses.
pub fn read(frame: &[u8]) -> Option<Message> {
    let (src, dst, _, payload) = udp(frame)?;
    let packet = Packet::parse(payload).ok()?;
    let [question] = &packet.questions[..] else { return None };
    let v6 = question.qtype == QTYPE::TYPE(TYPE::AAAA);
    if !v6 && question.qtype != QTYPE::TYPE(TYPE::A) {
        return None;
    }
    let (id, name) = (packet.id(), text(&question.qname)?);
    if !packet.has_flags(PacketFlag::RESPONSE) {
        return Some(Message::Query(Exchange { client: src, server: dst, id, name, v6 }));
    }
    let records = if packet.rcode() == RCODE::NoError && !packet.has_flags(PacketFlag::TRUNCATION) {
        addresses(&packet, &name, v6)
    } else {
        Vec::new()
    };
    Some(Message::Answer(Exchange { client: dst, server: src, id, name, v6 }, records))
}

/// The addresses that an answer gives a name, by its aliases if need be (CNAME).
fn addresses(packet: &Packet<'_>, name: &str, v6: bool) -> Vec<Record> {
    let (mut name, mut least) = (name.to_owned(), u32::MAX);
    for _ in 0..=MOST_ALIASES {
        let own = || {
            let records = packet.answers.iter().filter(|record| record.class == CLASS::IN);
            records.filter(|record| text(&record.name).as_deref() == Some(name.as_str()))
        };
        let found: Vec<Record> = own()
            .filter_map(|record| {
                let addr = address(&record.rdata).filter(|addr| addr.is_ipv6() == v6)?;
                Some(Record { addr, ttl: record.ttl.min(least) })
            })
            .collect();
        if !found.is_empty() {
            return found;
        }
        let alias = own().find_map(|record| {
            let RData::CNAME(target) = &record.rdata else { return None };
            Some((text(&target.0)?, record.ttl))
        });
        let Some((target, ttl)) = alias else { break };
        (name, least) = (target, least.min(ttl));
    }
    Vec::new()
}

fn address(rdata: &RData<'_>) -> Option<IpAddr> {
    if let RData::A(a) = rdata {
        return Some(Ipv4Addr::from(a.address).into());
    }
    let RData::AAAA(aaaa) = rdata else { return None };
    Some(Ipv6Addr::from(aaaa.address).into())
}

/// A name as rules have them. Absent if it has a character that none of theirs has: a dot inside a label would make it another
/// name's likeness.
fn text(name: &Name<'_>) -> Option<String> {
    let mut text = String::new();
    for label in name.get_labels() {
        let label: &[u8] = label.as_ref();
        if !label.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|c| char::from(c.to_ascii_lowercase())));
    }
    (!text.is_empty()).then_some(text)
}

/// Source, destination, offset of the UDP header, payload.
fn udp(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, usize, &[u8])> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let TransportSlice::Udp(udp) = packet.transport? else { return None };
    let (src, dst): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let at = udp.slice().as_ptr() as usize - frame.as_ptr() as usize;
    let ends = (SocketAddr::new(src, udp.source_port()), SocketAddr::new(dst, udp.destination_port()));
    Some((ends.0, ends.1, at, udp.payload()))
}

/// Finishes the UDP checksum of a frame whose sender left that to a device (`CHECKSUM_PARTIAL`: the field holds the sum of the
/// pseudo-header alone). Returns whether the frame is whole: one with a wrong checksum stays as it is, for its receiver to refuse.
pub fn finish_checksum(frame: &mut [u8]) -> bool {
    let Some((src, dst, at, _)) = udp(frame) else { return false };
    let length = usize::from(u16::from_be_bytes([frame[at + 4], frame[at + 5]]));
    let Some(datagram) = frame.get(at..at + length) else { return false };
    let stored = u16::from_be_bytes([datagram[6], datagram[7]]);
    if stored == 0 {
        return src.is_ipv4();
    }
    let pseudo = pseudo_sum(src.ip(), dst.ip(), length);
    if fold(pseudo + sum(datagram)) == 0xffff {
        return true;
    }
    if fold(pseudo) != stored {
        return false;
    }
    let whole = !fold(pseudo + sum(datagram) - u64::from(stored));
    frame[at + 6..at + 8].copy_from_slice(&(if whole == 0 { 0xffff } else { whole }).to_be_bytes());
    true
}

/// The pseudo-header of UDP (RFC 768, RFC 8200 section 8.1).
fn pseudo_sum(src: IpAddr, dst: IpAddr, length: usize) -> u64 {
    let addr = |addr| match addr {
        IpAddr::V4(addr) => sum(&addr.octets()),
        IpAddr::V6(addr) => sum(&addr.octets()),
    };
    addr(src) + addr(dst) + 17 + length as u64
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use simple_dns::{Question, ResourceRecord, rdata};

    use super::*;

    const CLIENT: [u8; 4] = [10, 0, 0, 2];
    const SERVER: [u8; 4] = [192, 0, 2, 53];

    fn frame(src: ([u8; 4], u16), dst: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(src.0, dst.0, 64).udp(src.1, dst.1);
        builder.write(&mut frame, payload).expect("it fits");
        frame
    }

    fn name(text: &str) -> Name<'_> {
        Name::new(text).expect("a name")
    }

    fn record<'a>(of: &'a str, ttl: u32, rdata: RData<'a>) -> ResourceRecord<'a> {
        ResourceRecord::new(name(of), CLASS::IN, ttl, rdata)
    }

    fn alias<'a>(of: &'a str, ttl: u32, target: &'a str) -> ResourceRecord<'a> {
        record(of, ttl, RData::CNAME(rdata::CNAME(name(target))))
    }

    fn v4(of: &str, ttl: u32, last: u32) -> ResourceRecord<'_> {
        record(of, ttl, RData::A(rdata::A { address: 0xc633_6400 | last }))
    }

    fn message(asked: &str, answers: Vec<ResourceRecord<'_>>, compressed: bool) -> Vec<u8> {
        let mut packet = Packet::new_reply(7);
        packet.questions.push(Question::new(name(asked), TYPE::A.into(), CLASS::IN.into(), false));
        packet.answers = answers;
        let bytes = if compressed { packet.build_bytes_vec_compressed() } else { packet.build_bytes_vec() };
        bytes.expect("it fits")
    }

    fn told(asked: &str, answers: Vec<ResourceRecord<'_>>) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        for compressed in [false, true] {
            let frame = frame((SERVER, 53), (CLIENT, 4000), &message(asked, answers.clone(), compressed));
            let Some(Message::Answer(_, records)) = read(&frame) else { panic!("no answer") };
            found.push(records.iter().map(|r| (r.addr.to_string(), r.ttl)).collect::<Vec<_>>());
        }
        assert_eq!(found[0], found[1], "compression changes nothing");
        found.remove(0)
    }

    #[test]
    fn an_answer_tells_the_addresses_of_the_name_that_was_asked_for() {
        let one = |addr: &str, ttl| (addr.to_owned(), ttl);
        let answers =
            vec![v4("www.example.com", 300, 1), v4("www.example.com", 60, 2), v4("evil.example", 9, 3)];
        assert_eq!(told("WWW.Example.com", answers), [one("198.51.100.1", 300), one("198.51.100.2", 60)]);
        let chain = vec![v4("c.net", 300, 1), alias("b.net", 20, "c.net"), alias("a.com", 600, "b.net")];
        assert_eq!(told("a.com", chain), [one("198.51.100.1", 20)]);
        // Aliases that lead nowhere, or round and round.
        assert_eq!(
            told("a.com", vec![alias("a.com", 1, "b.com"), alias("b.com", 1, "a.com"), v4("c.com", 1, 1)]),
            []
        );
        assert_eq!(told("a.com", vec![alias("a.com", 1, "a.com")]), []);
        assert_eq!(told("a.com", vec![v4("b.com", 1, 1)]), []);
        // An answer to a question about IPv4 tells nothing of IPv6.
        let six = record("a.com", 1, RData::AAAA(rdata::AAAA { address: 1 }));
        assert_eq!(told("a.com", vec![six]), []);
    }

    #[test]
    fn a_dot_inside_a_label_makes_no_other_name() {
        let asked = message(r"x\.example.com", vec![v4(r"x\.example.com", 5, 1)], false);
        assert_eq!(read(&frame((SERVER, 53), (CLIENT, 4000), &asked)), None);
    }

    #[test]
    fn who_asked_whom_is_the_same_in_both_directions() {
        let mut query = Packet::new_query(9);
        query.questions.push(Question::new(name("a.com"), TYPE::A.into(), CLASS::IN.into(), false));
        let bytes = query.build_bytes_vec().unwrap();
        let Some(Message::Query(asked)) = read(&frame((CLIENT, 4000), (SERVER, 53), &bytes)) else {
            panic!()
        };
        let reply = query.into_reply().build_bytes_vec().unwrap();
        let Some(Message::Answer(answered, _)) = read(&frame((SERVER, 53), (CLIENT, 4000), &reply)) else {
            panic!()
        };
        assert_eq!(asked, answered);
        assert_eq!((asked.id, asked.name.as_str(), asked.client.port()), (9, "a.com", 4000));
    }

    #[test]
    fn pointers_that_lead_round_in_circles_end() {
        let mut bytes = message("a.com", Vec::new(), false);
        // The question's name is a pointer to itself.
        bytes.truncate(12);
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(read(&frame((SERVER, 53), (CLIENT, 4000), &bytes)), None);
    }

    #[test]
    fn a_checksum_that_was_left_to_a_device_is_finished_and_a_wrong_one_stays() {
        let whole = frame((SERVER, 53), (CLIENT, 4000), b"odd");
        let mut bytes = whole.clone();
        assert!(finish_checksum(&mut bytes));
        assert_eq!(bytes, whole);
        let partial = fold(pseudo_sum(IpAddr::from(SERVER), IpAddr::from(CLIENT), 8 + 3));
        bytes[40..42].copy_from_slice(&partial.to_be_bytes());
        assert!(finish_checksum(&mut bytes));
        assert_eq!(bytes, whole);
        bytes[42] ^= 1;
        let bent = bytes.clone();
        assert!(!finish_checksum(&mut bytes));
        assert_eq!(bytes, bent);
        bytes[40..42].fill(0);
        assert!(finish_checksum(&mut bytes), "none at all (RFC 768)");
    }

    proptest! {
        /// Whatever comes, nothing panics, and nothing is read of what was cut short.
        #[test]
        fn damage_is_harmless(at in 0..120usize, bit in 0..8u8, cut in 0..130usize, noise in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = frame((SERVER, 53), (CLIENT, 4000), &message("www.example.com", vec![v4("www.example.com", 1, 1)], true));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            bytes.truncate(cut);
            read(&bytes);
            finish_checksum(&mut bytes);
            read(&frame((SERVER, 53), (CLIENT, 4000), &noise));
        }
    }
}
