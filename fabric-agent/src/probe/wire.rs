//! What probes and their answers look like. Numbers are in network byte order; a probe is filled up with zeros.

/// What every message begins with: a name and a version.
const MAGIC: [u8; 8] = *b"FabricP1";
const PROBE: u8 = 1;
const ANSWER: u8 = 2;
/// Bytes of an answer, and the least of a probe.
pub(super) const LEN: usize = 32;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// An answer, or a probe.
    pub(super) answer: bool,
    /// Bytes of the probe's IP packet.
    pub(super) size: u32,
    /// MTU of the sender's uplink, bytes.
    pub(super) uplink: u32,
    /// Drawn for one probe and repeated in its answer: who did not see the probe can't answer it.
    pub(super) nonce: u64,
}

impl Message {
    /// Its first bytes.
    pub(super) fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = if self.answer { ANSWER } else { PROBE };
        bytes[12..16].copy_from_slice(&self.size.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.uplink.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// Reads a datagram; `None` if it is no message of ours.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let (uplink, rest) = rest.split_first_chunk::<8>()?;
        let nonce = rest.first_chunk::<8>()?;
        let answer = match kind[0] {
            PROBE => false,
            ANSWER => true,
            _ => return None,
        };
        let uplink = u32::from_be_bytes([uplink[0], uplink[1], uplink[2], uplink[3]]);
        let message =
            Self { answer, size: u32::from_be_bytes(*size), uplink, nonce: u64::from_be_bytes(*nonce) };
        (*magic == MAGIC).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::{LEN, Message};

    #[test]
    fn messages_come_back_and_others_do_not() {
        for answer in [false, true] {
            let message = Message { answer, size: 1500, uplink: 9000, nonce: 0x0102_0304_0506_0708 };
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Some(message));
            assert_eq!(Message::decode(&[&bytes[..], &[0; 900]].concat()), Some(message), "filled up");
            assert_eq!(Message::decode(&bytes[..LEN - 1]), None, "cut off");
            for at in [0, 7, 8] {
                let mut other = bytes;
                other[at] ^= 0x40;
                assert_eq!(Message::decode(&other), None, "byte {at}");
            }
        }
    }
}
