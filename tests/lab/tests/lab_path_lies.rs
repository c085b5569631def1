//! ICMP errors that nobody on the path sent: only those that quote a tunnel packet of this host count, never below the floor,
//! and what was said is forgotten.

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use fabric_lab::{Lab, Options, until};

type Mac = [u8; 6];

const OWN: [u8; 4] = [10, 0, 1, 1];
const PEER: [u8; 4] = [10, 0, 2, 1];
/// The machine on the underlay that lies.
const LIAR: [u8; 4] = [10, 0, 3, 1];
const TCP: u8 = 6;
const UDP: u8 = 17;
/// VXLAN with a VNI.
const I: u8 = 8;

/// What an ICMP error quotes.
#[derive(Clone, Copy)]
struct Quote {
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    port: u16,
    flags: u8,
    mtu: u16,
}

const HONEST: Quote = Quote { from: OWN, to: PEER, protocol: UDP, port: 4789, flags: I, mtu: 1400 };

impl Quote {
    /// "Fragmentation needed" from the liar to the first host.
    fn frame(self, macs: (Mac, Mac)) -> Vec<u8> {
        let mut ip =
            etherparse::Ipv4Header::new(1472, 63, self.protocol.into(), self.from, self.to).expect("fits");
        ip.dont_fragment = true;
        ip.header_checksum = ip.calc_header_checksum();
        let mut quoted = ip.to_bytes().to_vec();
        quoted.extend(50_000_u16.to_be_bytes());
        quoted.extend(self.port.to_be_bytes());
        quoted.extend([5, 0xc0, 0, 0]);
        quoted.extend([self.flags, 0, 0, 0, 0, 0, 100, 0]);
        let [high, low] = self.mtu.to_be_bytes();
        let packet = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(LIAR, OWN, 64);
        let mut frame = Vec::new();
        packet.icmpv4_raw(3, 4, [0, 0, high, low]).write(&mut frame, &quoted).expect("it fits");
        frame
    }
}

fn mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    Mac::try_from(bytes.as_slice()).with_context(|| format!("{text:?} is no MAC"))
}

/// The liar's MAC and the router's toward it.
fn macs(lab: &Lab) -> Result<(Mac, Mac)> {
    let own = mac(&lab.host(3).link_attribute(fabric_lab::UNDERLAY, "address")?)?;
    lab.host(3).sh(&["ping", "-c1", "-W2", "10.0.1.1"])?;
    let neighbours = lab.host(3).sh(&["ip", "neigh", "show", "10.0.3.254"])?;
    let router = neighbours.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    Ok((own, mac(router.with_context(|| format!("no router in {neighbours:?}"))?)?))
}

/// What the first host knows of the path to another one.
fn path_mtu(lab: &Lab, name: &str) -> Option<u32> {
    let nodes = lab.host(1).nodes().ok()?;
    nodes.into_iter().find(|node| node.metadata.name == name)?.status?.path_mtu
}

#[test]
fn only_errors_about_tunnel_packets_of_this_host_count() -> Result<()> {
    let mut lab = Lab::with("pmlies", &Options { hosts: 3, agents: false, ..Options::default() })?;
    for n in [1, 2] {
        lab.host_mut(n).start_agent()?;
    }
    let nodes = "kind: Node\nmetadata: {name: h2}\nspec: {vteps: [10.0.2.1]}\n---\n\
                 kind: Node\nmetadata: {name: h4}\nspec: {vteps: [10.0.4.1]}\n";
    std::fs::write(lab.host(1).directory().join("run/nodes.yaml"), nodes)?;
    lab.host(1).fabric(&["apply", "-f", "/run/nodes.yaml"])?;
    let macs = macs(&lab)?;
    let say = |quote: Quote| lab.host(3).send_frame(&quote.frame(macs), 1);
    // Of the other node, which is believed at once: when that shows, so would what was said before it.
    let other = |mtu| Quote { to: [10, 0, 4, 1], mtu, ..HONEST };
    for (n, (what, quote)) in [
        ("another port", Quote { port: 4790, ..HONEST }),
        ("TCP", Quote { protocol: TCP, ..HONEST }),
        ("no VXLAN", Quote { flags: 0, ..HONEST }),
        ("a source that is not ours", Quote { from: [10, 0, 9, 9], ..HONEST }),
        ("more than the uplink carries", Quote { mtu: 9000, ..HONEST }),
    ]
    .into_iter()
    .enumerate()
    {
        say(quote)?;
        let mark = 1499 - u16::try_from(n)?;
        say(other(mark))?;
        until(what, || path_mtu(&lab, "h4") == Some(mark.into()))?;
        assert_eq!(path_mtu(&lab, "h2"), None, "{what}");
    }
    for (what, said, counts) in
        [("honest", 1400, 1400), ("larger again", 1450, 1400), ("smaller", 1350, 1350), ("absurd", 100, 576)]
    {
        say(Quote { mtu: said, ..HONEST })?;
        // Smaller each time, so that it shows.
        say(other(counts - 1))?;
        until(what, || path_mtu(&lab, "h4") == Some(u32::from(counts - 1).max(576)))?;
        assert_eq!(path_mtu(&lab, "h2"), Some(counts.into()), "{what}");
    }
    Ok(())
}

#[test]
fn what_routers_said_is_forgotten() -> Result<()> {
    let lab = Lab::with("pmages", &Options { hosts: 3, ..Options::default() })?;
    std::fs::write(
        lab.host(1).directory().join("run/nodes.yaml"),
        "kind: Node\nmetadata: {name: h2}\nspec: {vteps: [10.0.2.1]}\n",
    )?;
    lab.host(1).fabric(&["apply", "-f", "/run/nodes.yaml"])?;
    // Ten minutes, if nobody says otherwise.
    lab.host(1).sh(&["sh", "-ec", "echo 6 >/proc/sys/net/ipv4/route/mtu_expires"])?;
    lab.host(3).send_frame(&HONEST.frame(macs(&lab)?), 1)?;
    until("it is learned", || path_mtu(&lab, "h2") == Some(1400))?;
    until("it is forgotten", || path_mtu(&lab, "h2").is_none())?;
    let log = lab.host(1).agent_log_tail(20);
    for words in ["the path to 10.0.2.1 carries 1400 bytes", "may carry what the uplink does again"] {
        assert!(log.contains(words), "{log}");
    }
    Ok(())
}
