//! The XDP program of an uplink, by a link.

use aya::{
    Ebpf,
    programs::{
        Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};

use super::{
    attach::{Attached, Links, Place, UplinkMode},
    error::{DataplaneError, chain},
    maps::ensure_parent,
};

pub(super) fn attach(
    links: &mut Links,
    ebpf: &mut Ebpf,
    place: &Place<'_>,
) -> Result<Attached, DataplaneError> {
    match links.current(place)? {
        Some(seat) if seat.program == place.program => Ok(Attached::Unchanged),
        Some(_) => {
            replace(program(ebpf, place)?, place)?;
            Ok(Attached::Replaced)
        }
        None => {
            create(links, program(ebpf, place)?, place)?;
            links.hold(place)?;
            Ok(Attached::Created)
        }
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, place: &Place<'_>) -> Result<&'a mut Xdp, DataplaneError> {
    let program = ebpf
        .program_mut(place.attachment.program)
        .ok_or_else(|| place.error("the object does not have it"))?;
    program.try_into().map_err(|error| place.error(chain(&error)))
}

/// Swaps the program of the pinned link. No packet passes between the two.
fn replace(program: &mut Xdp, place: &Place<'_>) -> Result<(), DataplaneError> {
    let pinned = PinnedLink::from_pin(&place.pin).map_err(|error| place.error(chain(&error)))?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|error| place.error(chain(&error)))?;
    let id = program.attach_to_link(link).map_err(|error| place.error(chain(&error)))?;
    // Dropping this descriptor leaves the link to its pin.
    program.take_link(id).map(drop).map_err(|error| place.error(chain(&error)))
}

/// Attaches in the driver. Where that fails and XDP is not forced, the uplink goes on without: what is tried once and
/// refused is not tried again. Where it is forced, the program runs on skbs.
fn create(links: &mut Links, program: &mut Xdp, place: &Place<'_>) -> Result<(), DataplaneError> {
    let ifindex = place.attachment.ifindex;
    let refusal = match pin_new(program, place, XdpMode::Driver) {
        Ok(()) => {
            links.refused.remove(&ifindex);
            return Ok(());
        }
        Err(error) => error,
    };
    links.refused.insert(ifindex, format!("the driver refused the XDP program: {refusal}"));
    if links.uplink_mode != UplinkMode::Xdp {
        return Err(place.error(refusal));
    }
    pin_new(program, place, XdpMode::Skb).map_err(|error| place.error(error))
}

fn pin_new(program: &mut Xdp, place: &Place<'_>, mode: XdpMode) -> Result<(), String> {
    let id = program.attach_to_if_index(place.attachment.ifindex, mode).map_err(|error| chain(&error))?;
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    let link = FdLink::try_from(link).map_err(|error| chain(&error))?;
    ensure_parent(&place.pin).map_err(|error| error.to_string())?;
    link.pin(&place.pin).map(drop).map_err(|error| chain(&error))
}
