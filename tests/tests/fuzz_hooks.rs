//! Raw frames at every hook, many of them, none quite right: each ends exactly one way, is counted once, and nothing is
//! delivered, encapsulated or answered that should not be.
//!
//! `FABRIC_SEED` and `FABRIC_FRAMES` choose the frames; a failure names the ones of the frame that broke. After a change of
//! what becomes of a frame: `FABRIC_BLESS=1` writes the corpus anew.

use fabric_common::{
    policy::{EGRESS, INGRESS, port_key},
    reason::{DropReason, Hook},
};
use fabric_tests::{
    cast::{self, CA1, CA2, CB1, FAMILIES, Family, GA1, HOST_A, HOST_B, Host},
    fuzz::{
        campaign::{Campaign, Ends, Shortest, frames, label, report},
        corpus,
        model::{Fate, Spot},
        seeds,
    },
    load::Globals,
    policed::{allow, deny, ranges, table},
    random,
    walk::{Gso, Rig, Stage, Verdict},
};

/// The largest campaign's share of the frames; others take a half or a quarter of it.
const SHARE: usize = 40_000;

fn campaign(rig: &Rig, name: &'static str, spot: Spot) -> Campaign {
    let (place, mut seeds) = match spot {
        Spot::Port(container) => (rig.port(container), seeds::of_container(container)),
        Spot::Uplink(_, underlay) => (rig.uplink(), seeds::of_tunnel(underlay)),
        Spot::Xdp(_, underlay) => (rig.uplink_xdp(), seeds::of_tunnel(underlay)),
        Spot::Vxlan(_) => (rig.vxlan_device(), seeds::of_container(&CA1)),
        Spot::Frag(_) => (rig.frag(), seeds::of_container(&CA1)),
    };
    seeds.extend(corpus::read(spot.hook()).into_values());
    Campaign { name, spot, place, seeds }
}

/// Runs a campaign and looks at its corpus.
fn fuzz(rig: &mut Rig, name: &'static str, spot: Spot, share: usize) -> Ends {
    let campaign = campaign(rig, name, spot);
    let frames = frames(share);
    let mut shortest = Shortest::new();
    let bless = std::env::var_os("FABRIC_BLESS").is_some();
    let kept = corpus::read(spot.hook());
    for (end, frame) in &kept {
        let fate = campaign.judge(rig, frame, Gso::default());
        let now = fate.map_or_else(|wrong| wrong, label);
        if bless {
            shortest.insert(now, frame.clone());
        } else {
            assert_eq!(&now, end, "{name}, a frame of the corpus: {}", corpus::hex(frame));
        }
    }
    let ends = campaign.run(rig, random::seed(), frames, &mut shortest);
    report("fuzz", frames);
    if bless {
        corpus::write(spot.hook(), &shortest);
    }
    ends
}

/// A campaign whose frames all end the same way has bent them too hard.
fn assert_reaches(ends: &Ends, most: &[&str]) {
    if frames(SHARE) < SHARE {
        return;
    }
    for end in most {
        let count = ends.get(*end).copied().unwrap_or(0);
        assert!(count >= 5, "{count} frames ended as {end}: {ends:?}");
    }
}

#[test]
fn from_container() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let ends = fuzz(&mut rig, "from_container, BLUE", Spot::Port(&CA1), SHARE);
    let most = ["local", "remote", "answered", "absorbed", "spoof_mac", "spoof_ip", "spoof_arp", "spoof_nd"];
    assert_reaches(&ends, &most);
    assert_reaches(&ends, &["malformed", "vlan_tag", "too_big", "multicast_off", "no_route"]);
}

#[test]
fn from_container_with_the_same_addresses_in_another_network() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let campaign = campaign(&rig, "from_container, GREEN", Spot::Port(&GA1));
    let frames = frames(SHARE);
    let ends = campaign.run(&mut rig, random::seed(), frames, &mut Shortest::new());
    report("fuzz", frames);
    assert_reaches(&ends, &["remote", "answered", "spoof_mac", "unknown_destination"]);
}

#[test]
fn from_uplink() {
    let mut rig = Stage::enter().rig(&HOST_B);
    let ends = fuzz(&mut rig, "from_uplink", Spot::Uplink(&HOST_B, Family::V4), SHARE);
    let most = ["local", "stack", "bad_outer", "unknown_vtep", "unknown_vni", "spoof_source", "loop", "ecn"];
    assert_reaches(&ends, &most);
    assert_reaches(&ends, &["malformed", "inner_nd", "inner_ethertype", "not_local", "bad_src_mac"]);
}

#[test]
fn from_uplink_xdp() {
    let mut rig = Stage::enter().rig(&HOST_B);
    let ends = fuzz(&mut rig, "from_uplink_xdp", Spot::Xdp(&HOST_B, Family::V4), SHARE);
    assert_reaches(&ends, &["stack", "bad_outer", "unknown_vtep", "spoof_source", "loop", "ecn", "short"]);
}

/// The kernel alone can give a packet the metadata of a tunnel; `walk_device.rs` has those.
#[test]
fn from_vxlan_without_metadata() {
    let mut rig = Stage::enter().rig(&HOST_B);
    let ends = fuzz(&mut rig, "from_vxlan", Spot::Vxlan(&HOST_B), SHARE / 4);
    assert_eq!(ends.keys().collect::<Vec<_>>(), [DropReason::BadOuter.as_str()]);
}

/// `from_container` alone marks what is to be cut; `walk_fragment.rs` has those.
#[test]
fn from_frag_without_a_mark() {
    let mut rig = Stage::enter().rig(&HOST_A);
    let campaign = campaign(&rig, "from_frag", Spot::Frag(&HOST_A));
    let frames = frames(SHARE / 4);
    let ends = campaign.run(&mut rig, random::seed(), frames, &mut Shortest::new());
    report("fuzz", frames);
    assert_eq!(ends.keys().collect::<Vec<_>>(), [DropReason::UnknownVni.as_str()]);
}

/// CA1 may send to CA2, and to CB1 at the lower half of UDP's ports; CA2 hears nobody, CB1 the same of CA1 alone.
fn policed(host: &'static Host, underlay: Family) -> Rig {
    const HALF: u32 = 1;
    let objects = match underlay {
        Family::V4 => cast::objects(host),
        Family::V6 => cast::objects_over_v6(host),
    };
    let mut rig = Stage::enter().rig_with(host, &objects, Globals::default());
    rig.stay_on_this_cpu();
    for (container, identity, policy) in [(&CA1, 101, 1), (&CA2, 102, 2), (&CB1, 103, 3)] {
        rig.police(container, identity, policy);
    }
    let at = |port| port_key(17, port);
    rig.set_table(HALF, ranges(&[(0, deny(10)), (at(0), allow(11)), (at(1 << 15), deny(12))]));
    rig.say(1, EGRESS, deny(1), &[(102, allow(2)), (103, table(HALF))]);
    rig.say(1, INGRESS, deny(3), &[]);
    rig.say(2, EGRESS, deny(4), &[]);
    rig.say(2, INGRESS, deny(5), &[]);
    rig.say(3, EGRESS, deny(6), &[]);
    rig.say(3, INGRESS, deny(7), &[(101, table(HALF))]);
    rig
}

/// CA2 admits nobody, so that whatever is bent, nothing is delivered on this host.
#[test]
fn from_container_with_policies() {
    let mut rig = policed(&HOST_A, Family::V4);
    let campaign = campaign(&rig, "from_container, policed", Spot::Port(&CA1));
    let frames = frames(SHARE / 2);
    let ends = campaign.run(&mut rig, random::seed(), frames, &mut Shortest::new());
    report("fuzz", frames);
    assert_eq!(ends.get("local"), None, "a container that admits nobody was reached: {ends:?}");
    assert_reaches(&ends, &["policy_denied", "remote", "answered", "spoof_ip", "malformed"]);
}

#[test]
fn uplink_with_policies() {
    for underlay in FAMILIES {
        let mut rig = policed(&HOST_B, underlay);
        let frames = frames(SHARE / 4);
        // Most of the inner packets are of the other family than an IPv6 underlay, which the stack delivers on old kernels.
        let tc = if underlay == Family::V4 { "local" } else { "stack" };
        for (spot, passed) in [(Spot::Uplink(&HOST_B, underlay), tc), (Spot::Xdp(&HOST_B, underlay), "stack")]
        {
            let campaign = campaign(&rig, "uplink, policed", spot);
            let ends = campaign.run(&mut rig, random::seed(), frames, &mut Shortest::new());
            report("fuzz", frames);
            assert_reaches(&ends, &["policy_denied", passed, "bad_outer", "spoof_source"]);
        }
    }
}

#[test]
fn uplink_over_ipv6() {
    let mut rig = Stage::enter().rig_with(&HOST_B, &cast::objects_over_v6(&HOST_B), Globals::default());
    let frames = frames(SHARE / 2);
    let most = ["stack", "bad_outer", "unknown_vtep", "unknown_vni", "spoof_source", "loop", "ecn", "short"];
    for spot in [Spot::Uplink(&HOST_B, Family::V6), Spot::Xdp(&HOST_B, Family::V6)] {
        let campaign = campaign(&rig, "over IPv6", spot);
        let ends = campaign.run(&mut rig, random::seed(), frames, &mut Shortest::new());
        report("fuzz", frames);
        assert_reaches(&ends, &most);
    }
}

/// XDP and TC agree: what one drops the other drops for the same reason, but for frames to another MAC, which TC leaves
/// to whoever listens in promiscuous mode.
#[test]
fn both_hooks_of_the_uplink_agree() {
    let mut rig = Stage::enter().rig(&HOST_B);
    let tc = campaign(&rig, "TC", Spot::Uplink(&HOST_B, Family::V4));
    let xdp = campaign(&rig, "XDP", Spot::Xdp(&HOST_B, Family::V4));
    let frames = frames(SHARE / 2);
    for number in 0..frames as u64 {
        let frame = tc.frame(random::seed().wrapping_add(number));
        if frame[..6] != HOST_B.mac.bytes {
            continue;
        }
        let early = xdp.judge(&mut rig, &frame, Gso::default());
        let late = tc.judge(&mut rig, &frame, Gso::default());
        let agree = match (&early, &late) {
            (Ok(Fate::Stack), Ok(Fate::Stack | Fate::Local(_))) => true,
            (early, late) => early == late,
        };
        assert!(agree, "XDP: {early:?}, TC: {late:?}, frame {}", corpus::hex(&frame));
    }
    report("fuzz", frames);
}

/// The model finds what it is there for: the same delivery is right from one sender and wrong from another.
#[test]
fn the_model_refuses_a_wrong_delivery() {
    use fabric_tests::{
        cast::{STRANGER, SWITCH},
        fuzz::model::{Seen, judge},
        tunnel_table::{from, inner, outer},
    };
    let delivered = |frame: &[u8], out: &[u8]| {
        let seen = Seen {
            spot: Spot::Uplink(&HOST_B, Family::V4),
            frame,
            gso: Gso::default(),
            verdict: Verdict::Sent,
            out,
            events: &[],
        };
        judge(&seen)
    };
    assert!(delivered(&outer().around(&inner()), &inner()).is_ok());
    for host in [&SWITCH, &STRANGER, &HOST_B] {
        assert!(delivered(&from(host).around(&inner()), &inner()).is_err(), "{}", host.name);
    }
    assert!(delivered(&outer().around(&inner()), &inner()[1..]).is_err());
    assert_eq!(Spot::Uplink(&HOST_B, Family::V4).hook(), Hook::FromUplink);
}
