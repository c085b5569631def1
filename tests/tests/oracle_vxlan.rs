//! The same frames into our programs and into the kernel's own VXLAN device: both deliver the same bytes, but for cases that
//! have a name, which `docs/wire.md` explains.
//!
//! `FABRIC_SEED` and `FABRIC_FRAMES` choose the frames; a failure names the ones of the frame that differs.

use std::collections::BTreeMap;

use fabric_tests::{
    cast::{BLUE, CB1, CB2, Family, GREEN},
    frame,
    fuzz::{
        campaign::{frames, report},
        corpus::hex,
        mutate, seeds,
    },
    oracle::{
        fragments,
        reasons::{ONLY_KERNEL, ONLY_OURS, Outer, ROUTED, receiver, routed},
        sides::{Delivered, Sides},
    },
    random::{self, Random},
    tunnel_table,
};

/// Frames over each family; there are two.
const SHARE: usize = 60_000;

/// How many frames ended how.
type Ends = BTreeMap<&'static str, usize>;

/// One of the names, if the two sides differ for a known reason; `delivered` or `nothing`, if they agree.
fn compare(frame: &[u8], ours: &[Delivered], kernel: &[Delivered]) -> Result<&'static str, String> {
    let outer = Outer::of(frame);
    match (ours, kernel) {
        ([], []) => Ok("nothing"),
        ([got], [want]) => {
            if (got.vni, got.to, &got.inner) == (want.vni, receiver(want), &want.inner) {
                return Ok("delivered");
            }
            let to = outer.and_then(|outer| routed(&outer, want, &got.inner));
            if to.is_some() && (got.vni, got.to) == (want.vni, to) {
                return Ok(ROUTED);
            }
            Err("both deliver, and not the same".to_owned())
        }
        ([], [want]) => {
            let outer = outer.ok_or("the device delivers what is no IP packet")?;
            let known = ONLY_KERNEL.iter().find(|(_, holds)| holds(&outer, want));
            known.map(|(name, _)| *name).ok_or("only the device delivers".to_owned())
        }
        ([got], []) => {
            let outer = outer.ok_or("our programs deliver what is no IP packet")?;
            let known = ONLY_OURS.iter().find(|(_, holds)| holds(&outer, got));
            known.map(|(name, _)| *name).ok_or("only our programs deliver".to_owned())
        }
        _ => Err("more than one frame is delivered".to_owned()),
    }
}

fn run(underlay: Family) {
    let mut sides = Sides::new(underlay);
    let seeds = seeds::of_tunnel(underlay);
    let (first, frames) = (random::seed(), frames(SHARE));
    let mut ends = Ends::new();
    for number in 0..frames as u64 {
        let seed = first.wrapping_add(number);
        let mut random = Random::new(seed);
        let frame = mutate::frame(&mut random, &seeds);
        let halves = if random.once_in(16) {
            fragments::halves(&frame, number as u16, random.once_in(2))
        } else {
            None
        };
        let (ours, kernel) = match &halves {
            Some(halves) => sides.run(halves),
            None => sides.run(std::slice::from_ref(&frame)),
        };
        match compare(&frame, &ours, &kernel) {
            Ok("delivered") if halves.is_some() => *ends.entry("put together").or_default() += 1,
            Ok(end) => *ends.entry(end).or_default() += 1,
            Err(wrong) => panic!(
                "{underlay:?}: {wrong}\nours: {ours:02x?}\nkernel: {kernel:02x?}\nFABRIC_SEED={seed} FABRIC_FRAMES=1, \
                 {} bytes: {}\n{}",
                frame.len(),
                hex(&frame),
                frame::explain(&frame)
            ),
        }
    }
    eprintln!("over {underlay:?}: {frames} frames from seed {first}: {ends:?}");
    report("oracle", frames);
    if frames < SHARE {
        return;
    }
    for name in names().chain(["delivered", "put together", "nothing"]) {
        assert!(ends.contains_key(name), "no frame shows {name} over {underlay:?}: {ends:?}");
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    ONLY_KERNEL.iter().map(|(name, _)| *name).chain(ONLY_OURS.iter().map(|(name, _)| *name)).chain([ROUTED])
}

#[test]
fn the_vxlan_device_delivers_the_same_over_ipv4() {
    run(Family::V4);
}

#[test]
fn the_vxlan_device_delivers_the_same_over_ipv6() {
    run(Family::V6);
}

/// The comparison finds what it is there for.
#[test]
fn a_difference_without_a_name_is_refused() {
    let inner = tunnel_table::inner();
    let frame = tunnel_table::outer().around(&inner);
    let at = |vni, to, inner: &[u8]| vec![Delivered { vni, to, inner: inner.to_vec() }];
    let (ours, kernel) = (at(BLUE.vni, Some(&CB1), &inner), at(BLUE.vni, None, &inner));
    assert_eq!(compare(&frame, &ours, &kernel), Ok("delivered"));
    assert!(compare(&frame, &[], &kernel).is_err(), "ours delivers nothing");
    assert!(compare(&frame, &ours, &[]).is_err(), "the device delivers nothing");
    assert!(compare(&frame, &at(BLUE.vni, Some(&CB1), &inner[1..]), &kernel).is_err(), "other bytes");
    assert!(compare(&frame, &at(GREEN.vni, Some(&CB1), &inner), &kernel).is_err(), "another network");
    assert!(compare(&frame, &at(BLUE.vni, Some(&CB2), &inner), &kernel).is_err(), "somebody else");
    assert!(compare(&frame, &[&ours[..], &ours].concat(), &kernel).is_err(), "twice");
}

#[test]
fn every_difference_is_explained() {
    let page = include_str!("../../docs/wire.md");
    for name in names() {
        assert!(page.contains(&format!("| `{name}` |")), "docs/wire.md does not explain {name}");
    }
}
