//! ICMP errors about a flow that is admitted (RFC 792, RFC 4443): they pass with it, whatever rules say of ICMP.

use fabric_common::{
    addr::Addr,
    flow::{FLAG_BEGAN_HIGH, lifetime},
    policy::{IDENTITY_NODE, NO_POLICY},
};

use crate::{
    conntrack,
    extension::{self, Upper},
    inner::{ICMP, ICMPV6},
    packet::{Frame, same_addr},
    question::Question,
};

/// ICMP's header before the quoted packet, bytes.
const HEAD: u32 = 8;

/// Whether the ICMP error in question quotes a packet that its receiver sent in a flow that is still admitted, and comes from
/// the other side of that flow, or from a node or gateway on the way: 1, else 0. The question is left as it was but for its
/// source, destination and flow.
#[inline(never)]
pub fn is_related<F: Frame>(frame: &F, question: &mut Question) -> u32 {
    let (src, dst) = (question.src, question.dst);
    let (protocol, detail) = (question.protocol, question.detail);
    let from_node = question.src_identity & IDENTITY_NODE != 0;
    let found = quote(frame, question) != 0
        && same_addr(&question.src, &dst)
        && (from_node || same_addr(&question.dst, &src))
        && is_admitted(question);
    question.protocol = protocol;
    question.detail = detail;
    question.src_port = [0; 2];
    question.dst_port = [0; 2];
    u32::from(found)
}

/// Puts the packet that the ICMP error in question quotes into the question. Returns the offset of its transport header, or 0 if
/// its ports are not there.
#[inline(never)]
pub fn quote<F: Frame>(frame: &F, question: &mut Question) -> u32 {
    let ip = question.at + HEAD;
    let at = if question.protocol == ICMP {
        let Some(h) = frame.load::<20>(ip) else { return 0 };
        // A later fragment has no ports.
        if h[0] >> 4 != 4 || h[0] & 0xf < 5 || u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
            return 0;
        }
        question.src = Addr::v4([h[12], h[13], h[14], h[15]]);
        question.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
        question.protocol = h[9];
        ip + u32::from(h[0] & 0xf) * 4
    } else {
        let Some([next]) = frame.load::<1>(ip + 6) else { return 0 };
        if !frame.load_to(ip + 8, &mut question.src.bytes) || !frame.load_to(ip + 24, &mut question.dst.bytes) {
            return 0;
        }
        let Upper::Header { protocol, at } = extension::upper(frame, ip + 40, next) else { return 0 };
        question.protocol = protocol;
        at
    };
    if ports(frame, question, at) { at } else { 0 }
}

/// Ports of the quoted packet, of which eight bytes are there.
#[inline(always)]
fn ports<F: Frame>(frame: &F, question: &mut Question, at: u32) -> bool {
    let Some([a, b, c, d, e, f, _, _]) = frame.load::<8>(at) else { return false };
    (question.src_port, question.dst_port) = match question.protocol {
        6 | 17 | 132 => ([a, b], [c, d]),
        ICMP | ICMPV6 => match (question.protocol, a) {
            (ICMP, 8) | (ICMPV6, 128) => ([e, f], [0; 2]),
            (ICMP, 0) | (ICMPV6, 129) => ([0; 2], [e, f]),
            _ => return false,
        },
        _ => ([0; 2], [0; 2]),
    };
    true
}

/// Whether the flow of the packet that is now in question is there, and was admitted by the policies of today.
#[inline(always)]
fn is_admitted(question: &mut Question) -> bool {
    conntrack::name(question);
    let (Some(row), _) = conntrack::find(&question.key) else { return false };
    // SAFETY: a row of the map; what it may hold is said in `conntrack`.
    let (flags, seen, egress, ingress) =
        unsafe { ((*row).flags, (*row).seen, (*row).egress_policy, (*row).ingress_policy) };
    if question.now.saturating_sub(seen) > lifetime(question.protocol, flags) {
        return false;
    }
    // Who sent the quoted packet receives the error.
    let began = (flags & FLAG_BEGAN_HIGH != 0) == (question.from_high != 0);
    let (receiver, sender) = if began { (egress, ingress) } else { (ingress, egress) };
    let today = (question.dst_policy == NO_POLICY || question.dst_policy == receiver)
        && (question.src_policy == NO_POLICY || question.src_policy == sender);
    today || conntrack::is_kept(question.vni, flags)
}
