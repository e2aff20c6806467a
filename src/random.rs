//! Random numbers that are the same on every machine.

/// What the state grows by.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first number of a generator whose state is `z`: a hash of 64 bits.
pub(crate) fn mix(z: u64) -> u64 {
    finalise(z.wrapping_add(GAMMA))
}

/// A number in [0, 1): the upper 53 bits of `bits`.
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A small, fast generator with a 64-bit state: splitmix64, as Steele, Lea and Flood give it ("Fast splittable
/// pseudorandom number generators", OOPSLA 2014). Every state is a good one, so a seed needs no preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator of this seed and stream; streams of one seed are independent.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let seeded = Self { state: seed }.draw();
        // Added after mixing, so that seed and stream do not change places.
        Self { state: Self { state: seeded.wrapping_add(stream) }.draw() }
    }

    /// 64 random bits.
    pub(crate) fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        finalise(self.state)
    }

    /// A number from 0 to `bound` − 1, each as likely; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // The lowest 2⁶⁴ mod bound values are drawn again: without them every remainder is as frequent.
        let uneven = bound.wrapping_neg() % bound;
        loop {
            let drawn = self.draw();
            if drawn >= uneven {
                return drawn % bound;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // From the authors' C program with the state 1234567.
        let mut random = SplitMix64 { state: 1_234_567 };
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.draw(), random.draw(), random.draw()], expected);
    }

    #[test]
    fn numbers_below_a_bound_are_even() {
        let mut random = SplitMix64::new(1, 2);
        let mut counts = [0_usize; 6];
        for _ in 0..60_000 {
            counts[random.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (9_600..=10_400).contains(c)), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }
}
