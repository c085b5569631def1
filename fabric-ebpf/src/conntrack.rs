//! `flows` and `new_flows`: connection tracking, and the stage that asks policies. A packet of a known flow costs one lookup;
//! what its flow was admitted for is compared with what the packet in hand has, so that a revoked permission ends the flow at
//! its next packet.
//!
//! Rows are read where they lie. What decides is written by an update of the whole row: a row that is given to another flow
//! meanwhile must not get this one's verdict.

#![expect(clippy::needless_borrows_for_generic_args, reason = "keys are long, and must not be copied to the stack")]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    btf_maps::LruHashMap,
    helpers::bpf_ktime_get_boot_ns,
    macros::btf_map,
    programs::{TcContext, XdpContext},
};
use fabric_common::{
    abi,
    flow::{
        FLAG_ANSWERED, FLAG_BEGAN_HIGH, FLAG_FIN_ANSWER, FLAG_FIN_BEGAN, FLAG_RESET, FlowKey, FlowValue, is_closed, lifetime,
    },
    network::FLAG_KEEP,
    policy::{EGRESS, INGRESS, NO_POLICY, verdict},
    reason::{Action, DropReason, Hook},
    stage::{Mark, Stage},
};

use crate::{
    counters, event, network,
    outcome::{Trace, Verdict, pack, unpack},
    packet::Frame,
    policy,
    question::{self, BY_ADDRESS, Question},
    reject, related, settings, stage,
    transport::{self, FIN, FLOW, RST, SINGLE},
    tunnel::INNER_V6,
};

#[btf_map(name = "flows")]
static FLOWS: LruHashMap<FlowKey, FlowValue, { abi::FLOWS.entries as usize }> = LruHashMap::new();

#[btf_map(name = "new_flows")]
static NEW_FLOWS: LruHashMap<FlowKey, FlowValue, { abi::NEW_FLOWS.entries as usize }> = LruHashMap::new();

const TCP: u8 = 6;
const SECOND: u64 = 1_000_000_000;

/// Who sends a packet to whom.
#[derive(Clone, Copy)]
pub struct Sides {
    /// The network of the flow: that of the side that lives here, or the smaller VNI if both do.
    pub vni: u32,
    /// Offset of the packet's Ethernet header in the frame.
    pub offset: u32,
    /// Who sends it.
    pub src_identity: u32,
    /// The sender's policy; `NO_POLICY` if it lives elsewhere.
    pub src_policy: u32,
    /// Who gets it, or [`BY_ADDRESS`].
    pub dst_identity: u32,
    /// The receiver's policy; `NO_POLICY` if it lives elsewhere.
    pub dst_policy: u32,
    /// Whether the host itself gets it, from an uplink.
    pub to_host: bool,
}

/// Admits a packet to one receiver, or says why not. Where no policy applies nothing is asked and nothing is tracked.
#[inline(always)]
pub fn judge<F: Frame>(frame: &F, trace: &Trace, sides: Sides) -> Result<(), DropReason> {
    if sides.src_policy | sides.dst_policy == NO_POLICY {
        return Ok(());
    }
    put(sides, trace.hook)?;
    match unpack(frame.judged()) {
        Ok(_) => Ok(()),
        Err(reason) => Err(reason),
    }
}

/// Puts the sides, and where they are asked about, into this CPU's question.
#[inline(always)]
pub fn put(sides: Sides, hook: Hook) -> Result<(), DropReason> {
    let question = question::get()?;
    question.hook = hook as u32;
    question.vni = sides.vni;
    question.offset = sides.offset;
    question.src_identity = sides.src_identity;
    question.src_policy = sides.src_policy;
    question.dst_identity = sides.dst_identity;
    question.dst_policy = sides.dst_policy;
    question.again = u32::from(sides.to_host);
    question.rule = 0;
    question.reject = 0;
    question.noted = 0;
    // SAFETY: a plain helper call.
    question.now = unsafe { bpf_ktime_get_boot_ns() };
    Ok(())
}

/// The price of those that have a policy. A global function, as the three below: the verifier checks it once for itself, and not
/// again for each state in which a program calls it (`Documentation/bpf/verifier.rst` knows them as subprograms with BTF of
/// global linkage; Linux 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judged_tc(skb: *mut __sk_buff) -> i64 {
    let ctx = TcContext::new(skb);
    if reject::is_answer(&ctx) { pack(Ok(Verdict::pass(Action::Checked))) } else { judged(&ctx) }
}

/// The same of a frame that has no skb yet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judged_xdp(xdp: *mut xdp_md) -> i64 {
    let judged = judged(&XdpContext::new(xdp));
    match question::get() {
        // Only an skb can be answered: TC finds the same.
        Ok(question) if judged < 0 && question.reject != 0 => pack(Ok(Verdict::pass(Action::Checked))),
        _ => judged,
    }
}

#[inline(always)]
fn judged<F: Frame>(frame: &F) -> i64 {
    let Ok(question) = question::get() else { return -(DropReason::PolicyUnknown as i64) };
    read(frame, question);
    let kind = if question.kind == transport::ERROR && related::is_related(frame, question) != 0 {
        RELATED
    } else {
        question.kind
    };
    let (hook, first) = (question.hook, question.first);
    let (src_policy, dst_policy) = (question.src_policy, question.dst_policy);
    let noted = &raw const question.noted;
    // The global functions take the question for themselves.
    let denied = match kind {
        FLOW => conntrack_flow(),
        SINGLE | transport::ERROR => conntrack_alone(),
        RELATED => 0,
        _ => DropReason::PolicyNoPorts as u32,
    };
    if denied != 0 && denied != LOST {
        return -i64::from(denied);
    }
    if src_policy != NO_POLICY {
        stage::mark(Mark::Passed(Stage::PolicyEgress));
    }
    if dst_policy != NO_POLICY {
        stage::mark(Mark::Passed(Stage::PolicyIngress));
    }
    if denied == LOST {
        count_lost(hook, frame.len());
    }
    if first != 0 && !cfg!(feature = "trace") {
        transport::remember();
    }
    // SAFETY: the question is this CPU's own; the global functions have written it.
    if unsafe { noted.read() } != 0 && !cfg!(feature = "trace") {
        event::verdict(frame);
    }
    pack(Ok(Verdict::pass(Action::Checked)))
}

/// Beside the kinds of packets: an error about a flow that is admitted.
const RELATED: u8 = 0;

/// Reads the packet into the question.
#[inline(never)]
pub fn read<F: Frame>(frame: &F, question: &mut Question) -> u32 {
    transport::read(frame, question);
    question.bytes = frame.len().wrapping_sub(question.offset);
    question.packets = frame.segments();
    question.again = u32::from(is_left(frame, question, question.again != 0));
    if question.dst_identity == BY_ADDRESS {
        question.dst_identity = policy::of_addr(question.vni, &question.dst);
    }
    0
}

/// Whether another hook is asked once more when the packet is admitted: TC after XDP, the `vxlan` device about what
/// `from_uplink` leaves to it.
#[inline(always)]
fn is_left<F: Frame>(frame: &F, question: &Question, to_host: bool) -> bool {
    if question.hook == Hook::FromUplinkXdp as u32 {
        return true;
    }
    let cross_family = question.src.is_v4() == (question.offset == INNER_V6 as u32) && !settings::cross_family();
    question.hook == Hook::FromUplink as u32
        && (cross_family || frame.gso_size() != 0 && (question.protocol != TCP || to_host))
}

#[inline(always)]
fn count_lost(hook: u32, bytes: u32) {
    if let Some(hook) = Hook::from_number(hook as u8) {
        counters::action_beside(hook, Action::Untracked, 1, bytes);
    }
}

/// Beside the numbers of drop reasons: admitted, but the flow found no room.
const LOST: u32 = 1 << 8;

/// Asks both sides this CPU's question, without a flow. Returns 0 or the number of a drop reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn conntrack_alone() -> u32 {
    match question::get() {
        Ok(question) => {
            let denied = alone(question);
            count(question, denied);
            denied
        }
        Err(reason) => reason as u32,
    }
}

/// Counts the packet for the rules that decided on it: those of both sides that admitted it, or the one that did not.
#[inline(always)]
fn count(question: &Question, denied: u32) {
    let (packets, bytes) = (question.packets, question.bytes);
    if denied != 0 && denied != LOST {
        // A tunnel packet that is answered is left to the `vxlan` device.
        let at_uplink = question.hook == Hook::FromUplinkXdp as u32 || question.hook == Hook::FromUplink as u32;
        let left = question.reject != 0 && at_uplink && question.offset != 0;
        return policy::count(if left { 0 } else { question.rule }, packets, bytes);
    }
    if question.again != 0 {
        return;
    }
    policy::count(question.flow.egress_rule & verdict::NUMBER, packets, bytes);
    policy::count(question.flow.ingress_rule & verdict::NUMBER, packets, bytes);
}

/// Bytes that the packet adds to its flow's.
#[inline(always)]
fn sent(question: &Question) -> u64 {
    if question.again != 0 { 0 } else { question.bytes.into() }
}

#[inline(never)]
fn alone(question: &mut Question) -> u32 {
    let port = transport::asked_port(question, false);
    let denied = egress(question, port, question.src_policy, question.dst_identity);
    if denied != 0 {
        return denied;
    }
    ingress(question, port, question.dst_policy, question.src_identity)
}

/// The question whether a side may send, if it has a policy. Notes the rule in the flow that is put together, or as the one that
/// denied.
#[inline(always)]
fn egress(question: &mut Question, port: u32, policy: u32, to: u32) -> u32 {
    question.flow.egress_policy = policy;
    question.flow.egress_identity = to;
    question.flow.egress_rule = 0;
    if policy == NO_POLICY {
        return 0;
    }
    let word = policy::policy_ask(policy, EGRESS, to, port);
    question.flow.egress_rule = word & verdict::KEPT;
    note(question, word);
    answer(question, word)
}

/// The same whether a side may receive.
#[inline(always)]
fn ingress(question: &mut Question, port: u32, policy: u32, from: u32) -> u32 {
    question.flow.ingress_policy = policy;
    question.flow.ingress_identity = from;
    question.flow.ingress_rule = 0;
    if policy == NO_POLICY {
        return 0;
    }
    let word = policy::policy_ask(policy, INGRESS, from, port);
    question.flow.ingress_rule = word & verdict::KEPT;
    note(question, word);
    answer(question, word)
}

/// Notes a verdict that is to be reported: the first of an audited policy, else the first that is logged.
#[inline(always)]
fn note(question: &mut Question, word: u32) {
    let wanted = word & (verdict::AUDIT | verdict::LOG);
    if wanted != 0 && (question.noted == 0 || wanted & !question.noted & verdict::AUDIT != 0) {
        question.noted = word;
    }
}

/// Returns 0 where a verdict admits, or the number of a drop reason.
#[inline(always)]
pub fn answer(question: &mut Question, word: u32) -> u32 {
    match word & verdict::KIND {
        verdict::ALLOW => 0,
        verdict::DENY => {
            question.rule = word & verdict::NUMBER;
            question.reject = word & verdict::REJECT;
            DropReason::PolicyDenied as u32
        }
        _ => DropReason::PolicyUnknown as u32,
    }
}

/// The packet of this CPU's question, which is one of a flow. Returns 0, [`LOST`] or the number of a drop reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_flow() -> u32 {
    match question::get() {
        Ok(question) => {
            let denied = flow(question);
            count(question, denied);
            denied
        }
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn flow(question: &mut Question) -> u32 {
    name(question);
    let (row, answered) = find(&question.key);
    let Some(row) = row else { return begin(question, false) };
    // SAFETY: a row of the map, see the module.
    let (flags, seen) = unsafe { ((*row).flags, (*row).seen) };
    if question.now.saturating_sub(seen) > lifetime(question.protocol, flags) {
        return begin(question, answered);
    }
    let answer = (flags & FLAG_BEGAN_HIGH != 0) != (question.from_high != 0);
    if transport::begins(question) && (answer || is_closed(flags)) {
        return begin(question, answered);
    }
    // Into the question, not onto the stack. SAFETY: as above.
    question.flow = unsafe { *row };
    let denied = still(question, answer);
    if denied != 0 && denied != CHANGED {
        // The row stays: without it the other side's next packet, sent again perhaps, would pass for the first of a flow of its
        // own, of which what was denied is an answer.
        if denied != DropReason::PolicyDenied as u32 || keep(row, flags) == 0 {
            return denied;
        }
        touch(question, row, answer);
        return 0;
    }
    if denied == CHANGED || answer && flags & FLAG_ANSWERED == 0 {
        question.flow.flags = flags | if answer { FLAG_ANSWERED } else { 0 } | closing(question, answer);
        let sent = sent(question);
        if answer {
            question.flow.answer_bytes += sent;
        } else {
            question.flow.began_bytes += sent;
        }
        return settle(question, answered);
    }
    touch(question, row, answer);
    0
}

/// Lets the flow in `row` go on by the verdicts that it had, if its network keeps those whose permission goes: 1, or 0. Out of line for
/// the stack of its caller, which is near the end of a long chain of calls.
#[inline(never)]
fn keep(row: *mut FlowValue, flags: u32) -> u32 {
    let Ok(question) = question::get() else { return 0 };
    if !is_kept(question.vni, flags) {
        return 0;
    }
    // SAFETY: a row of the map, see the module.
    question.flow = unsafe { *row };
    (question.rule, question.reject, question.noted) = (0, 0, 0);
    1
}

/// Whether a flow with these flags goes on when policies admit it no more.
#[inline(always)]
pub fn is_kept(vni: u32, flags: u32) -> bool {
    flags & FLAG_ANSWERED != 0 && network::get(vni).is_some_and(|network| network.flags & FLAG_KEEP != 0)
}

/// Which row the flow of the packet has, whichever side sends it.
#[inline(always)]
pub fn name(question: &mut Question) {
    let (src, dst) = (u128::from_be_bytes(question.src.bytes), u128::from_be_bytes(question.dst.bytes));
    let ports = (u16::from_be_bytes(question.src_port), u16::from_be_bytes(question.dst_port));
    let from_high = src > dst || src == dst && ports.0 > ports.1;
    question.from_high = u32::from(from_high);
    question.key.vni = question.vni;
    question.key.protocol = question.protocol;
    question.key.zero = [0; 3];
    if from_high {
        question.key.low = question.dst;
        question.key.high = question.src;
        question.key.low_port = question.dst_port;
        question.key.high_port = question.src_port;
    } else {
        question.key.low = question.src;
        question.key.high = question.dst;
        question.key.low_port = question.src_port;
        question.key.high_port = question.dst_port;
    }
}

/// The row of a flow, and whether it is one of those that were answered.
#[inline(always)]
pub fn find(key: &FlowKey) -> (Option<*mut FlowValue>, bool) {
    match FLOWS.get_ptr_mut(key) {
        Some(row) => (Some(row), true),
        None => (NEW_FLOWS.get_ptr_mut(key), false),
    }
}

/// What the packet's TCP flags say of the end of the flow.
#[inline(always)]
fn closing(question: &Question, answer: bool) -> u32 {
    let flags = transport::tcp_flags(question);
    let fin = if answer { FLAG_FIN_ANSWER } else { FLAG_FIN_BEGAN };
    (if flags & FIN != 0 { fin } else { 0 }) | (if flags & RST != 0 { FLAG_RESET } else { 0 })
}

/// Beside the numbers of drop reasons: still admitted, but by other verdicts than those in the row.
const CHANGED: u32 = 1 << 9;

/// Whether the flow, a copy of whose row is in the question, is still admitted: 0, [`CHANGED`], or the number of a drop reason. A
/// side that lives elsewhere is not asked here, and what was said of it stays.
#[inline(always)]
fn still(question: &mut Question, answer: bool) -> u32 {
    let value = &question.flow;
    let (began, answering) = if answer {
        ((question.dst_policy, question.dst_identity), (question.src_policy, question.src_identity))
    } else {
        ((question.src_policy, question.src_identity), (question.dst_policy, question.dst_identity))
    };
    let egress_holds = began.0 == value.egress_policy && (began.0 == NO_POLICY || answering.1 == value.egress_identity);
    let ingress_holds =
        answering.0 == value.ingress_policy && (answering.0 == NO_POLICY || began.1 == value.ingress_identity);
    if egress_holds && ingress_holds {
        return 0;
    }
    let port = transport::asked_port(question, answer);
    let denied = egress(question, port, began.0, answering.1);
    if denied != 0 {
        return denied;
    }
    let denied = ingress(question, port, answering.0, began.1);
    if denied != 0 {
        return denied;
    }
    CHANGED
}

/// Writes the flow that was put together to where answered flows are, or to where it is.
#[inline(always)]
fn settle(question: &mut Question, answered: bool) -> u32 {
    if cfg!(feature = "trace") {
        return 0;
    }
    question.flow.seen = question.now;
    if question.flow.flags & FLAG_ANSWERED == 0 {
        return lost(NEW_FLOWS.insert(&question.key, &question.flow, 0).is_err());
    }
    if FLOWS.insert(&question.key, &question.flow, 0).is_err() {
        return LOST;
    }
    if !answered {
        let _: Result<(), _> = NEW_FLOWS.remove(&question.key);
    }
    0
}

#[inline(always)]
fn lost(failed: bool) -> u32 {
    if failed { LOST } else { 0 }
}

/// The first packet of a flow, or of one that takes the row of an old one.
#[inline(always)]
fn begin(question: &mut Question, answered: bool) -> u32 {
    let denied = alone(question);
    if denied != 0 || cfg!(feature = "trace") || !is_beginning(question) {
        return denied;
    }
    if answered {
        let _: Result<(), _> = FLOWS.remove(&question.key);
    }
    question.flow.flags =
        (if question.from_high != 0 { FLAG_BEGAN_HIGH } else { 0 }) | closing(question, false);
    question.flow.began = (question.now / SECOND) as u32;
    question.flow.seen = question.now;
    question.flow.began_bytes = sent(question);
    question.flow.answer_bytes = 0;
    lost(NEW_FLOWS.insert(&question.key, &question.flow, 0).is_err())
}

/// Linux's first port of those that it gives to who begins (`net.ipv4.ip_local_port_range`).
const CHOSEN: u16 = 32768;

/// Whether the sender of an admitted packet without a flow may be taken for the side that began. In the middle of a TCP connection
/// that is known only from the ports, or does not matter, as the other side might begin as well. Else nothing is noted: what the
/// one side may send would become a permission for the other to answer.
#[inline(never)]
fn is_beginning(question: &Question) -> bool {
    let (src, dst) = (u16::from_be_bytes(question.src_port), u16::from_be_bytes(question.dst_port));
    if question.protocol != TCP || transport::begins(question) || src >= CHOSEN && dst < CHOSEN {
        return true;
    }
    let port = transport::asked_port(question, true);
    let admits = |policy, direction, other| {
        policy == NO_POLICY || policy::policy_ask(policy, direction, other, port) & verdict::KIND == verdict::ALLOW
    };
    admits(question.dst_policy, EGRESS, question.src_identity)
        && admits(question.src_policy, INGRESS, question.dst_identity)
}

/// Notes a packet of a flow that goes on. The time only once a second, and the bytes with one instruction: the row's memory is
/// shared by all CPUs.
#[inline(always)]
fn touch(question: &Question, row: *mut FlowValue, answer: bool) {
    if cfg!(feature = "trace") {
        return;
    }
    let closing = closing(question, answer);
    // SAFETY: a row of the map, see the module; no field of these admits anything.
    unsafe {
        let bytes = if answer { &raw mut (*row).answer_bytes } else { &raw mut (*row).began_bytes };
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(bytes, sent(question));
        if question.now.saturating_sub((*row).seen) > SECOND {
            (*row).seen = question.now;
        }
        if closing & !(*row).flags != 0 {
            (*row).flags |= closing;
            (*row).seen = question.now;
        }
    }
}
