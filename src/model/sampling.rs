//! Choosing the next token at random, reproducibly.

use super::ops::{argmax, scaled_exponentials};

/// A small generator of random numbers (xorshift multiplied, seeded through splitmix64): the same on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// A generator for stream `stream` of `seed`; streams of one seed are unrelated.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mixed = mix(mix(seed).wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self(if mixed == 0 { 1 } else { mixed })
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 (included) to 1 (excluded).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The finaliser of splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Logits are divided by it; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Tokens less likely than this fraction of the likeliest are never drawn; 0 allows all.
    pub min_p: f32,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { temperature: 1.0, min_p: 0.0 }
    }
}

impl Sampler {
    /// Draws from one row of logits. Logits that are not numbers are never drawn.
    pub fn sample(&self, logits: &[f32], random: &mut Random) -> u32 {
        let best = argmax(logits);
        if self.temperature <= 0.0 {
            return best as u32;
        }
        let max = logits.get(best).copied().unwrap_or(0.0);
        let factor = 1.0 / self.temperature;
        let mut weights = vec![0.0; logits.len()];
        scaled_exponentials(logits, max, factor, self.min_p, &mut weights);
        // Sums of blocks first, so that the walk touches few single weights.
        const BLOCK: usize = 256;
        let sum = |block: &[f32]| block.iter().map(|&w| f64::from(w)).sum::<f64>();
        let sums: Vec<f64> = weights.chunks(BLOCK).map(sum).collect();
        let mut rest = random.unit() * sums.iter().sum::<f64>();
        for (index, (block, sum)) in weights.chunks(BLOCK).zip(&sums).enumerate() {
            if rest >= *sum {
                rest -= sum;
                continue;
            }
            for (offset, &weight) in block.iter().enumerate() {
                rest -= f64::from(weight);
                if rest < 0.0 {
                    return (index * BLOCK + offset) as u32;
                }
            }
        }
        best as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities() {
        let logits: Vec<f32> =
            (0..600).map(|i| if i % 100 == 0 { (i / 100) as f32 } else { -30.0 }).collect();
        let mut random = Random::new(7, 0);
        let mut counts = [0usize; 6];
        const DRAWS: usize = 20_000;
        for _ in 0..DRAWS {
            let token = Sampler::default().sample(&logits, &mut random) as usize;
            assert_eq!(token % 100, 0);
            counts[token / 100] += 1;
        }
        let total: f64 = (0..6).map(|i| f64::from(i).exp()).sum();
        for (i, &count) in counts.iter().enumerate() {
            let p = (i as f64).exp() / total;
            let deviation = (count as f64 / DRAWS as f64 - p).abs();
            assert!(deviation < 4.0 * (p * (1.0 - p) / DRAWS as f64).sqrt(), "{i}: {count}");
        }
    }

    #[test]
    fn limits_and_seeds_are_obeyed() {
        let logits = [0.0, 3.0, 2.9, f32::NAN];
        let mut random = Random::new(1, 2);
        let greedy = Sampler { temperature: 0.0, min_p: 0.0 };
        assert_eq!(greedy.sample(&logits, &mut random), 1);
        let narrow = Sampler { temperature: 1.0, min_p: 0.5 };
        assert!((0..200).all(|_| matches!(narrow.sample(&logits, &mut random), 1 | 2)));
        let draw = |seed, stream| (0..8).map(|_| Random::new(seed, stream).bits()).collect::<Vec<_>>();
        assert_eq!(draw(3, 4), draw(3, 4));
        assert_ne!(draw(3, 4), draw(3, 5));
        assert_ne!(draw(3, 4), draw(4, 4));
    }
}
