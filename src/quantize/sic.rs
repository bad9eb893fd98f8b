//! Successive interference cancellation with the trellis: the default method's loop over the columns.
//!
//! Rows are independent given the factor L, so each row block runs the whole loop as one task. The loop runs from the
//! last column to the first. Column i is searched against its target minus what the quantized columns behind it
//! already contribute: `y_i - sum_{k > i} L[k, i] ŵ_k`. That sum is split in three: columns of earlier blocks in one
//! GEMM, columns of earlier strips of the same block in a small one, columns of the same strip one by one.

use super::blocks::{lanes, RowBlock};
use super::prepare::{Factor, Prepared};
use super::scales::{ColumnScales, COARSE_LOG2, COARSE_PARTS};
use super::viterbi::{Lanes, Viterbi, LANES};
use super::{Outliers, QuantizeError};
use crate::payload::{QuantizedMatrix, StreamColumn};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Columns whose feedback is applied by one large GEMM.
const BLOCK: usize = 128;
/// Columns whose feedback is applied one by one.
const STRIP: usize = 16;

/// Integers of one row block.
struct BlockIntegers {
    /// Fine parts, `live columns` x `steps`.
    fine: Vec<[i32; LANES]>,
    /// Coarse parts: live column, part (1..), integers.
    coarse: Vec<(usize, usize, Vec<[i32; LANES]>)>,
}

/// Quantizes at step `c`.
pub(super) fn quantize(prepared: &Prepared<'_>, c: f64) -> Result<QuantizedMatrix, QuantizeError> {
    let steps: Vec<f64> = prepared.pivots.iter().map(|l| c / l).collect();
    let scales =
        ColumnScales::new(prepared.settings.column_scales, &steps).ok_or_else(|| prepared.bad_step(c))?;
    let integers: Vec<BlockIntegers> = prepared
        .blocks
        .par_iter()
        .zip(&prepared.targets)
        .map(|(block, target)| BlockTask::new(prepared, block, target, &scales).run())
        .collect();
    Ok(assemble(prepared, &scales, integers))
}

/// The loop over the columns of one row block.
struct BlockTask<'a> {
    prepared: &'a Prepared<'a>,
    block: &'a RowBlock,
    scales: &'a ColumnScales,
    outliers: Outliers,
    /// Targets of the columns still to come; behind them the quantized weights of the columns done.
    values: Vec<Lanes>,
    viterbi: Viterbi,
    best: Vec<Lanes>,
    out: BlockIntegers,
}

impl<'a> BlockTask<'a> {
    fn new(
        prepared: &'a Prepared<'a>,
        block: &'a RowBlock,
        target: &[Lanes],
        scales: &'a ColumnScales,
    ) -> Self {
        Self {
            prepared,
            block,
            scales,
            outliers: prepared.settings.outliers,
            values: target.to_vec(),
            viterbi: Viterbi::default(),
            best: lanes(1, block.steps),
            out: BlockIntegers { fine: vec![[0; LANES]; target.len()], coarse: Vec::new() },
        }
    }

    fn run(mut self) -> BlockIntegers {
        let n = self.prepared.live.len();
        let Factor::Full(l) = &self.prepared.factor else {
            (0..n).rev().for_each(|column| self.search(column));
            return self.out;
        };
        let l = l.as_ref();
        let mut block_end = n;
        while block_end > 0 {
            let block_start = block_end.saturating_sub(BLOCK);
            self.feed_back(l, block_start, block_end, n);
            let mut strip_end = block_end;
            while strip_end > block_start {
                let strip_start = strip_end.saturating_sub(STRIP).max(block_start);
                self.feed_back(l, strip_start, strip_end, block_end);
                for column in (strip_start..strip_end).rev() {
                    self.feed_back_one(l, column, strip_end);
                    self.search(column);
                }
                strip_end = strip_start;
            }
            block_end = block_start;
        }
        self.out
    }

    /// Subtracts from the targets of columns `start..end` what the quantized columns `end..last` contribute.
    fn feed_back(&mut self, l: MatRef<'_, f32>, start: usize, end: usize, last: usize) {
        if end == last {
            return;
        }
        let positions = self.block.positions();
        let (targets, quantized) = self.values.split_at_mut(end * self.block.steps);
        let targets = targets[start * self.block.steps..].as_flattened_mut();
        let quantized = quantized[..(last - end) * self.block.steps].as_flattened();
        matmul(
            MatMut::from_column_major_slice_mut(targets, positions, end - start),
            Accum::Add,
            MatRef::from_column_major_slice(quantized, positions, last - end),
            l.submatrix(end, start, last - end, end - start),
            -1.0,
            Par::Seq,
        );
    }

    /// The same for one column and the few columns behind it in its strip.
    fn feed_back_one(&mut self, l: MatRef<'_, f32>, column: usize, end: usize) {
        let steps = self.block.steps;
        let mut factors = [0.0; STRIP];
        for (factor, k) in factors.iter_mut().zip(column + 1..end) {
            *factor = l[(k, column)];
        }
        let (targets, quantized) = self.values.split_at_mut((column + 1) * steps);
        pulp::Arch::new().dispatch(Subtract {
            target: targets[column * steps..].as_flattened_mut(),
            columns: quantized[..(end - column - 1) * steps].as_flattened(),
            factors: &factors[..end - column - 1],
        });
    }

    /// Searches the integers of one column, coarse parts first, and replaces its target by its quantized weights.
    fn search(&mut self, column: usize) {
        let steps = self.block.steps;
        let trellis = self.prepared.settings.method.trellis();
        let step = self.scales.step(column);
        let pivot = self.prepared.pivots[column];
        let inverse = (1.0 / (step * pivot)) as f32;
        let parts = self.coarse_parts(column, inverse);
        let y = &mut self.values[column * steps..][..steps];
        let mut coarse_total = (parts > 0).then(|| lanes(1, steps));
        for part in (1..=parts).rev() {
            let ratio = ((COARSE_LOG2 * part as i32) as f32).exp2();
            self.viterbi.search(trellis, y, inverse / ratio, &self.block.lengths, &mut self.best);
            let width = (step * pivot) as f32 * ratio;
            self.out.coarse.push((column, part, self.best.iter().map(|m| m.map(|m| m as i32)).collect()));
            for (total, (y, m)) in coarse_total.iter_mut().flatten().zip(y.iter_mut().zip(&self.best)) {
                for l in 0..LANES {
                    y[l] -= width * m[l];
                    total[l] += ratio * m[l];
                }
            }
        }
        self.viterbi.search(trellis, y, inverse, &self.block.lengths, &mut self.best);
        let step = step as f32;
        let fine = &mut self.out.fine[column * steps..][..steps];
        for ((y, m), fine) in y.iter_mut().zip(&self.best).zip(fine) {
            for l in 0..LANES {
                fine[l] = m[l] as i32;
                y[l] = step * m[l];
            }
        }
        for (y, total) in y.iter_mut().zip(coarse_total.iter().flatten()) {
            for l in 0..LANES {
                y[l] += step * total[l];
            }
        }
    }

    /// How many coarse parts a column needs so that few of its integers exceed the limit.
    fn coarse_parts(&self, column: usize, inverse: f32) -> usize {
        let y = &self.values[column * self.block.steps..][..self.block.steps];
        let allowed = (self.outliers.share * self.block.present() as f32) as usize;
        let mut parts = 0;
        while parts < COARSE_PARTS && self.scales.coarse_code(column, parts + 1).is_some() {
            let limit = self.outliers.limit * ((COARSE_LOG2 * parts as i32) as f32).exp2() / inverse;
            let beyond: usize = y.iter().map(|y| y.iter().filter(|v| v.abs() > limit).count()).sum();
            if beyond <= allowed {
                break;
            }
            parts += 1;
        }
        parts
    }
}

/// `target -= sum_k factors[k] * columns[k]`.
struct Subtract<'a> {
    target: &'a mut [f32],
    columns: &'a [f32],
    factors: &'a [f32],
}

impl WithSimd for Subtract<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let positions = self.target.len();
        let groups = self.factors.chunks(4).zip(self.columns.chunks(4 * positions.max(1)));
        for (factors, columns) in groups {
            if let &[f0, f1, f2, f3] = factors {
                let (c0, rest) = columns.split_at(positions);
                let (c1, rest) = rest.split_at(positions);
                let (c2, c3) = rest.split_at(positions);
                for ((((y, a), b), c), d) in self.target.iter_mut().zip(c0).zip(c1).zip(c2).zip(c3) {
                    *y -= (f0 * a + f1 * b) + (f2 * c + f3 * d);
                }
            } else {
                for (&factor, column) in factors.iter().zip(columns.chunks_exact(positions)) {
                    for (y, v) in self.target.iter_mut().zip(column) {
                        *y -= factor * v;
                    }
                }
            }
        }
    }
}

/// Gathers the blocks' integers into stream columns; columns and parts that are all zero are dropped.
fn assemble(prepared: &Prepared<'_>, scales: &ColumnScales, blocks: Vec<BlockIntegers>) -> QuantizedMatrix {
    let rows = prepared.layer.rows;
    let column = |live: usize, part: usize| {
        let mut integers = vec![0i32; rows];
        let mut any = false;
        for (block, result) in prepared.blocks.iter().zip(&blocks) {
            let steps = block.steps;
            let found = if part == 0 {
                Some(&result.fine[live * steps..][..steps])
            } else {
                result.coarse.iter().find(|c| c.0 == live && c.1 == part).map(|c| c.2.as_slice())
            };
            let Some(found) = found.map(|f| f.as_flattened()) else { continue };
            for (position, row) in block.rows() {
                integers[row] = found[position];
                any |= found[position] != 0;
            }
        }
        let scale = if part == 0 { Some(scales.codes[live]) } else { scales.coarse_code(live, part) };
        scale.filter(|_| any).map(|scale| StreamColumn { input: prepared.live[live], scale, integers })
    };
    let mut coarse: Vec<(usize, usize)> =
        blocks.iter().flat_map(|b| b.coarse.iter().map(|c| (c.0, c.1))).collect();
    coarse.sort_unstable();
    coarse.dedup();
    let fine = (0..prepared.live.len()).map(|live| (live, 0));
    let parts: Vec<(usize, usize)> = fine.chain(coarse).collect();
    let stream: Vec<StreamColumn> =
        parts.into_par_iter().filter_map(|(live, part)| column(live, part)).collect();
    QuantizedMatrix {
        rows,
        columns: prepared.layer.columns,
        geometry: prepared.settings.geometry,
        trellis: prepared.settings.method.trellis(),
        tensor_scale: scales.tensor_scale,
        column_scale_kind: scales.kind,
        stream,
        row_scales: prepared.stored_row_scales(),
    }
}
