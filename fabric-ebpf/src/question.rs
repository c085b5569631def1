//! `question`: what policies are asked about the packet in hand. In a map, since the stack has no room for it; per CPU, since a
//! packet's walk is never interrupted by another one of the same CPU.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use fabric_common::{
    abi,
    addr::Addr,
    flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
    reason::DropReason,
};

#[btf_map(name = "question")]
static QUESTION: PerCpuArray<[u64; 35], { abi::QUESTION.entries as usize }> = PerCpuArray::new();

/// See the module.
#[repr(C)]
pub struct Question {
    /// Time since boot, nanoseconds.
    pub now: u64,
    /// Source of the packet.
    pub src: Addr,
    /// Destination of the packet.
    pub dst: Addr,
    /// The network of the flow, see [`FlowKey`].
    pub vni: u32,
    /// Offset of the packet's Ethernet header in the frame.
    pub offset: u32,
    /// Who sends it.
    pub src_identity: u32,
    /// The sender's policy, if it lives here.
    pub src_policy: u32,
    /// Who gets it; [`BY_ADDRESS`] until it was found out.
    pub dst_identity: u32,
    /// The receiver's policy, if it lives here.
    pub dst_policy: u32,
    /// The packet's flow.
    pub key: FlowKey,
    /// 1 if the high side of the flow sent the packet.
    pub from_high: u32,
    /// IP protocol.
    pub protocol: u8,
    /// What kind of packet, see [`crate::transport`].
    pub kind: u8,
    /// Source port, network byte order.
    pub src_port: [u8; 2],
    /// Destination port, network byte order.
    pub dst_port: [u8; 2],
    /// ICMP type and code; TCP's flags and 0.
    pub detail: [u8; 2],
    /// Number of the rule that denied the packet.
    pub rule: u32,
    /// 1 for the first of several fragments.
    pub first: u32,
    /// The packet, if it is one of several fragments.
    pub fragment: FragmentKey,
    /// Where the packet's message begins in the frame.
    pub at: u32,
    /// Room for what is remembered of the first fragment.
    pub remembered: FragmentValue,
    /// Room for a flow that is written.
    pub flow: FlowValue,
    /// The hook where it is asked ([`fabric_common::reason::Hook`]).
    pub hook: u32,
    /// The packet's length from its Ethernet header, bytes.
    pub bytes: u32,
    /// Packets on the wire that it stands for.
    pub packets: u32,
    /// 1 if another hook is asked about the packet once more when it is admitted here, and counts it.
    pub again: u32,
    /// Not 0 if the sender of the packet, which was denied, is told.
    pub reject: u32,
    /// A verdict about the packet that is to be reported once it is admitted; 0 if none is.
    pub noted: u32,
}

/// The identity is that of whoever has the address.
pub const BY_ADDRESS: u32 = u32::MAX;

/// This CPU's question.
#[inline(always)]
pub fn get() -> Result<&'static mut Question, DropReason> {
    let room = QUESTION.get_ptr_mut(0).ok_or(DropReason::PolicyUnknown)?;
    // SAFETY: the room has the size and the alignment of a question, every bit pattern of which is valid, and is this CPU's
    // own.
    Ok(unsafe { &mut *room.cast::<Question>() })
}

const _: () = assert!(size_of::<Question>() == size_of::<[u64; 35]>());
