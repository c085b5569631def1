//! Access to packet bytes, over TC and XDP contexts alike. The only file that turns packet pointers into references.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use fabric_common::{
    addr::{Addr, Mac},
    reason::DropReason,
};
use fabric_ebpf::checksum;

use crate::{conntrack, walk};

/// A packet that a stage can read: linear bytes from `start` to `end`, of `len` in all.
pub trait Frame {
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address behind the last byte that can be read directly.
    fn end(&self) -> usize;
    /// Length of the whole frame, Ethernet header included, bytes.
    fn len(&self) -> u32;
    /// Interface where the packet is.
    fn ifindex(&self) -> u32;
    /// Packets on the wire that this one stands for.
    fn segments(&self) -> u32;
    /// Payload bytes of each segment of a GSO packet; 0 if it is none.
    fn gso_size(&self) -> u32;
    /// Outer source of a packet that came out of the `vxlan` device; unspecified if there is none.
    fn tunnel_source(&self) -> Addr;
    /// Copies `N` bytes from a variable offset, below the linear part as well.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// The same to `to`. Returns whether they are there.
    fn load_to<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool;
    /// Copies the frame's first bytes, at most `room` (a constant), to `to`, which has room for that many. Returns how many.
    fn copy(&self, to: *mut core::ffi::c_void, room: u32) -> u32;
    /// The VLAN tag that the kernel keeps beside the frame, as TPID (upper half) and TCI, host byte order; 0 if there is none.
    fn vlan(&self) -> u32;
    /// Answers this CPU's question about the frame, see `conntrack::judge`.
    fn judged(&self) -> i64;
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        TcContext::len(self)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel gives a valid `__sk_buff` for the life of the program.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: as above. The kernel leaves 0 for a packet that is not GSO, and for GSO packets of untrusted origin.
        let segments = unsafe { (*self.skb.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb.skb).gso_size }
    }

    #[inline(always)]
    fn tunnel_source(&self) -> Addr {
        walk::from_vxlan::tunnel_key(self).map_or(Addr::UNSPECIFIED, |tunnel| tunnel.vtep)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        TcContext::load::<[u8; N]>(self, offset as usize).ok()
    }

    #[inline(always)]
    fn load_to<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: the helper writes exactly `N` bytes or fails.
        unsafe { bpf_skb_load_bytes(skb(self).cast(), offset, to.as_mut_ptr().cast(), N as u32) == 0 }
    }

    #[inline(always)]
    fn copy(&self, to: *mut core::ffi::c_void, room: u32) -> u32 {
        let len = bounded(Frame::len(self), room);
        // SAFETY: the helper writes exactly `len` bytes or fails.
        let failed = unsafe { bpf_skb_load_bytes(skb(self).cast(), 0, to, len) } != 0;
        if failed { 0 } else { len }
    }

    #[inline(always)]
    fn vlan(&self) -> u32 {
        // SAFETY: as above.
        unsafe {
            let skb = &*self.skb.skb;
            if skb.vlan_present == 0 {
                return 0;
            }
            u32::from((skb.vlan_proto as u16).to_be()) << 16 | skb.vlan_tci & 0xffff
        }
    }

    #[inline(always)]
    fn judged(&self) -> i64 {
        conntrack::judged_tc(self.skb.skb)
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // With fragments: a jumbo frame's linear part is shorter than the frame.
        // SAFETY: a plain helper call.
        unsafe { bpf_xdp_get_buff_len(self.as_ptr().cast()) as u32 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel gives a valid `xdp_md` for the life of the program.
        unsafe { (*self.as_ptr().cast::<xdp_md>()).ingress_ifindex }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn tunnel_source(&self) -> Addr {
        Addr::UNSPECIFIED
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes exactly `N` bytes or fails.
        let failed = unsafe {
            bpf_xdp_load_bytes(
                self.as_ptr().cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        if failed == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn load_to<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: the helper writes exactly `N` bytes or fails.
        unsafe { bpf_xdp_load_bytes(self.as_ptr().cast(), offset, to.as_mut_ptr().cast(), N as u32) == 0 }
    }

    #[inline(always)]
    fn copy(&self, to: *mut core::ffi::c_void, room: u32) -> u32 {
        let len = bounded(Frame::len(self), room);
        // SAFETY: the helper writes exactly `len` bytes or fails.
        let failed = unsafe { bpf_xdp_load_bytes(self.as_ptr().cast(), 0, to, len) } != 0;
        if failed { 0 } else { len }
    }

    #[inline(always)]
    fn vlan(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn judged(&self) -> i64 {
        conntrack::judged_xdp(self.as_ptr().cast())
    }
}

/// The smaller of `len` and `room`, a power of two, in a form whose bounds from 1 to `room` the verifier sees. 0 becomes
/// `room`.
#[inline(always)]
pub fn bounded(len: u32, room: u32) -> u32 {
    let len = if len > room { room } else { len };
    // A comparison is not enough: to verifiers before Linux 6.8 "not 0" is no lower bound, and the compiler may compare one
    // copy of a value and pass another. It must not know that this changes nothing.
    (core::hint::black_box(len.wrapping_sub(1)) & (room - 1)) + 1
}

/// A header of type `T` at `offset`, or `reason` if the frame is too short.
///
/// `T` must be valid for every bit pattern. Offsets are constants (after inlining), as the verifier wants them.
#[inline(always)]
pub fn header<T>(frame: &impl Frame, offset: usize, reason: DropReason) -> Result<&T, DropReason> {
    let start = frame.start() + offset;
    if start + size_of::<T>() > frame.end() {
        return Err(reason);
    }
    // SAFETY: the bytes are inside the packet, which lives as long as the program runs; header types are valid for
    // every bit pattern and made of bytes (`EthHdr` has one two-byte field at an even offset of an even address).
    Ok(unsafe { &*(start as *const T) })
}

/// Makes the first `wanted` bytes of an skb (or all, if it is shorter) linear.
///
/// `wanted` must not reach beyond the headers that the packet is known to have: a local TCP sender leaves exactly its
/// headers linear, and pulling a byte more copies the head of every such packet.
#[inline(always)]
pub fn linear(ctx: &TcContext, wanted: u32) {
    if ctx.data() + wanted as usize > ctx.data_end() && TcContext::len(ctx) as usize > ctx.data_end() - ctx.data() {
        let len = TcContext::len(ctx);
        // A failure leaves the packet as it was; the header accessors then find it too short.
        let _: Result<(), _> = ctx.pull_data(if len < wanted { len } else { wanted });
    }
}

/// The context of the helpers that aya-ebpf does not wrap.
#[inline(always)]
pub fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// Loads four bytes of the packet as one word. Rust's own way to read at any address compiles to single bytes here.
#[inline(always)]
pub fn word(bytes: &[u8]) -> u32 {
    // SAFETY: callers pass at least four bytes. The address may be odd: BPF loads words at any packet address on every
    // architecture that we support (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`), and nothing here depends on its low bits.
    unsafe { bytes.as_ptr().cast::<u32>().read() }
}

/// Loads two bytes of the packet as one.
#[inline(always)]
fn half(bytes: &[u8]) -> u16 {
    // SAFETY: as in `word`, with two bytes.
    unsafe { bytes.as_ptr().cast::<u16>().read() }
}

/// A MAC in the packet against one in a map value.
#[inline(always)]
pub fn same_mac(packet: &[u8; 6], map: &Mac) -> bool {
    let m = &map.bytes;
    word(packet) == u32::from_ne_bytes([m[0], m[1], m[2], m[3]]) && half(&packet[4..]) == u16::from_ne_bytes([m[4], m[5]])
}

/// A MAC out of the packet.
#[inline(always)]
pub fn mac(packet: &[u8; 6]) -> Mac {
    let [a, b, c, d] = word(packet).to_ne_bytes();
    let [e, f] = half(&packet[4..]).to_ne_bytes();
    Mac::new([a, b, c, d, e, f])
}

/// An IPv4 address out of the packet.
#[inline(always)]
pub fn v4(packet: &[u8; 4]) -> Addr {
    Addr::v4(word(packet).to_ne_bytes())
}

/// An IPv6 address out of the packet.
#[inline(always)]
pub fn v6(packet: &[u8; 16]) -> Addr {
    let words = [word(packet), word(&packet[4..]), word(&packet[8..]), word(&packet[12..])];
    // SAFETY: sixteen plain bytes either way.
    Addr::v6(unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) })
}

/// Compares addresses as integers.
#[inline(always)]
pub fn same_addr(a: &Addr, b: &Addr) -> bool {
    u128::from_ne_bytes(a.bytes) == u128::from_ne_bytes(b.bytes)
}

/// Adds the words of an address to a checksum.
#[inline(always)]
pub fn add_addr(mut sum: u32, addr: &Addr) -> u32 {
    let a = &addr.bytes;
    let mut i = 0;
    while i < 16 {
        sum = checksum::add(sum, u32::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3]]));
        i += 4;
    }
    sum
}
