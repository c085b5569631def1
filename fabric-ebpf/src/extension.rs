//! IPv6 extension headers (RFC 8200 section 4).

use crate::packet::Frame;

/// How many of them are looked through.
const MOST: u32 = 6;

/// What is behind the extension headers.
pub enum Upper {
    /// The upper-layer header of this protocol, at this offset in the frame. It may be cut off.
    Header {
        /// Its number.
        protocol: u8,
        /// Offset, bytes.
        at: u32,
    },
    /// A part of a packet whose upper-layer header is in another fragment.
    LaterFragment,
    /// An extension header that is cut off, or too many of them.
    Unknown,
}

/// Whether a header of type `next` is an extension header that is looked through.
#[inline(always)]
pub fn is_one(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 51 | 60)
}

/// Looks for the upper-layer header from `at` on, where a header of type `next` begins.
#[inline(always)]
pub fn upper(frame: &impl Frame, at: u32, next: u8) -> Upper {
    walk(frame, at, next, &mut 0)
}

/// The same. Where a fragment header is passed, or found to be that of a later fragment, its offset is in `cut`.
#[inline(always)]
pub fn walk(frame: &impl Frame, mut at: u32, mut next: u8, cut: &mut u32) -> Upper {
    for _ in 0..MOST {
        match next {
            // Hop-by-hop, routing and destination options.
            0 | 43 | 60 => {
                let Some([following, len]) = frame.load::<2>(at) else { return Upper::Unknown };
                next = following;
                at += (u32::from(len) + 1) * 8;
            }
            // Authentication header (RFC 4302): length in 4-byte words minus 2.
            51 => {
                let Some([following, len]) = frame.load::<2>(at) else { return Upper::Unknown };
                next = following;
                at += (u32::from(len) + 2) * 4;
            }
            44 => {
                let Some([following, _, high, low]) = frame.load::<4>(at) else { return Upper::Unknown };
                *cut = at;
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Upper::LaterFragment;
                }
                next = following;
                at += 8;
            }
            protocol => return Upper::Header { protocol, at },
        }
    }
    Upper::Unknown
}
