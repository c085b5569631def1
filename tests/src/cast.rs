//! The cast of every walk: hosts, networks and containers by name, so that a test reads as a story.
//!
//! ```text
//! HOST_A  CA1 .11  CA2 .12  GA1 .11 (GREEN)          HOST_C  serves GREEN only
//! HOST_B  CB1 .21  CB2 .22  GB1 .21 (GREEN)          SWITCH  foreign VTEP in BLUE: .64/26
//! BLUE and GREEN have the same subnets.              STRANGER  is nobody we know
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fabric_api::Object;
use fabric_common::addr::Mac;
use serde_json::{Value, json};

/// UDP port of VXLAN in all walks.
pub const VXLAN_PORT: u16 = 4789;
/// MTU of every underlay interface, bytes.
pub const UNDERLAY_MTU: u32 = 1500;
/// The largest IP packet that fits: [`UNDERLAY_MTU`] minus the outer headers (RFC 7348 section 5), bytes.
pub const OVERLAY_MTU: usize = 1450;
/// The same where the outer header is IPv6.
pub const OVERLAY_MTU_OVER_V6: usize = 1430;

/// A layer 2 network.
#[derive(Debug, PartialEq, Eq)]
pub struct Network {
    /// Name.
    pub name: &'static str,
    /// VNI.
    pub vni: u32,
    /// MAC of its gateway, as the agent derives it from the VNI.
    pub gateway_mac: Mac,
}

/// A host of the fabric, or another VTEP.
#[derive(Debug, PartialEq, Eq)]
pub struct Host {
    /// Name.
    pub name: &'static str,
    /// Underlay address.
    pub vtep: Ipv4Addr,
    /// MAC of the underlay interface.
    pub mac: Mac,
    /// Its own address in BLUE, if it has one.
    pub blue_address: Option<Ipv4Addr>,
    /// Not one of our agents.
    pub foreign: bool,
}

/// A container.
#[derive(Debug, PartialEq, Eq)]
pub struct Container {
    /// Name.
    pub name: &'static str,
    /// Its network.
    pub network: &'static Network,
    /// Where it lives.
    pub host: &'static Host,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
    /// MAC.
    pub mac: Mac,
    /// Counter slot on its host.
    pub slot: u32,
}

/// The IPv4 subnet of every network.
pub const SUBNET_V4: &str = "192.168.10.0/24";
/// The IPv6 subnet of every network.
pub const SUBNET_V6: &str = "fd00:10::/64";
/// Gateway of [`SUBNET_V4`].
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);
/// Gateway of [`SUBNET_V6`].
pub const GATEWAY_V6: Ipv6Addr = v6(1);
/// Nobody has this address.
pub const NOBODY_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 200);
/// Nobody has this address.
pub const NOBODY_V6: Ipv6Addr = v6(0x200);
/// Nobody has this MAC.
pub const NOBODY_MAC: Mac = Mac::new([2, 0, 0x5e, 0xff, 0xff, 0xff]);
/// Inside [`SWITCH_PREFIX`]: a station behind the foreign VTEP that has no record of its own.
pub const STATION_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 70);
/// What the foreign VTEP may send in BLUE.
pub const SWITCH_PREFIX: &str = "192.168.10.64/26";
/// The same in IPv6.
pub const SWITCH_PREFIX_V6: &str = "fd00:10::40/122";

/// The network of most walks.
pub static BLUE: Network = Network { name: "blue", vni: 100, gateway_mac: Mac::new([2, 0xfa, 0, 0, 0, 100]) };
/// The other network, with the same subnets.
pub static GREEN: Network =
    Network { name: "green", vni: 200, gateway_mac: Mac::new([2, 0xfa, 0, 0, 0, 200]) };
/// The lowest VNI. Only in walks that ask for it.
pub static LOWEST: Network = Network { name: "lowest", vni: 0, gateway_mac: Mac::new([2, 0xfa, 0, 0, 0, 0]) };
/// The highest VNI. Only in walks that ask for it.
pub static HIGHEST: Network =
    Network { name: "highest", vni: 0xff_ffff, gateway_mac: Mac::new([2, 0xfa, 0, 0xff, 0xff, 0xff]) };

/// The host on which most walks start.
pub static HOST_A: Host = Host {
    name: "host-a",
    vtep: Ipv4Addr::new(10, 0, 1, 1),
    mac: Mac::new([2, 0, 10, 0, 1, 1]),
    blue_address: Some(Ipv4Addr::new(192, 168, 10, 2)),
    foreign: false,
};
/// The host at the other end of the tunnel.
pub static HOST_B: Host = Host {
    name: "host-b",
    vtep: Ipv4Addr::new(10, 0, 2, 1),
    mac: Mac::new([2, 0, 10, 0, 2, 1]),
    blue_address: Some(Ipv4Addr::new(192, 168, 10, 3)),
    foreign: false,
};
/// A known host that does not serve BLUE.
pub static HOST_C: Host = Host {
    name: "host-c",
    vtep: Ipv4Addr::new(10, 0, 3, 1),
    mac: Mac::new([2, 0, 10, 0, 3, 1]),
    blue_address: None,
    foreign: false,
};
/// A foreign VTEP in BLUE.
pub static SWITCH: Host = Host {
    name: "switch",
    vtep: Ipv4Addr::new(10, 0, 5, 1),
    mac: Mac::new([2, 0, 10, 0, 5, 1]),
    blue_address: None,
    foreign: true,
};
/// Nobody has declared it.
pub static STRANGER: Host = Host {
    name: "stranger",
    vtep: Ipv4Addr::new(10, 0, 4, 9),
    mac: Mac::new([2, 0, 10, 0, 4, 9]),
    blue_address: None,
    foreign: false,
};

/// On [`HOST_A`], in BLUE.
pub static CA1: Container = container("ca1", &BLUE, &HOST_A, 11, 0x0a11, 1);
/// On [`HOST_A`], in BLUE.
pub static CA2: Container = container("ca2", &BLUE, &HOST_A, 12, 0x0a12, 2);
/// On [`HOST_A`], in GREEN, with the addresses of [`CA1`].
pub static GA1: Container = container("ga1", &GREEN, &HOST_A, 11, 0x9a11, 3);
/// On [`HOST_B`], in BLUE.
pub static CB1: Container = container("cb1", &BLUE, &HOST_B, 21, 0x0b21, 1);
/// On [`HOST_B`], in BLUE.
pub static CB2: Container = container("cb2", &BLUE, &HOST_B, 22, 0x0b22, 2);
/// On [`HOST_B`], in GREEN, with the addresses of [`CB1`].
pub static GB1: Container = container("gb1", &GREEN, &HOST_B, 21, 0x9b21, 3);
/// On [`HOST_C`], in GREEN.
pub static GC1: Container = container("gc1", &GREEN, &HOST_C, 31, 0x9c31, 1);
/// Behind [`SWITCH`], in BLUE, at [`STATION_V4`]. Only some walks declare it.
pub static STATION: Container = container("station", &BLUE, &SWITCH, 70, 0x5070, 0);
/// On [`HOST_A`], in LOWEST.
pub static LA1: Container = container("la1", &LOWEST, &HOST_A, 11, 0x1a11, 4);
/// On [`HOST_B`], in LOWEST.
pub static LB1: Container = container("lb1", &LOWEST, &HOST_B, 21, 0x1b21, 4);
/// On [`HOST_A`], in HIGHEST.
pub static HA1: Container = container("ha1", &HIGHEST, &HOST_A, 11, 0xfa11, 5);
/// On [`HOST_B`], in HIGHEST.
pub static HB1: Container = container("hb1", &HIGHEST, &HOST_B, 21, 0xfb21, 5);

/// Hosts that are declared.
pub static HOSTS: [&Host; 4] = [&HOST_A, &HOST_B, &HOST_C, &SWITCH];
/// Containers of BLUE and GREEN.
pub static CONTAINERS: [&Container; 7] = [&CA1, &CA2, &GA1, &CB1, &CB2, &GB1, &GC1];
/// Containers of LOWEST and HIGHEST.
pub static EXTREMES: [&Container; 4] = [&LA1, &LB1, &HA1, &HB1];

const fn v6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, host)
}

const fn container(
    name: &'static str,
    network: &'static Network,
    host: &'static Host,
    number: u8,
    mac: u16,
    slot: u32,
) -> Container {
    let [high, low] = mac.to_be_bytes();
    Container {
        name,
        network,
        host,
        v4: Ipv4Addr::new(192, 168, 10, number),
        v6: v6(number as u16),
        mac: Mac::new([2, 0, 0x5e, 0, high, low]),
        slot,
    }
}

impl Host {
    /// Its other underlay address: the same numbers in IPv6.
    pub fn vtep_v6(&self) -> Ipv6Addr {
        let [_, _, net, host] = self.vtep.octets();
        Ipv6Addr::new(0xfd00, 0, 0, u16::from(net), 0, 0, 0, u16::from(host))
    }

    /// Its underlay address of a family.
    pub fn underlay(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.vtep.into(),
            Family::V6 => self.vtep_v6().into(),
        }
    }
}

impl Container {
    /// Its address of the family of `like`.
    pub fn address(&self, like: Family) -> IpAddr {
        match like {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The link-local address that its kernel makes.
    pub fn link_local(&self) -> Ipv6Addr {
        match self.mac.link_local().to_ip() {
            IpAddr::V6(ip) => ip,
            IpAddr::V4(_) => unreachable!("a link-local address is IPv6"),
        }
    }
}

/// Address family of an inner or outer packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What is declared, as `viewer` has it: BLUE and GREEN with everybody in them.
pub fn objects(viewer: &Host) -> Vec<Object> {
    build(viewer, Family::V4, &[&BLUE, &GREEN], &CONTAINERS)
}

/// The same with every host's IPv6 underlay address instead of the IPv4 one.
pub fn objects_over_v6(viewer: &Host) -> Vec<Object> {
    build(viewer, Family::V6, &[&BLUE, &GREEN], &CONTAINERS)
}

/// The same and [`STATION`] behind [`SWITCH`], with outer UDP checksums toward it if `udp_checksum`.
pub fn objects_with_station(viewer: &Host, udp_checksum: bool) -> Vec<Object> {
    let containers: Vec<_> = CONTAINERS.iter().copied().chain([&STATION]).collect();
    let mut objects = build(viewer, Family::V4, &[&BLUE, &GREEN], &containers);
    for object in &mut objects {
        if let Object::Node(node) = object
            && node.metadata.name == SWITCH.name
        {
            node.spec.udp_checksum = udp_checksum;
        }
    }
    objects
}

/// The same and the networks at both ends of the VNI range.
pub fn objects_with_extremes(viewer: &Host) -> Vec<Object> {
    let containers: Vec<_> = CONTAINERS.iter().chain(&EXTREMES).copied().collect();
    build(viewer, Family::V4, &[&BLUE, &GREEN, &LOWEST, &HIGHEST], &containers)
}

fn build(viewer: &Host, underlay: Family, networks: &[&Network], containers: &[&Container]) -> Vec<Object> {
    let networks = networks.iter().map(|n| {
        json!({"kind": "Network", "metadata": {"name": n.name}, "spec": {"vni": n.vni, "subnets": [SUBNET_V4, SUBNET_V6]}})
    });
    let hosts = HOSTS.iter().map(|host| {
        json!({"kind": "Node", "metadata": {"name": host.name},
               "spec": {"vteps": [host.underlay(underlay)], "foreign": host.foreign, "networks": part_in_blue(host)}})
    });
    let containers = containers.iter().map(|container| declare(viewer, container));
    networks
        .chain(hosts)
        .chain(containers)
        .map(|value| serde_json::from_value(value).expect("the cast is valid"))
        .collect()
}

fn part_in_blue(host: &Host) -> Value {
    if host.foreign {
        return json!([{"network": BLUE.name, "prefixes": [SWITCH_PREFIX, SWITCH_PREFIX_V6]}]);
    }
    match host.blue_address {
        Some(address) => json!([{"network": BLUE.name, "addresses": [address]}]),
        None => json!([]),
    }
}

pub(crate) fn declare(viewer: &Host, container: &Container) -> Value {
    let mut object = json!({
        "kind": "Endpoint",
        "metadata": {"name": container.name},
        "spec": {
            "network": container.network.name,
            "node": container.host.name,
            "addresses": [container.v4, container.v6],
            "mac": container.mac.to_string(),
        },
    });
    if container.host == viewer {
        object["spec"]["attachment"] =
            json!({"netns": format!("/run/netns/{}", container.name), "ifname": "eth0"});
        object["status"] = json!({"local": true, "slot": container.slot, "state": "pending"});
    }
    object
}
