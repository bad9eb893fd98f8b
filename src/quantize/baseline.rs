//! The methods with scalar rounding: WaterSIC as published, GPTQ, round to nearest.
//!
//! All share one loop over the columns, last to first. Because the LMMSE shrink of a column looks at all rows, the row
//! blocks go through each column together. Rounded integers z are stored as m = 2z, as the memoryless trellis asks for.

use super::blocks::{lanes, RowBlock};
use super::feedback::{self, BLOCK, STRIP};
use super::prepare::{Factor, Prepared};
use super::rescale;
use super::scales::{to_half, ColumnScales, COARSE_LOG2, COARSE_PARTS};
use super::viterbi::{Lanes, Viterbi, LANES};
use super::{Method, QuantizeError};
use crate::payload::{QuantizedMatrix, ScaleKind, StreamColumn, Trellis};
use rayon::prelude::*;

/// What one row block has done so far.
struct BlockState<'a> {
    block: &'a RowBlock,
    /// Targets of the columns still to come; behind them the quantized weights.
    values: Vec<Lanes>,
    integers: Vec<Lanes>,
    viterbi: Viterbi,
}

/// Quantizes at step `c`: of the space of Y for WaterSIC, of the weights for the others.
pub(super) fn quantize(prepared: &Prepared<'_>, c: f64) -> Result<QuantizedMatrix, QuantizeError> {
    let method = prepared.settings.method;
    let shrink = matches!(method, Method::WaterSic { .. });
    let steps: Vec<f64> =
        prepared.pivots.iter().map(|pivot| 0.5 * if shrink { c / pivot } else { c }).collect();
    let kind = if shrink { ScaleKind::Half } else { ScaleKind::Log8 };
    let mut scales = ColumnScales::new(kind, &steps).ok_or_else(|| prepared.bad_step(c))?;
    let mut states: Vec<BlockState<'_>> = prepared
        .blocks
        .iter()
        .zip(&prepared.targets)
        .map(|(block, target)| BlockState {
            block,
            values: target.clone(),
            integers: lanes(prepared.live.len(), block.steps),
            viterbi: Viterbi::default(),
        })
        .collect();

    let factor = match &prepared.factor {
        Factor::Full(l) if method != Method::RoundToNearest => Some(l.as_ref()),
        _ => None,
    };
    let n = prepared.live.len();
    for block_start in (0..n.div_ceil(BLOCK)).rev().map(|index| index * BLOCK) {
        let block_end = (block_start + BLOCK).min(n);
        if let Some(l) = factor {
            let columns = block_start..block_end;
            states
                .par_iter_mut()
                .for_each(|s| feedback::from_columns(l, &mut s.values, s.block.steps, columns.clone(), n));
        }
        let strips = (block_end - block_start).div_ceil(STRIP);
        for strip_start in (0..strips).rev().map(|index| block_start + index * STRIP) {
            let strip_end = (strip_start + STRIP).min(block_end);
            if let Some(l) = factor {
                let columns = strip_start..strip_end;
                states.par_iter_mut().for_each(|s| {
                    feedback::from_columns(l, &mut s.values, s.block.steps, columns.clone(), block_end);
                });
            }
            for column in (strip_start..strip_end).rev() {
                let pivot = if method == Method::RoundToNearest { 1.0 } else { prepared.pivots[column] };
                let width = scales.step(column) * pivot;
                let sums: Vec<(f64, f64)> = states
                    .par_iter_mut()
                    .map(|state| {
                        if let Some(l) = factor {
                            feedback::from_strip(l, &mut state.values, state.block.steps, column, strip_end);
                        }
                        state.round(column, width)
                    })
                    .collect();
                if shrink {
                    let (product, square) = sums.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
                    let gamma = if square > 0.0 { product / (width * square) } else { 1.0 };
                    if gamma > 0.0 {
                        scales.codes[column] =
                            to_half(gamma * scales.step(column) / f64::from(scales.tensor_scale));
                    }
                }
                let step = scales.step(column) as f32;
                states.par_iter_mut().for_each(|state| state.replace(column, step));
            }
        }
    }
    Ok(assemble(prepared, scales, &states))
}

impl BlockState<'_> {
    /// Rounds the targets of a column; returns `<m, y>` and `|m|²`.
    fn round(&mut self, column: usize, width: f64) -> (f64, f64) {
        let range = column * self.block.steps..(column + 1) * self.block.steps;
        let (targets, integers) = (&self.values[range.clone()], &mut self.integers[range]);
        let (inverse, lengths) = ((1.0 / width) as f32, &self.block.lengths);
        self.viterbi.search(Trellis::Scalar, f32::INFINITY, targets, inverse, lengths, integers);
        let (mut product, mut square) = (0.0, 0.0);
        for (&m, &y) in integers.as_flattened().iter().zip(targets.as_flattened()) {
            product += f64::from(m) * f64::from(y);
            square += f64::from(m) * f64::from(m);
        }
        (product, square)
    }

    /// Puts the quantized weights in the place of the targets.
    fn replace(&mut self, column: usize, step: f32) {
        let range = column * self.block.steps..(column + 1) * self.block.steps;
        for (y, m) in self.values[range.clone()].iter_mut().zip(&self.integers[range]) {
            for l in 0..LANES {
                y[l] = step * m[l];
            }
        }
    }
}

fn assemble(prepared: &Prepared<'_>, scales: ColumnScales, states: &[BlockState<'_>]) -> QuantizedMatrix {
    let rows = prepared.layer.rows;
    let mut columns: Vec<Vec<i32>> = (0..prepared.live.len())
        .into_par_iter()
        .map(|live| {
            let mut integers = vec![0i32; rows];
            for state in states {
                let found = &state.integers[live * state.block.steps..][..state.block.steps].as_flattened();
                for (position, row) in state.block.rows() {
                    integers[row] = found[position] as i32;
                }
            }
            integers
        })
        .collect();
    let mut scales = scales;
    let mut row_scales = prepared.stored_row_scales();
    if prepared.settings.method == (Method::WaterSic { rescale: true }) {
        let fitted = rescale::fit(prepared, &columns, &scales);
        for (code, factor) in scales.codes.iter_mut().zip(&fitted.columns) {
            *code = to_half(factor * super::scales::scale_value(ScaleKind::Half, *code));
        }
        let codes = fitted.rows.iter().enumerate().map(|(row, t)| to_half(t / prepared.row_factor(row)));
        row_scales = Some((ScaleKind::Half, codes.collect()));
    }
    let mut stream = Vec::new();
    for (live, integers) in columns.iter_mut().enumerate() {
        split_wide(prepared, &scales, live, std::mem::take(integers), &mut stream);
    }
    QuantizedMatrix {
        rows,
        columns: prepared.layer.columns,
        geometry: prepared.settings.geometry,
        trellis: Trellis::Scalar,
        tensor_scale: scales.tensor_scale,
        column_scale_kind: scales.kind,
        stream,
        row_scales,
    }
}

/// Appends a column to the stream, wide ones as a fine and coarse parts that add up to the same integers exactly.
/// Columns and parts that are all zero are dropped.
fn split_wide(
    prepared: &Prepared<'_>,
    scales: &ColumnScales,
    live: usize,
    mut integers: Vec<i32>,
    stream: &mut Vec<StreamColumn>,
) {
    let outliers = prepared.settings.outliers;
    let allowed = (outliers.share * integers.len() as f32) as usize;
    let input = prepared.live[live];
    let mut scale = scales.codes[live];
    for part in 1..=COARSE_PARTS {
        let Some(coarse_scale) = scales.coarse_code(live, part) else { break };
        if integers.iter().filter(|m| m.unsigned_abs() as f32 > outliers.limit).count() <= allowed {
            break;
        }
        // Both parts stay even: the coarse part counts in units of two of its steps.
        let unit = 2 << COARSE_LOG2;
        let coarse: Vec<i32> = integers.iter().map(|m| 2 * (m + unit / 2).div_euclid(unit)).collect();
        let fine = integers.iter().zip(&coarse).map(|(m, c)| m - (c << COARSE_LOG2)).collect();
        stream.push(StreamColumn { input, scale, integers: fine });
        (integers, scale) = (coarse, coarse_scale);
    }
    stream.push(StreamColumn { input, scale, integers });
    stream.retain(|column| column.input != input || column.integers.iter().any(|&m| m != 0));
}
