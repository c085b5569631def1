//! `fabric capture`: tcpdump and tshark read what it writes, inner and outer frames byte by byte, every dropped packet once and
//! with its reason; and nothing is left of it when it has ended.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use fabric_lab::{Container, Lab, Options, stdout_of, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const A: [u8; 4] = [192, 168, 10, 11];
const B: [u8; 4] = [192, 168, 10, 21];
const LIAR: [u8; 4] = [192, 168, 10, 99];
const PORT: u16 = 7777;

/// A running `fabric capture` on a host. Dropping it ends it.
struct Capturing {
    child: Child,
    file: PathBuf,
    log: PathBuf,
}

impl Capturing {
    fn start(lab: &Lab, host: usize, name: &str, args: &[&str]) -> Result<Self> {
        let directory = lab.host(host).directory().join("run");
        let (file, log) = (directory.join(format!("{name}.pcapng")), directory.join(format!("{name}.log")));
        let inside = format!("/run/{name}.pcapng");
        let line = [&["fabric", "capture", "-w", &inside][..], args].concat();
        let child = lab.host(host).command(&line).stdin(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        let capturing = Self { child, file, log };
        until("the capture has begun", || capturing.said().contains("capturing"))?;
        Ok(capturing)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it as ^C does.
    fn interrupt(self) -> Result<Packets> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        self.ended()
    }

    /// Waits for its own end.
    fn ended(mut self) -> Result<Packets> {
        let status = self.child.wait()?;
        ensure!(status.success(), "fabric capture failed: {}", self.said());
        Packets::read(&self.file)
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A packet as tshark tells it.
#[derive(Debug)]
struct Packet {
    interface: String,
    comment: String,
    direction: String,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Packets(Vec<Packet>);

impl Packets {
    fn read(file: &std::path::Path) -> Result<Self> {
        // tcpdump reads it to its end without a complaint.
        stdout_of(Command::new("tcpdump").args(["-n", "-e", "-r"]).arg(file))?;
        let fields = ["frame.interface_name", "frame.comment", "frame.packet_flags_direction"];
        let fields: Vec<_> = fields.iter().flat_map(|field| ["-e", field]).collect();
        let text = stdout_of(
            Command::new("tshark")
                .args(["-n", "-T", "fields", "-E", "separator=|"])
                .args(fields)
                .arg("-r")
                .arg(file),
        )?;
        let hex =
            stdout_of(Command::new("tshark").args(["-n", "-T", "jsonraw", "-J", "frame", "-r"]).arg(file))?;
        let json: Vec<serde_json::Value> = serde_json::from_str(&hex)?;
        let lines: Vec<_> = text.lines().collect();
        ensure!(lines.len() == json.len(), "tshark is at odds with itself: {text}");
        let packets = lines.iter().zip(json).map(|(line, json)| {
            let words: Vec<_> = line.split('|').map(str::to_owned).collect();
            let raw = json["_source"]["layers"]["frame_raw"][0].as_str().context("no bytes")?.to_owned();
            let bytes = (0..raw.len() / 2).map(|at| u8::from_str_radix(&raw[at * 2..at * 2 + 2], 16));
            Ok(Packet {
                interface: words[0].clone(),
                comment: words[1].clone(),
                direction: words[2].clone(),
                bytes: bytes.collect::<Result<_, _>>()?,
            })
        });
        Ok(Self(packets.collect::<Result<_>>()?))
    }

    /// Those that hold these bytes.
    fn holding(&self, bytes: &[u8]) -> Vec<&Packet> {
        self.0.iter().filter(|packet| packet.bytes.windows(bytes.len()).any(|found| found == bytes)).collect()
    }
}

fn udp(macs: ([u8; 6], [u8; 6]), from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from, to, 64).udp(4242, PORT);
    packet.write(&mut frame, payload).expect("it fits");
    frame
}

fn attach(lab: &Lab, n: usize, container: &Container, ip: &str) -> Result<[u8; 6]> {
    let endpoint = lab.host(n).attach(container, container.name(), "n1", &["--ip", ip])?;
    let text = endpoint.spec.mac.unwrap_or_default();
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("a MAC")
}

/// Packet sockets in a namespace, from the first line that is no title on.
fn sockets(text: &str) -> usize {
    text.lines().count() - 1
}

#[test]
fn captures_are_read_by_tcpdump_and_tshark() -> Result<()> {
    let mut lab = Lab::with("kcapt", &Options { hosts: 2, agents: false, ..Options::default() })?;
    lab.host_mut(1).start_agent()?;
    // Here the programs drop before anybody else sees anything.
    lab.host_mut(2).set_agent_args(&["--uplink-mode", "xdp"]);
    lab.host_mut(2).start_agent()?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    let names = [(1, "a"), (1, "a2"), (2, "b"), (2, "b2")];
    let [a, a2, b, b2] = names.map(|(n, name)| lab.container(n, name));
    let (a, a2, b, b2) = (a?, a2?, b?, b2?);
    let mac_a = attach(&lab, 1, &a, "192.168.10.11")?;
    let mac_a2 = attach(&lab, 1, &a2, "192.168.10.12")?;
    let mac_b = attach(&lab, 2, &b, "192.168.10.21")?;
    let mac_b2 = attach(&lab, 2, &b2, "192.168.10.22")?;
    lab.declare_peers()?;
    until("the overlay carries packets", || a.ping("192.168.10.21").is_ok())?;
    // The answer of a port where nobody listens would hold the packet as well.
    b.sh(&["ip", "-4", "route", "flush", "dev", "eth0"])?;
    // The other host is not told: it goes on sending there.
    lab.host(1).fabric(&["endpoint", "detach", "a2"])?;
    lab.host(2).fabric(&["endpoint", "detach", "b2"])?;
    let idle = (
        sockets(&lab.host(1).sh(&["cat", "/proc/net/packet"])?),
        sockets(&a.sh(&["cat", "/proc/net/packet"])?),
    );

    let good = udp((mac_a, mac_b), A, B, b"good packet");
    let lie = udp((mac_a, mac_b), LIAR, B, b"lie of a");
    let gone = udp((mac_a, mac_b2), A, [192, 168, 10, 22], b"nobody on h2");
    let back = udp((mac_b, mac_a2), B, [192, 168, 10, 12], b"nobody on h1");
    let tagged = [&good[..12], &[0x81, 0, 0x20, 5], &good[12..]].concat();

    let of_a = Capturing::start(&lab, 1, "a", &["a"])?;
    let both = Capturing::start(&lab, 1, "both", &["--network", "n1", "--layer", "both"])?;
    let outer = Capturing::start(&lab, 1, "outer", &["a", "--layer", "outer"])?;
    let far = Capturing::start(&lab, 2, "far", &["--layer", "both"])?;
    let drops = Capturing::start(&lab, 2, "drops", &["--drops"])?;
    let before = lab.host(1).counts()?;
    for frame in [&good, &lie, &tagged, &gone] {
        a.send_frame(frame, 2)?;
    }
    b.send_frame(&back, 2)?;
    until("the last packet is dropped on h1", || {
        lab.host(1).counts().is_ok_and(|counts| counts.since(&before).get("from_uplink drop not_local") == 2)
    })?;

    // Inner: what passes a's own interface, both ways.
    let packets = of_a.interrupt()?;
    for (frame, reason) in [(&good, ""), (&lie, "spoof_ip"), (&tagged, "vlan_tag"), (&gone, "")] {
        let found: Vec<_> = packets.0.iter().filter(|packet| packet.bytes == **frame).collect();
        assert_eq!(found.len(), 2, "{reason}: {packets:#?}");
        for packet in found {
            // 2 in the two lowest bits: outbound.
            assert!(packet.interface == "a" && packet.direction.ends_with('2'), "{packet:?}");
            assert_eq!(packet.comment.is_empty(), reason.is_empty(), "{packet:?}");
            let dropped = format!(": {reason} (");
            assert!(
                reason.is_empty() || packet.comment.starts_with("dropped by from_container at fab"),
                "{packet:?}"
            );
            assert!(reason.is_empty() || packet.comment.contains(&dropped), "{packet:?}");
            assert!(reason.is_empty() || packet.comment.ends_with(", network n1, endpoint a"), "{packet:?}");
        }
    }
    assert_eq!(packets.holding(b"nobody on h1").len(), 0, "{packets:#?}");

    // Both layers: a tunnel packet for each that left, and those that were dropped on arrival with the reason.
    let packets = both.interrupt()?;
    for (payload, inner, wire, comments) in [
        (&b"good packet"[..], 4, 2, 2),
        (b"lie of a", 2, 0, 2),
        (b"nobody on h2", 2, 2, 0),
        (b"nobody on h1", 0, 2, 2),
    ] {
        let found = packets.holding(payload);
        let count = |wanted: &dyn Fn(&Packet) -> bool| found.iter().filter(|packet| wanted(packet)).count();
        let name = String::from_utf8_lossy(payload);
        assert_eq!(count(&|packet| packet.interface == "a"), inner, "{name}: {found:#?}");
        assert_eq!(count(&|packet| packet.interface == "u0"), wire, "{name}: {found:#?}");
        assert_eq!(count(&|packet| !packet.comment.is_empty()), comments, "{name}: {found:#?}");
        assert_eq!(found.len(), inner + wire, "{name}: {found:#?}");
    }
    let refused = packets.holding(b"nobody on h1");
    assert!(refused[0].comment.contains("from_uplink at u0: not_local ("), "{refused:#?}");
    assert_eq!(refused[0].bytes[50..], back, "{refused:#?}");

    // Outer: tunnel packets of a alone.
    let packets = outer.interrupt()?;
    assert_eq!(
        (packets.holding(b"good packet").len(), packets.holding(b"nobody on h1").len()),
        (2, 0),
        "{packets:#?}"
    );
    assert!(packets.0.iter().all(|packet| packet.interface == "u0"), "{packets:#?}");

    // XDP drops are seen by no socket.
    let packets = far.interrupt()?;
    let dropped = packets.holding(b"nobody on h2");
    assert_eq!(dropped.len(), 2, "{packets:#?}");
    assert!(
        dropped.iter().all(|packet| packet.interface == "dropped" && packet.bytes[50..] == gone),
        "{dropped:#?}"
    );
    assert!(dropped[0].comment.contains("from_uplink_xdp at u0: not_local ("), "{dropped:#?}");
    let good_there: Vec<_> = packets.holding(b"good packet").iter().map(|p| p.interface.clone()).collect();
    assert_eq!(good_there.iter().filter(|name| *name == "b").count(), 2, "{good_there:?}");
    let packets = drops.interrupt()?;
    assert!(
        packets.0.iter().all(|packet| packet.bytes == gone),
        "inner, and nothing but drops: {packets:#?}"
    );
    assert_eq!(packets.0.len(), 2);

    limits(&lab, &a, &lie)?;
    let after = (
        sockets(&lab.host(1).sh(&["cat", "/proc/net/packet"])?),
        sockets(&a.sh(&["cat", "/proc/net/packet"])?),
    );
    assert_eq!(after, idle, "sockets are left");
    refusals(&lab)
}

/// Captures end by themselves, keep as much as asked, and go to standard output.
fn limits(lab: &Lab, a: &Container, lie: &[u8]) -> Result<()> {
    let counted = Capturing::start(lab, 1, "counted", &["a", "--drops", "-c", "3", "-s", "60"])?;
    a.send_frame(lie, 5)?;
    let packets = counted.ended()?;
    assert_eq!(packets.0.len(), 3, "{packets:#?}");
    let timed = Capturing::start(lab, 1, "timed", &["a", "--duration", "1", "-s", "40"])?;
    a.send_frame(lie, 1)?;
    let log = timed.log.clone();
    let packets = timed.ended()?;
    assert_eq!(packets.0.len(), 1, "{packets:#?}");
    assert_eq!(packets.0[0].bytes, lie[..40]);
    assert!(packets.0[0].comment.contains("spoof_ip"));
    assert!(fs::read_to_string(log)?.contains("1 packets, 1 of them dropped"));
    let piped = "timeout 20 fabric capture a --drops -c 1 | tcpdump -n -r -";
    let mut shell = lab.host(1).command(&["sh", "-c", piped]);
    let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    for _ in 0..40 {
        // Whenever it has begun.
        a.send_frame(lie, 1)?;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("192.168.10.99.4242 > 192.168.10.21.7777: UDP, length 8"), "{output:?}");
    Ok(())
}

fn refusals(lab: &Lab) -> Result<()> {
    for (args, words) in [
        (&["b"][..], "endpoint b lives on h2"),
        (&["nobody"], "endpoint nobody does not exist"),
        (&["--network", "green"], "network green does not exist"),
        (&["a", "-c", "0"], "begin at 1"),
    ] {
        let refused = lab.host(1).try_fabric(&[&["capture", "-w", "/run/none.pcapng"], args].concat())?;
        assert!(refused.code == 1 && refused.stderr.contains(words), "{args:?}: {refused:?}");
    }
    assert!(!lab.host(1).directory().join("run/none.pcapng").exists(), "nothing half done");
    Ok(())
}
