//! Broadcast and multicast: what is replicated, and how much of it.

use aya_ebpf::{btf_maps::LruHashMap, helpers::bpf_ktime_get_boot_ns, macros::btf_map, programs::TcContext};
use fabric_common::{
    abi,
    addr::Addr,
    membership::{Audience, audience},
    network::FLAG_MULTICAST,
    reason::{Action, DropReason},
    stage::Stage,
};
use fabric_ebpf::bucket::{self, FLOOD_BURST};
use network_types::eth::EthHdr;

use crate::{
    encap, endpoint, flood,
    inner::{self, ETH_LEN, IPV4, destination},
    membership::{self, Message},
    network,
    outcome::{Outcome, Trace, Verdict, unpack},
    packet::{Frame, header, same_addr},
    port, untracked,
};

#[btf_map(name = "flood_budget")]
static BUDGET: LruHashMap<u32, u64, { abi::FLOOD_BUDGET.entries as usize }> = LruHashMap::new();

/// Whether the frame to a group MAC whose Ethernet header is at `offset` may be replicated in network `vni`: the network
/// replicates, and the packet is for that very group (RFC 1112 section 6.4, RFC 2464 section 7) or for everybody. A packet for
/// somebody alone would pass by what is asked of a destination.
#[inline(always)]
pub fn check(frame: &impl Frame, offset: usize, ether_type: u16, vni: u32) -> Result<(), DropReason> {
    match network::get(vni) {
        Some(network) if network.flags & FLAG_MULTICAST != 0 => {}
        _ => return Err(DropReason::MulticastOff),
    }
    let eth: &EthHdr = header(frame, offset, DropReason::Malformed)?;
    let mac = &eth.dst_addr;
    let addr = destination(frame, offset, ether_type)?;
    let ip = &addr.bytes;
    let right = if ether_type != IPV4 {
        ip[0] == 0xff && mac[..2] == [0x33, 0x33] && mac[2..] == ip[12..]
    } else if ip[12] & 0xf0 == 0xe0 {
        mac[..4] == [0x01, 0x00, 0x5e, ip[13] & 0x7f] && mac[4..] == ip[14..]
    } else {
        mac == &[0xff; 6] && (same_addr(&addr, &Addr::v4([0xff; 4])) || is_nobodys(vni, &addr))
    };
    if right { Ok(()) } else { Err(DropReason::BadGroup) }
}

/// A subnet's broadcast address is one that nobody can have.
#[inline(always)]
fn is_nobodys(vni: u32, addr: &Addr) -> bool {
    let first = addr.bytes[12];
    first != 0 && first != 127 && first < 224 && endpoint::get(vni, addr).is_none()
}

/// A container's frame to a group MAC. Its source was checked, if it has one.
#[inline(always)]
pub fn handle(ctx: &TcContext, trace: &Trace) -> Outcome {
    match admit_packed(ctx, trace) {
        reason if reason < 0 => unpack(reason),
        0 => Ok(Verdict::consume(Action::Absorbed)),
        at if at & MEMBERSHIP != 0 => {
            membership::take(ctx, trace.vni, at as u32)?;
            port::count_egress(trace.slot, trace.segments, trace.length);
            Ok(Verdict::consume(Action::Absorbed))
        }
        size => {
            let near = flood::to_ports(ctx, trace);
            let far = flood::to_nodes(ctx, trace, size as u32);
            Ok(taken(near | far))
        }
    }
}

/// Beside the offset of a message of IGMP or MLD.
const MEMBERSHIP: i64 = 1 << 32;

/// Returns the bytes of the frame's IP packets, 0 if nobody is to get it, [`MEMBERSHIP`], or the number of a drop reason, negated. Out of line, since most packets are
/// for one receiver, and so that its stack is given back when copies are made.
#[inline(never)]
fn admit_packed(ctx: &TcContext, trace: &Trace) -> i64 {
    match admit(ctx, trace) {
        Ok(size) => size,
        Err(reason) => -(reason as i64),
    }
}

#[inline(always)]
fn admit(ctx: &TcContext, trace: &Trace) -> Result<i64, DropReason> {
    let ether_type = header::<EthHdr>(ctx, 0, DropReason::Malformed)?.ether_type;
    check(ctx, 0, ether_type, trace.vni)?;
    let ip = inner::ip(ctx, 0, ether_type)?;
    trace.mark(Stage::Group);
    // Like ARP, asked of no policy: it is between a container and its network. From no address as well (RFC 3376 section 4.2.13,
    // RFC 3810 section 5.2.13).
    match membership::message(ctx, ether_type != IPV4, ip.protocol, ip.header_len) {
        Message::None => {}
        Message::At(at) => {
            take(Frame::ifindex(ctx), trace.segments)?;
            return Ok(MEMBERSHIP | i64::from(at));
        }
        Message::Bad => return Err(DropReason::BadMembership),
    }
    if same_addr(&ip.src, &Addr::UNSPECIFIED) || same_addr(&ip.src, &Addr::v4([0; 4])) {
        return Err(DropReason::SpoofIp);
    }
    untracked::sends(ctx, trace)?;
    let size = encap::packet_size(ctx, &ip)?;
    take(Frame::ifindex(ctx), trace.segments)?;
    port::count_egress(trace.slot, trace.segments, trace.length);
    let audience = audience(&destination(ctx, 0, ether_type)?);
    Ok(if audience == Audience::Nobody { 0 } else { i64::from(size) })
}

/// A frame that came through the tunnel, its outer headers off: for ports only, so that none goes round.
#[inline(always)]
pub fn deliver(ctx: &TcContext, trace: &Trace) -> Verdict {
    trace.mark(Stage::Group);
    // What the other side's membership is does not matter here, and hosts must not hear each other's reports.
    if is_membership(ctx) != 0 {
        return Verdict::consume(Action::Absorbed);
    }
    // The sender's own node has asked its policy; the packet is read for those of the receivers, which drop it where that fails.
    if untracked::sends(ctx, trace).is_err() {
        return Verdict::consume(Action::Absorbed);
    }
    taken(flood::to_ports(ctx, trace))
}

/// 1 if the packet is one of IGMP or MLD. Out of line for its stack.
#[inline(never)]
fn is_membership(ctx: &TcContext) -> u32 {
    // Not by the packet's pointers: the compiler would hand them over as numbers.
    let v6 = Frame::load::<2>(ctx, 12) != Some(IPV4.to_ne_bytes());
    let (Some([first]), Some([protocol])) =
        (Frame::load::<1>(ctx, ETH_LEN as u32), Frame::load::<1>(ctx, ETH_LEN as u32 + if v6 { 6 } else { 9 }))
    else {
        return 0;
    };
    let message = membership::message(ctx, v6, protocol, u32::from(first & 0xf) * 4);
    u32::from(!matches!(message, Message::None))
}

/// The frame itself goes nowhere, its copies do.
#[inline(always)]
fn taken(copied: bool) -> Verdict {
    Verdict::consume(if copied { Action::Replicated } else { Action::Absorbed })
}

/// Takes `count` packets from the budget of a port. Written without a lock: two CPUs at once may let a few more pass.
#[inline(always)]
fn take(ifindex: u32, count: u32) -> Result<(), DropReason> {
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let row = BUDGET.get_ptr_mut(ifindex);
    // SAFETY: a word of the map's memory.
    let used = row.map_or(0, |row| unsafe { *row });
    let next = bucket::take(used, now, u64::from(count), FLOOD_BURST).ok_or(DropReason::FloodLimit)?;
    match row {
        // SAFETY: as above.
        Some(row) => unsafe { *row = next },
        None => {
            // A map that is full gives up its oldest row.
            let _: Result<(), _> = BUDGET.insert(ifindex, next, 0);
        }
    }
    Ok(())
}
