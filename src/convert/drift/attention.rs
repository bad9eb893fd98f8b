//! How much to correct the queries, keys and values, judged by what comes out of the attention.
//!
//! Errors of queries, keys and values meet in the attention's products, which no second moment shows. So two shares are
//! searched by trying: that of the original statistics, and that of tokens weighted by the attention they receive
//! (paper section "adaptive mixing"). A trial quantizes the tensors and passes the held-out sequences through the
//! attention; its error is that of the input of `attn_output`.

use super::{DriftCorrection, Member};
use crate::convert::error::ConvertError;
use crate::convert::statistics::TensorStatistics;
use crate::model::{InputKind, LayerRunner, LayerWeights, ModelError, Observer};
use crate::quantize::{reconstruct, DriftedMoments};
use crate::stats::SideBySide;
use rayon::prelude::*;

/// Trials of each of the two searches.
const TRIALS: usize = 3;
/// (√5 − 1) / 2.
const GOLDEN: f64 = 0.618_033_988_749_894_8;

/// Keeps the input of `attn_output`.
#[derive(Default)]
struct Heads(Vec<f32>, bool);

impl Observer for Heads {
    fn input(&mut self, kind: InputKind, x: &[f32], _: usize) -> Result<(), ModelError> {
        self.1 = kind == InputKind::AttentionOutput;
        if self.1 {
            self.0.extend_from_slice(x);
        }
        Ok(())
    }

    fn enough(&self) -> bool {
        self.1
    }
}

fn heads(runner: &LayerRunner<'_>, weights: &LayerWeights) -> Result<Vec<f32>, ConvertError> {
    let mut heads = Heads::default();
    for round in runner.rounds() {
        heads.1 = false;
        runner.observe_round(&round, weights, &mut heads)?;
    }
    Ok(heads.0)
}

/// The rows of the sequences `chosen`, and their lengths; `lengths` are those of all sequences.
fn rows_of(values: &[f32], lengths: &[usize], chosen: impl Fn(usize) -> bool) -> (Vec<f32>, Vec<usize>) {
    let width = values.len() / lengths.iter().sum::<usize>().max(1);
    let (mut rest, mut rows, mut kept) = (values, Vec::new(), Vec::new());
    for (sequence, &length) in lengths.iter().enumerate() {
        let (own, after) = rest.split_at(length * width);
        rest = after;
        if chosen(sequence) {
            rows.extend_from_slice(own);
            kept.push(length);
        }
    }
    (rows, kept)
}

/// Where the trials take place.
pub(super) struct Trials<'a, 'm> {
    correction: &'a DriftCorrection<'a>,
    group: &'a [Member<'a>],
    statistics: &'a [TensorStatistics],
    covariance: &'a [f32],
    /// The moments learned from, for each tensor.
    learned: Vec<DriftedMoments>,
    /// The tensors' weights.
    original: &'a [Vec<f32>],
    drifted: LayerRunner<'m>,
    weights: &'a LayerWeights,
    wanted: Vec<f32>,
}

impl<'a, 'm> Trials<'a, 'm> {
    #[allow(clippy::too_many_arguments)]
    /// `models` have just been at the input of the queries, keys and values.
    pub(super) fn new(
        correction: &'a DriftCorrection<'a>,
        group: &'a [Member<'a>],
        original: &'a [Vec<f32>],
        statistics: &'a [TensorStatistics],
        covariance: &'a [f32],
        learned: &DriftedMoments,
        (models, replaced): (&SideBySide<'m>, &'a LayerWeights),
        chosen: impl Fn(usize) -> bool,
    ) -> Result<Self, ConvertError> {
        let lengths: Vec<usize> = correction.sequences.iter().map(Vec::len).collect();
        // The collection that came before has kept what the original model's attention gives.
        let (wanted, _) = rows_of(models.original().kept(), &lengths, &chosen);
        let (hidden, kept) = rows_of(models.drifted().hidden(), &lengths, &chosen);
        let runner = models.drifted();
        Ok(Self {
            wanted,
            drifted: LayerRunner::resume(runner.model(), &kept, hidden, runner.layer())?,
            weights: replaced,
            correction,
            group,
            statistics,
            covariance,
            learned: original.iter().map(|weights| learned.of_outputs(weights)).collect(),
            original,
        })
    }

    /// Squared error of the input of `attn_output` with these shares.
    fn error(&self, share: f64, attended: f64) -> Result<f64, ConvertError> {
        let quantize = |number: usize| {
            let (member, statistics) = (&self.group[number], &self.statistics[number]);
            let quantizer = self.correction.quantizer;
            let moments = self.learned[number].attend(attended);
            let blend = moments.blend(self.covariance, &self.original[number], share);
            let matrix = quantizer.corrected(member.tensor, member.role, member.key, statistics, &blend)?;
            Ok(reconstruct(&matrix))
        };
        let values: Vec<Vec<f32>> =
            (0..self.group.len()).into_par_iter().map(quantize).collect::<Result<_, ConvertError>>()?;
        let mut weights = self.weights.clone();
        for (member, values) in self.group.iter().zip(values) {
            self.correction.set(&mut weights, member, values)?;
        }
        let found = heads(&self.drifted, &weights)?;
        let differences = found.iter().zip(&self.wanted).map(|(a, b)| f64::from(a - b).powi(2));
        Ok(differences.sum())
    }

    /// Shares of the original statistics and of weighted tokens with the least error, starting at `share` and 0.
    pub(super) fn search(&self, share: f64) -> Result<(f64, f64), ConvertError> {
        let start = self.error(share, 0.0)?;
        let (attended, least) = golden_section(0.0, start, |attended| self.error(share, attended))?;
        let (share, _) = golden_section(share, least, |share| self.error(share, attended))?;
        Ok((share, attended))
    }
}

/// The best of `start`, whose error is `error`, and of the trials of a golden-section search within 0..=1.
fn golden_section(
    start: f64,
    error: f64,
    measure: impl Fn(f64) -> Result<f64, ConvertError>,
) -> Result<(f64, f64), ConvertError> {
    let mut best = (start, error);
    let mut try_at = |place: f64| -> Result<f64, ConvertError> {
        let found = measure(place)?;
        if found < best.1 {
            best = (place, found);
        }
        Ok(found)
    };
    let (mut low, mut high) = (0.0, 1.0);
    let (mut left, mut right) = (1.0 - GOLDEN, GOLDEN);
    let (mut at_left, mut at_right) = (try_at(left)?, try_at(right)?);
    for _ in 2..TRIALS {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - GOLDEN * (high - low);
            at_left = try_at(left)?;
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + GOLDEN * (high - low);
            at_right = try_at(right)?;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_closes_in_and_never_loses() {
        let curve = |minimum: f64| move |x: f64| Ok((x - minimum).powi(2));
        for minimum in [0.0, 0.3, 0.62, 1.0] {
            let (found, error) = golden_section(0.5, 1.0, curve(minimum)).unwrap();
            assert!((found - minimum).abs() < 0.25 && error < 0.06, "{minimum}: {found}");
        }
        assert_eq!(golden_section(0.4, 0.0, curve(0.3)).unwrap(), (0.4, 0.0));
    }
}
