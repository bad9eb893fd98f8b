//! What an error of a linear layer's output costs in the loss: row weights in nats, comparable across the model.
//!
//! Let a layer compute y = W x and quantization change W by dW, hence each token's y by dy = dW x. To second order the
//! predictive distributions p of all tokens move by a KL divergence of ½ dyᵀ F dy, where F is the Fisher information of
//! y: with labels drawn from p, F = E[(dLoss/dy)(dLoss/dy)ᵀ], Loss = the sum of -ln p(label) over the tokens. Labels of
//! different tokens are drawn independently and their gradients have mean zero, so one backward pass from the summed
//! loss gives an unbiased sample of the part of F that belongs to each token. With F's diagonal, and y's sensitivity
//! taken as independent of x,
//!
//! ```text
//! KL per token ≈ ½ Σ_r g_r dW_r Σ dW_rᵀ,   g_r = E_tokens[(dLoss/dy_r)²],   Σ = E_tokens[x xᵀ].
//! ```
//!
//! g_r is what [`Sensitivity::linears`] holds for row r. The output head needs no sampling: its outputs are the logits,
//! where F = diag(p) - p pᵀ, so g_r = E[p_r (1 - p_r)] ([`Sensitivity::head`]). A row of the embedding is the input of
//! every token r, a share f_r of all: its error dW_r costs ½ f_r dW_r Γ dW_rᵀ with Γ = E[(dLoss/de)(dLoss/de)ᵀ] over
//! the tokens' embeddings e ([`Sensitivity::embedding`]), and f_r ≈ E[p_r] ([`Sensitivity::probability`]). A tied
//! embedding costs the sum of both; as p_r is small for nearly all tokens, one row weight serves both, with the
//! covariance Σ + Γ.

use super::covariance::Covariance;
use super::error::StatsError;
use crate::model::{
    layer_gradient, loss_gradient, GradientObserver, LayerRunner, LinearSlot, Model, ModelError,
};
use rayon::prelude::*;

/// How the loss is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SensitivitySettings {
    /// Tokens to differentiate the loss of, at most (at least one sequence is taken).
    pub tokens: usize,
    /// Seed of the labels.
    pub seed: u64,
    /// Bytes of hidden states to keep. Where all layers need more, states of every k-th are kept and those between are
    /// computed again.
    pub memory: usize,
}

impl Default for SensitivitySettings {
    fn default() -> Self {
        Self { tokens: 8192, seed: 0, memory: 600 << 20 }
    }
}

/// What errors cost, per token and in nats, as second derivatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// For each linear layer of the blocks, in the order of the model: its tensor and the weights of its rows.
    pub linears: Vec<(String, Vec<f32>)>,
    /// E[p_r (1 - p_r)] for each row of the output head.
    pub head: Vec<f64>,
    /// `E[p_r]` for each token.
    pub probability: Vec<f64>,
    /// Second moment of the loss's gradient with respect to the looked-up embeddings.
    pub embedding: Covariance,
    /// Tokens used.
    pub tokens: usize,
}

/// Hidden states of some sequences, recorded while all of them pass through the layers.
#[derive(Clone, Debug)]
pub struct Tape {
    settings: SensitivitySettings,
    /// Lengths of the chosen sequences, and where their tokens stand in the whole batch.
    lengths: Vec<usize>,
    tokens: Vec<std::ops::Range<usize>>,
    interval: usize,
    states: Vec<(usize, Vec<f32>)>,
}

impl Tape {
    /// Chooses sequences spread evenly over a batch of sequences of these lengths.
    pub fn new(model: &Model, lengths: &[usize], settings: SensitivitySettings) -> Self {
        let h = model.hyperparameters();
        let total: usize = lengths.iter().sum();
        let count =
            (settings.tokens.saturating_mul(lengths.len()) / total.max(1)).clamp(1, lengths.len().max(1));
        let mut starts = vec![0];
        starts.extend(lengths.iter().scan(0, |sum, &len| {
            *sum += len;
            Some(*sum)
        }));
        let chosen = (0..count).map(|index| index * lengths.len() / count);
        let tokens: Vec<_> = chosen.filter_map(|at| Some(*starts.get(at)?..*starts.get(at + 1)?)).collect();
        let lengths: Vec<usize> = tokens.iter().map(std::ops::Range::len).collect();
        let state = lengths.iter().sum::<usize>() * h.width * size_of::<f32>();
        Self {
            interval: interval(h.layers, state, settings.memory),
            settings,
            lengths,
            tokens,
            states: Vec::new(),
        }
    }

    /// Keeps what is needed of the runner's hidden state. To be called before each layer and after the last.
    pub fn record(&mut self, runner: &LayerRunner<'_>) {
        let h = runner.model().hyperparameters();
        let layer = runner.layer();
        if layer.is_multiple_of(self.interval) || layer == h.layers {
            let rows = self
                .tokens
                .iter()
                .filter_map(|tokens| runner.hidden().get(tokens.start * h.width..tokens.end * h.width));
            self.states.push((layer, rows.flatten().copied().collect()));
        }
    }

    /// Goes back from the loss to the embedding; `progress` is told each layer that is done.
    ///
    /// # Errors
    /// Not all layers were recorded, or the model or its architecture fails.
    pub fn differentiate(
        mut self,
        model: &Model,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Sensitivity, StatsError> {
        let h = model.hyperparameters();
        let incomplete = || StatsError::Calibration {
            expected: format!("hidden states before each of {} layers and after the last", h.layers),
            found: "fewer".into(),
        };
        let last = self.states.pop().filter(|(layer, _)| *layer == h.layers).ok_or_else(incomplete)?.1;
        let tokens: usize = self.lengths.iter().sum();
        let loss = loss_gradient(model, &last, self.settings.seed)?;
        drop(last);
        let mut gradient = loss.hidden;
        let mut layers = Vec::with_capacity(h.layers);
        let mut end = h.layers;
        while end > 0 {
            let (start, state) =
                self.states.pop().filter(|(layer, _)| *layer < end).ok_or_else(incomplete)?;
            for (layer, hidden) in self.between(model, start, end, state)?.into_iter().rev() {
                layers.push(rows_of_layer(model, layer, &self.lengths, &hidden, &mut gradient)?);
                progress(layer);
            }
            end = start;
        }
        model.architecture().prepare(&mut gradient);
        let mut embedding = Covariance::new(h.width)?;
        embedding.add(&gradient)?;
        if !embedding.is_finite() {
            return Err(StatsError::NotFinite { what: "the embedding's gradient".into() });
        }
        layers.reverse();
        let linears = positive(layers.concat());
        let (head, probability) = (loss.logit_moment, loss.probability);
        Ok(Sensitivity { linears, head, probability, embedding, tokens })
    }

    /// The hidden states that enter layers `start..end`, from that of `start`.
    fn between(
        &self,
        model: &Model,
        start: usize,
        end: usize,
        state: Vec<f32>,
    ) -> Result<Vec<(usize, Vec<f32>)>, StatsError> {
        let mut states = vec![(start, state)];
        while let Some((layer, hidden)) = states.last().filter(|(layer, _)| layer + 1 < end) {
            let mut runner = LayerRunner::resume(model, &self.lengths, hidden.clone(), *layer)?;
            runner.advance(&model.load_layer(*layer)?, &mut ())?;
            states.push((layer + 1, runner.into_hidden()));
        }
        Ok(states)
    }
}

/// Layers from one kept state to the next, so that kept states and those between fit in `memory`, or nearly so.
fn interval(layers: usize, state: usize, memory: usize) -> usize {
    let bytes = |interval: &usize| (layers.div_ceil(*interval) + interval).saturating_mul(state);
    (1..=layers.max(1))
        .find(|interval| bytes(interval) <= memory)
        .or_else(|| (1..=layers).min_by_key(bytes))
        .unwrap_or(1)
}

/// Tokens whose squares are summed as f32 before they enter an f64.
const TOKENS_PER_BLOCK: usize = 256;

/// Adds to `sums` the squares of each column.
fn add_squares(x: &[f32], sums: &mut [f64]) {
    let width = sums.len().max(1);
    let blocks: Vec<Vec<f32>> = x
        .par_chunks(TOKENS_PER_BLOCK * width)
        .map(|rows| {
            let mut squares = vec![0.0f32; width];
            for row in rows.chunks_exact(width) {
                squares.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x * x);
            }
            squares
        })
        .collect();
    for squares in blocks {
        sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += f64::from(square));
    }
}

/// Goes back through one layer; row weights of its linear layers.
fn rows_of_layer(
    model: &Model,
    layer: usize,
    lengths: &[usize],
    hidden: &[f32],
    gradient: &mut [f32],
) -> Result<Vec<(String, Vec<f32>)>, StatsError> {
    let slots = model.linears(layer);
    let mut sums: Vec<Vec<f64>> = slots.iter().map(|slot| vec![0.0; slot.shape.rows]).collect();
    let weights = model.load_layer(layer)?;
    let mut observer = RowSums { slots: &slots, sums: &mut sums };
    layer_gradient(model, &weights, layer, lengths, hidden, gradient, &mut observer)?;
    let tokens = lengths.iter().sum::<usize>().max(1) as f64;
    let means = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / tokens) as f32).collect();
    for (slot, sums) in slots.iter().zip(&mut sums) {
        lift_rare_experts(sums, slot.experts);
    }
    Ok(slots.into_iter().zip(sums).map(|(slot, sums)| (slot.tensor, means(sums))).collect())
}

/// Sums of squares for each row of each linear layer.
struct RowSums<'a> {
    slots: &'a [LinearSlot],
    sums: &'a mut [Vec<f64>],
}

impl RowSums<'_> {
    fn add(&mut self, role: &'static str, dy: &[f32], first: usize, rows: usize) -> Result<(), ModelError> {
        let found = self.slots.iter().zip(self.sums.iter_mut()).find(|(slot, _)| slot.role == role);
        let rows = found.and_then(|(_, sums)| sums.get_mut(first..first.checked_add(rows)?));
        let rows =
            rows.ok_or_else(|| ModelError::request("gradient", "a linear layer of the model", role))?;
        add_squares(dy, rows);
        Ok(())
    }
}

impl GradientObserver for RowSums<'_> {
    fn output(&mut self, role: &'static str, gradient: &[f32], rows: usize) -> Result<(), ModelError> {
        self.add(role, gradient, 0, rows)
    }

    fn expert_output(
        &mut self,
        role: &'static str,
        expert: usize,
        gradient: &[f32],
        rows: usize,
    ) -> Result<(), ModelError> {
        self.add(role, gradient, expert.saturating_mul(rows), rows)
    }
}

/// Least mean weight of an expert's rows, relative to the mean of all experts: one that the tokens at hand hardly used
/// may be used by others.
const LEAST_EXPERT: f64 = 0.05;

/// Raises the weights of experts that were rarely or never chosen.
fn lift_rare_experts(sums: &mut [f64], experts: usize) {
    if experts < 2 || sums.is_empty() {
        return;
    }
    let mean = sums.iter().sum::<f64>() / sums.len() as f64;
    for rows in sums.chunks_mut((sums.len() / experts).max(1)) {
        let own = rows.iter().sum::<f64>() / rows.len() as f64;
        let missing = (LEAST_EXPERT * mean - own).max(0.0);
        rows.iter_mut().for_each(|row| *row += missing);
    }
}

/// Gives tensors that do not reach the loss at all weights a thousandth of the least of the others: they must not cost
/// more than those.
fn positive(mut linears: Vec<(String, Vec<f32>)>) -> Vec<(String, Vec<f32>)> {
    let mean = |rows: &[f32]| rows.iter().map(|&g| f64::from(g)).sum::<f64>() / rows.len().max(1) as f64;
    let least =
        linears.iter().map(|(_, rows)| mean(rows)).filter(|&mean| mean > 0.0).fold(f64::INFINITY, f64::min);
    let least = if least.is_finite() { (1e-3 * least) as f32 } else { 1.0 };
    for (_, rows) in &mut linears {
        if mean(rows) <= 0.0 {
            rows.fill(least.max(f32::MIN_POSITIVE));
        }
    }
    linears
}

/// Share of the mean in the weights of token rows: what any token may turn out to matter.
const UNIFORM_SHARE: f64 = 0.1;
/// Share of the frequencies expected of tokens in any text.
const EXPECTED_SHARE: f64 = 0.3;
/// The expected frequency of token r is proportional to 1 / (r + this): vocabularies list their tokens in the order in
/// which they were found most frequent, and frequencies fall off as one over the rank (Zipf's law).
const FLAT_RANKS: f64 = 1000.0;

/// Weights of token rows: what was measured, mixed with what other texts can be expected to need, as the calibration text
/// has few of the vocabulary's tokens. The mean stays.
pub fn smoothed(rows: &[f64]) -> Vec<f32> {
    let count = rows.len().max(1) as f64;
    let mean = rows.iter().sum::<f64>() / count;
    let expected = |rank: usize| (rank as f64 + FLAT_RANKS).recip();
    let unit = mean * count / (0..rows.len()).map(expected).sum::<f64>().max(f64::MIN_POSITIVE);
    let measured = 1.0 - UNIFORM_SHARE - EXPECTED_SHARE;
    let mix = |(rank, row): (usize, &f64)| {
        (measured * row + UNIFORM_SHARE * mean + EXPECTED_SHARE * unit * expected(rank)) as f32
    };
    rows.iter().enumerate().map(mix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_states_fit_in_memory() {
        assert_eq!(interval(30, 10, 1000), 1);
        assert_eq!(interval(30, 10, 310), 1);
        assert_eq!(interval(30, 10, 309), 2);
        assert_eq!(interval(36, 10, 120), 6);
        assert_eq!(interval(36, 10, 1), 6);
        assert_eq!(interval(0, 10, 1), 1);
    }

    #[test]
    fn weights_are_positive_and_smoothed() {
        let linears = vec![("a".to_owned(), vec![2.0, 4.0]), ("b".to_owned(), vec![0.0, 0.0])];
        assert_eq!(positive(linears)[1].1, [0.003, 0.003]);
        assert_eq!(positive(vec![("b".to_owned(), vec![0.0])])[0].1, [1.0]);
        let rows: Vec<f64> = (0..5000).map(|row| f64::from(row % 5)).collect();
        let mixed = smoothed(&rows);
        let mean = mixed.iter().map(|&row| f64::from(row)).sum::<f64>() / 5000.0;
        assert!((mean - 2.0).abs() < 1e-4, "{mean}");
        assert!(mixed[0] > mixed[4995] && mixed[4995] > 0.2, "equal measurements: earlier tokens weigh more");
        assert!(mixed[4999] > mixed[0], "what was measured counts most");
        assert!(smoothed(&[]).is_empty());
    }

    #[test]
    fn experts_that_were_not_chosen_count_a_little() {
        let mut sums = vec![10.0, 30.0, 0.0, 0.0];
        lift_rare_experts(&mut sums, 2);
        assert_eq!(sums, [10.0, 30.0, 0.5, 0.5]);
        lift_rare_experts(&mut sums, 1);
        assert_eq!(sums, [10.0, 30.0, 0.5, 0.5]);
    }

    #[test]
    fn squares_are_summed_by_column() {
        let x: Vec<f32> = (0..600 * 3).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut sums = vec![1.0; 3];
        add_squares(&x, &mut sums);
        for (column, sum) in sums.iter().enumerate() {
            let exact: f64 = x.iter().skip(column).step_by(3).map(|&x| f64::from(x * x)).sum();
            assert_eq!(*sum, exact + 1.0);
        }
    }
}
