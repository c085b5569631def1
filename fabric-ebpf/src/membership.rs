//! `groups` and `group_counts`: which groups each port has joined. Learned from what the container behind the port itself reports, and
//! of no use to anybody else: a report can only make its own sender get more or less.
//!
//! Reports end here (RFC 4541 section 2.1.1: hosts must not hear each other's). A membership lasts until it is left, or until the agent
//! finds that nobody answered its queries for it: there is no clock in here, so that nothing expires while no agent asks.

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::HashMap,
    helpers::{
        bpf_ktime_get_boot_ns,
        generated::{bpf_loop, bpf_skb_load_bytes},
    },
    macros::btf_map,
    programs::TcContext,
};
use fabric_common::{
    abi,
    addr::Addr,
    membership::{Audience, GroupCount, GroupKey, GroupValue, MOST_GROUPS, audience},
    reason::DropReason,
};

use fabric_ebpf::checksum;
use network_types::eth::EthHdr;

use crate::{
    igmp,
    inner::IPV6,
    mld,
    packet::{Frame, bounded, header, skb},
};

#[btf_map(name = "groups")]
static GROUPS: HashMap<GroupKey, GroupValue, { abi::GROUPS.entries as usize }> = HashMap::new();

#[btf_map(name = "group_counts")]
static COUNTS: HashMap<u32, GroupCount, { abi::GROUP_COUNTS.entries as usize }> = HashMap::new();

/// Whether a port has joined a group.
#[inline(always)]
pub fn has(key: GroupKey) -> bool {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    unsafe { GROUPS.get(key) }.is_some()
}

/// What a packet to a group is to membership.
#[derive(Clone, Copy)]
pub enum Message {
    /// Something else.
    None,
    /// A query, a report or a leave whose header is at this offset in the frame.
    At(u32),
    /// The same, in a form that no host sends it in.
    Bad,
}

/// A report that is being read, and what has come of it. Handed to loops, so that its fields are plain.
#[repr(C)]
pub struct Report {
    /// Its packet.
    pub ctx: TcContext,
    /// Offset of the next record.
    pub at: u32,
    /// Offset behind the message.
    pub end: u32,
    /// Version of the protocol.
    pub version: u32,
    /// Number of the reason why not all of it was taken; 0 if it was.
    pub refused: u32,
    /// Whose, and the group in question.
    pub key: GroupKey,
}

/// How a record changes membership. Sources are not kept: a port that wants a group from some sources gets it from all, and its own
/// stack sorts them out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The group is wanted.
    Join,
    /// It is not.
    Leave,
    /// Sources are taken out of those that are wanted. Which are left is not known here; queries will show.
    None,
}

impl Change {
    /// What a record of this type with so many sources says (RFC 3376 section 4.2.12, RFC 3810 section 5.2.12). Types that do not exist
    /// yet are ignored.
    #[inline(always)]
    pub fn of_record(kind: u8, sources: u32) -> Self {
        match kind {
            // Include: as it is, or from now on.
            1 | 3 if sources == 0 => Self::Leave,
            // Exclude: as it is, or from now on; new sources.
            1..=5 if kind != 5 || sources != 0 => Self::Join,
            _ => Self::None,
        }
    }
}

impl Report {
    /// A report of the container behind the port where the packet is, whose message is from `at` to `end`.
    #[inline(always)]
    pub fn new(ctx: &TcContext, vni: u32, at: u32, end: u32) -> Self {
        let key = GroupKey { vni, ifindex: Frame::ifindex(ctx), group: Addr::UNSPECIFIED };
        Self { ctx: TcContext::new(skb(ctx)), at, end, version: 0, refused: 0, key }
    }

    /// Takes note of a change about the group in `key`.
    #[inline(always)]
    pub fn apply(&mut self, change: Change) {
        // Everybody gets the others anyway, or nobody does.
        if change == Change::None || !matches!(audience(&self.key.group), Audience::Members) {
            return;
        }
        // The traced build writes no state.
        if cfg!(feature = "trace") {
            return;
        }
        if change == Change::Leave {
            leave(&self.key);
        } else if join(&self.key, self.version) != 0 {
            self.refused = DropReason::GroupLimit as u32;
        }
    }

    /// Runs `body` for at most `count` records, until it returns 1.
    #[inline(always)]
    pub fn each(&mut self, count: u32, body: unsafe extern "C" fn(u32, *mut Self) -> i64) {
        // SAFETY: the body is a function of this object with the signature that the helper asks for, and `self` outlives the call.
        unsafe { bpf_loop(count, body as *mut c_void, (&raw mut *self).cast(), 0) };
    }

    /// The end of it.
    #[inline(always)]
    pub fn result(&self) -> Result<(), DropReason> {
        match self.refused {
            0 => Ok(()),
            refused if refused == DropReason::GroupLimit as u32 => Err(DropReason::GroupLimit),
            _ => Err(DropReason::BadMembership),
        }
    }
}

/// Returns 0, or 1 if there is no room. Out of line for its stack.
#[inline(never)]
fn join(key: &GroupKey, version: u32) -> u32 {
    // SAFETY: a plain helper call.
    let row = GroupValue { seen: unsafe { bpf_ktime_get_boot_ns() }, version, zero: 0 };
    if let Some(known) = GROUPS.get_ptr_mut(key) {
        // SAFETY: the map's memory; the agent reads it at any time, and a half-written row is written again by the next report.
        unsafe { *known = row };
        return 0;
    }
    if COUNTS.get_ptr_mut(key.ifindex).is_none() {
        // One that is there meanwhile is as good; for one that finds no room there is no row below.
        let none = GroupCount { groups: 0, refused: 0 };
        let _: Result<(), _> = COUNTS.insert(key.ifindex, none, u64::from(BPF_NOEXIST));
    }
    let Some(count) = COUNTS.get_ptr_mut(key.ifindex) else { return 1 };
    // SAFETY: the map's memory, here and below. Two CPUs at once may let one more pass.
    let full = unsafe { (*count).groups } >= MOST_GROUPS;
    if full || GROUPS.insert(key, row, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU has just made it, or there is no room.
        if !full && has(*key) {
            return 0;
        }
        // SAFETY: as above.
        unsafe { add(&raw mut (*count).refused, 1) };
        return 1;
    }
    // SAFETY: as above.
    unsafe { add(&raw mut (*count).groups, 1) };
    0
}

/// Only who really removed the row counts it off.
#[inline(never)]
fn leave(key: &GroupKey) -> u32 {
    if GROUPS.remove(key).is_ok()
        && let Some(count) = COUNTS.get_ptr_mut(key.ifindex)
    {
        // SAFETY: as in `join`.
        unsafe { add(&raw mut (*count).groups, u32::MAX) };
    }
    0
}

/// # Safety
/// `word` is one of a map's value.
#[inline(always)]
unsafe fn add(word: *mut u32, amount: u32) {
    // SAFETY: as the caller says; four bytes, aligned.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(word, amount) };
}

/// Whether the packet to a group, whose Ethernet header is at the frame's start and whose IP header was looked at, is one of IGMP or MLD.
#[inline(always)]
pub fn message(ctx: &TcContext, v6: bool, protocol: u8, header_len: u32) -> Message {
    if v6 { mld::message(ctx, protocol) } else { igmp::message(ctx, protocol, header_len) }
}

/// Reads the message at `at` that the container behind the port sent into network `vni`, and takes note of everything that it says.
///
/// # Errors
/// If it is wrong somewhere, or there is no room for a group. What stands before that, or beside it, counts.
#[inline(always)]
pub fn take(ctx: &TcContext, vni: u32, at: u32) -> Result<(), DropReason> {
    let v6 = matches!(header::<EthHdr>(ctx, 0, DropReason::Malformed)?.ether_type, IPV6);
    match if v6 { take_mld(ctx, vni, at) } else { take_igmp(ctx, vni, at) } {
        0 => Ok(()),
        reason if reason == DropReason::GroupLimit as u32 => Err(DropReason::GroupLimit),
        _ => Err(DropReason::BadMembership),
    }
}

/// Returns 0, or the number of a drop reason. Each on its own for its stack.
#[inline(never)]
fn take_igmp(ctx: &TcContext, vni: u32, at: u32) -> u32 {
    igmp::take(ctx, vni, at).err().map_or(0, |reason| reason as u32)
}

/// See [`take_igmp`].
#[inline(never)]
fn take_mld(ctx: &TcContext, vni: u32, at: u32) -> u32 {
    mld::take(ctx, vni, at).err().map_or(0, |reason| reason as u32)
}

/// A sum over the bytes of a packet.
#[repr(C)]
struct Sum {
    ctx: TcContext,
    at: u32,
    end: u32,
    sum: u32,
    failed: u32,
}

/// Bytes that are summed up at a time.
const CHUNK: u32 = 32;

/// Adds the bytes from `at` to `end` to the sum of a checksum. Returns nothing if they are not there.
#[inline(always)]
pub fn sum(ctx: &TcContext, at: u32, end: u32, sum: u32) -> Option<u32> {
    u32::try_from(sum_packed(ctx, at, end, sum)).ok()
}

/// Out of line for its stack: several callers.
#[inline(never)]
fn sum_packed(ctx: &TcContext, at: u32, end: u32, sum: u32) -> i64 {
    let mut state = Sum { ctx: TcContext::new(skb(ctx)), at, end, sum, failed: 0 };
    let chunks = end.wrapping_sub(at).div_ceil(CHUNK);
    // SAFETY: as in `Report::each`.
    unsafe { bpf_loop(chunks, sum_chunk as *mut c_void, (&raw mut state).cast(), 0) };
    if state.failed == 0 { i64::from(state.sum) } else { -1 }
}

unsafe extern "C" fn sum_chunk(_: u32, state: *mut Sum) -> i64 {
    // SAFETY: what `sum` handed over, which nobody else uses meanwhile.
    let state = unsafe { &mut *state };
    let mut words = [0u32; CHUNK as usize / 4];
    let len = bounded(state.end.wrapping_sub(state.at), CHUNK);
    let to = words.as_mut_ptr().cast();
    // SAFETY: the helper writes exactly `len` bytes, at most as many as there are, or fails.
    let failed = unsafe { bpf_skb_load_bytes(skb(&state.ctx).cast(), state.at, to, len) };
    if failed != 0 {
        state.failed = 1;
        return 1;
    }
    let mut sum = state.sum;
    let mut i = 0;
    while i < words.len() {
        sum = checksum::add(sum, words[i]);
        i += 1;
    }
    // Never more than 17 bits are carried on.
    state.sum = (sum & 0xffff) + (sum >> 16);
    state.at += CHUNK;
    0
}
