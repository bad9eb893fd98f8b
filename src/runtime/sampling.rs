//! Choosing the next token: temperature, the most likely ones only, reproducibly.

use crate::model::Random;
use std::cmp::Ordering;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn from; 0 allows all.
    pub top_k: usize,
    /// Only the fewest likeliest tokens whose probabilities (at temperature 1) sum to this are drawn from; 1 allows
    /// all.
    pub top_p: f32,
    /// Equal seeds give equal texts.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 0 }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// Draws tokens one after another.
#[derive(Clone, Debug)]
pub struct Drawer {
    sampling: Sampling,
    random: Random,
    candidates: Vec<(f32, u32)>,
}

/// Likelier first; of equals the lower number.
fn by_likelihood(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Drawer {
    /// Starts the random numbers of the seed.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, random: Random::new(sampling.seed, 0), candidates: Vec::new() }
    }

    /// Draws from one row of logits; of equally likely tokens the lower number comes first. Logits that are NaN are
    /// never drawn; `None` if all are.
    pub fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let all = || logits.iter().copied().zip(0..).filter(|(logit, _)| !logit.is_nan());
        let best = all().min_by(by_likelihood)?;
        if temperature <= 0.0 || !best.0.is_finite() {
            return Some(best.1);
        }
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(all());
        if (1..candidates.len()).contains(&top_k) {
            candidates.select_nth_unstable_by(top_k, by_likelihood);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(by_likelihood);
        let weight = |logit: f32, temperature: f32| f64::from((logit - best.0) / temperature).exp();
        if top_p < 1.0 {
            let total: f64 = candidates.iter().map(|&(logit, _)| weight(logit, 1.0)).sum();
            let mut sum = 0.0;
            let enough = candidates.iter().position(|&(logit, _)| {
                sum += weight(logit, 1.0);
                sum >= total * f64::from(top_p)
            });
            candidates.truncate(enough.map_or(usize::MAX, |last| last + 1));
        }
        let total: f64 = candidates.iter().map(|&(logit, _)| weight(logit, temperature)).sum();
        let mut rest = self.random.unit() * total;
        let drawn = candidates.iter().find(|&&(logit, _)| {
            rest -= weight(logit, temperature);
            rest < 0.0
        });
        Some(drawn.unwrap_or(&best).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sampling: Sampling, logits: &[f32]) -> Vec<usize> {
        let mut drawer = Drawer::new(sampling);
        let mut counts = vec![0; logits.len()];
        (0..4000).for_each(|_| counts[drawer.draw(logits).unwrap() as usize] += 1);
        counts
    }

    #[test]
    fn limits_and_temperature_are_obeyed() {
        let logits = [0.0f32, 2.0, f32::NAN, 1.0, 2.0, -1.0];
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 };
        let total: f64 = [0.0f64, 2.0, 1.0, 2.0, -1.0].iter().map(|l| l.exp()).sum();
        for (count, logit) in drawn(all, &logits).into_iter().zip(logits) {
            let p = if logit.is_nan() { 0.0 } else { f64::from(logit).exp() / total };
            assert!(
                (count as f64 / 4000.0 - p).abs() <= 4.0 * (p * (1.0 - p) / 4000.0).sqrt(),
                "{count} {p}"
            );
        }
        let used = |sampling| -> Vec<bool> { drawn(sampling, &logits).iter().map(|&n| n > 0).collect() };
        assert_eq!(used(Sampling { top_k: 3, ..all }), [false, true, false, true, true, false]);
        assert_eq!(used(Sampling { top_k: 1, ..all }), [false, true, false, false, false, false]);
        // The two likeliest have 0.73 of all probability.
        assert_eq!(used(Sampling { top_p: 0.7, ..all }), [false, true, false, false, true, false]);
        assert_eq!(used(Sampling { top_p: 0.0, ..all }), [false, true, false, false, false, false]);
        assert_eq!(used(Sampling::GREEDY), [false, true, false, false, false, false]);
        let cold = drawn(Sampling { temperature: 0.2, ..all }, &logits);
        assert!(cold[1] + cold[4] > 3900);
    }

    #[test]
    fn seeds_decide_and_odd_logits_do_no_harm() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32).collect();
        let texts = |seed| -> Vec<_> {
            let mut drawer = Drawer::new(Sampling { seed, ..Sampling::default() });
            (0..20).map(|_| drawer.draw(&logits)).collect()
        };
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
        let mut drawer = Drawer::new(Sampling::default());
        assert_eq!(drawer.draw(&[f32::NAN; 3]), None);
        assert_eq!(drawer.draw(&[]), None);
        assert_eq!(drawer.draw(&[0.0, f32::INFINITY]), Some(1));
        assert_eq!(drawer.draw(&[f32::NEG_INFINITY; 2]), Some(0));
    }
}
