//! MLD, both versions (RFC 2710, RFC 3810).

use aya_ebpf::programs::TcContext;
use fabric_common::{addr::Addr, reason::DropReason};
use fabric_ebpf::checksum;

use crate::{
    extension::{self, Upper},
    inner::{ETH_LEN, ICMPV6},
    membership::{Change, Message, Report, sum},
    packet::Frame,
};

const QUERY: u8 = 130;
const V1_REPORT: u8 = 131;
const V1_DONE: u8 = 132;
const V2_REPORT: u8 = 143;

/// Offset of the IPv6 header's first extension header.
const EXTENSION: u32 = ETH_LEN as u32 + 40;
/// Offset of the message: behind a hop-by-hop header that has the router alert (RFC 2711) and nothing else.
const AT: u32 = EXTENSION + 8;
/// Type, code, checksum; maximum response delay, or number of records.
const HEADER: u32 = 8;

/// What a packet is. Types are looked for behind any extension headers: reports that others could hear make them silent.
#[inline(always)]
pub fn message(ctx: &TcContext, protocol: u8) -> Message {
    if protocol != ICMPV6 && !extension::is_one(protocol) {
        return Message::None;
    }
    match extension::upper(ctx, EXTENSION, protocol) {
        Upper::Header { protocol: ICMPV6, at } => match Frame::load::<1>(ctx, at) {
            Some([QUERY | V1_REPORT | V1_DONE | V2_REPORT]) if at == AT && alerts(ctx, protocol) => Message::At(at),
            Some([QUERY | V1_REPORT | V1_DONE | V2_REPORT]) | None => Message::Bad,
            Some(_) => Message::None,
        },
        Upper::Header { .. } | Upper::LaterFragment => Message::None,
        Upper::Unknown => Message::Bad,
    }
}

/// Whether the first extension header is what MLD is sent with: hop-by-hop options with the router alert for MLD (value 0).
#[inline(always)]
fn alerts(ctx: &TcContext, protocol: u8) -> bool {
    let options = Frame::load::<8>(ctx, EXTENSION);
    protocol == 0 && matches!(options, Some([ICMPV6, 0, 5, 2, 0, 0, ..] | [ICMPV6, 0, _, _, 5, 2, 0, 0]))
}

/// Reads a message; see `membership::take`.
#[inline(always)]
pub fn take(ctx: &TcContext, vni: u32, at: u32) -> Result<(), DropReason> {
    let bad = DropReason::BadMembership;
    let [high, low, _, hop_limit] = Frame::load::<4>(ctx, ETH_LEN as u32 + 4).ok_or(bad)?;
    let end = EXTENSION + u32::from(u16::from_be_bytes([high, low]));
    // RFC 3810 section 5: from a link-local address, or from none by who has none yet; never from farther.
    let [a, b] = Frame::load::<2>(ctx, ETH_LEN as u32 + 8).ok_or(bad)?;
    let local = a == 0xfe && b & 0xc0 == 0x80 || a == 0 && b == 0;
    let head = Frame::load::<8>(ctx, at).ok_or(bad)?;
    if at + HEADER > end || hop_limit != 1 || !local {
        return Err(bad);
    }
    let len = end - at;
    // The pseudo-header (RFC 8200 section 8.1): both addresses, the length, the protocol.
    let pseudo = checksum::add(checksum::add(0, len.to_be()), u32::from(ICMPV6).to_be());
    let addresses = sum(ctx, ETH_LEN as u32 + 8, EXTENSION, pseudo).ok_or(bad)?;
    if checksum::finish(sum(ctx, at, end, addresses).ok_or(bad)?) != 0 {
        return Err(bad);
    }
    let mut report = Report::new(ctx, vni, at + HEADER, end);
    let [kind, code, _, _, _, _, records @ ..] = head;
    if code != 0 {
        return Err(bad);
    }
    if kind == V2_REPORT {
        report.version = 2;
        report.each(u32::from(u16::from_be_bytes(records)), record);
        return report.result();
    }
    let change = match kind {
        V1_REPORT => Change::Join,
        V1_DONE => Change::Leave,
        // As with IGMP.
        _ => return Err(bad),
    };
    let group = Frame::load::<16>(ctx, at + HEADER).ok_or(bad)?;
    if at + HEADER + 16 > end || group[0] != 0xff {
        return Err(bad);
    }
    report.version = 1;
    report.key.group = Addr::v6(group);
    report.apply(change);
    report.result()
}

/// One record of a report of version 2 (RFC 3810 section 5.2.4). Returns 0 to go on, 1 to end.
unsafe extern "C" fn record(_: u32, report: *mut Report) -> i64 {
    // SAFETY: what `Report::each` handed over, which nobody else uses meanwhile.
    let report = unsafe { &mut *report };
    let head = Frame::load::<4>(&report.ctx, report.at);
    let (Some([kind, aux, high, low]), true) =
        (head, Frame::load_to(&report.ctx, report.at + 4, &mut report.key.group.bytes))
    else {
        report.refused = DropReason::BadMembership as u32;
        return 1;
    };
    let sources = u32::from(u16::from_be_bytes([high, low]));
    report.at += 20 + sources * 16 + u32::from(aux) * 4;
    if report.at > report.end || report.key.group.bytes[0] != 0xff {
        report.refused = DropReason::BadMembership as u32;
        return 1;
    }
    report.apply(Change::of_record(kind, sources));
    // The compiler must not return a byte of the record that happens to be 0 here: the verifier would not know that.
    core::hint::black_box(0)
}
