//! How far to trust statistics of the drifted input: blending them with the original ones.
//!
//! A layer behind quantized layers sees x' where the original model has x. The weights that undo most of the drift,
//! `T Σ'⁻¹` with `Σ' = E[x' x'ᵀ]` and `T = E[y x'ᵀ]`, y what the layer should give, are learned from a limited number
//! of tokens: on others they may do more harm than good. y is `W x`, so that `T = W C` with `C = E[x x'ᵀ]`, or, for
//! layers that write to the hidden state r, `W x + r − r'`. Blended statistics
//!
//! ```text
//! Σ_ε = (1 − ε) Σ' + ε Σ,   T_ε = (1 − ε) T + ε W Σ
//! ```
//!
//! are those of the error `(1 − ε) E|y − Ŵ x'|² + ε E|(W − Ŵ) x|²`: with ε = 1 nothing is corrected. The
//! share ε is the one whose weights do best on tokens that were not learned from, before quantization; so the
//! correction never loses there.

use super::{cholesky, Drift};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// Second moments of a drifted input, all row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftedMoments {
    /// Σ', columns × columns.
    pub drifted: Vec<f32>,
    /// Where the weights are to lead.
    pub wanted: Wanted,
    /// Σ' and what is wanted with every token weighted by the attention it receives (paper section "attention-weighted
    /// covariance"); only for the input of queries, keys and values.
    pub attended: Option<(Vec<f32>, Wanted)>,
}

/// Moments that say what the outputs should be, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// C = E[x x'ᵀ], columns × columns; rows belong to the original input.
    Inputs(Vec<f32>),
    /// For a single layer with outputs of its own.
    Outputs {
        /// T, rows × columns.
        target: Vec<f32>,
        /// E[x_j x'_j], columns.
        diagonal: Vec<f32>,
    },
}

impl Wanted {
    /// As the quantizer takes it.
    pub fn drift(&self) -> Drift<'_> {
        match self {
            Self::Inputs(cross) => Drift::Inputs { cross },
            Self::Outputs { target, diagonal } => Drift::Outputs { target, diagonal },
        }
    }
}

impl Wanted {
    /// A mixture with another of the same kind, which has the share `share`.
    fn mixed(&self, share: f64, other: &Self) -> Self {
        match (self, other) {
            (Self::Inputs(own), Self::Inputs(other)) => Self::Inputs(mixed(own, share, other)),
            (Self::Outputs { target, diagonal }, Self::Outputs { target: t, diagonal: d }) => {
                Self::Outputs { target: mixed(target, share, t), diagonal: mixed(diagonal, share, d) }
            }
            (own, _) => own.clone(),
        }
    }

    /// What the layer with these `weights` wants of its outputs, to be those for the inputs.
    fn of_outputs(&self, weights: &[f32]) -> Self {
        let Self::Inputs(cross) = self else { return self.clone() };
        let n = cross.len().isqrt().max(1);
        let mut target = vec![0.0; weights.len()];
        let weights = MatRef::from_row_major_slice(weights, weights.len() / n, n);
        let out = MatMut::from_row_major_slice_mut(&mut target, weights.nrows(), n);
        matmul(out, Accum::Replace, weights, MatRef::from_row_major_slice(cross, n, n), 1.0, Par::Seq);
        Self::Outputs { target, diagonal: cross.iter().copied().step_by(n + 1).collect() }
    }
}

/// Each value of `own`, mixed with one of `other` that has the share `share`.
fn mixed(own: &[f32], share: f64, other: &[f32]) -> Vec<f32> {
    let mix = |(&own, &other): (&f32, &f32)| (1.0 - share) * f64::from(own) + share * f64::from(other);
    own.iter().zip(other).map(|pair| mix(pair) as f32).collect()
}

impl DriftedMoments {
    /// The same for one layer, with these `weights` (rows × columns), as [`Wanted::Outputs`].
    pub fn of_outputs(&self, weights: &[f32]) -> Self {
        let attended = self.attended.as_ref();
        Self {
            drifted: self.drifted.clone(),
            wanted: self.wanted.of_outputs(weights),
            attended: attended.map(|(drifted, wanted)| (drifted.clone(), wanted.of_outputs(weights))),
        }
    }

    /// The blend with the original moment Σ (columns × columns) in which Σ has the share `share`. `weights` (rows ×
    /// columns) are those of the layer whose outputs are wanted; any others are not read.
    pub fn blend(&self, original: &[f32], weights: &[f32], share: f64) -> Self {
        let unmoved = Wanted::Inputs(original.to_vec());
        let unmoved = match self.wanted {
            Wanted::Outputs { .. } if share > 0.0 => unmoved.of_outputs(weights),
            Wanted::Outputs { .. } => self.wanted.clone(),
            Wanted::Inputs(_) => unmoved,
        };
        let drifted = mixed(&self.drifted, share, original);
        Self { drifted, wanted: self.wanted.mixed(share, &unmoved), attended: None }
    }

    /// The mean over all tokens, mixed with that over tokens weighted by the attention they receive, which has the
    /// share `share`.
    pub fn attend(&self, share: f64) -> Self {
        match &self.attended {
            Some((drifted, wanted)) => Self {
                drifted: mixed(&self.drifted, share, drifted),
                wanted: self.wanted.mixed(share, wanted),
                attended: None,
            },
            None => self.clone(),
        }
    }

    /// Means over the vectors of both, of which `self` saw `own` and `other`, of the same kind, saw `others`.
    pub fn joined(&self, own: u64, other: &Self, others: u64) -> Self {
        let share = others as f64 / (own + others).max(1) as f64;
        let attended = self.attended.as_ref().zip(other.attended.as_ref());
        Self {
            drifted: mixed(&self.drifted, share, &other.drifted),
            wanted: self.wanted.mixed(share, &other.wanted),
            attended: attended.map(|(a, b)| (mixed(&a.0, share, &b.0), a.1.mixed(share, &b.1))),
        }
    }
}

/// Rows of one of the layers that share an input, to judge a blend by.
#[derive(Clone, Debug)]
pub struct BlendRow<'a> {
    /// The row's weights.
    pub weights: &'a [f32],
    /// Its number among the rows of T, where moments have them.
    pub output: usize,
    /// What a squared error of its output costs.
    pub importance: f64,
}

/// The shares that are tried.
pub const SHARES: [f64; 5] = [0.0, 0.2, 0.4, 0.7, 1.0];

/// The share of [`SHARES`] whose blend of `learned` and `original` gives the weights of least error on `held_out`, and
/// that error relative to the one without correction. `damping`, a share of the median of the diagonal of Σ, is added
/// to the diagonal on both sides, as the quantizer does: what is that small will not survive quantization.
pub fn choose_share(
    rows: &[BlendRow<'_>],
    original: &[f32],
    learned: &DriftedMoments,
    held_out: &DriftedMoments,
    damping: f64,
) -> (f64, f64) {
    let Some(n) = rows.first().map(|row| row.weights.len()) else { return (1.0, 1.0) };
    let mut diagonal: Vec<f64> = original.iter().step_by(n + 1).map(|&v| f64::from(v)).collect();
    diagonal.sort_by(f64::total_cmp);
    let damping = damping * diagonal.get(n / 2).copied().unwrap_or(0.0);
    let weights = Mat::from_fn(rows.len(), n, |row, j| rows[row].weights[j]);
    // W Σ, and T of both kinds of tokens: nothing of n × n but the factor is needed beside the moments.
    let unmoved = product(weights.as_ref(), original);
    let learned_target = target(rows, weights.as_ref(), learned);
    let target = target(rows, weights.as_ref(), held_out);
    // E|t − Ŵ x'|² without the part that does not depend on Ŵ.
    let error = |candidate: MatRef<'_, f32>| -> f64 {
        let moved = product(candidate, &held_out.drifted);
        let term = |r: usize, j: usize| f64::from(candidate[(r, j)]) * (moved[(r, j)] - 2.0 * target[(r, j)]);
        let row = |(r, row): (usize, &BlendRow)| row.importance * (0..n).map(|j| term(r, j)).sum::<f64>();
        rows.iter().enumerate().map(row).sum()
    };
    let unchanged = error(weights.as_ref());
    let mut best = (1.0, unchanged);
    for &share in SHARES.iter().filter(|&&share| share < 1.0) {
        let mix = |own: f64, other: f64| (1.0 - share) * own + share * other;
        let mut factor = Mat::<f64>::from_fn(n, n, |i, j| match i >= j {
            true => mix(f64::from(learned.drifted[i * n + j]), f64::from(original[i * n + j])),
            false => 0.0,
        });
        for j in 0..n {
            factor[(j, j)] += damping;
        }
        if cholesky::factor(&mut factor).is_err() {
            continue;
        }
        let mut solution = Mat::<f64>::from_fn(rows.len(), n, |r, j| {
            mix(learned_target[(r, j)], unmoved[(r, j)]) + damping * f64::from(weights[(r, j)])
        });
        solve_lower_triangular_in_place(factor.as_ref(), solution.transpose_mut(), Par::Seq);
        solve_upper_triangular_in_place(factor.transpose(), solution.transpose_mut(), Par::Seq);
        drop(factor);
        let found = error(Mat::from_fn(rows.len(), n, |r, j| solution[(r, j)] as f32).as_ref());
        if found < best.1 {
            best = (share, found);
        }
    }
    // In units of the original model's outputs.
    let energy = |(r, row): (usize, &BlendRow)| {
        row.importance * (0..n).map(|j| f64::from(weights[(r, j)]) * unmoved[(r, j)]).sum::<f64>()
    };
    let energy: f64 = rows.iter().enumerate().map(energy).sum();
    (best.0, (unchanged - best.1) / energy.max(f64::MIN_POSITIVE))
}

/// Rows times a square row-major matrix.
fn product(rows: MatRef<'_, f32>, square: &[f32]) -> Mat<f64> {
    let n = rows.ncols();
    let mut product = Mat::<f32>::zeros(rows.nrows(), n);
    let square = MatRef::from_row_major_slice(square, n, n);
    matmul(product.as_mut(), Accum::Replace, rows, square, 1.0f32, Par::Seq);
    Mat::from_fn(rows.nrows(), n, |r, j| f64::from(product[(r, j)]))
}

/// T of the rows.
fn target(rows: &[BlendRow<'_>], weights: MatRef<'_, f32>, moments: &DriftedMoments) -> Mat<f64> {
    match &moments.wanted {
        Wanted::Inputs(cross) => product(weights, cross),
        Wanted::Outputs { target, .. } => {
            let n = weights.ncols();
            let value = |r: usize, j: usize| target.get(rows[r].output * n + j).copied();
            Mat::from_fn(rows.len(), n, |r, j| f64::from(value(r, j).unwrap_or(0.0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 6;

    /// Moments of x' = x A + noise, x white, over made-up numbers.
    fn moments(tokens: usize, seed: u64, gain: f64, noise: f64) -> (Vec<f32>, DriftedMoments) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 30) as f64 - 1.0
        };
        let mut sums = [vec![0.0; N * N], vec![0.0; N * N], vec![0.0; N * N]];
        for _ in 0..tokens {
            let x: Vec<f64> = (0..N).map(|_| next()).collect();
            let drifted: Vec<f64> = x.iter().map(|x| gain * x + noise * next()).collect();
            for i in 0..N {
                for j in 0..N {
                    sums[0][i * N + j] += x[i] * x[j] / tokens as f64;
                    sums[1][i * N + j] += drifted[i] * drifted[j] / tokens as f64;
                    sums[2][i * N + j] += x[i] * drifted[j] / tokens as f64;
                }
            }
        }
        let [original, drifted, cross] =
            sums.map(|sum| sum.into_iter().map(|v| v as f32).collect::<Vec<f32>>());
        (original, DriftedMoments { drifted, wanted: Wanted::Inputs(cross), attended: None })
    }

    fn rows(weights: &[f32]) -> Vec<BlendRow<'_>> {
        weights.chunks(N).map(|weights| BlendRow { weights, output: 0, importance: 1.0 }).collect()
    }

    #[test]
    fn a_real_drift_is_followed_and_a_chance_one_is_not() {
        let weights: Vec<f32> = (0..2 * N).map(|i| (i as f32 * 0.7).sin()).collect();
        // Every input lost a third: the correction is worth much, on any tokens.
        let (original, learned) = moments(4000, 1, 0.67, 0.05);
        let (_, held_out) = moments(1000, 2, 0.67, 0.05);
        let (share, gain) = choose_share(&rows(&weights), &original, &learned, &held_out, 1e-6);
        assert!(share <= 0.2 && gain > 0.05, "{share} {gain}");
        // No drift but in a handful of tokens that happened to be learned from.
        let (original, _) = moments(4000, 3, 1.0, 0.0);
        let (_, learned) = moments(7, 4, 1.0, 0.8);
        let (_, held_out) = moments(4000, 5, 1.0, 0.0);
        let (share, gain) = choose_share(&rows(&weights), &original, &learned, &held_out, 1e-6);
        assert!(share == 1.0 && gain == 0.0, "{share} {gain}");
    }

    #[test]
    fn blends_and_joins_are_means() {
        let (original, a) = moments(50, 1, 0.5, 0.1);
        let (_, b) = moments(150, 2, 0.5, 0.1);
        assert_eq!(a.blend(&original, &[], 0.0), a);
        let all = a.blend(&original, &[], 1.0);
        assert!(all.drifted == original && all.wanted == Wanted::Inputs(original));
        let joined = a.joined(50, &b, 150);
        let [joined, a, b] = [&joined, &a, &b].map(|moments| match &moments.wanted {
            Wanted::Inputs(cross) => cross[7],
            Wanted::Outputs { .. } => panic!("of another kind"),
        });
        assert!((joined - (0.25 * a + 0.75 * b)).abs() < 1e-7);
    }

    #[test]
    fn outputs_blend_as_the_inputs_they_come_from() {
        let weights: Vec<f32> = (0..2 * N).map(|i| (i as f32 * 0.7).sin()).collect();
        let (original, inputs) = moments(4000, 1, 0.67, 0.05);
        let outputs = inputs.of_outputs(&weights);
        let by_output = |(output, weights)| BlendRow { weights, output, importance: 1.0 };
        let rows: Vec<BlendRow<'_>> = weights.chunks(N).enumerate().map(by_output).collect();
        let shares =
            [&inputs, &outputs].map(|moments| choose_share(&rows, &original, moments, moments, 1e-6));
        assert!(shares[0].0 == shares[1].0 && (shares[0].1 - shares[1].1).abs() < 1e-6, "{shares:?}");
        let (blended, other) = (inputs.blend(&original, &[], 0.3), outputs.blend(&original, &weights, 0.3));
        let (Wanted::Inputs(cross), Wanted::Outputs { target, diagonal }) = (&blended.wanted, &other.wanted)
        else {
            panic!("of other kinds")
        };
        let moved = product(MatRef::from_row_major_slice(&weights, 2, N), cross);
        for (index, found) in target.iter().enumerate() {
            assert!((f64::from(*found) - moved[(index / N, index % N)]).abs() < 1e-6);
        }
        for (j, found) in diagonal.iter().enumerate() {
            assert!((found - cross[j * (N + 1)]).abs() < 1e-6);
        }
    }

    #[test]
    fn what_the_hidden_state_lost_is_part_of_the_target() {
        let weights = vec![0.0f32; N];
        let (original, learned) = moments(4000, 1, 1.0, 0.0);
        // What the hidden state lost is twice the first input: a layer of zeros can give it back.
        let wanted = Wanted::Outputs {
            target: original[..N].iter().map(|v| 2.0 * v).collect(),
            diagonal: original.iter().copied().step_by(N + 1).collect(),
        };
        let learned = DriftedMoments { wanted, ..learned };
        let rows = [BlendRow { weights: &weights, output: 0, importance: 1.0 }];
        let (share, _) = choose_share(&rows, &original, &learned, &learned.clone(), 1e-6);
        assert_eq!(share, 0.0);
    }
}
