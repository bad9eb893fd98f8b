//! Perplexity, and the divergence of one model's predictions from another's.
//!
//! The protocol is that of llama-perplexity: the text's tokens are cut into windows of a fixed length, the first
//! token of each window is replaced by the start token if the model adds one, and only predictions in the last
//! half of a window count.

use super::error::ModelError;
use super::forward::Model;
use super::head::for_each_logits;
use super::ops::{argmax, divergence_sum, exponential_sum};
use super::runner::LayerRunner;

/// Windows of tokens and where scoring starts in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Windows of equal length.
    pub sequences: Vec<Vec<u32>>,
    /// First position of a window whose prediction of the next token is scored.
    pub first_scored: usize,
}

impl Windows {
    /// Cuts tokens into up to `max_windows` whole windows of `context` tokens and scores the last half of each.
    /// `bos` replaces the first token of each window. An error if there is not one whole window.
    pub fn new(
        tokens: &[u32],
        context: usize,
        max_windows: usize,
        bos: Option<u32>,
    ) -> Result<Self, ModelError> {
        if context < 4 || tokens.len() < context || max_windows == 0 {
            return Err(ModelError::request(
                "evaluation",
                format!("at least one window of {} tokens", context.max(4)),
                format!("{} tokens", tokens.len()),
            ));
        }
        let sequences = tokens.chunks_exact(context).take(max_windows).map(|window| {
            let mut window = window.to_vec();
            if let (Some(bos), Some(first)) = (bos, window.first_mut()) {
                *first = bos;
            }
            window
        });
        Ok(Self { sequences: sequences.collect(), first_scored: context / 2 })
    }

    /// Number of scored predictions.
    pub fn scored(&self) -> usize {
        self.sequences.iter().map(|window| self.range(window.len()).len()).sum()
    }

    fn range(&self, len: usize) -> std::ops::Range<usize> {
        self.first_scored..len.saturating_sub(1).max(self.first_scored)
    }

    /// The token that follows each scored position.
    fn targets(&self) -> Vec<u32> {
        let of = |window: &Vec<u32>| {
            let range = self.range(window.len());
            window.get(range.start + 1..range.end + 1).unwrap_or_default().to_vec()
        };
        self.sequences.iter().flat_map(of).collect()
    }

    /// Head inputs of the scored positions.
    fn head_inputs(&self, model: &Model) -> Result<Vec<f32>, ModelError> {
        let width = model.hyperparameters().width;
        let mut runner = LayerRunner::new(model, &self.sequences)?;
        runner.finish()?;
        let hidden = runner.into_hidden();
        let mut rows = Vec::with_capacity(self.scored() * width);
        let mut start = 0;
        for window in &self.sequences {
            let range = self.range(window.len());
            let values = (start + range.start) * width..(start + range.end) * width;
            rows.extend_from_slice(hidden.get(values).unwrap_or_default());
            start += window.len();
        }
        Ok(model.final_norm(&rows))
    }
}

/// Mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Mean over the scored tokens.
    pub mean: f64,
    /// Standard error of the mean, taking tokens as independent.
    pub standard_error: f64,
}

impl Estimate {
    fn of(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.clone().sum::<f64>() / count;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Self { mean, standard_error: (variance / count).sqrt() }
    }
}

/// Perplexity of a model on a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// e to the mean negative log likelihood; its standard error is that of the mean, times the perplexity.
    pub perplexity: Estimate,
    /// Negative log likelihood of a token in nats.
    pub negative_log_likelihood: Estimate,
    /// Scored tokens.
    pub tokens: usize,
}

impl Perplexity {
    fn of(losses: &[f64]) -> Self {
        let loss = Estimate::of(losses.iter().copied());
        let perplexity = loss.mean.exp();
        let perplexity = Estimate { mean: perplexity, standard_error: perplexity * loss.standard_error };
        Self { perplexity, negative_log_likelihood: loss, tokens: losses.len() }
    }
}

/// How far a candidate's predictions are from a reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Perplexity of the reference.
    pub reference: Perplexity,
    /// Perplexity of the candidate.
    pub candidate: Perplexity,
    /// KL divergence of the candidate from the reference in nats per token.
    pub kl: Estimate,
    /// Half of the tokens diverge less.
    pub kl_median: f64,
    /// 99 % of the tokens diverge less.
    pub kl_99: f64,
    /// Largest divergence.
    pub kl_max: f64,
    /// Fraction of tokens where both find the same token likeliest.
    pub same_top: Estimate,
    /// Scored tokens.
    pub tokens: usize,
}

/// Running sums over the vocabulary for one scored token and one model: everything relative to the largest logit.
#[derive(Clone, Copy, Debug)]
struct Row {
    max: f32,
    /// Sum of e^(logit - max).
    sum: f64,
    top: usize,
    target: f32,
}

impl Row {
    const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0, top: 0, target: f32::NAN };

    /// Takes in the logits of tokens from `first` on. Returns the factor by which earlier sums shrink.
    fn add(&mut self, logits: &[f32], first: usize, target: u32) -> f64 {
        let mut factor = 1.0;
        let top = argmax(logits);
        let max = logits.get(top).copied().unwrap_or(f32::NEG_INFINITY);
        if max > self.max {
            factor = f64::from(self.max - max).exp();
            self.sum *= factor;
            self.max = max;
            self.top = first + top;
        }
        self.sum += exponential_sum(logits, self.max);
        if let Some(&logit) = (target as usize).checked_sub(first).and_then(|at| logits.get(at)) {
            self.target = logit;
        }
        factor
    }

    fn log_sum(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }

    fn loss(&self) -> f64 {
        self.log_sum() - f64::from(self.target)
    }
}

fn checked(losses: Vec<f64>, model: &Model) -> Result<Vec<f64>, ModelError> {
    match losses.iter().position(|loss| !loss.is_finite()) {
        Some(row) => {
            Err(ModelError::NotFinite { layer: model.hyperparameters().layers, what: "the loss", row })
        }
        None => Ok(losses),
    }
}

/// Negative log likelihood in nats of each scored token, in order.
pub fn score(model: &Model, windows: &Windows) -> Result<Vec<f64>, ModelError> {
    use rayon::prelude::*;
    let targets = windows.targets();
    let inputs = windows.head_inputs(model)?;
    let mut rows = vec![Row::EMPTY; targets.len()];
    for_each_logits(model.head().as_ref(), &inputs, |first_row, first, tokens, logits| {
        let rows = rows.get_mut(first_row..).unwrap_or_default();
        let targets = targets.get(first_row..).unwrap_or_default();
        rows.par_iter_mut().zip(targets).zip(logits.par_chunks_exact(tokens)).for_each(
            |((row, &target), logits)| {
                row.add(logits, first, target);
            },
        );
        Ok(())
    })?;
    checked(rows.iter().map(Row::loss).collect(), model)
}

/// Perplexity of `model` on the windows.
pub fn perplexity(model: &Model, windows: &Windows) -> Result<Perplexity, ModelError> {
    Ok(Perplexity::of(&score(model, windows)?))
}

/// Divergence of `candidate` from `reference` on the windows. Both must have the same vocabulary.
pub fn divergence(reference: &Model, candidate: &Model, windows: &Windows) -> Result<Divergence, ModelError> {
    let inputs = windows.head_inputs(reference)?;
    divergence_from(reference, &inputs, candidate, windows)
}

/// Head inputs of a reference model, kept to compare several candidates with it.
#[derive(Debug)]
pub struct Reference<'m> {
    model: &'m Model,
    windows: &'m Windows,
    inputs: Vec<f32>,
}

impl<'m> Reference<'m> {
    /// Runs the reference over the windows.
    pub fn new(model: &'m Model, windows: &'m Windows) -> Result<Self, ModelError> {
        Ok(Self { model, windows, inputs: windows.head_inputs(model)? })
    }

    /// Divergence of a candidate.
    pub fn divergence(&self, candidate: &Model) -> Result<Divergence, ModelError> {
        divergence_from(self.model, &self.inputs, candidate, self.windows)
    }
}

fn divergence_from(
    reference: &Model,
    reference_inputs: &[f32],
    candidate: &Model,
    windows: &Windows,
) -> Result<Divergence, ModelError> {
    use rayon::prelude::*;
    let (p_head, q_head) = (reference.head(), candidate.head());
    if p_head.tokens() != q_head.tokens() {
        return Err(ModelError::request(
            "divergence",
            format!("a candidate with {} tokens", p_head.tokens()),
            q_head.tokens(),
        ));
    }
    let targets = windows.targets();
    let candidate_inputs = windows.head_inputs(candidate)?;
    // Reference, candidate, and the sum of e^(logit - max) · (difference of logits) of the reference.
    let mut rows = vec![(Row::EMPTY, Row::EMPTY, 0.0f64); targets.len()];
    super::head::for_each_logit_pair(
        [p_head.as_ref(), q_head.as_ref()],
        [reference_inputs, &candidate_inputs],
        |first_row, first, tokens, p_logits, q_logits| {
            let rows = rows.get_mut(first_row..).unwrap_or_default();
            let targets = targets.get(first_row..).unwrap_or_default();
            let logits = p_logits.par_chunks_exact(tokens).zip(q_logits.par_chunks_exact(tokens));
            rows.par_iter_mut().zip(targets).zip(logits).for_each(|(((p, q, product), &target), (a, b))| {
                *product *= p.add(a, first, target);
                q.add(b, first, target);
                *product += divergence_sum(a, b, p.max);
            });
            Ok(())
        },
    )?;
    let losses = |pick: fn(&(Row, Row, f64)) -> f64, model| checked(rows.iter().map(pick).collect(), model);
    let p_losses = losses(|(p, _, _)| p.loss(), reference)?;
    let q_losses = losses(|(_, q, _)| q.loss(), candidate)?;
    let mut kl: Vec<f64> =
        rows.iter().map(|(p, q, product)| product / p.sum - p.log_sum() + q.log_sum()).collect();
    let same = rows.iter().map(|(p, q, _)| f64::from(u8::from(p.top == q.top)));
    let same_top = Estimate::of(same);
    let mean = Estimate::of(kl.iter().copied());
    kl.sort_by(f64::total_cmp);
    Ok(Divergence {
        reference: Perplexity::of(&p_losses),
        candidate: Perplexity::of(&q_losses),
        kl: mean,
        kl_median: quantile(&kl, 0.5),
        kl_99: quantile(&kl, 0.99),
        kl_max: kl.last().copied().unwrap_or(0.0),
        same_top,
        tokens: kl.len(),
    })
}

/// Value below which the fraction `q` of sorted values lies, by linear interpolation between neighbours.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * sorted.len().saturating_sub(1) as f64;
    let low = sorted.get(at.floor() as usize).copied().unwrap_or(0.0);
    let high = sorted.get(at.ceil() as usize).copied().unwrap_or(low);
    low + (high - low) * at.fract()
}
