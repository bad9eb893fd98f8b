//! The loss of labels drawn from the model's own predictions, and its gradient back through the output head.

use std::ops::Range;

use rayon::prelude::*;

use crate::model::error::ModelError;
use crate::model::forward::Model;
use crate::model::head::for_each_block;
use crate::model::ops::{add_product, argmax, exponential_sum, multiply_transposed, scaled_exponentials};
use crate::model::sampling::Random;

/// Bytes of f32 logits that exist at a time, unless a round of [`FEWEST_TOKENS`] needs more.
const LOGIT_BYTES: usize = 48 << 20;
/// Tokens of a round, at least and at most.
const FEWEST_TOKENS: usize = 16;
const MOST_TOKENS: usize = 512;
/// Columns of logits that one task sums up.
const COLUMNS_PER_TASK: usize = 512;

/// Gradient of the loss at the last hidden state, and what the predictions say about the rows of the output head.
#[derive(Clone, Debug, PartialEq)]
pub struct LossGradient {
    /// Gradient of the summed losses with respect to the last hidden state, before the final norm: tokens × width.
    pub hidden: Vec<f32>,
    /// Label drawn for each token.
    pub labels: Vec<u32>,
    /// Mean over tokens of p_r, for each row r of the head.
    pub probability: Vec<f64>,
    /// Mean over tokens of p_r (1 - p_r): the expectation of (dLoss/dlogit_r)².
    pub logit_moment: Vec<f64>,
}

/// Logits of one round, in the blocks in which the head's rows are read: tokens × columns each, row-major.
struct Block {
    columns: Range<usize>,
    logits: Vec<f32>,
}

/// Draws for every token a label y from the model's predictive distribution p = softmax(logits) and goes back from
/// the loss -ln p_y to the last hidden state (tokens × width).
///
/// Token t draws from stream t of the seed: the same labels and bits for any number of threads. About 48 MiB of logits
/// exist at a time; the head is read twice for each round of tokens.
pub fn loss_gradient(model: &Model, hidden: &[f32], seed: u64) -> Result<LossGradient, ModelError> {
    let h = model.hyperparameters();
    let tokens = hidden.len() / h.width;
    if tokens == 0 || tokens * h.width != hidden.len() {
        return Err(ModelError::request(
            "gradient of the loss",
            format!("whole rows of {}", h.width),
            format!("{} values", hidden.len()),
        ));
    }
    let mut result = LossGradient {
        hidden: Vec::with_capacity(hidden.len()),
        labels: Vec::with_capacity(tokens),
        probability: vec![0.0; h.vocabulary],
        logit_moment: vec![0.0; h.vocabulary],
    };
    let round = LOGIT_BYTES / size_of::<f32>() / h.vocabulary.max(1);
    let round = round.clamp(FEWEST_TOKENS, MOST_TOKENS);
    for hidden in hidden.chunks(round * h.width) {
        let first = result.labels.len();
        let normed = model.final_norm(hidden);
        let mut blocks = Vec::new();
        for_each_block(model.head().as_ref(), |start, weights| {
            let columns = weights.len() / h.width;
            let mut logits = vec![0.0; hidden.len() / h.width * columns];
            multiply_transposed(&normed, weights, h.width, &mut logits)?;
            blocks.push(Block { columns: start..start + columns, logits });
            Ok(())
        })?;
        let labels =
            predict(&mut blocks, hidden.len() / h.width, |row| Random::new(seed, (first + row) as u64));
        if let Some(row) = labels.iter().position(Option::is_none) {
            return Err(ModelError::NotFinite { layer: h.layers, what: "the logits", row: first + row });
        }
        result.labels.extend(labels.iter().flatten().map(|&label| label as u32));
        for block in &mut blocks {
            add_moments(block, &mut result.probability, &mut result.logit_moment);
            subtract_labels(block, &labels);
        }
        let mut gradient = vec![0.0; hidden.len()];
        let mut blocks = blocks.iter();
        for_each_block(model.head().as_ref(), |_, weights| match blocks.next() {
            Some(block) => add_product(&block.logits, weights, h.width, &mut gradient),
            None => Ok(()),
        })?;
        model.final_norm_gradient(hidden, &mut gradient);
        result.hidden.extend(gradient);
    }
    for moments in [&mut result.probability, &mut result.logit_moment] {
        moments.iter_mut().for_each(|sum| *sum /= tokens as f64);
    }
    Ok(result)
}

/// Replaces logits by probabilities and draws a label for each token; `None` where logits are not finite.
fn predict(
    blocks: &mut [Block],
    tokens: usize,
    random: impl Fn(usize) -> Random + Sync,
) -> Vec<Option<usize>> {
    let mut rows: Vec<Vec<(Range<usize>, &mut [f32])>> =
        (0..tokens).map(|_| Vec::with_capacity(blocks.len())).collect();
    for block in blocks {
        let width = block.columns.len().max(1);
        for (row, logits) in rows.iter_mut().zip(block.logits.chunks_exact_mut(width)) {
            row.push((block.columns.clone(), logits));
        }
    }
    rows.into_par_iter().enumerate().map(|(row, parts)| predict_row(parts, &mut random(row))).collect()
}

fn predict_row(mut parts: Vec<(Range<usize>, &mut [f32])>, random: &mut Random) -> Option<usize> {
    let largest = |logits: &[f32]| logits.get(argmax(logits)).copied().unwrap_or(f32::NEG_INFINITY);
    let max = parts.iter().map(|(_, logits)| largest(logits)).fold(f32::NEG_INFINITY, f32::max);
    let sums: Vec<f64> = parts.iter().map(|(_, logits)| exponential_sum(logits, max)).collect();
    let total: f64 = sums.iter().sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    let mut scratch = Vec::new();
    for (_, logits) in &mut parts {
        scratch.resize(logits.len(), 0.0);
        scaled_exponentials(logits, max, 1.0, 0.0, &mut scratch);
        let factor = (1.0 / total) as f32;
        logits.iter_mut().zip(&scratch).for_each(|(p, e)| *p = e * factor);
    }
    let mut rest = random.unit() * total;
    let mut likeliest = (f32::NEG_INFINITY, 0);
    for ((columns, p), sum) in parts.iter().zip(&sums) {
        if rest >= *sum {
            rest -= sum;
        } else {
            rest /= total;
            for (column, &p) in columns.clone().zip(p.iter()) {
                rest -= f64::from(p);
                if rest < 0.0 {
                    return Some(column);
                }
            }
            rest = 0.0;
        }
        // Rounding may leave a rest behind the last token: then the likeliest one so far is taken.
        let top = argmax(p);
        if let Some(&value) = p.get(top).filter(|&&value| value > likeliest.0) {
            likeliest = (value, columns.start + top);
        }
    }
    Some(likeliest.1)
}

/// Adds the sums over tokens of p and of p (1 - p).
fn add_moments(block: &Block, probability: &mut [f64], moment: &mut [f64]) {
    let width = block.columns.len().max(1);
    let (Some(probability), Some(moment)) =
        (probability.get_mut(block.columns.clone()), moment.get_mut(block.columns.clone()))
    else {
        return;
    };
    let tasks = probability.par_chunks_mut(COLUMNS_PER_TASK).zip(moment.par_chunks_mut(COLUMNS_PER_TASK));
    tasks.enumerate().for_each(|(task, (probability, moment))| {
        let mut sums = vec![[0.0f32; 2]; probability.len()];
        for row in block.logits.chunks_exact(width) {
            let row = row.get(task * COLUMNS_PER_TASK..).unwrap_or_default();
            for ([first, second], &p) in sums.iter_mut().zip(row) {
                *first += p;
                *second += p * (1.0 - p);
            }
        }
        for ((probability, moment), [first, second]) in probability.iter_mut().zip(moment).zip(sums) {
            *probability += f64::from(first);
            *moment += f64::from(second);
        }
    });
}

/// Turns probabilities into gradients of the loss with respect to the logits: p - 1 for the label, p for all others.
fn subtract_labels(block: &mut Block, labels: &[Option<usize>]) {
    let width = block.columns.len().max(1);
    for (row, label) in block.logits.chunks_exact_mut(width).zip(labels) {
        let at = label.and_then(|label| label.checked_sub(block.columns.start));
        if let Some(p) = at.and_then(|at| row.get_mut(at)) {
            *p -= 1.0;
        }
    }
}
