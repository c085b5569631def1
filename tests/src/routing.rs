//! The cast of routed walks: RED beside BLUE, which lets BLUE in.
//!
//! ```text
//! RED, 192.168.20.0/24 and 192.168.30.0/24:  HOST_A  RA1 20.11, RA2 30.12   HOST_B  RB1 20.21, RB2 30.22
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use fabric_api::Object;
use fabric_common::{
    addr::Mac,
    reason::{Action, DropReason, Hook},
};
use serde_json::json;

use crate::{
    cast::{self, Container, GATEWAY_V4, GATEWAY_V6, HOST_A, HOST_B, Host, Network},
    frame::{self, ETH, assert_same},
    icmp::{self, Kind},
    ledger::{action, dropped, sender_dropped},
    walk::{Rig, Verdict},
};

/// A network with two subnets of each family.
pub static RED: Network = Network { name: "red", vni: 300, gateway_mac: Mac::new([2, 0xfa, 0, 0, 1, 0x2c]) };
/// Its first gateways.
pub const RED_GATEWAYS: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 168, 20, 1), v6(0x20, 1));
/// Nobody has these, in its first subnets.
pub const RED_NOBODY: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 168, 20, 200), v6(0x20, 0x200));

/// On [`HOST_A`], in the first subnets.
pub static RA1: Container = container("ra1", &HOST_A, 0x20, 20, 11, 6);
/// On [`HOST_A`], in the second subnets.
pub static RA2: Container = container("ra2", &HOST_A, 0x30, 30, 12, 7);
/// On [`HOST_B`], in the first subnets.
pub static RB1: Container = container("rb1", &HOST_B, 0x20, 20, 21, 6);
/// On [`HOST_B`], in the second subnets.
pub static RB2: Container = container("rb2", &HOST_B, 0x30, 30, 22, 7);

/// Everybody in RED.
pub static REDS: [&Container; 4] = [&RA1, &RA2, &RB1, &RB2];

const fn v6(subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, subnet, 0, 0, 0, 0, 0, host)
}

const fn container(
    name: &'static str,
    host: &'static Host,
    subnet6: u16,
    subnet4: u8,
    number: u8,
    slot: u32,
) -> Container {
    Container {
        name,
        network: &RED,
        host,
        v4: Ipv4Addr::new(192, 168, subnet4, number),
        v6: v6(subnet6, number as u16),
        mac: Mac::new([2, 0, 0x5e, 0, subnet4, number]),
        slot,
    }
}

/// BLUE, GREEN and RED, which lets in `from` and whose packets have at most `mtu` bytes.
pub fn objects(viewer: &Host, from: &[&Network], mtu: u16) -> Vec<Object> {
    let from: Vec<_> = from.iter().map(|network| network.name).collect();
    let red = json!({"kind": "Network", "metadata": {"name": RED.name}, "spec": {
        "vni": RED.vni, "mtu": mtu, "allowFrom": from,
        "subnets": ["192.168.20.0/24", "192.168.30.0/24", "fd00:20::/64", "fd00:30::/64"],
    }});
    let reds = REDS.iter().map(|container| cast::declare(viewer, container));
    let more = std::iter::once(red).chain(reds).map(|value| serde_json::from_value(value).expect("valid"));
    cast::objects(viewer).into_iter().chain(more).collect()
}

/// A frame to the gateway as it should be toward `to`: one hop less, from the MAC of the gateway there.
pub fn routed(frame: &[u8], to: &Container) -> Vec<u8> {
    let ttl = frame[ttl_at(frame)];
    let mut frame = with_ttl(frame.to_vec(), ttl - 1);
    frame[..6].copy_from_slice(&to.mac.bytes);
    frame[6..12].copy_from_slice(&to.network.gateway_mac.bytes);
    frame
}

/// The same frame with another time to live or hop limit.
pub fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    let at = ttl_at(&frame);
    frame[at] = ttl;
    if is_v4(&frame) {
        frame::fix_ip_checksum(&mut frame, ETH);
    }
    frame
}

fn is_v4(frame: &[u8]) -> bool {
    frame[12..ETH] == [8, 0]
}

fn ttl_at(frame: &[u8]) -> usize {
    if is_v4(frame) { ETH + 8 } else { ETH + 7 }
}

/// What a container sends is dropped for `reason`, and nobody is told.
#[track_caller]
pub fn refused(rig: &mut Rig, from: &Container, what: &str, frame: &[u8], reason: DropReason) {
    let ran = rig.run(rig.port(from), frame);
    let expected = [dropped(Hook::FromContainer, reason, frame.len()), sender_dropped(from)];
    ran.assert(what, Verdict::Taken, &expected);
}

/// What a container sends is dropped for `reason`, and the gateway of its first subnet tells it so.
#[track_caller]
pub fn answered(rig: &mut Rig, from: &Container, what: &str, frame: &[u8], reason: DropReason, kind: Kind) {
    let ran = rig.run(rig.port(from), frame);
    let gateways = if from.network == &RED { RED_GATEWAYS } else { (GATEWAY_V4, GATEWAY_V6) };
    let answer = icmp::error_by(gateways, from, frame, kind);
    let expected = [
        dropped(Hook::FromContainer, reason, frame.len()),
        sender_dropped(from),
        action(Hook::FromContainer, Action::IcmpError, answer.len()),
    ];
    ran.assert(what, Verdict::Sent, &expected);
    assert_same(what, &ran.bytes, &answer);
    assert_eq!(frame::fault(&ran.bytes), None, "{what}");
}
