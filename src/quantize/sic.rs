//! Successive interference cancellation with the trellis: the default method's loop over the columns.
//!
//! Rows are independent given the factor L, so each row block runs the whole loop as one task, from the last column to
//! the first.

use super::blocks::{lanes, RowBlock};
use super::feedback::{self, BLOCK, STRIP};
use super::pilot;
use super::prepare::{Factor, Prepared};
use super::scales::{ColumnScales, COARSE_LOG2, COARSE_PARTS};
use super::viterbi::{Lanes, Viterbi, LANES};
use super::{Outliers, QuantizeError};
use crate::payload::{Geometry, QuantizedMatrix, ScaleKind, StreamColumn};
use rayon::prelude::*;

/// Integers of one row block.
struct BlockIntegers {
    /// Fine parts, `live columns` x `steps`.
    fine: Vec<[i32; LANES]>,
    /// Coarse parts: live column, part (1..), integers.
    coarse: Vec<(usize, usize, Vec<[i32; LANES]>)>,
}

/// Quantizes at step `c`.
pub(super) fn quantize(prepared: &Prepared<'_>, c: f64) -> Result<QuantizedMatrix, QuantizeError> {
    let reaches = if pilot::is_of_use(&prepared.settings) {
        let rows = prepared.layer.rows;
        pilot::reaches(prepared, &pilot::rows(rows), rows, c)?
    } else {
        vec![f32::INFINITY; prepared.live.len()]
    };
    quantize_within(prepared, c, &reaches)
}

/// Quantizes at step `c` with a reach of the pairs of each live column.
pub(super) fn quantize_within(
    prepared: &Prepared<'_>,
    c: f64,
    reaches: &[f32],
) -> Result<QuantizedMatrix, QuantizeError> {
    let scales = prepared.column_scales(c)?;
    let rows = Rows {
        count: prepared.layer.rows,
        geometry: prepared.settings.geometry,
        blocks: &prepared.blocks,
        targets: &prepared.targets,
        scales: prepared.stored_row_scales(),
    };
    Ok(quantize_rows(prepared, &scales, reaches, rows))
}

/// Rows to quantize.
pub(super) struct Rows<'a> {
    pub count: usize,
    pub geometry: Geometry,
    /// Their paths, by this geometry.
    pub blocks: &'a [RowBlock],
    /// Targets of each block.
    pub targets: &'a [Vec<Lanes>],
    /// As [`QuantizedMatrix::row_scales`].
    pub scales: Option<(ScaleKind, Vec<u16>)>,
}

/// Quantizes rows by the factor of a layer.
pub(super) fn quantize_rows(
    prepared: &Prepared<'_>,
    scales: &ColumnScales,
    reaches: &[f32],
    rows: Rows<'_>,
) -> QuantizedMatrix {
    let integers: Vec<BlockIntegers> = rows
        .blocks
        .par_iter()
        .zip(rows.targets)
        .map(|(block, target)| BlockTask::new(prepared, block, target, scales, reaches).run())
        .collect();
    assemble(prepared, scales, rows, integers)
}

/// The loop over the columns of one row block.
struct BlockTask<'a> {
    prepared: &'a Prepared<'a>,
    block: &'a RowBlock,
    scales: &'a ColumnScales,
    reaches: &'a [f32],
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
        reaches: &'a [f32],
    ) -> Self {
        Self {
            prepared,
            block,
            scales,
            reaches,
            outliers: prepared.settings.outliers,
            values: target.to_vec(),
            viterbi: Viterbi::default(),
            best: lanes(1, block.steps),
            out: BlockIntegers { fine: vec![[0; LANES]; target.len()], coarse: Vec::new() },
        }
    }

    fn run(mut self) -> BlockIntegers {
        let (n, steps) = (self.prepared.live.len(), self.block.steps);
        let Factor::Full(l) = &self.prepared.factor else {
            (0..n).rev().for_each(|column| self.search(column));
            return self.out;
        };
        let l = l.as_ref();
        let mut block_end = n;
        while block_end > 0 {
            let block_start = block_end.saturating_sub(BLOCK);
            feedback::from_columns(l, &mut self.values, steps, block_start..block_end, n);
            let mut strip_end = block_end;
            while strip_end > block_start {
                let strip_start = strip_end.saturating_sub(STRIP).max(block_start);
                feedback::from_columns(l, &mut self.values, steps, strip_start..strip_end, block_end);
                for column in (strip_start..strip_end).rev() {
                    feedback::from_strip(l, &mut self.values, steps, column, strip_end);
                    self.search(column);
                }
                strip_end = strip_start;
            }
            block_end = block_start;
        }
        self.out
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
            let lengths = &self.block.lengths;
            self.viterbi.search(trellis, f32::INFINITY, y, inverse / ratio, lengths, &mut self.best);
            let width = (step * pivot) as f32 * ratio;
            self.out.coarse.push((column, part, self.best.iter().map(|m| m.map(|m| m as i32)).collect()));
            for (total, (y, m)) in coarse_total.iter_mut().flatten().zip(y.iter_mut().zip(&self.best)) {
                for l in 0..LANES {
                    y[l] -= width * m[l];
                    total[l] += ratio * m[l];
                }
            }
        }
        // What coarse parts leave is of another size than the column.
        let reach = if parts > 0 { f32::INFINITY } else { self.reaches[column] };
        self.viterbi.search(trellis, reach, y, inverse, &self.block.lengths, &mut self.best);
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

/// Gathers the blocks' integers into stream columns; columns and parts that are all zero are dropped.
fn assemble(
    prepared: &Prepared<'_>,
    scales: &ColumnScales,
    rows: Rows<'_>,
    found: Vec<BlockIntegers>,
) -> QuantizedMatrix {
    let column = |live: usize, part: usize| {
        let mut integers = vec![0i32; rows.count];
        let mut any = false;
        for (block, result) in rows.blocks.iter().zip(&found) {
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
        found.iter().flat_map(|b| b.coarse.iter().map(|c| (c.0, c.1))).collect();
    coarse.sort_unstable();
    coarse.dedup();
    let fine = (0..prepared.live.len()).map(|live| (live, 0));
    let parts: Vec<(usize, usize)> = fine.chain(coarse).collect();
    let stream: Vec<StreamColumn> =
        parts.into_par_iter().filter_map(|(live, part)| column(live, part)).collect();
    QuantizedMatrix {
        rows: rows.count,
        columns: prepared.layer.columns,
        geometry: rows.geometry,
        trellis: prepared.settings.method.trellis(),
        tensor_scale: scales.tensor_scale,
        column_scale_kind: scales.kind,
        stream,
        row_scales: rows.scales,
    }
}
