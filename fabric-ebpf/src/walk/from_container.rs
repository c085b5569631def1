//! TC ingress of a port: what a container sends.
//!
//! port → source MAC → ARP and neighbour discovery answered → source address → destination MAC → the gateway's: routed, or
//! answered → policies of sender and receiver → local delivery into the peer's namespace, or encapsulation and out of an uplink.

use aya_ebpf::{
    helpers::{bpf_redirect_peer, bpf_skb_change_type},
    programs::TcContext,
};
use fabric_common::{
    addr::{Addr, Mac},
    fdb::{FLAG_HOST, FLAG_ROUTER, FdbValue},
    policy::NO_POLICY,
    port::PortValue,
    reason::{Action, DropReason},
    settings::Settings,
    stage::Stage,
};
use network_types::eth::EthHdr;

use crate::{
    arp,
    conntrack::{self, Sides},
    counters, echo, encap, endpoint, fdb, fragment, group, host,
    igmp::IGMP,
    inner::{self, ARP, IPV4, IPV6, Ip},
    names, nd, node,
    outcome::{Outcome, Trace, Verdict, pack, unpack},
    packet::{self, Frame, header, same_addr, same_mac, skb},
    policy, port,
    question::BY_ADDRESS,
    route, settings, untracked, world,
};

/// For this host (`include/uapi/linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
/// Ethernet (14) and IPv6 (40): more than ARP (42) or IPv4 with ports need, no more than any TCP packet has.
const LINEAR: u32 = 54;

/// Runs the walk.
#[inline(always)]
pub fn walk(ctx: &TcContext, trace: &mut Trace) -> Outcome {
    match walk_packed(ctx, trace) {
        ARP_NEXT => arp::handle(ctx),
        ND_NEXT => nd::handle(ctx),
        GATEWAY_NEXT => gateway(ctx, trace),
        HOST_NEXT => host::handle(ctx, trace),
        GROUP_NEXT => group::handle(ctx, trace),
        BRIDGED_NEXT => unpack(bridged_packed(ctx, trace)),
        packed => unpack(packed),
    }
}

/// A packet to a router's MAC: to the gateway itself, or into another subnet or network.
#[inline(always)]
fn gateway(ctx: &TcContext, trace: &Trace) -> Outcome {
    match route::step(ctx, trace.vni) {
        route::TO_GATEWAY => {
            untracked::sends(ctx, trace)?;
            echo::handle(ctx)
        }
        route::TO_WORLD => world::send(ctx, trace),
        reason if reason < 0 => unpack(reason),
        next => unpack(routed_packed(ctx, trace, next)),
    }
}

/// What was routed into another network goes the way of what is bridged there. `next` is what [`route::step`] returned. Out
/// of line, as the stages are.
#[inline(never)]
fn routed_packed(ctx: &TcContext, trace: &Trace, next: i64) -> i64 {
    pack(routed(ctx, trace, next))
}

#[inline(always)]
fn routed(ctx: &TcContext, trace: &Trace, next: i64) -> Outcome {
    trace.mark(Stage::Routed);
    let vni = next as u32;
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let entry = fdb::get(vni, packet::mac(&eth.dst_addr)).ok_or(DropReason::UnknownDestination)?;
    let dst = if next & route::TO_NEXT_HOP == 0 { entry.identity } else { BY_ADDRESS };
    judge(ctx, trace, vni, entry, dst)?;
    let verdict = if next & route::TO_FRAGMENT == 0 {
        let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
        let ip = inner::ip(ctx, 0, eth.ether_type)?;
        forward(ctx, trace, settings::get()?, vni, entry, &ip)?
    } else {
        // Too big for the network or the way there: the far side of the pair finds where it goes.
        let verdict = unpack(fragment::divert(ctx, settings::get()?.frag_ifindex, vni))?;
        port::count_egress(trace.slot, trace.segments, trace.length);
        verdict
    };
    counters::action_beside(trace.hook, Action::Routed, trace.segments, trace.length);
    Ok(verdict)
}

/// Asks the policies of the sender and, if it lives here, of the receiver, whose row is `entry` in network `vni`. `dst`: the
/// receiver's identity.
#[inline(always)]
fn judge(ctx: &TcContext, trace: &Trace, vni: u32, entry: &FdbValue, dst: u32) -> Result<(), DropReason> {
    let local = entry.is_local();
    let sides = Sides {
        vni: if local && vni < trace.vni { vni } else { trace.vni },
        offset: 0,
        src_identity: trace.identity,
        src_policy: trace.policy,
        dst_identity: dst,
        dst_policy: if local { entry.policy } else { NO_POLICY },
        to_host: false,
    };
    conntrack::judge(ctx, trace, sides)?;
    names::query(ctx, trace);
    Ok(())
}

/// Where a packet goes when the stages are through.
enum Step {
    /// To somebody's MAC in the network, by a source that was checked.
    Bridged,
    /// ARP, to be answered.
    Arp,
    /// Neighbour discovery, to be answered.
    Nd,
    /// To a router's MAC, by a source that was checked.
    Gateway,
    /// To this host's own MAC, by a source that was checked.
    Host,
    /// To a group MAC, by a source that was checked, or by none.
    Group,
}

// Beside what `pack` gives.
const ARP_NEXT: i64 = 1 << 40;
const ND_NEXT: i64 = 2 << 40;
const GATEWAY_NEXT: i64 = 3 << 40;
const HOST_NEXT: i64 = 4 << 40;
const GROUP_NEXT: i64 = 5 << 40;
const BRIDGED_NEXT: i64 = 6 << 40;

/// Out of line: a chain of calls has 512 bytes of stack together, and this way the stages have given theirs back when rare
/// work begins: answers, the report of a drop.
#[inline(never)]
fn walk_packed(ctx: &TcContext, trace: &mut Trace) -> i64 {
    match stages(ctx, trace) {
        Ok(Step::Bridged) => BRIDGED_NEXT,
        Ok(Step::Arp) => ARP_NEXT,
        Ok(Step::Nd) => ND_NEXT,
        Ok(Step::Gateway) => GATEWAY_NEXT,
        Ok(Step::Host) => HOST_NEXT,
        Ok(Step::Group) => GROUP_NEXT,
        Err(reason) => pack(Err(reason)),
    }
}

/// The stages, top to bottom.
#[inline(always)]
fn stages(ctx: &TcContext, trace: &mut Trace) -> Result<Step, DropReason> {
    settings::get()?;
    let port = port::get(ctx.ifindex())?;
    trace.vni = port.vni;
    trace.slot = port.slot;
    trace.identity = port.identity;
    trace.policy = port.policy;
    trace.mark(Stage::Port);
    packet::linear(ctx, LINEAR);
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let (dst, ether_type) = (packet::mac(&eth.dst_addr), eth.ether_type);
    if !same_mac(&eth.src_addr, &port.mac) {
        return Err(DropReason::SpoofMac);
    }
    trace.mark(Stage::SourceMac);
    if tagged(ctx, ether_type) {
        return Err(DropReason::VlanTag);
    }
    match ether_type {
        ARP => {
            trace.mark(Stage::Arp);
            return Ok(Step::Arp);
        }
        IPV4 | IPV6 => {}
        _ => return Err(DropReason::UnsupportedEthertype),
    }
    let ip = inner::ip(ctx, 0, ether_type)?;
    trace.mark(Stage::IpHeader);
    if ether_type == IPV6 {
        match nd::kind(ctx, 0, &ip) {
            nd::Kind::None => {}
            nd::Kind::Plain => {
                trace.mark(Stage::NeighbourDiscovery);
                return Ok(Step::Nd);
            }
            nd::Kind::Hidden => return Err(DropReason::SpoofNd),
        }
    }
    if check_source(ctx, port, &ip, dst)? {
        trace.identity = policy::of_addr(port.vni, &ip.src);
    }
    trace.mark(Stage::SourceAddress);
    if dst.is_group() {
        return Ok(Step::Group);
    }
    let entry = fdb::get(port.vni, dst).ok_or(DropReason::UnknownDestination)?;
    trace.mark(Stage::Fdb);
    if entry.flags & FLAG_ROUTER != 0 {
        trace.mark(Stage::Router);
        return Ok(Step::Gateway);
    }
    if entry.flags & FLAG_HOST != 0 {
        return Ok(Step::Host);
    }
    Ok(Step::Bridged)
}

/// What stays in its network. Out of line, as the stages are, which have no stack to spare; so the row is looked up again.
#[inline(never)]
fn bridged_packed(ctx: &TcContext, trace: &Trace) -> i64 {
    pack(bridged(ctx, trace))
}

#[inline(always)]
fn bridged(ctx: &TcContext, trace: &Trace) -> Outcome {
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let entry = fdb::get(trace.vni, packet::mac(&eth.dst_addr)).ok_or(DropReason::UnknownDestination)?;
    judge(ctx, trace, trace.vni, entry, entry.identity)?;
    let eth: &EthHdr = header(ctx, 0, DropReason::Malformed)?;
    let ip = inner::ip(ctx, 0, eth.ether_type)?;
    forward(ctx, trace, settings::get()?, trace.vni, entry, &ip)
}

/// To where the destination MAC lives: a port of this node, or another node.
#[inline(always)]
fn forward(
    ctx: &TcContext,
    trace: &Trace,
    settings: &Settings,
    vni: u32,
    entry: &FdbValue,
    ip: &Ip,
) -> Outcome {
    if !entry.is_local() {
        let node = node::get(entry.node)?;
        trace.mark(Stage::Node);
        let verdict = encap::send(ctx, settings, node, vni, ip)?;
        port::count_egress(trace.slot, trace.segments, trace.length);
        return Ok(verdict);
    }
    if entry.ifindex == ctx.ifindex() {
        return Err(DropReason::Hairpin);
    }
    trace.mark(Stage::LocalPort);
    port::count_egress(trace.slot, trace.segments, trace.length);
    port::count_ingress(entry.slot, trace.segments, trace.length);
    if names::answer(ctx, entry.policy, entry.ifindex) {
        return Ok(Verdict::consume(Action::Held));
    }
    Ok(deliver(ctx, entry.ifindex))
}

/// Puts the packet straight into the namespace behind a port. The port that it came in at took the destination for
/// somebody else's, and before Linux 6.15 `bpf_redirect_peer` leaves that mark, for which the receiver's stack would drop
/// the packet.
#[inline(always)]
pub fn deliver(ctx: &TcContext, ifindex: u32) -> Verdict {
    // SAFETY: plain helper calls; the port is a veth whose peer is in another namespace.
    unsafe {
        bpf_skb_change_type(skb(ctx), PACKET_HOST);
        Verdict::redirect(Action::Local, bpf_redirect_peer(ifindex, 0))
    }
}

/// A VLAN tag in the frame, or taken out of it into the skb.
#[inline(always)]
fn tagged(ctx: &TcContext, ether_type: u16) -> bool {
    // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
    let in_skb = unsafe { (*skb(ctx)).vlan_present } != 0;
    in_skb || ether_type == 0x8100_u16.to_be() || ether_type == 0x88a8_u16.to_be()
}

/// The container's own addresses only, and those behind it where it is the next hop of a route. A multicast packet from `::` (a host that joins groups before it has an address,
/// RFC 4541 section 2.1.1) is no lie yet, nor is IGMP from 0.0.0.0; it is judged as multicast. Returns whether the address is one behind it.
#[inline(always)]
fn check_source(ctx: &TcContext, port: &PortValue, ip: &Ip, dst: Mac) -> Result<bool, DropReason> {
    if same_addr(&ip.src, &Addr::UNSPECIFIED) {
        return if dst.is_group() { Ok(false) } else { Err(DropReason::SpoofIp) };
    }
    let (vni, ifindex) = (port.vni, ctx.ifindex());
    if same_addr(&ip.src, &port.addr)
        || endpoint::owns(vni, &ip.src, ifindex)
    {
        return Ok(false);
    }
    if route::leads_to(vni, &ip.src, ifindex) {
        return Ok(true);
    }
    if dst.is_group() && ip.protocol == IGMP && same_addr(&ip.src, &Addr::v4([0; 4])) {
        return Ok(false);
    }
    Err(DropReason::SpoofIp)
}
