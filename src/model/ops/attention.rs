//! Causal attention over grouped heads.

use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};

use super::reduce::{dot, exponentials};
use crate::model::batch::Span;
use crate::model::cache::LayerCache;
use crate::model::error::ModelError;
use crate::model::spread::spread;

/// Queries whose scores are held at a time.
pub(super) const QUERIES_PER_BLOCK: usize = 128;

/// Heads and widths of one layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads; each serves the same number of neighbouring query heads.
    pub kv_heads: usize,
    /// Elements of one query or key.
    pub key_width: usize,
    /// Elements of one value.
    pub value_width: usize,
    /// Factor of the scores, usually 1/sqrt(key_width).
    pub scale: f32,
    /// Positions a token sees including its own; `None` for all before it.
    pub window: Option<usize>,
}

/// Where the keys and values of the tokens seen come from.
#[derive(Clone, Copy, Debug)]
pub enum KeyValues<'a> {
    /// The batch itself: one row of all heads per token. Every span starts at position 0.
    Batch {
        /// Keys, tokens × (kv_heads · key_width).
        keys: &'a [f32],
        /// Values, tokens × (kv_heads · value_width).
        values: &'a [f32],
    },
    /// A cache that holds the past tokens and those of the batch.
    Cache(&'a LayerCache),
}

/// One piece of work: the query heads of one key-value head over one span.
struct Task<'a> {
    span: Span,
    first_row: usize,
    kv_head: usize,
    out: MatMut<'a, f32>,
}

/// Attention of every token of the batch to those before it in its sequence and itself.
///
/// `queries` is tokens × (heads · key_width), `out` tokens × (heads · value_width), both row-major in the order of
/// `spans`. `received` is empty, or has for each token of a batch without cache a sum to which is added what
/// [`Observer::attention`](crate::model::Observer::attention) describes.
pub fn attend(
    shape: &AttentionShape,
    spans: &[Span],
    queries: &[f32],
    source: KeyValues<'_>,
    out: &mut [f32],
    received: &mut [f32],
) -> Result<(), ModelError> {
    let tokens: usize = spans.iter().map(|span| span.len).sum();
    let group = shape.heads.checked_div(shape.kv_heads).unwrap_or(0);
    let fits = group * shape.kv_heads == shape.heads
        && queries.len() == tokens * shape.heads * shape.key_width
        && out.len() == tokens * shape.heads * shape.value_width
        && match source {
            KeyValues::Batch { keys, values } => {
                keys.len() == tokens * shape.kv_heads * shape.key_width
                    && values.len() == tokens * shape.kv_heads * shape.value_width
                    && spans.iter().all(|span| span.start == 0)
            }
            KeyValues::Cache(cache) => {
                received.is_empty() && spans.iter().all(|span| span.start + span.len <= cache.context())
            }
        }
        && (received.is_empty() || received.len() == tokens);
    if !fits || group == 0 || shape.key_width == 0 || shape.value_width == 0 {
        return Err(ModelError::request("attention", "matching shapes", format!("{shape:?}")));
    }
    let mut rest = MatMut::from_row_major_slice_mut(out, tokens, shape.heads * shape.value_width);
    let mut tasks = Vec::with_capacity(spans.len() * shape.kv_heads);
    let mut first_row = 0;
    for &span in spans {
        let (mut rows, below) = rest.split_at_row_mut(span.len);
        rest = below;
        for kv_head in 0..shape.kv_heads {
            let (out, right) = rows.split_at_col_mut(group * shape.value_width);
            rows = right;
            tasks.push(Task { span, first_row, kv_head, out });
        }
        first_row += span.len;
    }
    let queries = MatRef::from_row_major_slice(queries, tokens, shape.heads * shape.key_width);
    let observed = !received.is_empty();
    let mut sums = vec![Vec::new(); tasks.len()];
    spread(tasks.into_iter().zip(&mut sums), |(task, sums)| {
        *sums = run(shape, group, queries, source, observed, task);
    });
    // Tasks are in the order of spans, those of one span in the order of heads.
    let share = 1.0 / shape.heads as f32;
    let mut first = 0;
    for (span, sums) in spans.iter().zip(sums.chunks(shape.kv_heads)) {
        if let Some(tokens) = received.get_mut(first..first + span.len) {
            for sums in sums {
                tokens.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum * share);
            }
        }
        first += span.len;
    }
    Ok(())
}

/// Computes the task's heads. If `observed`, returns the attention that each token of the span receives from them.
fn run(
    shape: &AttentionShape,
    group: usize,
    queries: MatRef<'_, f32>,
    source: KeyValues<'_>,
    observed: bool,
    task: Task<'_>,
) -> Vec<f32> {
    if let (KeyValues::Cache(cache), 1) = (source, task.span.len) {
        attend_one(shape, group, queries, cache, task);
        return Vec::new();
    }
    let Task { span, first_row, kv_head, mut out } = task;
    let (key_width, value_width) = (shape.key_width, shape.value_width);
    let seen = span.start + span.len;
    let mut scratch = Vec::new();
    let (keys, values) = match source {
        KeyValues::Batch { keys, values } => {
            let tokens = queries.nrows();
            let keys = MatRef::from_row_major_slice(keys, tokens, shape.kv_heads * key_width);
            let values = MatRef::from_row_major_slice(values, tokens, shape.kv_heads * value_width);
            (
                keys.submatrix(first_row, kv_head * key_width, seen, key_width),
                values.submatrix(first_row, kv_head * value_width, seen, value_width),
            )
        }
        KeyValues::Cache(cache) => {
            scratch.resize(seen * (key_width + value_width), 0.0);
            let (keys, values) = scratch.split_at_mut(seen * key_width);
            cache.load_keys(span.sequence, kv_head, 0, keys);
            cache.load_values(span.sequence, kv_head, 0, values);
            (
                MatRef::from_row_major_slice(&*keys, seen, key_width),
                MatRef::from_row_major_slice(&*values, seen, value_width),
            )
        }
    };
    let queries = queries.submatrix(first_row, kv_head * group * key_width, span.len, group * key_width);
    let mut scores = vec![0.0; QUERIES_PER_BLOCK.min(span.len).max(group) * seen];
    let mut received = vec![0.0; if observed { seen } else { 0 }];
    let mut first = 0;
    while first < span.len {
        let count = QUERIES_PER_BLOCK.min(span.len - first);
        let position = span.start + first;
        let low = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let high = position + count;
        let (keys, values) = (keys.subrows(low, high - low), values.subrows(low, high - low));
        for head in 0..group {
            let queries = queries.submatrix(first, head * key_width, count, key_width);
            let out = out.rb_mut().submatrix_mut(first, head * value_width, count, value_width);
            let Some(scores) = scores.get_mut(..count * (high - low)) else { continue };
            attend_block(shape, queries, keys, values, scores, position - low, out);
            if let Some(received) = received.get_mut(low..) {
                for weights in scores.chunks_exact(high - low) {
                    received.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
                }
            }
        }
        first += count;
    }
    received
}

/// Positions whose keys or values are converted at a time.
const POSITIONS_PER_BLOCK: usize = 32;

/// Attention of a single token: keys and values pass by once, a few positions at a time.
fn attend_one(
    shape: &AttentionShape,
    group: usize,
    queries: MatRef<'_, f32>,
    cache: &LayerCache,
    task: Task<'_>,
) {
    let Task { span, first_row, kv_head, out } = task;
    let (key_width, value_width) = (shape.key_width, shape.value_width);
    let end = span.start + 1;
    let low = shape.window.map_or(0, |window| end.saturating_sub(window));
    let seen = end - low;
    let row = queries.subrows(first_row, 1).subcols(kv_head * group * key_width, group * key_width);
    let queries: Vec<f32> = row.row(0).iter().copied().collect();
    let mut block = vec![0.0; POSITIONS_PER_BLOCK.min(seen) * key_width.max(value_width)];
    let mut scores = vec![0.0; group * seen];
    for first in (0..seen).step_by(POSITIONS_PER_BLOCK) {
        let count = POSITIONS_PER_BLOCK.min(seen - first);
        let Some(keys) = block.get_mut(..count * key_width) else { return };
        cache.load_keys(span.sequence, kv_head, low + first, keys);
        score_keys(&queries, keys, key_width, shape.scale, &mut scores, seen, first);
    }
    causal_softmax(&mut scores, seen, seen, usize::MAX);
    let mut sums = vec![0.0; group * value_width];
    for first in (0..seen).step_by(POSITIONS_PER_BLOCK) {
        let count = POSITIONS_PER_BLOCK.min(seen - first);
        let Some(values) = block.get_mut(..count * value_width) else { return };
        cache.load_values(span.sequence, kv_head, low + first, values);
        add_values(&scores, seen, first, values, value_width, &mut sums);
    }
    let mut out = out;
    let sums = MatRef::from_row_major_slice(&sums, 1, group * value_width);
    out.copy_from(sums);
}

vectorized! {
    /// Scores of some keys for each query: row `q` of `scores` has `seen` values, those of the keys from `first` on.
    fn score_keys<'a>(
        queries: &'a [f32],
        keys: &'a [f32],
        width: usize,
        scale: f32,
        scores: &'a mut [f32],
        seen: usize,
        first: usize,
    ) -> () {
        for (scores, query) in scores.chunks_exact_mut(seen).zip(queries.chunks_exact(width)) {
            for (score, key) in scores.iter_mut().skip(first).zip(keys.chunks_exact(width)) {
                *score = dot(query, key) * scale;
            }
        }
    }
}

vectorized! {
    /// Adds to each query's sum some values times its weights: those from `first` on in its row of `seen` weights.
    fn add_values<'a>(
        weights: &'a [f32],
        seen: usize,
        first: usize,
        values: &'a [f32],
        width: usize,
        sums: &'a mut [f32],
    ) -> () {
        for (weights, sums) in weights.chunks_exact(seen).zip(sums.chunks_exact_mut(width)) {
            for (&weight, value) in weights.iter().skip(first).zip(values.chunks_exact(width)) {
                for (sum, &value) in sums.iter_mut().zip(value) {
                    *sum += weight * value;
                }
            }
        }
    }
}

vectorized! {
    /// Softmax of each row of `seen` scores over the positions its query sees, 0 elsewhere. The first query stands at
    /// position `offset` and a query sees `window` positions, its own the last.
    pub(super) fn causal_softmax<'a>(scores: &'a mut [f32], seen: usize, offset: usize, window: usize) -> () {
        for (row, scores) in scores.chunks_exact_mut(seen).enumerate() {
            let end = (offset + row + 1).min(seen);
            let (visible, future) = scores.split_at_mut(end);
            let (past, visible) = visible.split_at_mut(end.saturating_sub(window));
            past.fill(0.0);
            future.fill(0.0);
            let factor = 1.0 / exponentials(visible);
            for weight in visible {
                *weight *= factor;
            }
        }
    }
}

/// Attention of `queries`, the first of which stands at row `offset` of the keys.
fn attend_block(
    shape: &AttentionShape,
    queries: MatRef<'_, f32>,
    keys: MatRef<'_, f32>,
    values: MatRef<'_, f32>,
    scores: &mut [f32],
    offset: usize,
    out: MatMut<'_, f32>,
) {
    let (count, seen) = (queries.nrows(), keys.nrows());
    let products = MatMut::from_row_major_slice_mut(scores, count, seen);
    matmul(products, Accum::Replace, queries, keys.transpose(), shape.scale, Par::Seq);
    causal_softmax(scores, seen, offset, shape.window.unwrap_or(usize::MAX));
    let weights = MatRef::from_row_major_slice(&*scores, count, seen);
    matmul(out, Accum::Replace, weights, values, 1.0, Par::Seq);
}
