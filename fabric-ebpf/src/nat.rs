//! `nat` and `new_nat`: address translation. A container's address and port stand as the host's address and a port of ours in
//! the world, and back. Each flow has two rows. That of the host's side is made first and decides: whose port it is, since when
//! nothing passed, how far TCP's end has come. That of the container's side says which one it is, and counts for nothing alone.
//!
//! As with connection tracking, whoever begins many flows that nobody answers pushes out no flow that was answered.

#![expect(clippy::needless_borrows_for_generic_args, reason = "keys are long, and must not be copied to the stack")]

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{LruHashMap, PerCpuArray},
    macros::btf_map,
    programs::TcContext,
};
use fabric_common::{
    abi,
    addr::Addr,
    flow::{FLAG_ANSWERED, FLAG_FIN_ANSWER, FLAG_FIN_BEGAN, FLAG_RESET, lifetime},
    nat::{HOST_SIDE, NatKey, NatValue},
    reason::DropReason,
};

use crate::{
    inner::{ICMP, ICMPV6},
    packet::same_addr,
    question::{self, Question},
    related, rewrite, route, settings,
    transport::{self, ERROR, FIN, FLOW, RST},
};

mod allocate;

#[btf_map(name = "nat")]
static NAT: LruHashMap<NatKey, NatValue, { abi::NAT.entries as usize }> = LruHashMap::new();

#[btf_map(name = "new_nat")]
static NEW_NAT: LruHashMap<NatKey, NatValue, { abi::NEW_NAT.entries as usize }> = LruHashMap::new();

#[btf_map(name = "nat_room")]
static ROOM: PerCpuArray<[u64; 32], { abi::NAT_ROOM.entries as usize }> = PerCpuArray::new();

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const SECOND: u64 = 1_000_000_000;

/// Room of this CPU, see the map: a packet's walk is never interrupted by another one of the same CPU.
#[repr(C)]
pub struct Room {
    /// The flow's row of the container's side, by what the container sends.
    pub inside: NatKey,
    /// Its row of the host's side, by what the world answers.
    pub outside: NatKey,
    /// What the row of the host's side says: who the container is.
    pub container: NatValue,
    /// What the row of the container's side says: the host's address and port.
    pub host: NatValue,
    /// Offset of an ICMP error's quoted transport header; 0 of other packets.
    pub quoted: u32,
    /// IP protocol of the flow.
    pub protocol: u32,
    /// A socket that could have the port, as `bpf_sk_lookup_tcp` wants it.
    tuple: [u8; 36],
    /// What is written over what.
    pub change: Change,
    unused: [u8; 4],
}

/// One side of a packet: its name before and behind the translation.
#[repr(C)]
pub struct Change {
    /// Address before.
    pub from: Addr,
    /// Address behind.
    pub to: Addr,
    /// Port before, or identifier of an echo, network byte order.
    pub from_port: [u8; 2],
    /// The same behind.
    pub to_port: [u8; 2],
}

/// This CPU's room.
#[inline(always)]
pub fn room() -> Option<&'static mut Room> {
    // SAFETY: the room has the size and the alignment of the struct, every bit pattern of which is valid, and is this CPU's own.
    ROOM.get_ptr_mut(0).map(|room| unsafe { &mut *room.cast::<Room>() })
}

/// Gives the packet of this CPU's question, from a container to the world, the host's address and port. Returns 0, or the number
/// of a drop reason, with which the packet may be changed in part.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nat_egress(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let (Ok(question), Some(room)) = (question::get(), room()) else { return DropReason::NatFailed as u32 };
    question.at = 0;
    transport::read(&ctx, question);
    room.quoted = 0;
    let found = match question.kind {
        FLOW if is_translated(question) => {
            name_inside(room, question);
            if continues(question, room) { 0 } else { allocate::nat_allocate(skb) }
        }
        ERROR => error_from_container(&ctx, question, room),
        _ => DropReason::NatUnsupported as u32,
    };
    if found != 0 {
        return found;
    }
    if question.first != 0 && !cfg!(feature = "trace") {
        transport::remember();
    }
    room.change = Change {
        from: room.inside.src,
        to: room.host.addr,
        from_port: room.inside.src_port,
        to_port: room.host.port,
    };
    rewrite::nat_rewrite(skb, rewrite::SOURCE)
}

/// Whether the packet in question has ports to translate, or an echo's identifier as the asker has it.
#[inline(always)]
fn is_translated(question: &Question) -> bool {
    match question.protocol {
        TCP | UDP | SCTP => true,
        ICMP => question.detail[0] == 8,
        ICMPV6 => question.detail[0] == 128,
        _ => false,
    }
}

/// Names the row of the container's side by a packet that a container sends.
#[inline(always)]
fn name_inside(room: &mut Room, question: &Question) {
    room.protocol = u32::from(question.protocol);
    room.inside.vni = question.vni;
    room.inside.src = question.src;
    room.inside.dst = question.dst;
    room.inside.src_port = question.src_port;
    room.inside.dst_port = question.dst_port;
    room.inside.protocol = question.protocol;
    room.inside.zero = [0; 3];
}

/// Names the row of the host's side once the host's address and port are known.
#[inline(always)]
fn name_outside(room: &mut Room) {
    room.outside.vni = HOST_SIDE;
    room.outside.src = room.inside.dst;
    room.outside.dst = room.host.addr;
    room.outside.src_port = room.inside.dst_port;
    room.outside.dst_port = room.host.port;
    room.outside.protocol = room.inside.protocol;
    room.outside.zero = [0; 3];
}

/// The row of a key, and whether it is one of a flow that was answered.
#[inline(always)]
fn find(key: &NatKey) -> (Option<*mut NatValue>, bool) {
    match NAT.get_ptr_mut(key) {
        Some(row) => (Some(row), true),
        None => (NEW_NAT.get_ptr_mut(key), false),
    }
}

/// Whether nothing has passed for so long that the row counts no more.
#[inline(always)]
fn is_over(now: u64, protocol: u32, seen: u64, flags: u32) -> bool {
    now.saturating_sub(seen) > lifetime(protocol as u8, flags)
}

/// The translation of the flow that is named inside, if there is one that holds: both rows, which agree.
#[inline(always)]
fn known(now: u64, room: &mut Room) -> Option<*mut NatValue> {
    let (row, _) = find(&room.inside);
    // SAFETY: a row of the map, which `main.rs` speaks of; it is believed only with the other one.
    room.host = unsafe { *row? };
    name_outside(room);
    let row = find(&room.outside).0?;
    // SAFETY: as above.
    room.container = unsafe { *row };
    let container = &room.container;
    let agree = container.vni == room.inside.vni
        && container.port == room.inside.src_port
        && same_addr(&container.addr, &room.inside.src);
    if agree && !is_over(now, room.protocol, container.seen, container.flags) { Some(row) } else { None }
}

/// Notes a packet that a container sends in a known flow.
#[inline(always)]
fn continues(question: &Question, room: &mut Room) -> bool {
    let Some(row) = known(question.now, room) else { return false };
    // The host may have got another address since.
    let is_ours = route::to_world(question.vni, &question.dst)
        .is_some_and(|route| same_addr(&route.next_hop, &room.host.addr));
    if !is_ours {
        return false;
    }
    let flags = transport::tcp_flags(question);
    let mut new = room.container.flags | ended(flags, FLAG_FIN_BEGAN);
    if question.protocol == TCP && transport::begins(question) {
        new &= !(FLAG_FIN_BEGAN | FLAG_FIN_ANSWER | FLAG_RESET);
    }
    touch(question.now, row, &room.container, new);
    true
}

/// What TCP's flags say of the end, `fin` being the sender's mark.
#[inline(always)]
fn ended(tcp: u8, fin: u32) -> u32 {
    (if tcp & FIN != 0 { fin } else { 0 }) | (if tcp & RST != 0 { FLAG_RESET } else { 0 })
}

/// Notes a packet in the row of the host's side. The time only once a second: the memory is shared by all CPUs.
#[inline(always)]
fn touch(now: u64, row: *mut NatValue, was: &NatValue, flags: u32) {
    if cfg!(feature = "trace") {
        return;
    }
    // SAFETY: a row of the map; neither field says who the container is.
    unsafe {
        if flags != was.flags {
            (*row).flags = flags;
            (*row).seen = now;
        } else if now.saturating_sub(was.seen) > SECOND {
            (*row).seen = now;
        }
    }
}

/// An ICMP error that a container sends about what it got from the world in a flow of its own.
#[inline(always)]
fn error_from_container(ctx: &TcContext, question: &mut Question, room: &mut Room) -> u32 {
    let (protocol, src, dst) = (question.protocol, question.src, question.dst);
    let quoted = related::quote(ctx, question);
    // From the other side, to whom the error goes, to the container.
    let is_about = quoted != 0 && same_addr(&question.src, &dst) && same_addr(&question.dst, &src);
    room.protocol = u32::from(question.protocol);
    room.inside.vni = question.vni;
    room.inside.src = question.dst;
    room.inside.dst = question.src;
    room.inside.src_port = question.dst_port;
    room.inside.dst_port = question.src_port;
    room.inside.protocol = question.protocol;
    room.inside.zero = [0; 3];
    question.protocol = protocol;
    room.quoted = quoted;
    if is_about && known(question.now, room).is_some() { 0 } else { DropReason::NatUnsupported as u32 }
}

/// What [`nat_find`] returns where no translation is.
pub const NONE: u32 = 0;
/// The packet is one of a translated flow.
pub const ANSWER: u32 = 1;
/// The packet is an ICMP error about one that a container sent.
pub const ABOUT: u32 = 2;

/// Looks for the translation of the packet of this CPU's question, which came to an address of the host: [`NONE`], [`ANSWER`] or
/// [`ABOUT`]; then the room has both rows.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nat_find(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let (Ok(question), Some(room)) = (question::get(), room()) else { return NONE };
    question.at = 0;
    transport::read(&ctx, question);
    room.quoted = 0;
    let found = match question.kind {
        FLOW => {
            room.outside.src = question.src;
            room.outside.dst = question.dst;
            room.outside.src_port = question.src_port;
            room.outside.dst_port = question.dst_port;
            ANSWER
        }
        ERROR => {
            let (protocol, dst) = (question.protocol, question.dst);
            room.quoted = related::quote(&ctx, question);
            // What the error is about was sent by the one who gets it.
            if room.quoted == 0 || !same_addr(&question.src, &dst) {
                return NONE;
            }
            room.outside.src = question.dst;
            room.outside.dst = question.src;
            room.outside.src_port = question.dst_port;
            room.outside.dst_port = question.src_port;
            room.protocol = u32::from(question.protocol);
            question.protocol = protocol;
            ABOUT
        }
        _ => return NONE,
    };
    if found == ANSWER {
        room.protocol = u32::from(question.protocol);
    }
    room.outside.vni = HOST_SIDE;
    room.outside.protocol = room.protocol as u8;
    room.outside.zero = [0; 3];
    if !is_given(room) {
        return NONE;
    }
    let (Some(row), _) = find(&room.outside) else { return NONE };
    // SAFETY: a row of the map.
    room.container = unsafe { *row };
    if is_over(question.now, room.protocol, room.container.seen, room.container.flags) {
        return NONE;
    }
    room.change = Change {
        from: room.outside.dst,
        to: room.container.addr,
        from_port: room.outside.dst_port,
        to_port: room.container.port,
    };
    if question.first != 0 && !cfg!(feature = "trace") {
        transport::remember();
    }
    found
}

/// Whether translated flows are given such ports at all: what is not costs the host's own traffic no lookup.
#[inline(always)]
fn is_given(room: &Room) -> bool {
    let Ok(settings) = settings::get() else { return false };
    let port = u16::from_be_bytes(room.outside.dst_port);
    room.protocol == u32::from(SCTP)
        || port >= u16::from_be_bytes(settings.nat_first) && port <= u16::from_be_bytes(settings.nat_last)
}

/// Notes an answer that passed, whose TCP flags these are. The first one puts the flow among those that were answered.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nat_answered(now: u64, tcp: u32) -> u32 {
    let Some(room) = room() else { return 0 };
    let (Some(row), answered) = find(&room.outside) else { return 0 };
    let flags = room.container.flags | FLAG_ANSWERED | ended(tcp as u8, FLAG_FIN_ANSWER);
    if answered {
        touch(now, row, &room.container, flags);
        return 0;
    }
    room.container.flags = flags;
    room.container.seen = now;
    room.inside.vni = room.container.vni;
    room.inside.src = room.container.addr;
    room.inside.src_port = room.container.port;
    room.inside.dst = room.outside.src;
    room.inside.dst_port = room.outside.src_port;
    room.inside.protocol = room.outside.protocol;
    room.inside.zero = [0; 3];
    room.host =
        NatValue { seen: 0, addr: room.outside.dst, vni: HOST_SIDE, flags: 0, port: room.outside.dst_port, zero: [0; 6] };
    if cfg!(feature = "trace") || NAT.insert(&room.outside, &room.container, 0).is_err() {
        return 0;
    }
    if NAT.insert(&room.inside, &room.host, 0).is_ok() {
        let _: Result<(), _> = NEW_NAT.remove(&room.outside);
        let _: Result<(), _> = NEW_NAT.remove(&room.inside);
    }
    0
}

const _: () = assert!(size_of::<Room>() == size_of::<[u64; 32]>());
