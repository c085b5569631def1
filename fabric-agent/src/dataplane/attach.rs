//! Programs at interfaces: which are in force, and how one gets there and away again. How each hook does it is in
//! `tcx`, `clsact` and `xdp`.

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    str::FromStr,
};

use aya::Ebpf;
use fabric_common::abi::program;

use super::{
    bpffs::{self, Directory},
    clsact,
    error::DataplaneError,
    maps::ensure_parent,
    netdev,
    netlink::{self, Interface, XdpState},
    ownership::{link_pin, parse_link_pin},
    sys::{self, LinkHook, LinkSeat},
    tcx, xdp,
};
use crate::plan::desired::Attachment;

/// Whether uplinks get the XDP stage: `auto`, `tc` or `xdp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UplinkMode {
    /// Where the driver runs XDP natively and does not feed skbs.
    #[default]
    Auto,
    /// Nowhere.
    Tc,
    /// Everywhere, on skbs if the driver can't.
    Xdp,
}

impl FromStr for UplinkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tc" => Ok(Self::Tc),
            "xdp" => Ok(Self::Xdp),
            other => Err(format!("the uplink mode is auto, tc or xdp, not `{other}`")),
        }
    }
}

impl fmt::Display for UplinkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        })
    }
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcMode {
    /// TCX links from Linux 6.6 on, clsact filters before.
    #[default]
    Auto,
    /// clsact filters, whatever the kernel has. For tests.
    Clsact,
}

/// What [`super::Dataplane::attach`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing of ours was there.
    Created,
    /// An earlier program of ours was replaced in place.
    Replaced,
    /// It was in force already.
    Unchanged,
}

/// Whose program sits at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seated {
    /// This process's: it is in force.
    Current,
    /// An earlier agent's: it runs until it is replaced or taken off.
    Older,
}

impl Seated {
    pub(super) fn of(id: u32, current: Option<u32>) -> Self {
        if current == Some(id) { Self::Current } else { Self::Older }
    }
}

/// Links that this process holds open, so that a pin removed by hand takes no program off.
pub(super) struct Links {
    pub(super) held: BTreeMap<Attachment, OwnedFd>,
    /// Uplinks whose driver refused the XDP program, and how.
    pub(super) refused: BTreeMap<u32, String>,
    pub(super) uplink_mode: UplinkMode,
    tcx: bool,
}

/// Everything that attaching one program needs.
pub(super) struct Place<'a> {
    pub(super) attachment: &'a Attachment,
    /// Name of the interface.
    pub(super) interface: String,
    pub(super) pin: PathBuf,
    /// Kernel id of the program.
    pub(super) program: u32,
}

impl Place<'_> {
    pub(super) fn error(&self, why: impl fmt::Display) -> DataplaneError {
        DataplaneError::Attach {
            what: "attach",
            program: self.attachment.program,
            interface: self.interface.clone(),
            why: why.to_string(),
        }
    }
}

/// Whether a link sits where its pin's name says.
pub(super) fn seated(seat: &LinkSeat, attachment: &Attachment) -> bool {
    let hook =
        if attachment.program == program::FROM_UPLINK_XDP { LinkHook::Xdp } else { LinkHook::TcxIngress };
    seat.ifindex == attachment.ifindex && seat.hook == hook
}

pub(super) fn seat(fd: &OwnedFd) -> Result<LinkSeat, DataplaneError> {
    sys::link_seat(fd.as_fd()).map_err(DataplaneError::kernel("read where a link sits"))
}

pub(super) fn get_pin(path: &std::path::Path) -> Result<Option<OwnedFd>, DataplaneError> {
    sys::obj_get(path).map_err(DataplaneError::path("open", path))
}

pub(super) fn find_interface(ifindex: u32) -> Result<Option<Interface>, DataplaneError> {
    netlink::interface(ifindex).map_err(DataplaneError::kernel("look at an interface"))
}

impl Links {
    pub(super) fn open(directory: &Directory, uplink_mode: UplinkMode, tcx: bool) -> Self {
        let mut links = Self { held: BTreeMap::new(), refused: BTreeMap::new(), uplink_mode, tcx };
        // What can't be opened now is tried again, and reported, by the first repair.
        if let Err(error) = links.adopt(directory) {
            tracing::debug!("{error}");
        }
        links
    }

    /// Holds every pinned link that sits where its name says. Returns the names of the pins that do not.
    fn adopt(&mut self, directory: &Directory) -> Result<Vec<String>, DataplaneError> {
        let mut stray = Vec::new();
        for file in bpffs::files(&directory.links())? {
            let Some((ifindex, Some(program))) = parse_link_pin(&file) else { continue };
            let attachment = Attachment { ifindex, program };
            if self.held.contains_key(&attachment) {
                continue;
            }
            let Some(fd) = get_pin(&directory.links().join(&file))? else { continue };
            if seat(&fd).is_ok_and(|seat| seated(&seat, &attachment)) {
                self.held.insert(attachment, fd);
            } else {
                stray.push(file);
            }
        }
        Ok(stray)
    }

    /// Every place where a program of ours sits, this agent's or an earlier one's.
    pub(super) fn found(
        &self,
        programs: &BTreeMap<&'static str, u32>,
    ) -> Result<BTreeMap<Attachment, Seated>, DataplaneError> {
        let mut found = BTreeMap::new();
        for (attachment, fd) in &self.held {
            let seat = seat(fd)?;
            if seated(&seat, attachment) {
                let current = programs.get(attachment.program).copied();
                found.insert(*attachment, Seated::of(seat.program, current));
            }
        }
        if !self.tcx {
            found.extend(clsact::found(programs)?);
        }
        Ok(found)
    }

    pub(super) fn attach(
        &mut self,
        directory: &Directory,
        ebpf: &mut Ebpf,
        programs: &BTreeMap<&'static str, u32>,
        attachment: &Attachment,
    ) -> Result<Attached, DataplaneError> {
        let Attachment { ifindex, program } = *attachment;
        let interface = find_interface(ifindex)?.ok_or_else(|| DataplaneError::Attach {
            what: "attach",
            program,
            interface: ifindex.to_string(),
            why: "there is no such interface".to_owned(),
        })?;
        let pin = directory.links().join(link_pin(attachment));
        let id = programs.get(program).copied().unwrap_or(0);
        let place = Place { attachment, interface: interface.name, pin, program: id };
        if program == program::FROM_UPLINK_XDP {
            return xdp::attach(self, ebpf, &place);
        }
        if self.tcx {
            let done = tcx::attach(self, ebpf, &place)?;
            clsact::remove_ours(ifindex)?;
            return Ok(done);
        }
        let done = clsact::attach(ebpf, &place)?;
        self.release(directory, attachment)?;
        Ok(done)
    }

    /// The open link at a place, if there is one that still sits there; forgets and unpins one that does not.
    pub(super) fn current(&mut self, place: &Place<'_>) -> Result<Option<LinkSeat>, DataplaneError> {
        let Some(fd) = self.held.get(place.attachment) else {
            bpffs::unpin(&place.pin)?;
            return Ok(None);
        };
        let seat = seat(fd)?;
        if seated(&seat, place.attachment) {
            self.pin(place.attachment, &place.pin)?;
            return Ok(Some(seat));
        }
        self.held.remove(place.attachment);
        bpffs::unpin(&place.pin)?;
        Ok(None)
    }

    /// Takes over a link that was just pinned, if it sits where it should.
    pub(super) fn hold(&mut self, place: &Place<'_>) -> Result<LinkSeat, DataplaneError> {
        let fd = get_pin(&place.pin)?.ok_or_else(|| place.error("its pin vanished"))?;
        let seat = seat(&fd)?;
        if !seated(&seat, place.attachment) {
            bpffs::unpin(&place.pin)?;
            return Err(place.error("the interface changed meanwhile"));
        }
        self.held.insert(*place.attachment, fd);
        Ok(seat)
    }

    /// Makes sure that the link is pinned under its name. Says whether it had to be.
    fn pin(&self, attachment: &Attachment, path: &std::path::Path) -> Result<bool, DataplaneError> {
        let Some(fd) = self.held.get(attachment) else { return Ok(false) };
        let pinned = get_pin(path)?.map(|fd| seat(&fd)).transpose()?;
        if pinned.map(|seat| seat.id) == Some(seat(fd)?.id) {
            return Ok(false);
        }
        bpffs::unpin(path)?;
        ensure_parent(path)?;
        sys::obj_pin(path, fd.as_fd()).map_err(DataplaneError::path("pin", path))?;
        Ok(true)
    }

    pub(super) fn detach(
        &mut self,
        directory: &Directory,
        attachment: &Attachment,
    ) -> Result<(), DataplaneError> {
        self.release(directory, attachment)?;
        if !self.tcx && attachment.program != program::FROM_UPLINK_XDP {
            clsact::remove_ours(attachment.ifindex)?;
        }
        Ok(())
    }

    /// Takes a link off its hook and forgets it. Absent is success.
    fn release(&mut self, directory: &Directory, attachment: &Attachment) -> Result<(), DataplaneError> {
        if let Some(fd) = self.held.remove(attachment) {
            let seat = seat(&fd)?;
            if seat.ifindex != 0 {
                sys::detach_link(seat.id).map_err(DataplaneError::kernel("detach a link"))?;
            }
        }
        bpffs::unpin(&directory.links().join(link_pin(attachment))).map(drop)
    }

    pub(super) fn repair(&mut self, directory: &Directory) -> Result<Vec<String>, DataplaneError> {
        let mut done = Vec::new();
        let held: Vec<Attachment> = self.held.keys().copied().collect();
        for attachment in held {
            let path = directory.links().join(link_pin(&attachment));
            let alive =
                self.held.get(&attachment).map(seat).transpose()?.is_some_and(|s| seated(&s, &attachment));
            let Attachment { ifindex, program } = attachment;
            if !alive {
                self.held.remove(&attachment);
                bpffs::unpin(&path)?;
                done.push(format!(
                    "link of {program} at interface {ifindex} was detached; its remains are removed"
                ));
            } else if self.pin(&attachment, &path)? {
                done.push(format!("link of {program} at interface {ifindex} pinned again"));
            }
        }
        for file in self.adopt(directory)? {
            bpffs::unpin(&directory.links().join(&file))?;
            done.push(format!("link {file} was detached; its remains are removed"));
        }
        Ok(done)
    }

    /// Removes links of programs that this version does not have.
    pub(super) fn retire(&self, directory: &Directory) -> Result<Vec<String>, DataplaneError> {
        let mut done = Vec::new();
        for file in bpffs::files(&directory.links())? {
            if let Some((_, None)) = parse_link_pin(&file) {
                bpffs::unpin(&directory.links().join(&file))?;
                done.push(format!("link {file} of another version removed"));
            }
        }
        Ok(done)
    }

    /// Whether an uplink is to have the XDP stage, and why.
    pub(super) fn xdp_choice(&self, ifindex: u32) -> (bool, String) {
        match self.uplink_mode {
            UplinkMode::Tc => (false, "uplink-mode is tc".to_owned()),
            UplinkMode::Xdp => (true, "uplink-mode is xdp".to_owned()),
            UplinkMode::Auto => {
                if let Some(why) = self.refused.get(&ifindex) {
                    return (false, why.clone());
                }
                if find_interface(ifindex).ok().flatten().is_some_and(|interface| interface.veth) {
                    return (false, "veth feeds skbs, where XDP costs more than it saves".to_owned());
                }
                self.native_xdp(ifindex)
            }
        }
    }

    /// Whether the driver of an interface runs XDP natively, in words.
    pub(super) fn native_xdp(&self, ifindex: u32) -> (bool, String) {
        match netdev::native_xdp(ifindex) {
            Ok(Some(true)) => (true, "the driver runs XDP".to_owned()),
            Ok(Some(false)) => (false, "the driver does not run XDP; the same checks run in TC".to_owned()),
            Ok(None) => {
                let text = "this kernel can't tell whether the driver runs XDP; uplink-mode xdp forces it";
                (false, text.to_owned())
            }
            Err(error) => (false, format!("the driver's XDP features can't be read: {error}")),
        }
    }

    pub(super) fn mode(&self, ifindex: u32) -> (String, String) {
        let tc = if self.tcx { "tcx" } else { "clsact" };
        let ours = self.held.contains_key(&Attachment { ifindex, program: program::FROM_UPLINK_XDP });
        let state = find_interface(ifindex).ok().flatten().map_or(XdpState::Off, |interface| interface.xdp);
        let (_, why) = self.xdp_choice(ifindex);
        match (ours, state) {
            (true, XdpState::Native) => (format!("{tc}+xdp"), why),
            (true, XdpState::Generic) => {
                let driver =
                    self.refused.get(&ifindex).cloned().unwrap_or_else(|| self.native_xdp(ifindex).1);
                (format!("{tc}+xdp-generic"), format!("{why}; on skbs: {driver}"))
            }
            (true, XdpState::Off) | (false, _) => (tc.to_owned(), format!("no XDP: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use fabric_common::abi::program;

    use super::{UplinkMode, seated};
    use crate::{
        dataplane::sys::{LinkHook, LinkSeat},
        plan::desired::Attachment,
    };

    #[test]
    fn uplink_modes_are_read_as_they_are_written() {
        for mode in [UplinkMode::Auto, UplinkMode::Tc, UplinkMode::Xdp] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("XDP".parse::<UplinkMode>().unwrap_err().contains("auto, tc or xdp"));
    }

    #[test]
    fn a_link_counts_only_where_its_name_says() {
        let here = LinkSeat { id: 1, program: 2, ifindex: 7, hook: LinkHook::TcxIngress };
        let attachment = Attachment { ifindex: 7, program: program::FROM_UPLINK };
        assert!(seated(&here, &attachment));
        assert!(!seated(&LinkSeat { ifindex: 0, ..here }, &attachment));
        assert!(!seated(&LinkSeat { hook: LinkHook::Xdp, ..here }, &attachment));
        assert!(!seated(&here, &Attachment { program: program::FROM_UPLINK_XDP, ..attachment }));
        assert!(seated(
            &LinkSeat { hook: LinkHook::Xdp, ..here },
            &Attachment { program: program::FROM_UPLINK_XDP, ..attachment }
        ));
    }
}
