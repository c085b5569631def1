//! Documents that are generated from code: `docs/generated`.

use std::{fmt::Write, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use fabric_common::{
    abi::{MAPS, MapContent, MapKind, MapSpec, program},
    addr::{Addr, Mac},
    advertisement::AdvertisementValue,
    capture::CapturedDrop,
    counters::{DropKey, Tally},
    denied::DeniedValue,
    endpoint::{EndpointKey, EndpointValue},
    event::DropEvent,
    fdb::{FdbKey, FdbValue},
    flood::{FloodKey, FloodValue},
    flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
    membership::{GroupCount, GroupKey, GroupValue},
    names::{DnsPacket, NameKey, NameValue, NamedKey},
    nat::{NatKey, NatValue},
    network::{MemberKey, MemberValue, NetworkValue},
    node::{NodeValue, VtepValue},
    policy::{NumberKey, NumberValue, PolicyKey, PolicyPorts, PolicyValue},
    port::{PortCounters, PortValue},
    prefix::VniPrefix,
    reason::{Action, DropReason, Hook},
    route::RouteValue,
    settings::Settings,
    source::SourceValue,
    uplink::{LocalVtepValue, UplinkValue},
};

use crate::{
    agent, setup, ui,
    workspace::{bin_dir, root},
};

type Fields = &'static [(&'static str, usize, &'static str)];

macro_rules! types {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), size_of::<$name>(), $name::FIELDS)),+] };
}

/// Every shared type, for the documents.
const TYPES: &[(&str, usize, Fields)] = types![
    Addr,
    AdvertisementValue,
    CapturedDrop,
    DeniedValue,
    DnsPacket,
    DropEvent,
    DropKey,
    EndpointKey,
    EndpointValue,
    FdbKey,
    FdbValue,
    FloodKey,
    FloodValue,
    FlowKey,
    FlowValue,
    FragmentKey,
    FragmentValue,
    GroupCount,
    GroupKey,
    GroupValue,
    LocalVtepValue,
    Mac,
    MemberKey,
    MemberValue,
    NameKey,
    NameValue,
    NamedKey,
    NatKey,
    NatValue,
    NetworkValue,
    NodeValue,
    NumberKey,
    NumberValue,
    PolicyKey,
    PolicyPorts,
    PolicyValue,
    PortCounters,
    PortValue,
    RouteValue,
    Settings,
    SourceValue,
    Tally,
    UplinkValue,
    VniPrefix,
    VtepValue,
];

const HEADER: &str = "<!-- Written by `cargo xtask docs`; change the code it is made from. -->\n\n";

fn directory() -> PathBuf {
    root().join("docs/generated")
}

/// Writes the documents.
///
/// # Errors
/// If the agent does not build or a file can't be written.
pub(crate) fn write() -> Result<()> {
    setup::build_tools()?;
    agent::build()?;
    fs::create_dir_all(directory())?;
    for (name, text) in documents()? {
        let file = directory().join(name);
        fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
        println!("{} docs/generated/{name}", ui::green("✓"));
    }
    Ok(())
}

/// Compares the documents in the tree with the code. `openapi.json` is compared once the agent is built.
///
/// # Errors
/// Names the documents that differ.
pub(crate) fn check() -> Result<String> {
    agent::build_quiet()?;
    let documents = documents()?;
    let stale: Vec<_> = documents
        .iter()
        .filter(|(name, text)| fs::read_to_string(directory().join(name)).ok().as_ref() != Some(text))
        .map(|(name, _)| format!("docs/generated/{name}"))
        .collect();
    if !stale.is_empty() {
        bail!("{} is not what the code says; run `cargo xtask docs`", stale.join(", "));
    }
    Ok(String::new())
}

fn documents() -> Result<Vec<(&'static str, String)>> {
    let mut documents = vec![
        ("maps.md", maps().context("formatting")?),
        ("drop-reasons.md", reasons().context("formatting")?),
    ];
    documents.extend(said_by_agent("openapi")?.map(|text| ("openapi.json", text)));
    documents.extend(said_by_agent("metrics")?.map(|text| ("metrics.md", text)));
    Ok(documents)
}

/// None if the agent has no such command.
fn said_by_agent(command: &str) -> Result<Option<String>> {
    let output = Command::new(bin_dir().join("fabric-agent"))
        .arg(command)
        .output()
        .with_context(|| format!("fabric-agent {command}"))?;
    // Clap's status for an unknown command.
    if output.status.code() == Some(2) {
        return Ok(None);
    }
    if !output.status.success() {
        bail!("fabric-agent {command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(Some(String::from_utf8(output.stdout)?))
}

fn kind(kind: MapKind) -> &'static str {
    match kind {
        MapKind::Hash => "hash",
        MapKind::PerCpuHash => "per-CPU hash",
        MapKind::LruHash => "LRU hash",
        MapKind::Array => "array",
        MapKind::PerCpuArray => "per-CPU array",
        MapKind::LpmTrie => "LPM trie",
        MapKind::RingBuf => "ring buffer",
    }
}

fn content(content: MapContent) -> &'static str {
    match content {
        MapContent::Desired => "the agent, from desired state",
        MapContent::Kernel => "the programs; it survives a restart",
        MapContent::Transient => "the programs, in transit",
    }
}

fn size(map: &MapSpec) -> String {
    let unit = if map.kind == MapKind::RingBuf { "bytes" } else { "entries" };
    let setting = if map.sized { format!(", `[maps] {}`", map.name) } else { String::new() };
    format!("{} {unit}{setting}", map.entries)
}

fn maps() -> Result<String, std::fmt::Error> {
    let mut out = format!("{HEADER}# Maps\n\n");
    out.push_str("Programs: ");
    let programs: Vec<_> = program::ALL.iter().map(|name| format!("`{name}`")).collect();
    writeln!(out, "{}.\n", programs.join(", "))?;
    out.push_str("Pinned as `maps/NAME@LAYOUT` in the agent's bpffs directory. Numbers are in host byte order; addresses,\n");
    out.push_str("MACs and everything else taken from packets are bytes in wire order.\n\n");
    out.push_str(
        "| map | kind | key | value | size | filled by | what it is for |\n|---|---|---|---|---|---|---|\n",
    );
    for map in MAPS {
        writeln!(
            out,
            "| `{}` | {} | `{}` | `{}` | {} | {} | {} |",
            map.name,
            kind(map.kind),
            map.key,
            map.value,
            size(map),
            content(map.content),
            map.about
        )?;
    }
    out.push_str("\n## Layouts\n\n| map | layout | key, bytes | value, bytes |\n|---|---|---|---|\n");
    for map in MAPS {
        writeln!(out, "| `{}` | `{:016x}` | {} | {} |", map.name, map.layout, map.sizes.0, map.sizes.1)?;
    }
    out.push_str("\n## Types\n");
    for (name, size, fields) in TYPES {
        writeln!(out, "\n### {name} ({size} bytes)\n\n| offset | field | type |\n|---|---|---|")?;
        for (field, offset, ty) in *fields {
            writeln!(out, "| {offset} | `{field}` | `{ty}` |")?;
        }
    }
    Ok(out)
}

fn reasons() -> Result<String, std::fmt::Error> {
    let mut out = format!("{HEADER}# Hooks, drop reasons and actions\n\n");
    out.push_str(
        "Every packet that a program looks at ends in one drop reason or one action, and is counted there.\n",
    );
    let mut table = |title: &str, rows: Vec<(u8, &str, &str)>| -> std::fmt::Result {
        writeln!(out, "\n## {title}\n\n| number | name | meaning |\n|---|---|---|")?;
        for (number, name, meaning) in rows {
            writeln!(out, "| {number} | `{name}` | {} |", meaning.trim())?;
        }
        Ok(())
    };
    table("Hooks", Hook::ALL.iter().map(|h| (*h as u8, h.as_str(), h.explain())).collect())?;
    table("Drop reasons", DropReason::ALL.iter().map(|r| (*r as u8, r.as_str(), r.explain())).collect())?;
    table("Actions", Action::ALL.iter().map(|a| (*a as u8, a.as_str(), a.explain())).collect())?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{MAPS, TYPES};

    #[test]
    fn every_struct_in_a_map_is_documented() {
        for map in MAPS {
            for ty in [map.key, map.value] {
                let plain = ty.starts_with('[') || ["u8", "u16", "u32", "u64"].contains(&ty);
                assert!(plain || TYPES.iter().any(|(name, ..)| *name == ty), "{ty} of {}", map.name);
            }
        }
    }
}
