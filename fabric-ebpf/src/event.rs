//! `events`: sampled reports of drops. Counters are exact without them.

use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_boot_ns,
    macros::btf_map,
};
use fabric_common::{
    abi,
    addr::{Addr, Mac},
    event::{ALLOWED, DropEvent, VERSION, WOULD_DROP},
    policy::verdict,
    reason::{DropReason, Hook},
};
use fabric_ebpf::bucket;

use crate::{
    inner::{ARP, ETH_LEN, IPV4, IPV6},
    outcome::Trace,
    packet::Frame,
    question, settings, tunnel,
};

#[btf_map(name = "events")]
static EVENTS: RingBuf<DropEvent, { abi::EVENTS.entries as usize }> = RingBuf::new();

#[btf_map(name = "event_budget")]
static BUDGET: PerCpuArray<[u64; 4], { abi::EVENT_BUDGET.entries as usize }> = PerCpuArray::new();

/// Offset of the outer source at an uplink: Ethernet (14) and 12 bytes of the IPv4, 8 of the IPv6 header.
const OUTER_SOURCE_V4: u32 = 26;
const OUTER_SOURCE_V6: u32 = 22;
const SECOND: u64 = 1_000_000_000;

/// Takes one event from this CPU's budget: how many were suppressed before it, or nothing if there is none left.
#[inline(always)]
fn take(now: u64) -> Option<u64> {
    let limit = match settings::get() {
        Ok(settings) => u64::from(settings.events_per_second),
        // Before the first configuration a few are wanted all the same.
        Err(_) => 10,
    };
    let budget = BUDGET.get_ptr_mut(0)?;
    // SAFETY: this CPU's own slot.
    let [start, used, suppressed, _] = unsafe { &mut *budget };
    if now.wrapping_sub(*start) >= SECOND {
        *start = now;
        *used = 0;
    }
    if *used >= limit {
        *suppressed += 1;
        return None;
    }
    *used += 1;
    let before = *suppressed;
    *suppressed = 0;
    Some(before)
}

/// Reports the verdict that this CPU's question has noted, unless another hook is asked once more. Of these a second has 1000
/// at most, beside the drops. Out of line, since it is rare.
#[inline(never)]
pub fn verdict<F: Frame>(frame: &F) -> u32 {
    let (Ok(question), Ok(settings), Some(budget)) = (question::get(), settings::get(), BUDGET.get_ptr_mut(0)) else {
        return 0;
    };
    if question.again != 0 || settings.events_per_second == 0 {
        return 0;
    }
    // SAFETY: this CPU's own slot.
    let [_, _, _, used] = unsafe { &mut *budget };
    let Some(next) = bucket::take(*used, question.now, 1, bucket::BURST) else { return 0 };
    *used = next;
    let Some(mut entry) = EVENTS.reserve(0) else { return 0 };
    // SAFETY: the reservation is as large as the record, aligned to 8, and ours until it is submitted; all-zero bytes are a
    // valid record.
    unsafe {
        let event = &mut *entry.as_mut_ptr();
        *event = core::mem::zeroed();
        event.version = VERSION;
        event.hook = question.hook as u8;
        event.reason = if question.noted & verdict::AUDIT != 0 { WOULD_DROP } else { ALLOWED };
        event.rule = question.noted & verdict::NUMBER;
        event.ifindex = frame.ifindex();
        event.time = question.now;
        event.vni = question.vni;
        event.length = question.bytes;
        describe(frame, question.offset, event);
    }
    entry.submit(0);
    1
}

/// Reports a drop, if the budget allows and the ring has room.
#[inline(always)]
pub fn report(frame: &impl Frame, trace: &Trace, reason: DropReason) {
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let Some(suppressed) = take(now) else { return };
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    // SAFETY: the reservation is as large as the record, aligned to 8, and ours until it is submitted.
    unsafe {
        fill(frame, trace, reason, now, &mut *entry.as_mut_ptr());
        (*entry.as_mut_ptr()).suppressed = suppressed;
    }
    entry.submit(0);
}

/// Writes the whole record, `suppressed` as 0. In the ring's memory from the start: on the stack it would take a fifth of what a
/// program has.
#[inline(always)]
pub fn fill(frame: &impl Frame, trace: &Trace, reason: DropReason, now: u64, event: &mut DropEvent) {
    // SAFETY: all-zero bytes are a valid record.
    *event = unsafe { core::mem::zeroed() };
    event.version = VERSION;
    event.hook = trace.hook as u8;
    event.reason = reason as u8;
    event.ifindex = frame.ifindex();
    event.time = now;
    event.vni = trace.vni;
    event.length = trace.length;
    if matches!(reason, DropReason::PolicyDenied | DropReason::DeniedPrefix) {
        event.rule = question::get().map_or(0, |question| question.rule);
    }
    describe(frame, trace.inner, event);
    match trace.hook {
        // Copies are made of a frame whose outer headers are off.
        Hook::FromUplink | Hook::FromUplinkXdp if matches!(reason, DropReason::CopyFailed) => {}
        Hook::FromUplink | Hook::FromUplinkXdp => outer_source(frame, event),
        Hook::FromVxlan => event.vtep = frame.tunnel_source(),
        Hook::FromContainer | Hook::FromFrag => {}
    }
}

/// The source of a tunnel packet that is dropped with its outer headers on.
#[inline(always)]
fn outer_source(frame: &impl Frame, event: &mut DropEvent) {
    if tunnel::ether_type(frame) == IPV6 {
        if let Some(source) = frame.load::<16>(OUTER_SOURCE_V6) {
            event.vtep = Addr::v6(source);
        }
    } else if let Some(source) = frame.load::<4>(OUTER_SOURCE_V4) {
        event.vtep = Addr::v4(source);
    }
}

/// Reads as much of the packet as is there.
#[inline(always)]
fn describe(frame: &impl Frame, offset: u32, event: &mut DropEvent) {
    let Some(eth) = frame.load::<14>(offset) else { return };
    event.dst_mac = Mac::new([eth[0], eth[1], eth[2], eth[3], eth[4], eth[5]]);
    event.src_mac = Mac::new([eth[6], eth[7], eth[8], eth[9], eth[10], eth[11]]);
    event.ethertype = [eth[12], eth[13]];
    let at = offset + ETH_LEN as u32;
    match u16::from_ne_bytes(event.ethertype) {
        IPV4 => {
            let Some(ip) = frame.load::<20>(at) else { return };
            event.protocol = ip[9];
            event.src = Addr::v4([ip[12], ip[13], ip[14], ip[15]]);
            event.dst = Addr::v4([ip[16], ip[17], ip[18], ip[19]]);
            // Only a first fragment has ports.
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff == 0 {
                ports(frame, at + u32::from(ip[0] & 0xf) * 4, event);
            }
        }
        IPV6 => {
            let Some(next) = frame.load::<1>(at + 6) else { return };
            let Some(src) = frame.load::<16>(at + 8) else { return };
            let Some(dst) = frame.load::<16>(at + 24) else { return };
            event.protocol = next[0];
            event.src = Addr::v6(src);
            event.dst = Addr::v6(dst);
            ports(frame, at + 40, event);
        }
        ARP => {
            let Some(sender) = frame.load::<4>(at + 14) else { return };
            let Some(target) = frame.load::<4>(at + 24) else { return };
            event.src = Addr::v4(sender);
            event.dst = Addr::v4(target);
        }
        _ => {}
    }
}

/// TCP, UDP and SCTP start with their ports.
#[inline(always)]
fn ports(frame: &impl Frame, at: u32, event: &mut DropEvent) {
    if matches!(event.protocol, 6 | 17 | 132)
        && let Some([a, b, c, d]) = frame.load::<4>(at)
    {
        event.src_port = [a, b];
        event.dst_port = [c, d];
    }
}
