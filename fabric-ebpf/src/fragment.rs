//! IPv4 packets that are too big and may be fragmented: the inner packet is cut (RFC 791), never the outer one.
//!
//! A program can't compute the checksum that a sender left to the hardware, nor segment a GSO packet. So the packet goes
//! through a veth of the agent's own without any offload: the kernel does both where it enters, and `from_frag` at the
//! other side finds a plain packet. That one sends a fragment and lets the rest go round again until it fits.

use aya_ebpf::{
    bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    helpers::{
        bpf_clone_redirect, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use fabric_common::{
    reason::{Action, DropReason},
    settings::Settings,
};
use fabric_ebpf::checksum;

use crate::{
    inner::{ETH_LEN, IPV4},
    outcome::{Verdict, pack},
    packet::{Frame, skb, word},
    settings,
};

/// In the packet's mark on the way through the veth: it is one of ours, and the rest of the mark is its VNI. The mark
/// stays within the network namespace; what comes from a container has none.
const MARK: u32 = 1 << 31;
/// Beside it: the frame holds the data of earlier fragments too.
const REST: u32 = 1 << 30;
const VNI: u32 = 0x00ff_ffff;
/// Fragment field (RFC 791 section 3.1): don't fragment, more fragments, offset in units of eight bytes.
const DONT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// The longest IPv4 header, bytes.
const LONGEST: usize = 60;
/// Most bytes that `bpf_skb_adjust_room` takes out at once are 4095; this many are a multiple of eight.
const CHUNK: u32 = 4088;

/// Sends a packet that is too big for its path to be fragmented, if it may be; else gives `too_big`.
#[inline(never)]
pub fn divert(ctx: &TcContext, ifindex: u32, vni: u32) -> i64 {
    if ifindex == 0 || !may_be(ctx) {
        return pack(Err(DropReason::TooBig));
    }
    set_mark(ctx, MARK | vni);
    // SAFETY: a plain helper call.
    let code = unsafe { bpf_redirect(ifindex, 0) };
    pack(Ok(Verdict::redirect(Action::Fragment, code)))
}

/// Whether [`divert`] would take the packet.
#[inline(always)]
pub fn is_possible(ctx: &TcContext) -> bool {
    settings::get().is_ok_and(|settings| settings.frag_ifindex != 0) && may_be(ctx)
}

/// IPv4 without DF. The ether type and the flags are read by copies: the caller's checks are not seen here.
#[inline(always)]
fn may_be(ctx: &TcContext) -> bool {
    match (ctx.load::<[u8; 2]>(ETH_LEN - 2), ctx.load::<[u8; 2]>(ETH_LEN + 6)) {
        (Ok(ether_type), Ok(frags)) => {
            u16::from_ne_bytes(ether_type) == IPV4 && u16::from_be_bytes(frags) & DONT == 0
        }
        _ => false,
    }
}

/// The network of a packet that [`divert`] sent. Whoever else sends through the veth has none.
#[inline(always)]
pub fn vni(ctx: &TcContext) -> Result<u32, DropReason> {
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
    let mark = unsafe { (*skb(ctx)).mark };
    if mark & MARK != 0 { Ok(mark & VNI) } else { Err(DropReason::UnknownVni) }
}

/// Takes the mark off, before the packet leaves.
#[inline(always)]
pub fn unmark(ctx: &TcContext) {
    set_mark(ctx, 0);
}

#[inline(always)]
fn set_mark(ctx: &TcContext, mark: u32) {
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program, whose mark may be written.
    unsafe { (*skb(ctx)).mark = mark };
}

/// Cuts the frame off behind its IP packet of `total` bytes: padding, or what belongs to the fragments behind this one.
#[inline(always)]
pub fn trim(ctx: &TcContext, total: u32) -> Result<(), DropReason> {
    let wanted = ETH_LEN as u32 + total;
    // SAFETY: a plain helper call; no packet pointer lives across it.
    if TcContext::len(ctx) > wanted && unsafe { bpf_skb_change_tail(skb(ctx), wanted, 0) } != 0 {
        return Err(DropReason::EncapFailed);
    }
    Ok(())
}

/// Leaves one fragment of at most `mtu` bytes of a larger packet, and sends a copy round for the rest: with the header of
/// the rest, but with the data of the whole ([`catch_up`]). The first fragment leaves first, and only one packet at a time
/// waits for its turn, into however many fragments it is cut.
#[inline(always)]
pub fn split(ctx: &TcContext, settings: &Settings, vni: u32, mtu: u32) -> Result<(), DropReason> {
    let mut header = [0; LONGEST];
    let length = load(ctx, &mut header)?;
    let field = u16::from_be_bytes([header[6], header[7]]);
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let data = (mtu.wrapping_sub(length) & !7) & 0xffff;
    if field & DONT != 0 || mtu < length + 8 || total <= length + data {
        return Err(DropReason::TooBig);
    }
    let mut rest = header;
    first_only(&mut rest);
    let offset = (field & OFFSET).wrapping_add((data >> 3) as u16) & OFFSET;
    write(ctx, &mut rest, length, total - data, field & !OFFSET | offset)?;
    set_mark(ctx, MARK | REST | vni);
    // SAFETY: a plain helper call; no packet pointer lives across it.
    if unsafe { bpf_clone_redirect(skb(ctx), settings.frag_ifindex, 0) } != 0 {
        return Err(DropReason::EncapFailed);
    }
    write(ctx, &mut header, length, length + data, field | MORE)?;
    trim(ctx, length + data)
}

/// Takes out the data in front that earlier fragments have, if this is a rest: as much as the frame is longer than its IP
/// packet.
#[inline(never)]
pub fn catch_up(ctx: &TcContext) -> i64 {
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
    if unsafe { (*skb(ctx)).mark } & REST == 0 {
        return 0;
    }
    match skip(ctx) {
        Ok(()) => 0,
        Err(reason) => pack(Err(reason)),
    }
}

#[inline(always)]
fn skip(ctx: &TcContext) -> Result<(), DropReason> {
    let mut header = [0; LONGEST];
    let length = load(ctx, &mut header)?;
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let mut left = TcContext::len(ctx).wrapping_sub(ETH_LEN as u32 + total);
    let mut i = 0;
    while i < 17 {
        let now = if left < CHUNK { left } else { CHUNK };
        // SAFETY: a plain helper call; no packet pointer lives across it.
        if now != 0 && unsafe { bpf_skb_adjust_room(skb(ctx), -(now as i32), BPF_ADJ_ROOM_MAC, 0) } != 0 {
            return Err(DropReason::EncapFailed);
        }
        left -= now;
        i += 1;
    }
    store(ctx, &header, length)
}

/// Reads the IPv4 header and returns its length, bytes.
#[inline(always)]
fn load(ctx: &TcContext, header: &mut [u8; LONGEST]) -> Result<u32, DropReason> {
    let Some([first]) = Frame::load::<1>(ctx, ETH_LEN as u32) else { return Err(DropReason::Malformed) };
    let length = u32::from(first & 0xf) * 4;
    if !(20..=LONGEST as u32).contains(&length) {
        return Err(DropReason::Malformed);
    }
    // SAFETY: a plain helper call; the header has room for `length` bytes.
    let failed = unsafe { bpf_skb_load_bytes(skb(ctx).cast(), ETH_LEN as u32, header.as_mut_ptr().cast(), length) };
    if failed == 0 { Ok(length) } else { Err(DropReason::Malformed) }
}

/// Writes the header with a total length and a fragment field, and its checksum.
#[inline(always)]
fn write(
    ctx: &TcContext,
    header: &mut [u8; LONGEST],
    length: u32,
    total: u32,
    field: u16,
) -> Result<(), DropReason> {
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    header[6..8].copy_from_slice(&field.to_be_bytes());
    header[10..12].copy_from_slice(&[0; 2]);
    // What is behind the header is zero.
    let mut sum = 0;
    let mut i = 0;
    while i < LONGEST {
        sum = checksum::add(sum, word(&header[i..]));
        i += 4;
    }
    header[10..12].copy_from_slice(&checksum::finish(sum).to_ne_bytes());
    store(ctx, header, length)
}

#[inline(always)]
fn store(ctx: &TcContext, header: &[u8; LONGEST], length: u32) -> Result<(), DropReason> {
    // SAFETY: a plain helper call; `length` is 20 to 60, see `load`.
    let failed = unsafe { bpf_skb_store_bytes(skb(ctx), ETH_LEN as u32, header.as_ptr().cast(), length, 0) };
    if failed == 0 { Ok(()) } else { Err(DropReason::EncapFailed) }
}

/// Makes no-operations of the options that only the first fragment has (RFC 791 section 3.1: those without the copied
/// flag), as Linux does (`ip_options_fragment`).
#[inline(always)]
fn first_only(header: &mut [u8; LONGEST]) {
    const NO_OPERATION: u8 = 1;
    let mut skip = 0;
    let mut copied = false;
    let mut i = 20;
    while i < LONGEST - 1 {
        if skip == 0 {
            match header[i] {
                // The end of the list.
                0 => return,
                NO_OPERATION => skip = 1,
                _ => skip = header[i + 1],
            }
            copied = header[i] & 0x80 != 0;
            if skip == 0 {
                return;
            }
        }
        if !copied {
            header[i] = NO_OPERATION;
        }
        skip -= 1;
        i += 1;
    }
}
