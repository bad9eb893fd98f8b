//! Causal attention over grouped heads.

use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::reduce::exponentials;
use crate::model::batch::Span;
use crate::model::cache::LayerCache;
use crate::model::error::ModelError;

/// Queries whose scores are held at a time.
const QUERIES_PER_BLOCK: usize = 128;

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
/// `spans`.
pub fn attend(
    shape: &AttentionShape,
    spans: &[Span],
    queries: &[f32],
    source: KeyValues<'_>,
    out: &mut [f32],
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
            KeyValues::Cache(cache) => spans.iter().all(|span| span.start + span.len <= cache.context()),
        };
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
    tasks.into_par_iter().for_each(|task| run(shape, group, queries, source, task));
    Ok(())
}

fn run(
    shape: &AttentionShape,
    group: usize,
    queries: MatRef<'_, f32>,
    source: KeyValues<'_>,
    task: Task<'_>,
) {
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
            cache.load(span.sequence, kv_head, keys, values);
            (
                MatRef::from_row_major_slice(&*keys, seen, key_width),
                MatRef::from_row_major_slice(&*values, seen, value_width),
            )
        }
    };
    let queries = queries.submatrix(first_row, kv_head * group * key_width, span.len, group * key_width);
    let mut scores = vec![0.0; QUERIES_PER_BLOCK.min(span.len).max(group) * seen];
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
            let Some(scores) = scores.get_mut(..count * (high - low)) else { return };
            attend_block(shape, queries, keys, values, scores, position - low, out);
        }
        first += count;
    }
}

vectorized! {
    /// Softmax of each row of `seen` scores over the positions its query sees, 0 elsewhere. The first query stands at
    /// position `offset` and a query sees `window` positions, its own the last.
    fn causal_softmax<'a>(scores: &'a mut [f32], seen: usize, offset: usize, window: usize) -> () {
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
