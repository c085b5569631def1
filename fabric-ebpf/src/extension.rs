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

/// Looks for the upper-layer header from `at` on, where a header of type `next` begins.
#[inline(always)]
pub fn upper(frame: &impl Frame, mut at: u32, mut next: u8) -> Upper {
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
