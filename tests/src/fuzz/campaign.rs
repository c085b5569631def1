//! Many frames at one hook. Each is judged by itself ([`model`]); the counters are read after a group of frames and must
//! tell what the verdicts told, so that every frame is counted exactly once. Where they don't, the group is run again
//! frame by frame.

use std::{collections::BTreeMap, fmt::Write as _};

use fabric_common::reason::Action;

use super::{
    model::{self, Class, Fate, Seen, Spot, judge},
    mutate,
};
use crate::{
    cast::Family,
    frame,
    ledger::Lines,
    random::Random,
    walk::{Gso, Place, Rig, can_run},
};

/// Frames between two looks at the counters: a look takes as long as a few hundred frames.
const GROUP: usize = 500;

/// One hook and what it is given.
pub struct Campaign {
    /// For messages.
    pub name: &'static str,
    /// Where, for the model.
    pub spot: Spot,
    /// Where, for the kernel.
    pub place: Place,
    /// Frames to start from.
    pub seeds: Vec<Vec<u8>>,
}

/// A frame that was run and judged.
struct Shot {
    seed: u64,
    frame: Vec<u8>,
    gso: Gso,
    fate: Fate,
}

/// How many frames ended how.
pub type Ends = BTreeMap<String, usize>;

/// How many frames to run: `FABRIC_FRAMES`, or `otherwise`.
pub fn frames(otherwise: usize) -> usize {
    std::env::var("FABRIC_FRAMES").ok().and_then(|frames| frames.parse().ok()).unwrap_or(otherwise)
}

/// What `cargo xtask test` sums up at its end.
#[expect(clippy::print_stdout, reason = "the summary is made of it")]
pub fn report(kind: &str, frames: usize) {
    // The harness has not ended its own line.
    println!("\ncounted {frames} {kind} frames");
}

/// The shortest frame of each end.
pub type Shortest = BTreeMap<String, Vec<u8>>;

impl Campaign {
    /// Runs `frames` frames that follow from the numbers from `first` on. Adds to `shortest` what came to an end that it
    /// does not have, or with a shorter frame.
    ///
    /// # Panics
    /// With the frame, its seed and what is wrong.
    pub fn run(&self, rig: &mut Rig, first: u64, frames: usize, shortest: &mut Shortest) -> Ends {
        rig.changes();
        let mut ends = Ends::new();
        let mut group = Vec::with_capacity(GROUP);
        for number in 0..frames as u64 {
            let shot = self.shoot(rig, first.wrapping_add(number));
            let label = label(shot.fate);
            let shorter = shortest.get(&label).is_none_or(|known| shot.frame.len() < known.len());
            if shorter && shot.gso.size == 0 {
                shortest.insert(label.clone(), shot.frame.clone());
            }
            *ends.entry(label).or_default() += 1;
            group.push(shot);
            if group.len() == GROUP {
                self.settle(rig, &group);
                group.clear();
            }
        }
        self.settle(rig, &group);
        eprintln!("{}: {frames} frames from seed {first}: {ends:?}", self.name);
        ends
    }

    /// The frame of a seed.
    pub fn frame(&self, seed: u64) -> Vec<u8> {
        self.draw(&mut Random::new(seed))
    }

    fn draw(&self, random: &mut Random) -> Vec<u8> {
        loop {
            let frame = mutate::frame(random, &self.seeds);
            if matches!(self.spot, Spot::Xdp(..)) || can_run(&frame) {
                return frame;
            }
        }
    }

    /// The frame of a seed, run and judged.
    fn shoot(&self, rig: &mut Rig, seed: u64) -> Shot {
        let mut random = Random::new(seed);
        let frame = self.draw(&mut random);
        let gso = match random.below(24) {
            0 if !matches!(self.spot, Spot::Xdp(..)) => {
                Gso { size: random.of(&[1, 500, 1400]), segments: 1 + random.below(3) as u32 }
            }
            _ => Gso::default(),
        };
        let judged = self.judge(rig, &frame, gso);
        let fate = judged.unwrap_or_else(|wrong| panic!("{}", self.explain(&wrong, seed, &frame, gso)));
        Shot { seed, frame, gso, fate }
    }

    /// Runs a frame and judges what was done.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn judge(&self, rig: &mut Rig, frame: &[u8], gso: Gso) -> model::Judged {
        let (verdict, out) = rig.run_uncounted(self.place, frame, gso);
        let events = rig.events();
        judge(&Seen { spot: self.spot, frame, gso, verdict, out: &out, events: &events })
    }

    /// Holds the counters against a group of frames.
    fn settle(&self, rig: &mut Rig, group: &[Shot]) {
        let moved = rig.changes();
        let Err(wrong) = self.agree(group, moved.lines()) else { return };
        for shot in group {
            // The same programs, tables and frame: only rate limits could differ, which nothing here rests on.
            let again = self.judge(rig, &shot.frame, shot.gso);
            let moved = rig.changes();
            let alone = self.agree(std::slice::from_ref(shot), moved.lines());
            if let (Ok(fate), Err(wrong)) = (again, alone) {
                let text = self.explain(&format!("{fate:?}, and {wrong}"), shot.seed, &shot.frame, shot.gso);
                panic!("{text}");
            }
        }
        panic!("{}: {wrong}, and every frame of the group alone is counted right", self.name);
    }

    /// Whether counters that moved tell of exactly these frames.
    fn agree(&self, group: &[Shot], moved: &Lines) -> Result<(), String> {
        let hook = self.spot.hook();
        let mut want = Lines::new();
        let mut add = |name: String, packets: u64, bytes: usize| {
            *want.entry(format!("{name} packets")).or_default() += packets;
            *want.entry(format!("{name} bytes")).or_default() += bytes as u64;
        };
        let mut drops = 0;
        for Shot { frame, gso, fate, .. } in group {
            let packets = u64::from(gso.segments.max(1));
            if let Fate::Dropped(reason) = fate {
                add(format!("drops {hook} {reason}"), packets, frame.len());
                drops += packets;
                continue;
            }
            add(counted_as(*fate), packets, frame.len());
            if let (Spot::Port(from), Fate::Local(_) | Fate::Remote | Fate::Device | Fate::Fragmented) =
                (self.spot, fate)
            {
                add(format!("port slot {} egress", from.slot), packets, frame.len());
            }
            if let Fate::Local(to) = fate {
                let outer = match self.spot {
                    Spot::Uplink(_, Family::V6) => frame::INNER_OVER_V6,
                    Spot::Uplink(..) => frame::INNER,
                    Spot::Port(_) | Spot::Xdp(..) | Spot::Vxlan(_) | Spot::Frag(_) => 0,
                };
                add(format!("port slot {} ingress", to.slot), packets, frame.len() - outer);
            }
        }
        if let (Spot::Port(from), true) = (self.spot, drops > 0) {
            want.insert(format!("port slot {} egress drops", from.slot), drops);
        }
        let mut got = Lines::new();
        for (name, count) in moved {
            let Some(name) = self.folded(name) else { continue };
            *got.entry(name).or_default() += count;
        }
        want.retain(|_, count| *count != 0);
        if want == got {
            return Ok(());
        }
        let mut text = "the counters tell another story:".to_owned();
        for name in want.keys().chain(got.keys().filter(|name| !want.contains_key(*name))) {
            let (want, got) = (want.get(name).unwrap_or(&0), got.get(name).unwrap_or(&0));
            if want != got {
                let _ = write!(text, "\n  {name}: expected +{want}, moved +{got}");
            }
        }
        Err(text)
    }

    /// The name under which a counter is compared; nothing if no frame's own outcome is in it.
    fn folded(&self, name: &str) -> Option<String> {
        let words: Vec<&str> = name.split(' ').collect();
        match words[..] {
            ["actions", hook, action, unit] if hook == self.spot.hook().as_str() => {
                let action = Action::ALL.iter().find(|a| a.as_str() == action)?;
                match model::class(*action) {
                    Class::Beside => None,
                    Class::Stack => Some(format!("left to the stack {unit}")),
                    Class::Sent | Class::Absorbed => Some(name.replace(&format!("actions {hook} "), "")),
                }
            }
            // Beside the drop's own counter, where the receiver is known by then.
            ["port", "slot", _, "ingress", "drops"] => None,
            _ => Some(name.to_owned()),
        }
    }

    fn explain(&self, wrong: &str, seed: u64, frame: &[u8], gso: Gso) -> String {
        format!(
            "{}: {wrong}\nFABRIC_SEED={seed} FABRIC_FRAMES=1, {gso:?}, {} bytes: {}\n{}",
            self.name,
            frame.len(),
            super::corpus::hex(frame),
            frame::explain(frame)
        )
    }
}

fn counted_as(fate: Fate) -> String {
    match fate {
        Fate::Dropped(_) => unreachable!("drops have a counter each"),
        Fate::Absorbed => Action::Absorbed.to_string(),
        Fate::Stack => "left to the stack".to_owned(),
        Fate::Local(_) => Action::Local.to_string(),
        Fate::Remote => Action::Remote.to_string(),
        Fate::Device => Action::ViaDevice.to_string(),
        Fate::Fragmented => Action::Fragment.to_string(),
        Fate::Answered => Action::Answered.to_string(),
    }
}

/// One word for an end.
pub fn label(fate: Fate) -> String {
    match fate {
        Fate::Dropped(reason) => reason.to_string(),
        Fate::Stack => "stack".to_owned(),
        Fate::Absorbed | Fate::Local(_) | Fate::Remote | Fate::Device | Fate::Fragmented | Fate::Answered => {
            counted_as(fate)
        }
    }
}
