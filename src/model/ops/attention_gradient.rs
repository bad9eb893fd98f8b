//! The way back through causal attention.

use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::attention::{causal_softmax, QUERIES_PER_BLOCK};
use super::AttentionShape;
use crate::model::batch::Span;
use crate::model::error::ModelError;

/// One piece of work: the query heads of one key-value head over one span, and the gradients it fills.
struct Task<'a> {
    len: usize,
    first_row: usize,
    kv_head: usize,
    queries: MatMut<'a, f32>,
    keys: MatMut<'a, f32>,
    values: MatMut<'a, f32>,
}

/// What every task reads: row-major batches of all heads.
struct Inputs<'a> {
    queries: MatRef<'a, f32>,
    keys: MatRef<'a, f32>,
    values: MatRef<'a, f32>,
    gradient: MatRef<'a, f32>,
}

/// Gradients of queries, keys and values from that of the heads' outputs, for spans that start at position 0.
///
/// All are row-major, one row of all heads for each token: `queries` tokens × (heads · key_width), `keys` tokens ×
/// (kv_heads · key_width), `values` tokens × (kv_heads · value_width), `gradient` tokens × (heads · value_width).
/// With weights P = softmax(scale · Q Kᵀ) and O = P V: dV = Pᵀ dO, dS = P ∘ (dO Vᵀ - rowsum(P ∘ dO Vᵀ)),
/// dQ = scale · dS K, dK = scale · dSᵀ Q, summed over the query heads that share a key-value head.
pub fn attend_gradient(
    shape: &AttentionShape,
    spans: &[Span],
    [queries, keys, values]: [&[f32]; 3],
    gradient: &[f32],
) -> Result<[Vec<f32>; 3], ModelError> {
    let tokens: usize = spans.iter().map(|span| span.len).sum();
    let group = shape.heads.checked_div(shape.kv_heads).unwrap_or(0);
    let widths = [
        shape.heads * shape.key_width,
        shape.kv_heads * shape.key_width,
        shape.kv_heads * shape.value_width,
        shape.heads * shape.value_width,
    ];
    let fits = group > 0
        && group * shape.kv_heads == shape.heads
        && shape.key_width > 0
        && shape.value_width > 0
        && [queries, keys, values, gradient].iter().zip(widths).all(|(x, width)| x.len() == tokens * width)
        && spans.iter().all(|span| span.start == 0);
    if !fits {
        return Err(ModelError::request("attention gradient", "matching shapes", format!("{shape:?}")));
    }
    let view = |x, width| MatRef::from_row_major_slice(x, tokens, width);
    let inputs = Inputs {
        queries: view(queries, widths[0]),
        keys: view(keys, widths[1]),
        values: view(values, widths[2]),
        gradient: view(gradient, widths[3]),
    };
    let mut out = [queries.len(), keys.len(), values.len()].map(|len| vec![0.0; len]);
    let [out_queries, out_keys, out_values] = &mut out;
    let mut rest_queries = MatMut::from_row_major_slice_mut(out_queries, tokens, widths[0]);
    let mut rest_keys = MatMut::from_row_major_slice_mut(out_keys, tokens, widths[1]);
    let mut rest_values = MatMut::from_row_major_slice_mut(out_values, tokens, widths[2]);
    let mut tasks = Vec::with_capacity(spans.len() * shape.kv_heads);
    let mut first_row = 0;
    for span in spans {
        let (mut queries, below) = rest_queries.split_at_row_mut(span.len);
        rest_queries = below;
        let (mut keys, below) = rest_keys.split_at_row_mut(span.len);
        rest_keys = below;
        let (mut values, below) = rest_values.split_at_row_mut(span.len);
        rest_values = below;
        for kv_head in 0..shape.kv_heads {
            let (own_queries, right) = queries.split_at_col_mut(group * shape.key_width);
            queries = right;
            let (own_keys, right) = keys.split_at_col_mut(shape.key_width);
            keys = right;
            let (own_values, right) = values.split_at_col_mut(shape.value_width);
            values = right;
            let (len, queries, keys, values) = (span.len, own_queries, own_keys, own_values);
            tasks.push(Task { len, first_row, kv_head, queries, keys, values });
        }
        first_row += span.len;
    }
    tasks.into_par_iter().for_each(|task| run(shape, group, &inputs, task));
    Ok(out)
}

fn run(shape: &AttentionShape, group: usize, inputs: &Inputs<'_>, mut task: Task<'_>) {
    let (key_width, value_width) = (shape.key_width, shape.value_width);
    let (first_row, kv_head, len) = (task.first_row, task.kv_head, task.len);
    let keys = inputs.keys.submatrix(first_row, kv_head * key_width, len, key_width);
    let values = inputs.values.submatrix(first_row, kv_head * value_width, len, value_width);
    let mut weights = vec![0.0; QUERIES_PER_BLOCK.min(len) * len];
    let mut scores = weights.clone();
    let mut first = 0;
    while first < len {
        let count = QUERIES_PER_BLOCK.min(len - first);
        let low = shape.window.map_or(0, |window| (first + 1).saturating_sub(window));
        let seen = first + count - low;
        let (keys, values) = (keys.subrows(low, seen), values.subrows(low, seen));
        let (Some(weights), Some(scores)) = (weights.get_mut(..count * seen), scores.get_mut(..count * seen))
        else {
            return;
        };
        for head in 0..group {
            let column = kv_head * group + head;
            let rows = first_row + first;
            let queries = inputs.queries.submatrix(rows, column * key_width, count, key_width);
            let gradient = inputs.gradient.submatrix(rows, column * value_width, count, value_width);
            let products = MatMut::from_row_major_slice_mut(weights, count, seen);
            matmul(products, Accum::Replace, queries, keys.transpose(), shape.scale, Par::Seq);
            causal_softmax(weights, seen, first - low, shape.window.unwrap_or(usize::MAX));
            let p = MatRef::from_row_major_slice(&*weights, count, seen);
            let dv = task.values.rb_mut().subrows_mut(low, seen);
            matmul(dv, Accum::Add, p.transpose(), gradient, 1.0, Par::Seq);
            let dp = MatMut::from_row_major_slice_mut(scores, count, seen);
            matmul(dp, Accum::Replace, gradient, values.transpose(), 1.0, Par::Seq);
            softmax_gradient(weights, seen, scores);
            let ds = MatRef::from_row_major_slice(&*scores, count, seen);
            let dq = task.queries.rb_mut().submatrix_mut(first, head * key_width, count, key_width);
            matmul(dq, Accum::Replace, ds, keys, shape.scale, Par::Seq);
            let dk = task.keys.rb_mut().subrows_mut(low, seen);
            matmul(dk, Accum::Add, ds.transpose(), queries, shape.scale, Par::Seq);
        }
        first += count;
    }
}

vectorized! {
    /// Replaces in each row of `seen` values the gradient of softmax's outputs by that of its inputs.
    fn softmax_gradient<'a>(weights: &'a [f32], seen: usize, gradient: &'a mut [f32]) -> () {
        for (weights, gradient) in weights.chunks_exact(seen).zip(gradient.chunks_exact_mut(seen)) {
            let mean = super::reduce::dot(weights, gradient);
            for (d, &p) in gradient.iter_mut().zip(weights) {
                *d = p * (*d - mean);
            }
        }
    }
}
