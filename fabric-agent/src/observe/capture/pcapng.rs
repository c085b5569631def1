//! A capture's bytes (draft-ietf-opsawg-pcapng), whole blocks at a time.

use std::{borrow::Cow, time::Duration};

use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgBlock, PcapNgWriteError, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{
                InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
            },
            interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption},
            opt_common::CommonOption,
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

use super::merge::Packet;

/// Time stamps are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Directions of a packet (`epb_flags`).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Puts blocks together.
pub(super) struct Writer {
    writer: PcapNgWriter<Vec<u8>>,
    snaplen: u32,
    channels: u32,
}

impl Writer {
    /// Begins a section.
    pub(super) fn new(snaplen: u32) -> Result<Self, PcapNgWriteError> {
        let application = format!("fabric {}", env!("CARGO_PKG_VERSION"));
        let options = vec![SectionHeaderOption::UserApplication(application.into())];
        let section = SectionHeaderBlock { options, ..SectionHeaderBlock::default() };
        Ok(Self { writer: PcapNgWriter::with_section_header(Vec::new(), section)?, snaplen, channels: 0 })
    }

    /// Declares an interface; returns its number. All have one snap length, since libpcap reads no other files.
    pub(super) fn channel(&mut self, name: &str, about: &str) -> Result<u32, PcapNgWriteError> {
        let mut options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
            InterfaceDescriptionOption::IfDescription(Cow::Borrowed(about)),
        ];
        if let Ok(resolution) = InterfaceTsResolution::new(false, NANOSECONDS) {
            options.push(InterfaceDescriptionOption::IfTsResol(resolution));
        }
        let block =
            InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: self.snaplen, options };
        self.writer.write_block(&block.into_block())?;
        self.channels += 1;
        Ok(self.channels - 1)
    }

    /// Writes a packet.
    pub(super) fn packet(&mut self, packet: &Packet) -> Result<(), PcapNgWriteError> {
        let mut options = Vec::new();
        if let Some(outgoing) = packet.outgoing {
            options.push(EnhancedPacketOption::Flags(if outgoing { OUTBOUND } else { INBOUND }));
        }
        if let Some(comment) = &packet.comment {
            options.push(EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(comment))));
        }
        let kept = packet.data.len().min(self.snaplen as usize);
        let block = EnhancedPacketBlock {
            interface_id: packet.channel,
            timestamp: packet.time,
            original_len: packet.length.max(kept) as u32,
            data: Cow::Borrowed(&packet.data[..kept]),
            options,
        };
        self.writer.write_block(&block.into_block()).map(drop)
    }

    /// Writes how many packets an interface has seen so far, and how many of them are missing here.
    pub(super) fn statistics(
        &mut self,
        channel: u32,
        now: Duration,
        received: u64,
        lost: u64,
    ) -> Result<(), PcapNgWriteError> {
        let options = vec![
            InterfaceStatisticsOption::IsbIfRecv(received + lost),
            InterfaceStatisticsOption::IsbOsDrop(lost),
        ];
        let block = InterfaceStatisticsBlock { interface_id: channel, timestamp: now, options };
        self.writer.write_block(&block.into_block()).map(drop)
    }

    /// What was written since the last time.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }
}
