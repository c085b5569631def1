//! IGMP, all three versions (RFC 1112 appendix I, RFC 2236, RFC 3376).

use aya_ebpf::programs::TcContext;
use fabric_common::{addr::Addr, reason::DropReason};
use fabric_ebpf::checksum;

use crate::{
    inner::ETH_LEN,
    membership::{Change, Message, Report, sum},
    packet::Frame,
};

/// Protocol number.
pub const IGMP: u8 = 2;

const QUERY: u8 = 0x11;
const V1_REPORT: u8 = 0x12;
const V2_REPORT: u8 = 0x16;
const V2_LEAVE: u8 = 0x17;
const V3_REPORT: u8 = 0x22;

/// Type, maximum response time, checksum; group, or number of records.
const HEADER: u32 = 8;

/// What a packet is. Other types are multicast like any other (RFC 4541 section 2.1.1).
#[inline(always)]
pub fn message(ctx: &TcContext, protocol: u8, header_len: u32) -> Message {
    if protocol != IGMP {
        return Message::None;
    }
    match Frame::load::<2>(ctx, ETH_LEN as u32 + 6) {
        // More fragments follow, or this is a later one: none is as large as that.
        Some([high, low]) if u16::from_be_bytes([high, low]) & 0x3fff == 0 => {}
        _ => return Message::Bad,
    }
    let at = ETH_LEN as u32 + header_len;
    match Frame::load::<1>(ctx, at) {
        Some([QUERY | V1_REPORT | V2_REPORT | V2_LEAVE | V3_REPORT]) => Message::At(at),
        Some(_) => Message::None,
        None => Message::Bad,
    }
}

/// Reads a message; see `membership::take`.
#[inline(always)]
pub fn take(ctx: &TcContext, vni: u32, at: u32) -> Result<(), DropReason> {
    let bad = DropReason::BadMembership;
    let [high, low] = Frame::load::<2>(ctx, ETH_LEN as u32 + 2).ok_or(bad)?;
    let end = ETH_LEN as u32 + u32::from(u16::from_be_bytes([high, low]));
    let head = Frame::load::<8>(ctx, at).ok_or(bad)?;
    if at + HEADER > end || checksum::finish(sum(ctx, at, end, 0).ok_or(bad)?) != 0 {
        return Err(bad);
    }
    let mut report = Report::new(ctx, vni, at + HEADER, end);
    let [kind, _, _, _, group @ ..] = head;
    if kind == V3_REPORT {
        report.version = 3;
        report.each(u32::from(u16::from_be_bytes([group[2], group[3]])), record);
        return report.result();
    }
    let change = match kind {
        V1_REPORT => Change::Join,
        V2_REPORT => Change::Join,
        V2_LEAVE => Change::Leave,
        // The network's own querier asks; who else does could make everybody answer.
        _ => return Err(bad),
    };
    if group[0] & 0xf0 != 0xe0 {
        return Err(bad);
    }
    report.version = if kind == V1_REPORT { 1 } else { 2 };
    report.key.group = Addr::v4(group);
    report.apply(change);
    report.result()
}

/// One record of a report of version 3 (RFC 3376 section 4.2.4). Returns 0 to go on, 1 to end.
unsafe extern "C" fn record(_: u32, report: *mut Report) -> i64 {
    // SAFETY: what `Report::each` handed over, which nobody else uses meanwhile.
    let report = unsafe { &mut *report };
    let Some([kind, aux, high, low, group @ ..]) = Frame::load::<8>(&report.ctx, report.at) else {
        report.refused = DropReason::BadMembership as u32;
        return 1;
    };
    let sources = u32::from(u16::from_be_bytes([high, low]));
    report.at += 8 + (sources + u32::from(aux)) * 4;
    if report.at > report.end || group[0] & 0xf0 != 0xe0 {
        report.refused = DropReason::BadMembership as u32;
        return 1;
    }
    report.key.group = Addr::v4(group);
    report.apply(Change::of_record(kind, sources));
    // The compiler must not return a byte of the record that happens to be 0 here: the verifier would not know that.
    core::hint::black_box(0)
}
