//! A VTEP that is not one of our agents: the kernel's own VXLAN device in a bridge, and a container behind it.

use anyhow::{Context, Result};
use fabric_api::status::State;

use crate::{Container, Lab, Options, exact::same, until};

/// The MAC of `k`.
pub const MAC: &str = "02:00:00:00:00:21";
/// Few enough for a switch in user space.
const SIZES: &str = "1-20,1380-1450,9000";

/// What is special about it.
#[derive(Clone, Copy, Debug)]
pub struct Foreign<'a> {
    /// Whether the underlay is IPv6.
    pub over_v6: bool,
    /// Further arguments of its `vxlan` device, such as `noudpcsum`.
    pub device: &'a str,
    /// Further fields of its Node object, in YAML's flow style, each behind a comma.
    pub node: &'a str,
    /// Further arguments for the network.
    pub network: &'a [&'a str],
    /// Further arguments of the agent.
    pub agent: &'a [&'a str],
    /// UDP port of VXLAN.
    pub port: u16,
    /// Hosts of the lab, 2 or more. No agent is started on those from 3 on.
    pub hosts: usize,
}

impl Default for Foreign<'_> {
    fn default() -> Self {
        Self { over_v6: false, device: "", node: "", network: &[], agent: &[], port: 4789, hosts: 2 }
    }
}

/// Host 1 with an agent and the container `a` (.11); host 2 with the device and the container `k` (.21) behind it.
///
/// # Errors
/// If a step fails.
pub fn lab(id: &str, foreign: &Foreign<'_>) -> Result<(Container, Container, Lab)> {
    let agent_args = foreign.agent.iter().map(|arg| (*arg).to_owned()).collect();
    let mut lab =
        Lab::with(id, &Options { hosts: foreign.hosts, agents: false, agent_args, ..Options::default() })?;
    lab.host_mut(1).start_agent()?;
    let network = ["network", "create", "n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64"];
    lab.host(1).fabric(&[&network, &["--vni", "100"][..], foreign.network].concat())?;
    let a = lab.container(1, "a")?;
    let own = lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--ip", "fd00:10::11"])?;
    let own_mac = own.spec.mac.context("a MAC")?;
    let k = lab.container(2, "k")?;
    let netns = k.netns();
    let address = |n| if foreign.over_v6 { lab.host(n).address6() } else { lab.host(n).address() };
    let (near, far) = (address(1), address(2));
    let mtu = if foreign.over_v6 { 1430 } else { 1450 };
    let Foreign { device, node, port, .. } = foreign;
    let script = format!(
        "ip link add v0 mtu {mtu} type vxlan id 100 dstport {port} local {far} nolearning {device}
        ip link add br0 mtu {mtu} type bridge
        ip link set v0 master br0 up
        ip link set br0 up
        ip link add k0 mtu {mtu} type veth peer name eth0 mtu {mtu} address {MAC} netns {netns}
        ip link set k0 master br0 up
        bridge fdb append 00:00:00:00:00:00 dev v0 dst {near}
        bridge fdb replace {own_mac} dev v0 dst {near} self permanent"
    );
    lab.host(2).sh(&["sh", "-ec", &script])?;
    addresses(&k)?;
    declare(&lab, &far.to_string(), node)?;
    until("the bridge forwards", || k.ping("192.168.10.11").is_ok())?;
    Ok((a, k, lab))
}

/// Whether a container found out by itself which MAC `address` has: by ARP or neighbour discovery.
///
/// # Errors
/// If `ip` fails.
pub fn found(container: &Container, address: &str, mac: &str) -> Result<bool> {
    let entry = container.sh(&["ip", "neigh", "show", address])?;
    Ok(entry.contains(mac) && !entry.contains("PERMANENT"))
}

/// Gives `k` its addresses.
///
/// # Errors
/// If `ip` fails.
pub fn addresses(k: &Container) -> Result<()> {
    let script = "ip addr add 192.168.10.21/24 dev eth0
        ip addr add fd00:10::21/64 dev eth0 nodad
        ip link set eth0 up";
    k.sh(&["sh", "-ec", script]).map(drop)
}

/// Tells host 1 of the VTEP at `vtep`, with further fields of its Node object, and of `k` behind it, and waits until it has them.
///
/// # Errors
/// If it has not.
pub fn declare(lab: &Lab, vtep: &str, node: &str) -> Result<()> {
    let manifest = format!(
        "kind: Node\nmetadata: {{name: switch}}\nspec: {{vteps: ['{vtep}'], foreign: true{node}, networks: \
         [{{network: n1, prefixes: [192.168.10.16/28, 'fd00:10::20/124']}}]}}\n---\n\
         kind: Endpoint\nmetadata: {{name: k}}\nspec: {{network: n1, node: switch, mac: '{MAC}', \
         addresses: [192.168.10.21, 'fd00:10::21']}}\n"
    );
    // Written beside the directory and moved, so that the agent never reads half a file.
    let draft = lab.host(1).directory().join("run/draft");
    std::fs::write(&draft, manifest)?;
    std::fs::rename(&draft, lab.host(1).manifests().join("foreign.yaml"))?;
    let state = || lab.host(1).endpoint("k").ok()?.status.map(|status| status.state);
    until("the foreign endpoint is there", || state() == Some(State::Ready))
}

/// Pings and transfers between `a` and `k`, both directions and families.
///
/// # Errors
/// If a tool fails.
///
/// # Panics
/// If something else arrives than was sent.
pub fn everything(a: &Container, k: &Container) -> Result<()> {
    a.ping("192.168.10.21")?;
    a.ping("fd00:10::21")?;
    k.ping("fd00:10::11")?;
    for (from, to, address) in [
        (a, k, "192.168.10.21:5000"),
        (a, k, "[fd00:10::21]:5000"),
        (k, a, "192.168.10.11:5000"),
        (k, a, "[fd00:10::11]:5000"),
    ] {
        same_bytes(from, to, address)?;
    }
    Ok(())
}

/// TCP and UDP in one direction: what arrives is what was sent.
///
/// # Errors
/// If a tool fails.
///
/// # Panics
/// If something else arrives.
pub fn same_bytes(from: &Container, to: &Container, address: &str) -> Result<()> {
    same(from, to, "tcp", address, &["--sizes", SIZES])?;
    // A switch in user space loses what it has no time for.
    same(from, to, "udp", address, &["--sizes", SIZES, "--pause", "6"])
}
