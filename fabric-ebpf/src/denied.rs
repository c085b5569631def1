//! `denied`: sources that are dropped at an uplink before anything else looks at the packet.

use aya_ebpf::{
    btf_maps::{LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use fabric_common::{
    abi,
    addr::Addr,
    denied::{DeniedValue, EXEMPT},
    reason::DropReason,
    settings::FLAG_DENIED,
};

use crate::{
    inner::{ETH_LEN, IPV4, IPV6},
    outcome::Trace,
    packet::Frame,
    policy, question, settings,
};

#[btf_map(name = "denied")]
static DENIED: LpmTrie<Addr, DeniedValue, { abi::DENIED.entries as usize }> = LpmTrie::new();

/// Offset of the source in an IPv4 and an IPv6 header.
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;

/// Refuses a frame whose source is denied. Costs a look at `settings` where nothing is.
#[inline(always)]
pub fn check(frame: &impl Frame, trace: &Trace, ether_type: u16) -> Result<(), DropReason> {
    if !settings::has(FLAG_DENIED) || (ether_type != IPV4 && ether_type != IPV6) {
        return Ok(());
    }
    let rule = look(frame, u32::from(ether_type == IPV6));
    if rule == EXEMPT {
        return Ok(());
    }
    if let Ok(question) = question::get() {
        question.rule = rule;
    }
    policy::count(rule, trace.segments, trace.length);
    Err(DropReason::DeniedPrefix)
}

/// The rule that denies the frame's source, or [`EXEMPT`]. Out of line, so that its key is not on the stack of what comes next.
#[inline(never)]
fn look<F: Frame>(frame: &F, v6: u32) -> u32 {
    let at = ETH_LEN as u32;
    let source = if v6 != 0 {
        let Some(source) = frame.load::<16>(at + SOURCE_V6) else { return EXEMPT };
        Addr::v6(source)
    } else {
        let Some(source) = frame.load::<4>(at + SOURCE_V4) else { return EXEMPT };
        Addr::v4(source)
    };
    // The map holds IPv4 addresses in mapped form; in an IPv6 header that is nobody's.
    if v6 != 0 && source.is_v4() {
        return EXEMPT;
    }
    DENIED.get(&Key::new(Addr::BITS, source)).map_or(EXEMPT, |value| value.rule)
}
