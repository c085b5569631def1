//! Frames of a capture file, pcap or pcapng, for `fabric trace --pcap`.

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    path::Path,
};

use anyhow::{Context, bail};
use pcap_file::{
    DataLink,
    pcap::PcapReader,
    pcapng::{
        Block, PcapNgReader,
        blocks::{enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption},
    },
};

/// The first four bytes of every pcapng file.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// A captured frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its number in the file, from 1, as Wireshark and tcpdump count.
    pub(crate) number: usize,
    /// The interface's name, where the file has it.
    pub(crate) interface: Option<String>,
    /// Whether it left through the interface, where the file says so.
    pub(crate) outgoing: Option<bool>,
    /// From the Ethernet header on.
    pub(crate) data: Vec<u8>,
    /// Whether the capture has cut it.
    pub(crate) cut: bool,
}

/// Every frame of a file.
///
/// # Errors
/// If it can't be read, is no capture, or was not captured on Ethernet.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Frame>> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("can't read {name}"))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).with_context(|| format!("{name} is no capture file"))?;
    file.rewind()?;
    let file = BufReader::new(file);
    let frames = if magic == PCAPNG { pcapng(file) } else { pcap(file) };
    frames.with_context(|| format!("{name} can't be read as a capture file of Ethernet frames"))
}

fn pcap(file: impl Read) -> anyhow::Result<Vec<Frame>> {
    let mut reader = PcapReader::new(file)?;
    ethernet(reader.header().datalink)?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet?;
        frames.push(Frame {
            number: frames.len() + 1,
            interface: None,
            outgoing: None,
            cut: packet.data().len() < packet.orig_len() as usize,
            data: packet.data().to_vec(),
        });
    }
    Ok(frames)
}

fn pcapng(file: impl Read) -> anyhow::Result<Vec<Frame>> {
    let mut reader = PcapNgReader::new(file)?;
    let mut frames: Vec<Frame> = Vec::new();
    while let Some(block) = reader.next_block() {
        let (block, state) = block?;
        let Block::EnhancedPacket(packet) = block else { continue };
        let interface = state.interfaces().get(packet.interface_id as usize);
        let interface = interface.context("a packet of an interface that is not described")?;
        ethernet(interface.linktype)?;
        let mut outgoing = None;
        for option in &packet.options {
            if let EnhancedPacketOption::Flags(flags) = option {
                outgoing = [None, Some(false), Some(true), None][(flags & 3) as usize];
            }
        }
        let name = interface.options.iter().find_map(|option| {
            if let InterfaceDescriptionOption::IfName(name) = option { Some(name.to_string()) } else { None }
        });
        frames.push(Frame {
            number: frames.len() + 1,
            interface: name,
            outgoing,
            cut: packet.data.len() < packet.original_len as usize,
            data: packet.data.to_vec(),
        });
    }
    Ok(frames)
}

fn ethernet(link: DataLink) -> anyhow::Result<()> {
    if link != DataLink::ETHERNET {
        bail!("its link type is {link:?}: capture on an Ethernet interface");
    }
    Ok(())
}

/// Those that the sender sent, or (without one) that came to an uplink: what the file marks as the other direction is left
/// out, and what it has of other interfaces if one is named like the sender.
pub(crate) fn walked(frames: Vec<Frame>, from: Option<&str>) -> Vec<Frame> {
    let named = from.is_some_and(|from| frames.iter().any(|frame| frame.interface.as_deref() == Some(from)));
    let wanted = |frame: &Frame| {
        frame.outgoing.is_none_or(|outgoing| outgoing == from.is_some())
            && (!named || frame.interface.as_deref() == from)
    };
    frames.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::{Frame, read, walked};

    fn frame(number: usize, interface: &str, outgoing: Option<bool>) -> Frame {
        Frame { number, interface: Some(interface.to_owned()), outgoing, data: vec![0; 14], cut: false }
    }

    #[test]
    fn directions_and_interfaces_choose() {
        let frames = || {
            vec![
                frame(1, "web", Some(true)),
                frame(2, "web", Some(false)),
                frame(3, "eth0", Some(true)),
                frame(4, "eth0", Some(false)),
                frame(5, "web", None),
            ]
        };
        let numbers = |from| walked(frames(), from).iter().map(|frame| frame.number).collect::<Vec<_>>();
        assert_eq!(numbers(Some("web")), [1, 5]);
        assert_eq!(numbers(Some("other")), [1, 3, 5]);
        assert_eq!(numbers(None), [2, 4, 5]);
    }

    #[test]
    fn what_is_no_capture_is_refused_in_a_sentence() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x");
        for bytes in [&b""[..], b"no capture file at all, but long", &[0x0a, 0x0d, 0x0d, 0x0a, 1, 2, 3]] {
            std::fs::write(&path, bytes).expect("it can be written");
            assert!(read(&path).is_err(), "{bytes:?}");
        }
        // A pcap file (microseconds, little endian, Ethernet) with one packet that was cut.
        let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1, 1, 2, 3, 60];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend([7, 8, 9]);
        std::fs::write(&path, &bytes).expect("it can be written");
        let frames = read(&path).expect("a capture");
        let expected = Frame { number: 1, interface: None, outgoing: None, data: vec![7, 8, 9], cut: true };
        assert_eq!(frames, [expected]);
    }
}
