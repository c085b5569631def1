//! Runs the real programs on frames (`BPF_PROG_TEST_RUN`), with tables that the real planner made of the cast.
//!
//! A [`Stage`] is a network namespace of the calling thread's own. A [`Rig`] is one host on it: the object loaded with
//! its own maps, and real interfaces, since the kernel wants to know the ones that programs name. Nothing is attached
//! and nothing is pinned; all of it goes with the thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
};

use aya::{
    Ebpf, TestRun, TestRunOptions,
    maps::{Array, HashMap, MapData},
    programs::{Program, TcAttachType},
};
use fabric_agent::{
    model::{Cluster, Dscp},
    plan::{
        desired::{NodeFacts, PlanSettings, RouteFacts, Tables, UplinkFacts},
        plan,
    },
};
use fabric_api::Object;
use fabric_common::{
    abi::{self, program},
    event::DropEvent,
    node::NodeValue,
    settings::Settings,
    stage::{self, Mark},
};
use nix::{
    net::if_::{if_indextoname, if_nametoindex},
    sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, unshare},
    unistd::Pid,
};

use crate::{
    cast::{self, Container, FAMILIES, HOSTS, Host, UNDERLAY_MTU, VXLAN_PORT},
    frame,
    ledger::{Changes, Entry, Ledger},
    load::{Globals, load, load_traced},
};

/// Events a second: more than any walk has drops.
const EVENTS_PER_SECOND: u32 = 1_000_000_000;
/// Ports that translated flows are given.
pub const NAT_PORTS: (u16, u16) = (61000, 65535);
/// Room for what a program adds to a frame.
const HEADROOM: usize = 256;

/// A network namespace of its own for the calling thread.
pub struct Stage(());

impl Stage {
    /// Leaves the machine's network behind. For the rest of its life the thread sees only what it makes itself.
    ///
    /// # Panics
    /// Without the privileges of root.
    pub fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("walks need root: run them with `cargo xtask test`");
        // Interfaces say nothing of themselves then, which programs that are attached for real would count.
        for name in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
            std::fs::write(path, "1").expect("root may change settings of its namespace");
        }
        ip(&["link set lo up".to_owned()]);
        Self(())
    }

    /// A host with the usual objects and features on.
    pub fn rig(&self, host: &'static Host) -> Rig {
        self.rig_with(host, &cast::objects(host), Globals::default())
    }

    /// A host with other objects or features.
    pub fn rig_with(&self, host: &'static Host, objects: &[Object], globals: Globals) -> Rig {
        self.build(host, objects, globals, Dscp::default(), veth(&format!("v-{}", host.name), None))
    }

    /// A host with this setting of the outer DSCP.
    pub fn rig_with_dscp(&self, host: &'static Host, objects: &[Object], dscp: Dscp) -> Rig {
        let device = veth(&format!("v-{}", host.name), None);
        self.build(host, objects, Globals::default(), dscp, device)
    }

    /// A host that the kernel's own stack can hand packets to: its uplink has an address, and its `vxlan` device is one.
    /// A stage has room for one of these.
    pub fn rig_with_stack(&self, host: &'static Host) -> Rig {
        self.rig_with_stack_and(host, &cast::objects(host), Dscp::default())
    }

    /// The same with other objects and this setting of the outer DSCP.
    pub fn rig_with_stack_and(&self, host: &'static Host, objects: &[Object], dscp: Dscp) -> Rig {
        let (uplink, device) = (format!("up-{}", host.name), format!("v-{}", host.name));
        ip(&[
            format!("link add {device} type vxlan external dstport {VXLAN_PORT} udp6zerocsumrx"),
            format!("link set {device} up"),
        ]);
        let ifindex = if_nametoindex(device.as_str()).expect("the interface was just made");
        let rig = self.build(host, objects, Globals::default(), dscp, ifindex);
        ip(&[format!("address add {}/16 dev {uplink}", host.vtep)]);
        for name in ["all", &uplink] {
            let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
            std::fs::write(path, "0").expect("root may change settings of its namespace");
        }
        rig
    }

    fn build(
        &self,
        host: &'static Host,
        objects: &[Object],
        globals: Globals,
        dscp: Dscp,
        vxlan: u32,
    ) -> Rig {
        let uplink = uplink(host);
        let cluster = Cluster::from_objects(objects);
        assert!(cluster.problems.is_empty(), "the cast is at odds with itself: {:?}", cluster.problems);
        let route = RouteFacts { ifindex: uplink.ifindex, mtu: None };
        let facts = NodeFacts {
            node: host.name.to_owned(),
            routes: HOSTS.iter().flat_map(|h| FAMILIES.map(|family| (h.underlay(family), route))).collect(),
            peers: BTreeMap::new(),
            ports: ports(&cluster, host),
            uplinks: vec![uplink],
            vxlan_ifindex: Some(vxlan),
            frag: Some(frag(host)),
            xdp: BTreeSet::new(),
            plugged: BTreeSet::new(),
            access: access(&cluster),
            numbers: Default::default(),
            guard: Default::default(),
            names: Default::default(),
        };
        let settings = PlanSettings {
            vxlan_port: VXLAN_PORT,
            events_per_second: EVENTS_PER_SECOND,
            dscp,
            nat_ports: NAT_PORTS,
        };
        let desired = plan(&cluster, &facts, &settings);
        assert!(desired.problems.is_empty(), "the planner finds problems: {:?}", desired.problems);
        Rig::new(host, facts, desired.tables, globals)
    }

    /// Programs without any rows, on `host`'s uplink and with ports of these interface indices.
    pub fn bare_rig(&self, host: &'static Host, ports: impl IntoIterator<Item = u32>) -> Rig {
        let uplink = uplink(host);
        let vxlan = veth(&format!("v-{}", host.name), None);
        let lines = ports.into_iter().map(|index| {
            format!(
                "link add name p-{index} index {index} mtu {UNDERLAY_MTU} type veth peer name p-{index}-x"
            )
        });
        ip(&lines.collect::<Vec<_>>());
        let facts = NodeFacts {
            node: host.name.to_owned(),
            uplinks: vec![uplink],
            vxlan_ifindex: Some(vxlan),
            frag: Some(frag(host)),
            ..NodeFacts::default()
        };
        Rig::new(host, facts, Tables::default(), Globals::default())
    }
}

fn uplink(host: &Host) -> UplinkFacts {
    let name = format!("up-{}", host.name);
    UplinkFacts {
        ifindex: veth(&name, Some(host)),
        name,
        mac: host.mac,
        mtu: UNDERLAY_MTU,
        vteps: FAMILIES.map(|family| host.underlay(family)).to_vec(),
    }
}

fn ports(cluster: &Cluster, host: &Host) -> BTreeMap<String, u32> {
    let local = cluster.endpoints.values().filter(|endpoint| endpoint.seat(host.name).is_some());
    local.map(|endpoint| (endpoint.name.clone(), veth(&format!("p-{}", endpoint.name), None))).collect()
}

/// Access ports: as in life, both sides are in the same namespace.
fn access(cluster: &Cluster) -> BTreeMap<String, u32> {
    let networks = cluster.networks.values().filter(|network| network.host_access);
    networks.map(|network| (network.name.clone(), veth(&format!("h-{}", network.name), None))).collect()
}

/// A veth pair; returns the index of the named side.
fn veth(name: &str, host: Option<&Host>) -> u32 {
    let address = host.map_or(String::new(), |host| format!("address {}", host.mac));
    ip(&[
        format!("link add {name} {address} mtu {UNDERLAY_MTU} type veth peer name {name}-x"),
        format!("link set {name} up"),
        format!("link set {name}-x up"),
    ]);
    if_nametoindex(name).expect("the interface was just made")
}

/// The pair of veths for fragments, as the agent makes it.
fn frag(host: &Host) -> (u32, u32) {
    let (enter, leave) = (format!("f-{}", host.name), format!("f-{}-in", host.name));
    ip(&[
        format!("link add {enter} mtu 65535 gso_max_segs 1 type veth peer name {leave} mtu 65535"),
        format!("link set {enter} up"),
        format!("link set {leave} up"),
    ]);
    let index = |name: &str| if_nametoindex(name).expect("the interface was just made");
    (index(&enter), index(&leave))
}

/// Runs commands of iproute2 in the thread's namespace.
pub fn ip(lines: &[String]) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    let mut input = child.stdin.take().expect("it was asked for");
    input.write_all((lines.join("\n") + "\n").as_bytes()).expect("ip reads its input");
    drop(input);
    let status = child.wait().expect("ip ends");
    assert!(status.success(), "ip failed at one of {lines:?}");
}

/// What a program wants done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is: `TC_ACT_UNSPEC` (the next program, then the stack), `XDP_PASS`.
    ToStack,
    /// It ends here: `TC_ACT_SHOT`, `XDP_DROP`.
    Taken,
    /// It leaves through an interface that the program chose: `TC_ACT_REDIRECT`.
    Sent,
}

/// Whether the kernel runs a TC program on a frame: it wants whole IP headers. [`Wire`] has no such limit.
pub fn can_run(frame: &[u8]) -> bool {
    match frame.get(12..frame::ETH) {
        Some([0x08, 0x00]) => frame.len() >= frame::ETH + frame::IPV4,
        Some([0x86, 0xdd]) => frame.len() >= frame::ETH + frame::IPV6,
        Some(_) => true,
        None => false,
    }
}

/// The end of a run.
#[derive(Debug)]
pub struct Ran {
    /// What was run, for messages.
    pub what: String,
    /// The decision.
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub bytes: Vec<u8>,
    /// Counters that moved and events that came.
    pub changes: Changes,
}

impl Ran {
    /// Panics unless the verdict is this one and the counters moved exactly so.
    #[track_caller]
    pub fn assert(&self, what: &str, verdict: Verdict, expected: &[Entry]) {
        assert_eq!(
            self.verdict,
            verdict,
            "{what} ({}): another verdict; these counters moved: {:#?}\nthe frame as the program left it:\n{}",
            self.what,
            self.changes.lines(),
            frame::explain(&self.bytes)
        );
        self.changes.assert(&format!("{what} ({})", self.what), expected);
    }
}

/// Segmentation that a frame asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gso {
    /// Payload bytes of each segment; 0 for a frame that is not to be segmented.
    pub size: u32,
    /// Number of segments.
    pub segments: u32,
}

/// Where a frame meets a program.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    program: &'static str,
    ifindex: u32,
}

impl Place {
    /// The TC program of the port at this interface.
    pub fn port(ifindex: u32) -> Self {
        Self { program: program::FROM_CONTAINER, ifindex }
    }

    /// Index of the interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

/// One host: programs, tables, interfaces.
pub struct Rig {
    /// Which one it is.
    pub host: &'static Host,
    /// The planner's rows, as they were written.
    pub tables: Tables,
    pub(crate) ebpf: Ebpf,
    ledger: Ledger,
    pub(crate) facts: NodeFacts,
    mark: u32,
}

impl Rig {
    fn new(host: &'static Host, facts: NodeFacts, tables: Tables, globals: Globals) -> Self {
        let mut ebpf = load(globals);
        let ledger = Ledger::new(&mut ebpf);
        let mut rig = Self { host, tables: Tables::default(), ebpf, ledger, facts, mark: 0 };
        rig.write(tables);
        rig
    }

    /// Goes on with the traced build of the programs, with tables and counters of its own.
    #[must_use]
    pub fn traced(self) -> Self {
        let mut ebpf = load_traced(Globals::default());
        let ledger = Ledger::new(&mut ebpf);
        let mut rig = Self { tables: Tables::default(), ebpf, ledger, ..self };
        rig.write(self.tables);
        rig
    }

    /// The marks of the walks since the map was made.
    pub fn marks(&self) -> Vec<Mark> {
        let map = self.ebpf.map(stage::MAP).expect("the traced object has it");
        let marks = Array::<&MapData, u32>::try_from(map).expect("an array");
        let count = marks.get(&0, 0).expect("it can be read").min(stage::ENTRIES - 1);
        (1..=count).filter_map(|at| Mark::from_word(marks.get(&at, 0).expect("it can be read"))).collect()
    }

    /// The TC program of a container's port.
    pub fn port(&self, container: &Container) -> Place {
        Place { program: program::FROM_CONTAINER, ifindex: self.facts.ports[container.name] }
    }

    /// The TC program of the host's access port in a network.
    pub fn access(&self, network: &cast::Network) -> Place {
        Place { program: program::FROM_CONTAINER, ifindex: self.facts.access[network.name] }
    }

    /// The TC program of the uplink.
    pub fn uplink(&self) -> Place {
        Place { program: program::FROM_UPLINK, ifindex: self.facts.uplinks[0].ifindex }
    }

    /// The XDP program of the uplink.
    pub fn uplink_xdp(&self) -> Place {
        Place { program: program::FROM_UPLINK_XDP, ..self.uplink() }
    }

    /// The TC program of the `vxlan` device.
    pub fn vxlan_device(&self) -> Place {
        let ifindex = self.facts.vxlan_ifindex.expect("every rig has one");
        Place { program: program::FROM_VXLAN, ifindex }
    }

    /// The TC program of the far side of the veth for fragments.
    pub fn frag(&self) -> Place {
        let (_, leave) = self.facts.frag.expect("every rig has one");
        Place { program: program::FROM_FRAG, ifindex: leave }
    }

    /// The TC program of a port at an interface that is no port.
    pub fn wrong_port(&self) -> Place {
        Place { program: program::FROM_CONTAINER, ..self.uplink() }
    }

    /// Keeps the calling thread on the CPU where it is: some maps count by CPU.
    pub fn stay_on_this_cpu(&self) {
        let mut set = CpuSet::new();
        set.set(sched_getcpu().expect("it runs somewhere")).expect("a CPU that exists");
        sched_setaffinity(Pid::from_raw(0), &set).expect("a thread may stay where it is");
    }

    /// Attaches a TC program for real, for as long as the rig lives.
    pub fn attach(&mut self, place: Place) {
        let name = if_indextoname(place.ifindex).expect("the interface exists");
        let name = name.to_str().expect("its name is plain text").to_owned();
        let Some(Program::SchedClassifier(program)) = self.ebpf.program_mut(place.program) else {
            panic!("{} is no TC program", place.program)
        };
        program.attach(&name, TcAttachType::Ingress).expect("Linux 6.6 or later attaches it");
    }

    /// Runs a program on a frame and tells all that moved.
    pub fn run(&mut self, place: Place, frame: &[u8]) -> Ran {
        self.run_gso(place, frame, Gso::default())
    }

    /// The same with a packet that has a mark.
    pub fn run_marked(&mut self, place: Place, frame: &[u8], mark: u32) -> Ran {
        self.mark = mark;
        let ran = self.run(place, frame);
        self.mark = 0;
        ran
    }

    /// The same with a frame that is to be segmented.
    pub fn run_gso(&mut self, place: Place, frame: &[u8], gso: Gso) -> Ran {
        let (verdict, bytes) = self.run_uncounted(place, frame, gso);
        let what = format!("{} on {}", place.program, self.host.name);
        Ran { what, verdict, bytes, changes: self.ledger.changes() }
    }

    /// Runs a program without a look at the counters: for walks of many frames.
    pub fn run_uncounted(&mut self, place: Place, frame: &[u8], gso: Gso) -> (Verdict, Vec<u8>) {
        let mut out = vec![0; frame.len() + HEADROOM];
        let program = self.ebpf.program_mut(place.program).expect("it is loaded");
        let xdp = matches!(program, Program::Xdp(_));
        let context =
            if xdp { xdp_md(frame.len(), place.ifindex) } else { sk_buff(place.ifindex, self.mark, gso) };
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = if let Program::Xdp(program) = program {
            program.test_run(options)
        } else if let Program::SchedClassifier(program) = program {
            program.test_run(options)
        } else {
            panic!("{} is for another hook", place.program)
        };
        let result = result.unwrap_or_else(|error| {
            panic!("{} can't be run on this frame: {error:?}\n{}", place.program, frame::explain(frame))
        });
        out.truncate(result.data_size_out as usize);
        let verdict = match (xdp, result.return_value) {
            (true, 1) | (false, 2) => Verdict::Taken,
            (true, 2) | (false, u32::MAX) => Verdict::ToStack,
            (false, 7) => Verdict::Sent,
            (_, code) => panic!("{} returned {code}, which none of ours does", place.program),
        };
        (verdict, out)
    }

    /// Changes what the programs know of this node.
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut tables = self.tables.clone();
        change(tables.settings.get_mut(&0).expect("the planner writes them"));
        self.write(tables);
    }

    /// Changes the MTU toward every node.
    pub fn change_node_mtu(&mut self, mtu: u16) {
        let mut tables = self.tables.clone();
        tables.nodes.values_mut().for_each(|node| node.mtu = mtu);
        self.write(tables);
    }

    /// Takes the outer header toward a node away.
    pub fn forget_node(&mut self, number: u32) {
        let map = self.ebpf.map_mut(abi::NODES.name).expect("it exists");
        let mut map = HashMap::<&mut MapData, u32, NodeValue>::try_from(map).expect("a hash");
        map.remove(&number).expect("it has a row");
        self.tables.nodes.remove(&number);
    }

    /// What moved since the last look.
    pub fn changes(&mut self) -> Changes {
        self.ledger.changes()
    }

    /// The events since the last look, without one at the counters.
    pub fn events(&mut self) -> Vec<DropEvent> {
        self.ledger.events()
    }
}

/// `struct __sk_buff` (`include/uapi/linux/bpf.h`) with the fields that a test run takes.
fn sk_buff(ifindex: u32, mark: u32, gso: Gso) -> Vec<u8> {
    const SIZE: usize = 192;
    const MARK: usize = 8;
    const IFINDEX: usize = 40;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = vec![0; SIZE];
    for (at, value) in [(MARK, mark), (IFINDEX, ifindex), (GSO_SEGS, gso.segments), (GSO_SIZE, gso.size)] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
pub(crate) fn xdp_md(length: usize, ifindex: u32) -> Vec<u8> {
    [0, length as u32, 0, ifindex, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}
