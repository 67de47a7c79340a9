//! Randomness that can be repeated: TRUCKER_SEED=N runs the same choices again.

use std::ops::Range;

/// Whether long loops were asked for (TRUCKER_SOAK=1).
pub fn is_soak() -> bool {
    std::env::var_os("TRUCKER_SOAK").is_some()
}

/// A small generator (splitmix64); prints its seed, which the test harness shows where a test fails.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From TRUCKER_SEED, or `default`.
    pub fn seeded(default: u64) -> Self {
        let seed = std::env::var("TRUCKER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        println!("TRUCKER_SEED={seed}");
        Random(seed)
    }

    /// From that seed; prints nothing.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Whether a thing of that probability, in percent, is to happen.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.within(0..of.len() as u64) as usize]
    }

    /// Another generator, for another thread.
    pub fn fork(&mut self) -> Self {
        Random(self.next())
    }

    /// A number out of the range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
