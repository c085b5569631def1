//! What a driver can do with XDP, by the `netdev` family of generic netlink (Linux 6.3).

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols};

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: the driver itself runs programs and knows pass, drop, abort and transmit.
const XDP_BASIC: u64 = 1;

const NLMSG_ERROR: u16 = 2;
/// `struct nlmsghdr`, and that with `struct genlmsghdr`.
const NL_HEADER: usize = 16;
const GENL_HEADER: usize = NL_HEADER + 4;

/// Whether the driver of an interface runs XDP programs natively; absent where this kernel can't tell.
pub(super) fn native_xdp(ifindex: u32) -> io::Result<Option<bool>> {
    let family = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = match family {
        Ok(answer) => attribute(&answer, CTRL_ATTR_FAMILY_ID).and_then(|bytes| bytes.try_into().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let Some(family) = family.map(u16::from_ne_bytes) else { return Ok(None) };
    let answer = ask(family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes())?;
    let features = attribute(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|bytes| bytes.try_into().ok());
    Ok(features.map(|bytes| u64::from_ne_bytes(bytes) & XDP_BASIC != 0))
}

/// One request with one attribute, and the whole answer.
fn ask(family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(protocols::NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message(family, command, kind, value), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    refusal(&answer).map_or(Ok(answer), Err)
}

fn message(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let attribute = (4 + value.len()) as u16;
    let total = GENL_HEADER + usize::from(attribute).next_multiple_of(4);
    let mut bytes = Vec::with_capacity(total);
    bytes.extend((total as u32).to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend(1u16.to_ne_bytes()); // NLM_F_REQUEST
    bytes.extend(1u32.to_ne_bytes()); // sequence
    bytes.extend(0u32.to_ne_bytes()); // port
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(total, 0);
    bytes
}

/// The error that an answer consists of, if it does.
fn refusal(answer: &[u8]) -> Option<io::Error> {
    let kind = answer.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    let code = answer.get(NL_HEADER..NL_HEADER + 4)?.try_into().ok().map(i32::from_ne_bytes)?;
    (kind == NLMSG_ERROR && code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// The value of an attribute of a generic netlink message.
fn attribute(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = answer.get(GENL_HEADER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        // The two highest bits of the type are flags.
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::{attribute, message, refusal};

    #[test]
    fn an_attribute_is_found_behind_others_and_cut_ones_are_not() {
        let mut bytes = message(0x20, 1, 7, &[1, 2, 3]);
        bytes.extend(message(0, 0, 3, &9u64.to_ne_bytes())[20..].iter());
        assert_eq!(attribute(&bytes, 7), Some(&[1, 2, 3][..]));
        assert_eq!(attribute(&bytes, 3), Some(&9u64.to_ne_bytes()[..]));
        assert_eq!(attribute(&bytes, 4), None);
        assert_eq!(attribute(&bytes[..bytes.len() - 1], 3), None);
        assert_eq!(attribute(&[], 3), None);
    }

    #[test]
    fn an_error_is_told_from_an_answer() {
        let mut error = message(2, 0, 0, &[]);
        error[16..20].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(refusal(&error).and_then(|e| e.raw_os_error()), Some(2));
        assert!(refusal(&message(0x10, 3, 1, &[])).is_none());
    }
}
