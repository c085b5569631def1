//! The layout of everything that both sides of the kernel share, as a file: a change of layout shows in review, with its
//! consequence, a new name for the pinned map.
//!
//! To accept a change: `FABRIC_BLESS=1 cargo test -p fabric-tests --test abi`.

use std::{fmt::Write as _, fs, path::Path};

use fabric_common::{
    abi::{self, program},
    addr::{Addr, Mac},
    capture::CapturedDrop,
    counters::{DropKey, Tally},
    endpoint::{EndpointKey, EndpointValue},
    event::DropEvent,
    fdb::{FdbKey, FdbValue},
    layout::Layout,
    network::{MemberKey, MemberValue, NetworkValue},
    node::{NodeValue, VtepValue},
    port::{PortCounters, PortValue},
    prefix::VniPrefix,
    reason::{Action, DropReason, Hook},
    route::RouteValue,
    settings::Settings,
    source::SourceValue,
    uplink::{LocalVtepValue, UplinkValue},
};

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/abi.golden"))
}

fn describe() -> String {
    let mut text = String::from("programs\n");
    for name in program::ALL {
        let _ = writeln!(text, "  {name}");
    }
    text.push_str("\nmaps: name kind<key, value> layout\n");
    for map in abi::MAPS {
        let _ =
            writeln!(text, "  {} {:?}<{}, {}> {:016x}", map.name, map.kind, map.key, map.value, map.layout);
    }
    text.push_str("\ntypes: bytes, layout; fields by offset\n");
    macro_rules! types {
        ($($name:ident)+) => { $(
            let _ = writeln!(text, "  {} {} {:016x}", stringify!($name), size_of::<$name>(), <$name as Layout>::HASH);
            for (field, offset, kind) in $name::FIELDS {
                let _ = writeln!(text, "    {offset:3} {field}: {kind}");
            }
        )+ };
    }
    types! {
        Addr Mac Settings UplinkValue LocalVtepValue NetworkValue MemberKey MemberValue NodeValue VtepValue VniPrefix
        SourceValue PortValue PortCounters EndpointKey EndpointValue FdbKey FdbValue RouteValue DropKey Tally DropEvent CapturedDrop
    }
    macro_rules! numbers {
        ($($name:ident)+) => { $(
            let _ = writeln!(text, "\n{}", stringify!($name));
            for value in $name::ALL {
                let _ = writeln!(text, "  {:3} {value}", *value as u8);
            }
        )+ };
    }
    numbers! { Hook DropReason Action }
    text
}

#[test]
fn layouts_are_those_that_were_reviewed() {
    let now = describe();
    if std::env::var_os("FABRIC_BLESS").is_some() {
        fs::write(path(), &now).expect("the file can be written");
    }
    let golden = fs::read_to_string(path()).expect("abi.golden is there; FABRIC_BLESS=1 makes it");
    if now == golden {
        return;
    }
    let mut text =
        String::from("the shared layout changed; maps of another layout are pinned under another name:\n");
    for line in golden.lines().filter(|line| !now.lines().any(|other| other == *line)) {
        let _ = writeln!(text, "- {line}");
    }
    for line in now.lines().filter(|line| !golden.lines().any(|other| other == *line)) {
        let _ = writeln!(text, "+ {line}");
    }
    panic!("{text}FABRIC_BLESS=1 accepts it");
}
