//! A port of the host for a flow that begins, and the flow's rows.

use aya_ebpf::{
    EbpfContext,
    bindings::__sk_buff,
    helpers::{bpf_get_prandom_u32, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
    programs::TcContext,
};
use fabric_common::{
    flow::FLAG_FIN_BEGAN,
    nat::{HOST_SIDE, NatValue},
    reason::DropReason,
};
use fabric_ebpf::nat_port::{ATTEMPTS, candidate};

use super::{NAT, NEW_NAT, Room, SCTP, TCP, UDP, ended, find, is_over, name_outside, room};
use crate::{question, route, settings, transport};

/// `BPF_NOEXIST`: only where no row is.
const NOEXIST: u64 = 1;
/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;
/// `-EEXIST`.
const EXISTS: i32 = -17;

/// Gives the flow that is named inside a port of the host, and both of its rows. Returns 0 or the number of a drop reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nat_allocate(skb: *mut __sk_buff) -> u32 {
    let (Ok(question), Some(room), Ok(settings)) = (question::get(), room(), settings::get()) else {
        return DropReason::NatFailed as u32;
    };
    // Whoever could send such a packet with the host's address would be believed as the host.
    if question.protocol == UDP && question.dst_port == settings.vxlan_port {
        return DropReason::NoRoute as u32;
    }
    let Some(route) = route::to_world(question.vni, &question.dst) else { return DropReason::NoRoute as u32 };
    let (first, last) = (u16::from_be_bytes(settings.nat_first), u16::from_be_bytes(settings.nat_last));
    if first == 0 {
        return DropReason::NatNoPort as u32;
    }
    room.host =
        NatValue { seen: 0, addr: route.next_hop, vni: HOST_SIDE, flags: 0, port: [0; 2], zero: [0; 6] };
    room.container = NatValue {
        seen: question.now,
        addr: room.inside.src,
        vni: room.inside.vni,
        flags: ended(transport::tcp_flags(question), FLAG_FIN_BEGAN),
        port: room.inside.src_port,
        zero: [0; 6],
    };
    // SAFETY: a plain helper call.
    let start = unsafe { bpf_get_prandom_u32() };
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        // SCTP's checksum is over the ports and all data (RFC 9260 section 6.8): it keeps its port or finds none.
        room.host.port = if question.protocol == SCTP {
            room.inside.src_port
        } else {
            candidate(start, attempt, first, last).to_be_bytes()
        };
        attempt += 1;
        name_outside(room);
        if is_taken(question.now, room) || has_socket(skb, room) {
            continue;
        }
        if cfg!(feature = "trace") {
            return 0;
        }
        match NEW_NAT.insert(&room.outside, &room.container, NOEXIST) {
            Ok(()) => {}
            // Another CPU was faster.
            Err(EXISTS) => continue,
            Err(_) => return DropReason::NatFull as u32,
        }
        // Of an old flow of the same name, which would be found first.
        let _: Result<(), _> = NAT.remove(&room.inside);
        if NEW_NAT.insert(&room.inside, &room.host, 0).is_ok() {
            return 0;
        }
        let _: Result<(), _> = NEW_NAT.remove(&room.outside);
        return DropReason::NatFull as u32;
    }
    DropReason::NatNoPort as u32
}

/// Whether another flow has the port. A row whose time is over is taken out.
#[inline(always)]
fn is_taken(now: u64, room: &mut Room) -> bool {
    let (Some(row), _) = find(&room.outside) else { return false };
    // SAFETY: a row of the map.
    let (seen, flags) = unsafe { ((*row).seen, (*row).flags) };
    if !is_over(now, room.protocol, seen, flags) {
        return true;
    }
    if !cfg!(feature = "trace") {
        let _: Result<(), _> = NAT.remove(&room.outside);
        let _: Result<(), _> = NEW_NAT.remove(&room.outside);
    }
    false
}

/// Whether a socket of the host would get what is answered.
#[inline(always)]
fn has_socket(skb: *mut __sk_buff, room: &mut Room) -> bool {
    if room.protocol != u32::from(TCP) && room.protocol != u32::from(UDP) {
        return false;
    }
    let (src, dst, tuple) = (&room.outside.src, &room.outside.dst, &mut room.tuple);
    let (at, size) = if dst.is_v4() {
        tuple[..4].copy_from_slice(&src.v4_bytes());
        tuple[4..8].copy_from_slice(&dst.v4_bytes());
        (8, 12)
    } else {
        tuple[..16].copy_from_slice(&src.bytes);
        tuple[16..32].copy_from_slice(&dst.bytes);
        (32, 36)
    };
    [tuple[at], tuple[at + 1]] = room.outside.src_port;
    [tuple[at + 2], tuple[at + 3]] = room.outside.dst_port;
    let (ctx, tuple) = (TcContext::new(skb), tuple.as_mut_ptr().cast());
    // SAFETY: plain helper calls; the helper reads `size` bytes of the tuple, and its socket is given back.
    unsafe {
        let socket = if room.protocol == u32::from(TCP) {
            bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, size, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), tuple, size, CURRENT_NETNS, 0)
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

