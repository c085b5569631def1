//! `fabric trace` foretells what tcpdump, the counters and the containers see, for every packet of a scenario; and it changes
//! nothing: no packet is sent and none is counted.

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use fabric_lab::{Capture, Container, Lab, UNDERLAY, until};

/// Nobody listens there; a capture finds what arrives.
const PORT: u16 = 7777;
const A: [u8; 4] = [192, 168, 10, 11];
const A2: [u8; 4] = [192, 168, 10, 12];
const B: [u8; 4] = [192, 168, 10, 21];
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// Name, frame, verdict and reason on each node, the counter that moves on the first.
type Case = (&'static str, Vec<u8>, &'static [(&'static str, &'static str)], &'static str);

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("a MAC")
}

fn udp(src_mac: [u8; 6], dst_mac: [u8; 6], src: [u8; 4], dst: [u8; 4], length: usize) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src_mac, dst_mac).ipv4(src, dst, 64).udp(4000, PORT);
    builder.write(&mut frame, &vec![0xa5; length])?;
    Ok(frame)
}

/// A file of packets is walked as they are one by one, be it tcpdump's or our own.
fn captured(lab: &Lab, a: &Container, frames: &[&Vec<u8>]) -> Result<()> {
    let directory = lab.host(1).directory().join("run");
    let filter = format!("udp dst port {PORT}");
    let file = lab.directory().join("sent.pcap");
    let tcpdump = Capture::start(|line| a.command(line), "eth0", &filter, file)?;
    let own = ["timeout", "30", "fabric", "capture", "a", "-w", "/run/sent.pcapng", "--duration", "3"];
    let mut capture = lab.host(1).command(&own).stderr(std::process::Stdio::piped()).spawn()?;
    let mut said = std::io::BufReader::new(capture.stderr.take().context("no standard error")?);
    std::io::BufRead::read_line(&mut said, &mut String::new())?;
    for frame in frames {
        a.send_frame(frame, 1)?;
    }
    std::io::Read::read_to_string(&mut said, &mut String::new())?;
    assert!(capture.wait()?.success());
    std::fs::write(directory.join("sent.pcap"), tcpdump.bytes()?)?;
    let hex = |frame: &[u8]| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sent: Vec<_> = frames.iter().map(|frame| hex(frame)).collect();
    for file in ["/run/sent.pcap", "/run/sent.pcapng"] {
        let line = ["trace", "--from", "a", "--pcap", file, "-o", "json"];
        let walked: serde_json::Value = serde_json::from_str(&lab.host(1).fabric(&line)?)?;
        let reports: Vec<_> =
            walked.as_array().context("a list")?.iter().map(|one| &one["reports"][0]).collect();
        // The container's stack may have said something of itself meanwhile.
        let ours = reports
            .iter()
            .filter(|report| report["packet"].as_str().is_some_and(|p| sent.iter().any(|s| s == p)));
        let verdicts: Vec<_> =
            ours.map(|report| (report["verdict"].as_str(), report["reason"].as_str())).collect();
        let local = (Some("local"), Some(""));
        assert_eq!(verdicts, [local, (Some("drop"), Some("spoof_ip")), local], "{file}: {walked:#}");
    }
    let table = lab.host(1).fabric(&["trace", "--from", "a", "--pcap", "/run/sent.pcap", "-c", "2"])?;
    let second = table.lines().nth(2).context("two packets")?;
    assert!(second.starts_with("2       dropped by spoof_ip at from_container"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let refused = lab.host(1).try_fabric(&["trace", "--from", "a", "--pcap", "/run/booted"])?;
    assert!(refused.code == 1 && refused.stderr.contains("/run/booted is no capture file"), "{refused:?}");
    Ok(())
}

#[test]
fn trace_and_tcpdump_agree() -> Result<()> {
    let lab = Lab::new("strace", 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, a2, b) = (lab.container(1, "a")?, lab.container(1, "a2")?, lab.container(2, "b")?);
    let attach = |n: usize, container: &Container, name: &str, v4: &str, v6: &str| -> Result<[u8; 6]> {
        mac(&lab
            .host(n)
            .attach(container, name, "n1", &["--ip", v4, "--ip", v6])?
            .spec
            .mac
            .unwrap_or_default())
    };
    let mac_a = attach(1, &a, "a", "192.168.10.11", "fd00:10::11")?;
    let mac_a2 = attach(1, &a2, "a2", "192.168.10.12", "fd00:10::12")?;
    let mac_b = attach(2, &b, "b", "192.168.10.21", "fd00:10::21")?;
    let gone = lab.container(2, "gone")?;
    let mac_gone = attach(2, &gone, "gone", "192.168.10.22", "fd00:10::22")?;
    lab.declare_peers()?;
    until("the overlay carries packets", || a.ping("192.168.10.21").is_ok())?;
    // The first host is not told: it goes on sending there.
    lab.host(2).fabric(&["endpoint", "detach", "gone"])?;

    let tagged =
        [&udp(mac_a, mac_b, A, B, 8)?[..12], &[0x81, 0, 0, 5], &udp(mac_a, mac_b, A, B, 8)?[12..]].concat();
    let (local, lie) = (udp(mac_a, mac_a2, A, A2, 8)?, udp(mac_a, mac_b, A2, B, 8)?);
    let other = [&udp(mac_a, mac_b, A, B, 8)?[..12], &[0x88, 0xb5], &[0; 46]].concat();
    let cases: [Case; 9] = [
        ("local", udp(mac_a, mac_a2, A, A2, 8)?, &[("local", "")], "from_container action local"),
        (
            "remote",
            udp(mac_a, mac_b, A, B, 8)?,
            &[("remote", ""), ("local", "")],
            "from_container action remote",
        ),
        (
            "another's address",
            udp(mac_a, mac_b, A2, B, 8)?,
            &[("drop", "spoof_ip")],
            "from_container drop spoof_ip",
        ),
        (
            "another's MAC",
            udp(mac_a2, mac_b, A, B, 8)?,
            &[("drop", "spoof_mac")],
            "from_container drop spoof_mac",
        ),
        (
            "unknown MAC",
            udp(mac_a, NOBODY, A, B, 8)?,
            &[("drop", "unknown_destination")],
            "from_container drop unknown_destination",
        ),
        ("VLAN tag", tagged, &[("drop", "vlan_tag")], "from_container drop vlan_tag"),
        // The agent keeps both ends of the veth at the right MTU, so that a packet that is too big does not get as far.
        (
            "EtherType",
            other,
            &[("drop", "unsupported_ethertype")],
            "from_container drop unsupported_ethertype",
        ),
        (
            "broadcast",
            udp(mac_a, [0xff; 6], A, [192, 168, 10, 255], 8)?,
            &[("drop", "multicast_off")],
            "from_container drop multicast_off",
        ),
        (
            "gone there",
            udp(mac_a, mac_gone, A, [192, 168, 10, 22], 8)?,
            &[("remote", ""), ("drop", "not_local")],
            "from_container action remote",
        ),
    ];
    // Nothing comes back: the answer of a port where nobody listens would be counted as well.
    for container in [&a2, &b] {
        container.sh(&["ip", "-4", "route", "flush", "dev", "eth0"])?;
    }
    let filter = format!("udp dst port {PORT}");
    for (what, frame, verdicts, counter) in cases {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let capture = |container: &Container| {
            let file = lab.directory().join(format!("{}.pcap", container.netns()));
            Capture::start(|line| container.command(line), "eth0", &filter, file)
        };
        let wire_file = lab.directory().join("wire.pcap");
        let (at_a2, at_b) = (capture(&a2)?, capture(&b)?);
        let wire =
            Capture::start(|line| lab.host(1).command(line), UNDERLAY, "udp dst port 4789", wire_file)?;
        let before = (lab.host(1).counts()?, lab.host(2).counts()?);
        let reports = lab.trace(&["--from", "a", "--packet", &hex], &a)?;
        let traced: Vec<_> = reports.iter().map(|r| (r.verdict.as_str(), r.reason.as_str())).collect();
        assert_eq!(traced, verdicts, "{what}: {reports:#?}");
        let moved = (lab.host(1).counts()?.since(&before.0), lab.host(2).counts()?.since(&before.1));
        assert_eq!(moved.0.get(counter), 0, "{what}: the trace itself was counted");
        assert_eq!(moved.1.get("from_uplink action local"), 0, "{what}: the trace itself was sent");

        a.send_frame(&frame, 1)?;
        until(&format!("{what} is counted as {counter}"), || {
            lab.host(1).counts().is_ok_and(|counts| counts.since(&before.0).get(counter) == 1)
        })?;
        let last = reports.last().context("a report")?;
        if let Some(far) = reports.get(1) {
            let kind = if far.reason.is_empty() { "action" } else { "drop" };
            let name = if far.reason.is_empty() { &far.verdict } else { &far.reason };
            let counter = format!("from_uplink {kind} {name}");
            until(&format!("{what} is counted as {counter}"), || {
                lab.host(2).counts().is_ok_and(|counts| counts.since(&before.1).get(&counter) == 1)
            })?;
        }
        let (seen_a2, seen_b) = (at_a2.text(&[])?, at_b.text(&[])?);
        assert_eq!(seen_a2.len(), usize::from(last.endpoint == "a2"), "{what}: {seen_a2:?}");
        assert_eq!(seen_b.len(), usize::from(last.endpoint == "b"), "{what}: {seen_b:?}");
        // The tunnel packet on the wire is the foretold one, but for the MACs of the underlay, which the kernel fills in.
        let wire = wire.bytes()?;
        let outer: Vec<u8> = (14..reports[0].result.len() / 2)
            .map(|at| u8::from_str_radix(&reports[0].result[at * 2..at * 2 + 2], 16))
            .collect::<Result<_, _>>()?;
        let found = wire.windows(outer.len().max(1)).any(|bytes| bytes == outer);
        assert_eq!(found, reports[0].verdict == "remote", "{what}: {}", reports[0].result);
    }

    captured(&lab, &a, &[&local, &lie, &local])?;

    // Described packets, as the container would send them.
    for (args, endpoint) in [
        (&["--from", "a", "--to", "a2"][..], "a2"),
        (&["--from", "a", "--to", "b", "--proto", "tcp", "--port", "80"], "b"),
        (&["--from", "a", "--to", "fd00:10::21", "--proto", "udp", "--port", "53"], "b"),
    ] {
        let reports = lab.trace(args, &a)?;
        assert_eq!(reports.last().context("a report")?.endpoint, endpoint, "{args:?}: {reports:#?}");
    }
    let text = lab.host(1).fabric(&["trace", "--from", "a", "--to", "b"])?;
    assert!(
        text.contains("known: endpoint b is declared on node h2") && text.contains("unknown: "),
        "{text}"
    );
    let nobody = lab.trace(&["--from", "a", "--to", "192.168.10.99"], &a)?;
    assert_eq!(nobody[0].verdict, "unresolved", "{nobody:?}");
    for (args, words) in [
        (&["trace", "--from", "b", "--to", "a"][..], "lives on h2"),
        (&["trace", "--from", "a", "--to", "nowhere"], "neither an endpoint nor an address"),
        (&["trace", "--from", "a", "--to", "b", "--proto", "tcp"], "need a port"),
        (&["trace", "--packet", "0xyz"], "hexadecimal"),
    ] {
        let refused = lab.host(1).try_fabric(args)?;
        assert!(refused.code == 1 && refused.stderr.contains(words), "{args:?}: {refused:?}");
    }
    Ok(())
}
