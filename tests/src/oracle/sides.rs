//! Two hosts with the same address, each in a network namespace of its own: one is our programs, attached for real and with
//! the stack behind them, the other has a `vxlan` device for each VNI. Containers are in a third namespace, as in life.
//!
//! A frame goes in and behind it a sentinel, a right tunnel packet that takes the longest way on both sides. What arrives
//! before the sentinel is what the frame became.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use fabric_agent::model::{Dscp, ids::node_mac};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::{Pid, gettid},
};

use super::tap::Tap;
use crate::{
    cast::{self, BLUE, CA1, CB1, CONTAINERS, Container, Family, GREEN, HOST_A, HOST_B, Network, VXLAN_PORT},
    frame::{Outer, Path},
    walk::{Rig, Stage, ip},
};

/// The longest frame that is sent fits.
const MTU: u32 = 9000;
/// A sentinel is there at once, unless the machine is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was delivered: the network, whose it is on our side, and the inner frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// VNI.
    pub vni: u32,
    /// The container; nothing on the kernel's side, which delivers to its device.
    pub to: Option<&'static Container>,
    /// The frame.
    pub inner: Vec<u8>,
}

/// One side: where frames go in, and where they come out.
struct Side {
    send: Tap,
    into: u32,
    out: Tap,
    at: Vec<(u32, u32, Option<&'static Container>)>,
}

impl Side {
    fn run(&self, frames: &[Vec<u8>], sentinel: &[u8], mark: &[u8]) -> Vec<Delivered> {
        for frame in frames {
            self.send.send(self.into, frame);
        }
        self.send.send(self.into, sentinel);
        let (mut delivered, start) = (Vec::new(), Instant::now());
        loop {
            match self.out.next() {
                Some((ifindex, inner)) => {
                    let Some((_, vni, to)) = self.at.iter().find(|(at, ..)| *at == ifindex) else { continue };
                    if inner == mark {
                        return delivered;
                    }
                    delivered.push(Delivered { vni: *vni, to: *to, inner });
                }
                None => assert!(start.elapsed() < PATIENCE, "a sentinel was lost behind {frames:02x?}"),
            }
        }
    }
}

/// Both sides.
pub struct Sides {
    ours: Side,
    kernel: Side,
    underlay: Family,
    number: u64,
    _rig: Rig,
}

fn network(vni: u32) -> &'static Network {
    if vni == BLUE.vni { &BLUE } else { &GREEN }
}

impl Sides {
    /// HOST_B twice, over an underlay of this family.
    pub fn new(underlay: Family) -> Self {
        // Frames stay in order on one CPU.
        let mut cpu = CpuSet::new();
        cpu.set(sched_getcpu().expect("it runs somewhere")).expect("a CPU that exists");
        sched_setaffinity(Pid::from_raw(0), &cpu).expect("a thread may stay where it is");
        let kernel = thread::spawn(move || kernel(underlay)).join().expect("the kernel's side can be made");
        let (rig, ours) = ours(underlay);
        Self { ours, kernel, underlay, number: 0, _rig: rig }
    }

    /// What our side and the kernel's deliver of some frames.
    pub fn run(&mut self, frames: &[Vec<u8>]) -> (Vec<Delivered>, Vec<Delivered>) {
        self.number += 1;
        let payload = [b"sentinel ", &self.number.to_be_bytes()[..]].concat();
        let inner = Path::between(&CA1, &CB1, Family::V4).udp((1, 1), &payload);
        // With a checksum our side leaves it to the stack.
        let sentinel = Outer::over(self.underlay, &HOST_A, &HOST_B, BLUE.vni).around_with_checksum(&inner);
        (self.ours.run(frames, &sentinel, &inner), self.kernel.run(frames, &sentinel, &inner))
    }
}

fn index(name: &str) -> u32 {
    if_nametoindex(name).expect("the interface exists")
}

fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value)
        .expect("root may change settings of its namespace");
}

/// Gives an uplink its address.
fn address(uplink: &str, underlay: Family) {
    match underlay {
        Family::V4 => {
            ip(&[format!("address add {}/16 dev {uplink}", HOST_B.vtep)]);
            for name in ["all", uplink] {
                set(&format!("ipv4/conf/{name}/rp_filter"), "0");
            }
        }
        Family::V6 => {
            set(&format!("ipv6/conf/{uplink}/disable_ipv6"), "0");
            ip(&[format!("address add {}/32 dev {uplink} nodad", HOST_B.vtep_v6())]);
        }
    }
}

/// The kernel's side. All of it is in the calling thread's new namespace; the sockets keep it.
fn kernel(underlay: Family) -> Side {
    let _stage = Stage::enter();
    ip(&[
        format!("link add under address {} mtu {MTU} type veth peer name under-x mtu {MTU}", HOST_B.mac),
        "link set under up".to_owned(),
        "link set under-x up".to_owned(),
    ]);
    address("under", underlay);
    let mut at = Vec::new();
    for network in [&BLUE, &GREEN] {
        let (device, vni, mac) = (format!("vx{}", network.vni), network.vni, node_mac(HOST_B.name));
        let local = HOST_B.underlay(underlay);
        ip(&[
            format!(
                "link add {device} address {mac} mtu 8000 type vxlan id {vni} local {local} dstport {VXLAN_PORT} \
                 nolearning udp6zerocsumrx"
            ),
            // A bridge that is down takes all: the host's own stack would accept a broadcast frame with its address inside,
            // and open a tunnel packet in a tunnel packet.
            format!("link add br{vni} type bridge"),
            format!("link set {device} master br{vni}"),
            format!("link set {device} up"),
        ]);
        at.push((index(&device), vni, None));
    }
    Side { send: Tap::mute(), into: index("under-x"), out: Tap::everywhere(), at }
}

/// Our side. The calling thread's new namespace is the host's.
fn ours(underlay: Family) -> (Rig, Side) {
    let stage = Stage::enter();
    let objects = match underlay {
        Family::V4 => cast::objects(&HOST_B),
        Family::V6 => cast::objects_over_v6(&HOST_B),
    };
    let mut rig = stage.rig_with_stack_and(&HOST_B, &objects, Dscp::default());
    let uplink = format!("up-{}", HOST_B.name);
    ip(&[format!("link set {uplink} mtu {MTU}"), format!("link set {uplink}-x mtu {MTU}")]);
    if underlay == Family::V6 {
        address(&uplink, underlay);
    }
    let (out, at) = containers(&rig);
    rig.attach(rig.uplink());
    rig.attach(rig.vxlan_device());
    let into = index(&format!("{uplink}-x"));
    (rig, Side { send: Tap::mute(), into, out, at })
}

type Ports = Vec<(u32, u32, Option<&'static Container>)>;

/// Moves the containers' sides of their veths into a namespace and listens there.
fn containers(rig: &Rig) -> (Tap, Ports) {
    let local: Vec<_> = CONTAINERS.into_iter().filter(|c| c.host == rig.host).collect();
    let (tell, told): (Sender<Pid>, Receiver<Pid>) = channel();
    let (moved, go) = channel();
    let names: Vec<_> = local.iter().map(|c| format!("p-{}-x", c.name)).collect();
    let there = {
        let names = names.clone();
        thread::spawn(move || {
            let _stage = Stage::enter();
            tell.send(gettid()).expect("somebody waits");
            go.recv().expect("the veths come");
            ip(&names.iter().map(|name| format!("link set {name} up")).collect::<Vec<_>>());
            let indexes: Vec<_> = names.iter().map(|name| index(name)).collect();
            (Tap::everywhere(), indexes)
        })
    };
    let pid = told.recv().expect("the namespace is made");
    ip(&names.iter().map(|name| format!("link set {name} netns {pid}")).collect::<Vec<_>>());
    moved.send(()).expect("somebody waits");
    let (tap, indexes) = there.join().expect("the containers' namespace can be made");
    let at = indexes.into_iter().zip(local).map(|(index, c)| (index, c.network.vni, Some(c))).collect();
    (tap, at)
}

impl Delivered {
    /// The network's name, for messages.
    pub fn network(&self) -> &'static str {
        network(self.vni).name
    }
}
