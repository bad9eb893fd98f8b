//! Rotary position embedding.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::ROWS_PER_TASK;

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: (0, 1), (2, 3), … (ggml's NORM; GGUF files of the llama architecture are stored for it).
    Interleaved,
    /// First half with second half: (0, d/2), (1, d/2 + 1), … (ggml's NEOX).
    Halves,
}

/// How angles are changed for contexts longer than those trained (`rope.scaling.*`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Unchanged.
    None,
    /// All angles divided by the factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// YaRN: slow rotations divided, fast ones kept, a ramp between (arXiv 2309.00071).
    Yarn {
        /// Factor of the slow rotations.
        factor: f32,
        /// Context length before scaling.
        original_context: usize,
        /// Multiplies the length of rotated vectors.
        attention_factor: f32,
        /// Rotations over the original context above which an angle is kept.
        beta_fast: f32,
        /// Rotations over the original context below which an angle is divided.
        beta_slow: f32,
    },
}

/// Cosines and sines of all positions up to some end: position-major, for each pair cosine then sine.
type Table = Arc<Vec<[f32; 2]>>;

/// The rotation of one model (or of one kind of its layers).
#[derive(Debug)]
pub struct Rope {
    pairing: Pairing,
    /// Angle per position of each pair.
    frequencies: Vec<f64>,
    /// Length of rotated vectors relative to before.
    magnitude: f32,
    table: Mutex<Table>,
}

impl Rope {
    /// Rotation of the first `rotated` elements of each head by `base^(-2i/rotated)` per position.
    ///
    /// `divisors` divides the angle of each pair (the tensor `rope_freqs`). `None` if `rotated` is odd, or there
    /// are divisors but not one positive one for each pair.
    pub fn new(
        pairing: Pairing,
        rotated: usize,
        base: f32,
        scaling: RopeScaling,
        divisors: Option<&[f32]>,
    ) -> Option<Self> {
        let pairs = rotated / 2;
        let usable = |d: &[f32]| d.len() == pairs && d.iter().all(|&d| d.is_finite() && d > 0.0);
        if !rotated.is_multiple_of(2) || !divisors.is_none_or(usable) {
            return None;
        }
        let base = f64::from(base);
        let mut frequencies: Vec<f64> =
            (0..pairs).map(|i| base.powf(-2.0 * i as f64 / rotated as f64)).collect();
        if let Some(divisors) = divisors {
            frequencies.iter_mut().zip(divisors).for_each(|(f, &d)| *f /= f64::from(d));
        }
        let mut magnitude = 1.0;
        match scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                frequencies.iter_mut().for_each(|f| *f /= f64::from(factor));
            }
            RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow } => {
                // Pair whose angle makes `turns` rotations over the original context.
                let pair_of = |turns: f32| {
                    let wavelength = original_context as f64 / (f64::from(turns) * std::f64::consts::TAU);
                    rotated as f64 * wavelength.ln() / (2.0 * base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(rotated as f64 - 1.0);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let kept = 1.0 - ((i as f64 - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
                    *f = *f * kept + *f / f64::from(factor) * (1.0 - kept);
                }
                magnitude = attention_factor * (1.0 + 0.1 * f64::from(factor).ln()) as f32;
            }
        }
        Some(Self { pairing, frequencies, magnitude, table: Mutex::new(Arc::default()) })
    }

    /// The same rotation, after which vectors are longer by this factor.
    pub fn with_magnitude(mut self, factor: f32) -> Self {
        self.magnitude *= factor;
        self
    }

    fn table(&self, positions: usize) -> Table {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.frequencies.len().max(1);
        if table.len() / pairs < positions {
            let positions = positions.next_power_of_two();
            // On this thread alone: one that waits for others while it holds the lock may be given work that wants it too.
            let rotations = (0..positions).flat_map(|position| {
                self.frequencies.iter().map(move |frequency| {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    [cos as f32 * self.magnitude, sin as f32 * self.magnitude]
                })
            });
            *table = Arc::new(rotations.collect());
        }
        Arc::clone(&table)
    }

    /// Rotates every head of every token. `x` holds for each of `positions` one row of whole heads.
    pub fn rotate(&self, x: &mut [f32], head_width: usize, positions: &[usize]) {
        self.turn(x, head_width, positions, 1.0);
    }

    /// Takes the gradient of rotated heads to that of the heads before: the transposed rotation.
    pub fn rotate_gradient(&self, gradient: &mut [f32], head_width: usize, positions: &[usize]) {
        self.turn(gradient, head_width, positions, -1.0);
    }

    /// Rotates by the angles, or by their opposites if `sign` is -1.
    fn turn(&self, x: &mut [f32], head_width: usize, positions: &[usize], sign: f32) {
        let pairs = self.frequencies.len();
        let row_width = x.len().checked_div(positions.len()).unwrap_or(0);
        if pairs == 0 || row_width == 0 || head_width < 2 * pairs {
            return;
        }
        let end = positions.iter().max().map_or(0, |&last| last + 1);
        let table = self.table(end);
        let tasks = x.par_chunks_mut(ROWS_PER_TASK * row_width).zip(positions.par_chunks(ROWS_PER_TASK));
        tasks.for_each(|(rows, positions)| {
            for (row, &position) in rows.chunks_exact_mut(row_width).zip(positions) {
                let rotation = table.get(position * pairs..(position + 1) * pairs).unwrap_or(&[]);
                for head in row.chunks_exact_mut(head_width) {
                    self.rotate_head(head, rotation, sign);
                }
            }
        });
    }

    fn rotate_head(&self, head: &mut [f32], rotation: &[[f32; 2]], sign: f32) {
        match self.pairing {
            Pairing::Interleaved => {
                for (pair, &[cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(rotation) {
                    let ([a, b], sin) = (*pair, sin * sign);
                    *pair = [a * cos - b * sin, a * sin + b * cos];
                }
            }
            Pairing::Halves => {
                let (first, second) = head.split_at_mut(rotation.len());
                for ((a, b), &[cos, sin]) in first.iter_mut().zip(second).zip(rotation) {
                    let sin = sin * sign;
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        for pairing in [Pairing::Interleaved, Pairing::Halves] {
            // Heads of 6, of which 4 elements are rotated; two heads in a row.
            let rope = Rope::new(pairing, 4, 100.0, RopeScaling::None, None).unwrap();
            let start: Vec<f32> = (0..24).map(|i| i as f32 * 0.1 - 1.0).collect();
            let mut x = start.clone();
            rope.rotate(&mut x, 6, &[3, 0]);
            assert_eq!(x[12..], start[12..]);
            for head in 0..2 {
                for (i, frequency) in [1.0f64, 0.1].into_iter().enumerate() {
                    let (a, b) = match pairing {
                        Pairing::Interleaved => (2 * i, 2 * i + 1),
                        Pairing::Halves => (i, i + 2),
                    };
                    let (sin, cos) = (3.0 * frequency).sin_cos();
                    let at = |j: usize| f64::from(start[head * 6 + j]);
                    assert!((f64::from(x[head * 6 + a]) - (at(a) * cos - at(b) * sin)).abs() < 1e-6);
                    assert!((f64::from(x[head * 6 + b]) - (at(a) * sin + at(b) * cos)).abs() < 1e-6);
                }
                assert_eq!(x[head * 6 + 4..head * 6 + 6], start[head * 6 + 4..head * 6 + 6]);
            }
        }
    }

    #[test]
    fn divisors_and_scaling_slow_the_rotation() {
        let at = |scaling, divisors: Option<&[f32]>| {
            Rope::new(Pairing::Halves, 4, 100.0, scaling, divisors).unwrap().frequencies
        };
        assert_eq!(at(RopeScaling::Linear { factor: 4.0 }, None), [0.25, 0.025]);
        assert_eq!(at(RopeScaling::None, Some(&[2.0, 5.0])), [0.5, 0.02]);
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let slowed = at(yarn, None);
        assert_eq!(slowed[0], 1.0);
        assert!(slowed[1] < 0.1 && slowed[1] >= 0.025);
        assert!(Rope::new(Pairing::Halves, 3, 100.0, RopeScaling::None, None).is_none());
        assert!(Rope::new(Pairing::Halves, 4, 100.0, RopeScaling::None, Some(&[1.0])).is_none());
        assert!(Rope::new(Pairing::Halves, 4, 100.0, RopeScaling::None, Some(&[1.0, 0.0])).is_none());
    }
}
