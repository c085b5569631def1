//! What must work on every kernel: two hosts, both families, an agent that dies and returns. `cargo xtask test kernels`
//! runs it on other kernels, emulated; so it waits for events, and is short.

use anyhow::{Context, Result, ensure};
use fabric_api::status::Status;
use fabric_lab::{Container, Counts, Host, Lab, UNDERLAY};

/// The kernels that the agent asks for by number.
const TCX: (u32, u32) = (6, 6);
const CROSS_FAMILY: (u32, u32) = (6, 3);

/// Longer than anything here takes on an emulated machine.
const SECONDS: &str = "300";

fn scene() -> Result<(Container, Container, Lab)> {
    let lab = Lab::new("kernel", 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--subnet", "fd00:10::/64", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--ip", "fd00:10::11"])?;
    lab.host(2).attach(&b, "b", "n1", &["--ip", "192.168.10.21", "--ip", "fd00:10::21"])?;
    lab.declare_peers()?;
    Ok((a, b, lab))
}

fn same_bytes(from: &Container, to: &Container, address: &str) -> Result<()> {
    for kind in ["tcp", "udp"] {
        let sink = to.serve(&[&format!("exact-{kind}-sink"), "--bind", address, "--seconds", SECONDS])?;
        let send = format!("exact-{kind}-send");
        let sent =
            from.traffic(&[&send, "--to", address, "--sizes", "1-40,1390-1400,9000", "--seconds", SECONDS])?;
        let received = sink.report()?;
        assert_eq!(
            (&sent["bytes"], &sent["hash"]),
            (&received["bytes"], &received["hash"]),
            "{send} {address}"
        );
    }
    Ok(())
}

/// The major and minor number of the kernel, as its user sees it.
fn release(status: &Status) -> Result<(u32, u32)> {
    let mut numbers = status.kernel.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse().ok());
    number().zip(number()).with_context(|| format!("kernel {:?}", status.kernel))
}

/// Whether the agent says that the kernel has a feature; what it does instead must be in the note.
fn feature(status: &Status, name: &str) -> Result<bool> {
    let feature = status.features.iter().find(|feature| feature.name == name);
    let feature = feature.with_context(|| format!("no feature {name:?} in {:?}", status.features))?;
    ensure!(
        feature.available || feature.note.contains("instead"),
        "{name} is missing; what replaces it? {}",
        feature.note
    );
    Ok(feature.available)
}

/// Whether a program is at the uplink by a filter, as `tc` sees it.
fn filtered(host: &Host) -> Result<bool> {
    let filters = host.sh(&["tc", "filter", "show", "dev", UNDERLAY, "ingress"])?;
    Ok(filters.contains("from_uplink"))
}

/// Whether a program is at the uplink by a pinned link.
fn linked(host: &Host) -> Result<bool> {
    let ifindex = host.link_attribute(UNDERLAY, "ifindex")?;
    let links = host.sh(&["ls", "/sys/fs/bpf/fabric/links"])?;
    Ok(links.lines().any(|link| link == format!("{ifindex}-from_uplink")))
}

#[test]
fn containers_talk_whatever_the_kernel_lacks() -> Result<()> {
    let (a, b, mut lab) = scene()?;
    let status = lab.host(1).status()?;
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    let kernel = release(&status)?;

    let tcx = feature(&status, "tcx")?;
    assert_eq!(tcx, kernel >= TCX, "TCX on {kernel:?}");
    for host in lab.hosts() {
        assert_eq!((linked(host)?, filtered(host)?), (tcx, !tcx), "attached one way on {}", host.name());
    }
    eprintln!("@fact attached-by {}", if tcx { "TCX links" } else { "clsact filters" });

    let before: Vec<_> = lab.hosts().iter().map(Host::counts).collect::<Result<_>>()?;
    for (from, to) in [(&a, "192.168.10.21"), (&a, "fd00:10::21"), (&b, "192.168.10.11"), (&b, "fd00:10::11")]
    {
        from.ping(to)?;
    }
    same_bytes(&a, &b, "192.168.10.21:5000")?;
    same_bytes(&b, &a, "[fd00:10::11]:5000")?;

    // Inner IPv6 in outer IPv4 is what kernels before 6.3 can't take apart in TC.
    let cross = feature(&status, "cross-family decapsulation")?;
    assert_eq!(cross, kernel >= CROSS_FAMILY, "cross-family decapsulation on {kernel:?}");
    for (host, before) in lab.hosts().iter().zip(&before) {
        let moved = host.counts()?.since(before);
        assert!(moved.drops().is_empty(), "{}: {:?}", host.name(), moved.drops());
        let by_device = moved.get("from_vxlan action local");
        assert_eq!(by_device > 0, !cross, "{}: {by_device} packets by the device: {moved:?}", host.name());
        assert_eq!(by_device, left_to_the_stack(&moved), "{}: all of them came back: {moved:?}", host.name());
    }
    eprintln!("@fact cross-family {}", if cross { "in TC" } else { "by the vxlan device" });

    agents_die_and_return(&a, &b, &mut lab)
}

fn left_to_the_stack(counts: &Counts) -> u64 {
    ["cross_family", "udp_gso"].iter().map(|name| counts.get(&format!("from_uplink action {name}"))).sum()
}

/// Packets go on while nobody is there, and a new agent takes over what it finds.
fn agents_die_and_return(a: &Container, b: &Container, lab: &mut Lab) -> Result<()> {
    let _echo = b.serve(&["udp-echo", "--bind", "192.168.10.21:7", "--seconds", SECONDS])?;
    let probe = a.background(&["probe", "--to", "192.168.10.21:7", "--rate", "50", "--seconds", SECONDS])?;
    lab.host_mut(1).kill_agent()?;
    lab.host_mut(2).kill_agent()?;
    a.ping("192.168.10.21")?;
    a.ping("fd00:10::21")?;
    lab.host_mut(1).start_agent()?;
    a.ping("192.168.10.21")?;
    lab.host_mut(2).start_agent()?;
    a.ping("fd00:10::21")?;
    let report = probe.report()?;
    ensure!(report["sent"].as_u64() > Some(0), "the probe did not run: {report}");
    for bad in ["lost", "duplicate", "errors"] {
        assert_eq!(report[bad], 0, "{report}");
    }
    for host in lab.hosts() {
        let status = host.status()?;
        assert_eq!((status.reconcile.repairs, status.problems.len()), (0, 0), "{status:?}");
    }
    Ok(())
}
