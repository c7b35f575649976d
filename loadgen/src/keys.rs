//! Which key comes next: uniform or after Zipf, from a generator that costs next to nothing.

use crate::plan::Distribution;

/// xorshift64*: quality matters less than cost here.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Neighbouring seeds must not give neighbouring sequences.
        let mixed = (seed ^ (seed >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Random((mixed ^ (mixed >> 29)) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// In (0, 1].
    pub fn unit(&mut self) -> f64 {
        ((self.draw() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// Chooses keys of `0..count`.
pub enum Keys {
    Uniform { count: u64 },
    Zipf(Zipf),
}

impl Keys {
    pub fn new(distribution: Distribution, count: u64) -> Keys {
        match distribution {
            Distribution::Uniform => Keys::Uniform { count },
            Distribution::Zipf(exponent) => Keys::Zipf(Zipf::new(count, exponent)),
        }
    }

    pub fn next(&self, random: &mut Random) -> u64 {
        match self {
            Keys::Uniform { count } => random.below(*count),
            Keys::Zipf(zipf) => zipf.next(random),
        }
    }
}

/// Zipf's law by rejection and inversion (Hörmann and Derflinger 1996): no table, whatever the
/// count and the exponent, and about one draw for each key.
pub struct Zipf {
    count: f64,
    exponent: f64,
    /// The integral of the density at the first and behind the last rank.
    first: f64,
    last: f64,
    /// Ranks that are at most this far right of the drawn point are taken without a check.
    sure: f64,
}

impl Zipf {
    /// `exponent` is above 0; near 1 is what caches and name services see.
    pub fn new(count: u64, exponent: f64) -> Zipf {
        let mut zipf = Zipf { count: count as f64, exponent, first: 0.0, last: 0.0, sure: 0.0 };
        zipf.first = zipf.integral(1.5) - 1.0;
        zipf.last = zipf.integral(zipf.count + 0.5);
        zipf.sure = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    fn density(&self, x: f64) -> f64 {
        x.powf(-self.exponent)
    }

    fn integral(&self, x: f64) -> f64 {
        let power = 1.0 - self.exponent;
        if power.abs() < 1e-9 { x.ln() } else { (x.powf(power) - 1.0) / power }
    }

    fn integral_inverse(&self, y: f64) -> f64 {
        let power = 1.0 - self.exponent;
        if power.abs() < 1e-9 { y.exp() } else { (1.0 + y * power).max(0.0).powf(1.0 / power) }
    }

    fn next(&self, random: &mut Random) -> u64 {
        loop {
            let point = self.last + random.unit() * (self.first - self.last);
            let x = self.integral_inverse(point);
            let rank = x.round().clamp(1.0, self.count);
            let taken =
                rank - x <= self.sure || point >= self.integral(rank + 0.5) - self.density(rank);
            if taken {
                return rank as u64 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut random = Random::new(3);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    /// Each rank's share is within a tenth of what the law says.
    fn check_zipf(count: u64, exponent: f64) {
        const DRAWS: u32 = 400_000;
        let keys = Keys::new(Distribution::Zipf(exponent), count);
        let mut random = Random::new(11);
        let mut seen = vec![0u32; count as usize];
        for _ in 0..DRAWS {
            seen[keys.next(&mut random) as usize] += 1;
        }
        let weight = |rank: usize| ((rank + 1) as f64).powf(-exponent);
        let sum: f64 = (0..count as usize).map(weight).sum();
        for (rank, seen) in seen.iter().enumerate().take(10) {
            let share = f64::from(*seen) / f64::from(DRAWS);
            let due = weight(rank) / sum;
            assert!((share / due - 1.0).abs() < 0.1, "rank {rank} of {count}: {share} not {due}");
        }
    }

    #[test]
    fn zipf_keys_follow_the_law() {
        for (count, exponent) in [(1, 1.0), (10, 0.5), (1000, 0.99), (1000, 1.0), (100_000, 1.4)] {
            check_zipf(count, exponent);
        }
    }
}
