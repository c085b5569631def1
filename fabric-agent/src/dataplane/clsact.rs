//! TC programs by filters at clsact qdiscs, for kernels before 6.6. A filter lives as long as its interface and needs no
//! pin; it is ours by priority, handle and name together.

use std::{collections::BTreeMap, mem};

use aya::{
    Ebpf,
    programs::{
        TcAttachType,
        links::Link,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
};
use nix::libc;

use super::{
    attach::{Attached, Place, Seated, find_interface},
    error::{DataplaneError, chain},
    netlink::{self, Filter},
    ownership::{TC_HANDLE, TC_PRIORITY, known_program},
    tcx,
};
use crate::plan::desired::Attachment;

/// The place of our filters, whoever has it.
fn in_our_place(filter: &Filter) -> bool {
    filter.priority == TC_PRIORITY && filter.handle == TC_HANDLE
}

fn filter_at(ifindex: u32) -> Result<Option<Filter>, DataplaneError> {
    let filters = netlink::clsact_filters(ifindex)
        .map_err(DataplaneError::kernel("list the filters of an interface"))?;
    Ok(filters.into_iter().find(in_our_place))
}

/// Our filter at an interface: its program's name and id.
fn ours_at(ifindex: u32) -> Result<Option<(&'static str, u32)>, DataplaneError> {
    Ok(filter_at(ifindex)?.and_then(|filter| Some((known_program(&filter.name)?, filter.program))))
}

fn all_interfaces() -> Result<Vec<u32>, DataplaneError> {
    netlink::interfaces().map_err(DataplaneError::kernel("list the interfaces"))
}

/// Every filter of ours, this agent's or an earlier one's.
pub(super) fn found(
    programs: &BTreeMap<&'static str, u32>,
) -> Result<BTreeMap<Attachment, Seated>, DataplaneError> {
    let mut found = BTreeMap::new();
    for ifindex in all_interfaces()? {
        if let Some((program, id)) = ours_at(ifindex)? {
            found.insert(Attachment { ifindex, program }, Seated::of(id, programs.get(program).copied()));
        }
    }
    Ok(found)
}

pub(super) fn attach(ebpf: &mut Ebpf, place: &Place<'_>) -> Result<Attached, DataplaneError> {
    let existing = filter_at(place.attachment.ifindex)?;
    let program = tcx::program(ebpf, place)?;
    let handle = TcHandle::from(TC_HANDLE);
    let (id, done) = match existing {
        Some(filter) if known_program(&filter.name).is_none() => {
            return Err(
                place.error(format!("filter `{}` has priority {TC_PRIORITY} and our handle", filter.name))
            );
        }
        Some(filter) if filter.program == place.program => return Ok(Attached::Unchanged),
        Some(_) => {
            let link = our_link(&place.interface).map_err(|error| place.error(error))?;
            (program.attach_to_link(link), Attached::Replaced)
        }
        None => {
            add_qdisc(place)?;
            let options =
                TcAttachOptions::Netlink(NlOptions { priority: TC_PRIORITY, handle, classid: None });
            (program.attach_with_options(&place.interface, TcAttachType::Ingress, options), Attached::Created)
        }
    };
    let id = id.map_err(|error| place.error(chain(&error)))?;
    let link = program.take_link(id).map_err(|error| place.error(chain(&error)))?;
    // Its drop would remove the filter, which is to outlive this process.
    mem::forget(link);
    Ok(done)
}

fn our_link(interface: &str) -> std::io::Result<SchedClassifierLink> {
    let handle = TcHandle::from(TC_HANDLE);
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, TC_PRIORITY, handle, None)
}

fn add_qdisc(place: &Place<'_>) -> Result<(), DataplaneError> {
    match qdisc_add_clsact(&place.interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(place.error(format!("the clsact qdisc can't be added: {}", chain(&error)))),
        Ok(()) => Ok(()),
    }
}

/// Removes our filter from an interface, and the qdisc if nothing is left in it (an empty one does nothing, and nobody
/// can tell whose it is). Says whether there was one of ours.
pub(super) fn remove_ours(ifindex: u32) -> Result<bool, DataplaneError> {
    let Some((program, _)) = ours_at(ifindex)? else { return Ok(false) };
    let Some(interface) = find_interface(ifindex)? else { return Ok(false) };
    let error = |why: String| DataplaneError::Attach {
        what: "detach",
        program,
        interface: interface.name.clone(),
        why,
    };
    let link = our_link(&interface.name).map_err(|cause| error(cause.to_string()))?;
    link.detach().map_err(|cause| error(chain(&cause)))?;
    if netlink::clsact_is_empty(ifindex).map_err(|cause| error(cause.to_string()))? {
        netlink::remove_clsact(ifindex).map_err(|cause| error(cause.to_string()))?;
    }
    Ok(true)
}

/// Removes our filters from every interface of this namespace. Returns the interfaces' indices.
pub(super) fn remove_everywhere() -> Result<Vec<u32>, DataplaneError> {
    let mut done = Vec::new();
    for ifindex in all_interfaces()? {
        if remove_ours(ifindex)? {
            done.push(ifindex);
        }
    }
    Ok(done)
}
