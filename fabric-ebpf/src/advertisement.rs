//! `advertisements`: what a router solicitation is answered with. The agent has put the frame together; it is sent to all nodes
//! (RFC 4861 section 6.2.6), of which there is one behind the port.

use aya_ebpf::{
    btf_maps::HashMap,
    helpers::{bpf_skb_change_tail, bpf_skb_store_bytes},
    macros::btf_map,
    programs::TcContext,
};
use fabric_common::{
    abi,
    advertisement::{AdvertisementValue, ROOM},
    reason::{Action, DropReason},
};

use crate::{
    arp::back,
    outcome::{Outcome, Verdict},
    packet::{bounded, skb},
};

#[btf_map(name = "advertisements")]
static MAP: HashMap<u32, AdvertisementValue, { abi::ADVERTISEMENTS.entries as usize }> = HashMap::new();

/// Writes the network's advertisement over a solicitation that was checked, if the network has one.
#[inline(always)]
pub fn answer(ctx: &TcContext, vni: u32) -> Outcome {
    // SAFETY: the memory of a row stays memory of this map while a program runs (`main.rs` says what it may hold). A frame that is
    // replaced meanwhile has a wrong checksum at worst.
    let Some(row) = (unsafe { MAP.get(vni) }) else {
        return Ok(Verdict::consume(Action::Absorbed));
    };
    let len = bounded(row.len, ROOM as u32);
    // SAFETY: plain helper calls; the row has room for the frame, and no packet pointer lives across them.
    let failed = unsafe {
        bpf_skb_change_tail(skb(ctx), len, 0) != 0
            || bpf_skb_store_bytes(skb(ctx).cast(), 0, row.frame.as_ptr().cast(), len, 0) != 0
    };
    if failed { Err(DropReason::Malformed) } else { back(ctx) }
}
