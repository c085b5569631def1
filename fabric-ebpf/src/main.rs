//! Fabric's programs. Each entry point is a walk and its end; `walk/` says what happens on the way, `outcome` counts and
//! reports. The same object serves every endpoint and uplink: what differs is in the maps.
//!
//! Rows of hash maps are read where they lie, while the agent may replace or remove them. A reader can see old fields beside
//! new ones, and the kernel may give a removed row's memory to another row at once, so that for the one packet that is just
//! under way a row can be another's. It never decides alone: a port's MAC, a source record's node and a receiver's MAC each
//! come from a row of their own, and the far side checks what leaves.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// BPF adds to memory in one step, but has no compare-and-swap in every version, so that Rust offers no atomic types there.
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    allow(internal_features, reason = "`atomic_xadd` is what `AtomicU64::fetch_add` is made of")
)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unreachable_pub, reason = "in a binary, `pub` says what a file offers to the others")
)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        macros::{classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use fabric_common::reason::{DropReason, Hook};

    use crate::{
        foreign,
        icmp_error::{self, Error},
        outcome::{Trace, finish_tc, finish_xdp},
        reject, route, too_big, walk,
    };

    /// TC ingress of every port.
    #[classifier]
    pub fn from_container(ctx: TcContext) -> i32 {
        let mut trace = Trace::new(Hook::FromContainer, &ctx);
        let outcome = walk::from_container::walk(&ctx, &mut trace);
        let code = finish_tc(&ctx, &trace, outcome);
        // Behind the event, which reads the packet that the answer is written over.
        match outcome {
            Err(DropReason::TooBig) => too_big::answer(&ctx),
            Err(DropReason::TtlExceeded) => icmp_error::answer(&ctx, Error::TTL_EXCEEDED),
            Err(DropReason::NoRoute) => route::unreachable(&ctx),
            Err(DropReason::PolicyDenied) => reject::answer(&ctx),
            _ => code,
        }
    }

    /// TC ingress of every uplink.
    #[classifier]
    pub fn from_uplink(ctx: TcContext) -> i32 {
        let mut trace = Trace::new(Hook::FromUplink, &ctx);
        let outcome = walk::from_uplink::walk(&ctx, &mut trace);
        finish_tc(&ctx, &trace, outcome)
    }

    /// TC ingress of the agent's `vxlan` device.
    #[classifier]
    pub fn from_vxlan(ctx: TcContext) -> i32 {
        let mut trace = Trace::new(Hook::FromVxlan, &ctx);
        let outcome = walk::from_vxlan::walk(&ctx, &mut trace);
        let code = finish_tc(&ctx, &trace, outcome);
        match outcome {
            Err(reason @ (DropReason::TooBig | DropReason::TtlExceeded | DropReason::NoRoute)) => {
                foreign::tell(&ctx, trace.vni, reason as u32)
            }
            Err(DropReason::PolicyDenied) => reject::answer(&ctx),
            _ => code,
        }
    }

    /// TC ingress of the far side of the agent's veth for fragments.
    #[classifier]
    pub fn from_frag(ctx: TcContext) -> i32 {
        let mut trace = Trace::new(Hook::FromFrag, &ctx);
        let outcome = walk::from_frag::walk(&ctx, &mut trace);
        finish_tc(&ctx, &trace, outcome)
    }

    /// XDP of an uplink.
    #[xdp(frags)]
    pub fn from_uplink_xdp(ctx: XdpContext) -> u32 {
        let mut trace = Trace::new(Hook::FromUplinkXdp, &ctx);
        let outcome = walk::from_uplink_xdp::walk(&ctx, &mut trace);
        finish_xdp(&ctx, &trace, outcome)
    }
}

macro_rules! bpf_only {
    ($($name:ident)+) => { $( #[cfg(target_arch = "bpf")] mod $name; )+ };
}
bpf_only! {
    advertisement arp capture conntrack counters decap denied echo encap endpoint event extension fdb flood foreign
    fragment group host icmp_error igmp inner membership mld names nat nd network node outcome packet policy port
    question reject related relay rewrite route settings source stage too_big transport tunnel untracked uplink walk
    world
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
