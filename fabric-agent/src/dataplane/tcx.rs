//! TC programs by TCX links (Linux 6.6).
//!
//! Our programs come first at their hook. At a port nothing may look at a frame before the source checks; at an uplink
//! a program before ours that answers "pass" would end the chain and let tunnel packets by. What is not ours our
//! programs hand to the next one.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        loaded_programs,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use super::{
    attach::{Attached, Links, Place},
    error::{DataplaneError, chain},
    maps::ensure_parent,
    ownership::known_program,
    sys,
};

pub(super) fn attach(
    links: &mut Links,
    ebpf: &mut Ebpf,
    place: &Place<'_>,
) -> Result<Attached, DataplaneError> {
    let (link, done) = match links.current(place)? {
        Some(seat) if seat.program == place.program => (seat.id, Attached::Unchanged),
        Some(seat) => {
            replace(program(ebpf, place)?, place)?;
            (seat.id, Attached::Replaced)
        }
        None => {
            create(program(ebpf, place)?, place)?;
            (links.hold(place)?.id, Attached::Created)
        }
    };
    remove_others(place, link)?;
    Ok(done)
}

pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    place: &Place<'_>,
) -> Result<&'a mut SchedClassifier, DataplaneError> {
    let program = ebpf
        .program_mut(place.attachment.program)
        .ok_or_else(|| place.error("the object does not have it"))?;
    program.try_into().map_err(|error| place.error(chain(&error)))
}

/// Swaps the program of the pinned link. No packet passes between the two.
fn replace(program: &mut SchedClassifier, place: &Place<'_>) -> Result<(), DataplaneError> {
    let pinned = PinnedLink::from_pin(&place.pin).map_err(|error| place.error(chain(&error)))?;
    let link =
        SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(|error| place.error(chain(&error)))?;
    let id = program.attach_to_link(link).map_err(|error| place.error(chain(&error)))?;
    // Dropping this descriptor leaves the link to its pin.
    program.take_link(id).map(drop).map_err(|error| place.error(chain(&error)))
}

fn create(program: &mut SchedClassifier, place: &Place<'_>) -> Result<(), DataplaneError> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&place.interface, TcAttachType::Ingress, order)
        .map_err(|error| place.error(chain(&error)))?;
    let link = program.take_link(id).map_err(|error| place.error(chain(&error)))?;
    let link = FdLink::try_from(link).map_err(|error| place.error(chain(&error)))?;
    ensure_parent(&place.pin)?;
    link.pin(&place.pin).map(drop).map_err(|error| place.error(chain(&error)))
}

/// Removes links of our programs at the same hook that are not this one: left where a bpffs directory was removed by
/// hand while an agent ran.
fn remove_others(place: &Place<'_>, link: u32) -> Result<(), DataplaneError> {
    let found = sys::tcx_ingress(place.attachment.ifindex).map_err(|error| place.error(error))?;
    let others: Vec<(u32, u32)> =
        found.into_iter().filter(|(_, other)| *other != link && *other != 0).collect();
    if others.is_empty() {
        return Ok(());
    }
    let ours: Vec<u32> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|info| info.name_as_str().is_some_and(|name| known_program(name).is_some()))
        .map(|info| info.id())
        .collect();
    for (_, other) in others.iter().filter(|(program, _)| ours.contains(program)) {
        sys::detach_link(*other).map_err(|error| place.error(error))?;
        tracing::warn!("removed a stale program of ours at {}", place.interface);
    }
    Ok(())
}
