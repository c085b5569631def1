//! Frames that are almost right, for walks over many of them.

use crate::frame::ETH;

/// The variable `FABRIC_SEED`, or a fixed seed.
pub fn seed() -> u64 {
    std::env::var("FABRIC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_fab0)
}

/// A generator of frames that are almost right. The same seed gives the same frames.
pub struct Random(u64);

impl Random {
    /// From the variable `FABRIC_SEED`, or a fixed seed. The seed is shown if the test fails.
    pub fn from_environment() -> Self {
        let seed = seed();
        eprintln!("frames of FABRIC_SEED={seed}");
        Self(seed)
    }

    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number (splitmix64).
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end as u64) as usize
    }

    /// One of several.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `seeds` with up to three changes, or now and then noise; never shorter than an Ethernet header, which
    /// the kernel refuses to run.
    pub fn bend(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if self.below(32) == 0 {
            let length = ETH + self.below(200);
            return (0..length).map(|_| self.next_u64() as u8).collect();
        }
        let mut frame = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(3) {
            self.change(&mut frame, seeds);
        }
        frame.resize(frame.len().max(ETH), 0);
        frame
    }

    fn change(&mut self, frame: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        if frame.is_empty() {
            return;
        }
        let at = self.below(frame.len());
        match self.below(6) {
            0 => frame[at] ^= 1 << self.below(8),
            1 => frame[at] = self.next_u64() as u8,
            2 => frame.truncate(at),
            3 => frame.insert(at, self.next_u64() as u8),
            4 => frame.extend((0..self.below(40)).map(|_| 0)),
            // The same place of another frame: right values of other fields.
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let end = (at + 1 + self.below(16)).min(frame.len()).min(other.len());
                if at < end {
                    frame[at..end].copy_from_slice(&other[at..end]);
                }
            }
        }
    }
}
