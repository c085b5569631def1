//! Open vSwitch with its userspace datapath as a foreign VTEP.

use std::process::Command;

use anyhow::{Context, Result};
use fabric_lab::{
    Container, Lab, Options,
    foreign::{self, MAC, found},
    stdout_of, until,
};

/// The switch on host 2: `br-phy` has the wire and the host's address, as the userspace datapath wants it; `br-int` has
/// the tunnel and the container. $1 is the container's network namespace, $2 the VTEP at the other end, $3 the overlay's MTU,
/// $4 the container's MAC. In real time: its queues are short, and on a busy machine it would lose datagrams that the test counts.
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
ip link add k0 mtu $3 type veth peer name eth0 mtu $3 address $4 netns $1
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
    lab.host(2).sh(&["sh", "-ec", SWITCH, "switch", k.netns(), &near.to_string(), mtu, MAC])?;
    k.sh(&[&["ethtool", "-K", "eth0"], PLAIN].concat())?;
    foreign::addresses(&k)?;
    foreign::declare(&lab, &far.to_string(), "")?;
    Ok((a, k, lab))
}

const PLAIN: &[&str] = &["tx", "off", "tso", "off", "gso", "off"];

fn both_ways(id: &str, over_v6: bool, taken: &str) -> Result<()> {
    let (a, k, lab) = switch(id, over_v6)?;
    let before = lab.host(1).counts()?;
    // Its first packet only makes the switch ask for the router's address.
    until("the switch forwards", || k.ping("192.168.10.11").is_ok())?;
    foreign::everything(&a, &k)?;
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
