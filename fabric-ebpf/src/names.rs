//! `named`, `names`, `dns` and `dns_watch`: addresses of the world that an endpoint knows by domain names, and the DNS messages
//! from which the agent learns them.
//!
//! An answer is not delivered here but given to the agent, which writes the rows that it gives rise to and then delivers it: so the
//! endpoint's first packet to an address finds the policy open. Where nobody reads, or there is no room, it is delivered unread.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
    programs::TcContext,
};
use fabric_common::{
    abi,
    addr::Addr,
    flow::FLAG_BEGAN_HIGH,
    names::{ANSWER, DATA, DNS_PORT, DnsPacket, LOST, NameKey, NameValue, NamedKey, QUERY, UNTIL, VERSION},
    policy::POLICY_NAMES,
};

use crate::{
    conntrack,
    outcome::Trace,
    packet::{Frame, skb},
    question::{self, Question},
    transport::FLOW,
};

#[btf_map(name = "named")]
static NAMED: HashMap<NamedKey, u32, { abi::NAMED.entries as usize }> = HashMap::new();

/// The agent's alone; declared here so that it lives with the others.
#[btf_map(name = "names")]
static NAMES: HashMap<NameKey, NameValue, { abi::NAMES.entries as usize }> = HashMap::new();

#[btf_map(name = "dns")]
static DNS: RingBuf<DnsPacket, { abi::DNS.entries as usize }> = RingBuf::new();

#[btf_map(name = "dns_watch")]
static WATCH: PerCpuArray<u64, { abi::DNS_WATCH.entries as usize }> = PerCpuArray::new();

const UDP: u8 = 17;

/// Whether a policy names domain names.
#[inline(always)]
pub fn in_policy(policy: u32) -> bool {
    policy & POLICY_NAMES != 0
}

/// The identity of `addr` for the endpoint with `policy` behind port `ifindex`, if it was told that address for a name.
#[inline(always)]
pub fn identity(policy: u32, ifindex: u32, addr: &Addr) -> Option<u32> {
    if !in_policy(policy) {
        return None;
    }
    match named(ifindex, addr) {
        0 => None,
        identity => Some(identity),
    }
}

/// Out of line for the key's place on the stack. 0 is nobody's identity.
#[inline(never)]
fn named(ifindex: u32, addr: &Addr) -> u32 {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold).
    unsafe { NAMED.get(NamedKey { ifindex, addr: *addr }) }.copied().unwrap_or(0)
}

/// Shows the agent a DNS query that the sender's policy has just admitted.
#[inline(always)]
pub fn query(ctx: &TcContext, trace: &Trace) {
    // What traces packets changes nothing, and delivers nothing.
    if !cfg!(feature = "trace") && in_policy(trace.policy) {
        names_query(skb(ctx));
    }
}

/// A global function, as those of `conntrack`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn names_query(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let Ok(question) = question::get() else { return 0 };
    if question.dst_port != DNS_PORT || !is_watched(&ctx, question) {
        return 0;
    }
    copy(&ctx, QUERY, Frame::ifindex(&ctx), question.now)
}

/// Whether the packet of this CPU's question, which was admitted to the endpoint behind port `ifindex` and whose outer headers are
/// off, was given to the agent, because it is a DNS answer that the endpoint asked for. `policy`: the endpoint's.
#[inline(always)]
pub fn answer(ctx: &TcContext, policy: u32, ifindex: u32) -> bool {
    !cfg!(feature = "trace") && in_policy(policy) && names_answer(skb(ctx), ifindex) != 0
}

/// A global function, as those of `conntrack`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn names_answer(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let Ok(question) = question::get() else { return 0 };
    if question.src_port != DNS_PORT || !is_watched(&ctx, question) {
        return 0;
    }
    conntrack::name(question);
    let (Some(row), _) = conntrack::find(&question.key) else { return 0 };
    // SAFETY: a row of the map; what it may hold is said in `conntrack`.
    let flags = unsafe { (*row).flags };
    if (flags & FLAG_BEGAN_HIGH != 0) == (question.from_high != 0) {
        return 0;
    }
    copy(&ctx, ANSWER, ifindex, question.now)
}

/// A whole UDP packet, while somebody reads.
#[inline(always)]
fn is_watched(ctx: &TcContext, question: &Question) -> bool {
    question.protocol == UDP
        && question.kind == FLOW
        && question.first == 0
        && ctx.gso_size() == 0
        && Frame::len(ctx) <= DATA as u32
        && WATCH.get(UNTIL).is_some_and(|until| question.now <= *until)
}

/// Returns 1 if there was room.
#[inline(always)]
fn copy(ctx: &TcContext, kind: u32, ifindex: u32, now: u64) -> u32 {
    let Some(mut entry) = DNS.reserve(0) else {
        if let Some(lost) = WATCH.get_ptr_mut(LOST) {
            // SAFETY: this CPU's own word.
            unsafe { *lost += 1 };
        }
        return 0;
    };
    let packet = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as the record, aligned to 8, and ours until it is submitted. All but `data` is written
    // here, `data` up to `length`; its rest is what the ring held before, and readers do not look there.
    let length = unsafe {
        (*packet).version = VERSION;
        (*packet).kind = kind;
        (*packet).time = now;
        (*packet).ifindex = ifindex;
        (*packet).zero = 0;
        const { assert!(DATA.is_power_of_two()) };
        let length = ctx.copy((&raw mut (*packet).data).cast(), DATA as u32);
        (*packet).length = length;
        length
    };
    if length == 0 {
        entry.discard(0);
        return 0;
    }
    entry.submit(0);
    1
}
