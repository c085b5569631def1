//! Open vSwitch with its userspace datapath as a foreign VTEP.

use std::process::Command;

use anyhow::{Context, Result};
use fabric_api::status::State;
use fabric_lab::{
    Container, Lab, Options,
    foreign::{found, same_bytes},
    stdout_of, until,
};

const MAC: &str = "02:00:00:00:00:21";

/// The switch on host 2: `br-phy` has the wire and the host's address, as the userspace datapath wants it; `br-int` has
/// the tunnel and the container. $1 is the container's network namespace, $2 the VTEP at the other end, $3 the overlay's MTU. In
/// real time: its queues are short, and on a busy machine it would lose datagrams that the test counts.
const SWITCH: &str = r"
export OVS_RUNDIR=/run/ovs OVS_DBDIR=/run/ovs OVS_LOGDIR=/run/ovs
mkdir -p /run/ovs
ovsdb-tool create /run/ovs/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server /run/ovs/conf.db --remote=punix:/run/ovs/db.sock --detach --pidfile --log-file
ovs-vsctl --no-wait init
chrt -r 1 ovs-vswitchd --detach --pidfile --log-file
wire=$(cat /sys/class/net/u0/address)
ovs-vsctl add-br br-phy -- set bridge br-phy datapath_type=netdev other-config:hwaddr=$wire -- add-port br-phy u0
ip addr flush dev u0
ip addr add 10.0.2.1/24 dev br-phy
ip addr add fd00:0:0:2::1/64 dev br-phy nodad
ip link set br-phy up
ip route replace default via 10.0.2.254
ip -6 route replace default via fd00:0:0:2::fe dev br-phy
ip link add k0 mtu $3 type veth peer name eth0 mtu $3 address 02:00:00:00:00:21 netns $1
ip link set k0 up
ovs-vsctl add-br br-int -- set bridge br-int datapath_type=netdev -- add-port br-int k0 \
    -- add-port br-int vx0 -- set interface vx0 type=vxlan options:remote_ip=$2 options:key=100
ip link set br-int up
";

/// Host 1 with an agent and container `a`; host 2 is Open vSwitch with container `k`.
fn switch(id: &str, over_v6: bool) -> Result<(Container, Container, Lab)> {
    let mut lab = Lab::with(id, &Options { hosts: 2, agents: false, ..Options::default() })?;
    lab.host_mut(1).start_agent()?;
    let network = ["network", "create", "n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64"];
    lab.host(1).fabric(&[&network, &["--vni", "100"][..]].concat())?;
    let a = lab.container(1, "a")?;
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--ip", "fd00:10::11"])?;
    let k = lab.container(2, "k")?;
    // The datapath reads frames as a network card gives them: of the MTU's size, with their checksums.
    let router = lab.router();
    stdout_of(Command::new("ip").args(["netns", "exec", &router, "ethtool", "-K", "h2"]).args(PLAIN))?;
    let address = |n: usize| if over_v6 { lab.host(n).address6() } else { lab.host(n).address() };
    let (near, far) = (address(1), address(2));
    let mtu = if over_v6 { "1430" } else { "1450" };
    lab.host(2).sh(&["sh", "-ec", SWITCH, "switch", k.netns(), &near.to_string(), mtu])?;
    k.sh(&[&["ethtool", "-K", "eth0"], PLAIN].concat())?;
    k.sh(&[
        "sh",
        "-ec",
        "ip addr add 192.168.10.21/24 dev eth0
        ip addr add fd00:10::21/64 dev eth0 nodad
        ip link set eth0 up",
    ])?;
    std::fs::write(
        lab.host(1).directory().join("run/foreign.yaml"),
        format!(
            "kind: Node\nmetadata: {{name: switch}}\nspec:\n  vteps: ['{far}']\n  foreign: true\n  networks:\n  \
             - {{network: n1, prefixes: [192.168.10.16/28, 'fd00:10::20/124']}}\n---\n\
             kind: Endpoint\nmetadata: {{name: k}}\nspec: {{network: n1, node: switch, mac: '{MAC}', \
             addresses: [192.168.10.21, 'fd00:10::21']}}\n"
        ),
    )?;
    lab.host(1).fabric(&["apply", "-f", "/run/foreign.yaml"])?;
    until("the foreign endpoint is there", || {
        let endpoint = lab.host(1).endpoint("k");
        endpoint.is_ok_and(|k| k.status.is_some_and(|status| status.state == State::Ready))
    })?;
    Ok((a, k, lab))
}

const PLAIN: &[&str] = &["tx", "off", "tso", "off", "gso", "off"];

fn both_ways(id: &str, over_v6: bool, taken: &str) -> Result<()> {
    let (a, k, lab) = switch(id, over_v6)?;
    let before = lab.host(1).counts()?;
    // Its first packet only makes the switch ask for the router's address.
    until("the switch forwards", || k.ping("192.168.10.11").is_ok())?;
    a.ping("192.168.10.21")?;
    a.ping("fd00:10::21")?;
    k.ping("fd00:10::11")?;
    for (from, to, address) in [
        (&a, &k, "192.168.10.21:5000"),
        (&a, &k, "[fd00:10::21]:5000"),
        (&k, &a, "192.168.10.11:5000"),
        (&k, &a, "[fd00:10::11]:5000"),
    ] {
        same_bytes(from, to, address)?;
    }
    let mac = lab.host(1).endpoint("a")?.spec.mac.context("a MAC")?;
    for address in ["192.168.10.11", "fd00:10::11"] {
        assert!(found(&k, address, &mac)?, "it asked for {address}");
    }
    let moved = lab.host(1).counts()?.since(&before);
    assert!(moved.get(&format!("{taken} action local")) > 100, "{moved:?}");
    Ok(())
}

#[test]
fn open_vswitch_is_reached_both_ways() -> Result<()> {
    both_ways("iovs", false, "from_uplink")
}

/// The switch computes the outer checksum where the underlay is IPv6.
#[test]
fn open_vswitch_is_reached_over_ipv6() -> Result<()> {
    both_ways("iovsv", true, "from_vxlan")
}
