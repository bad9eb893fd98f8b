//! Feedback between columns: what the columns already quantized contribute to the targets of those still to come.
//!
//! Column i is quantized against `y_i - sum_{k > i} L[k, i] ŵ_k`. A loop that goes from the last column to the first
//! splits that sum in three: columns of earlier blocks in one GEMM, columns of earlier strips of the same block in a
//! small one, columns of the same strip one by one. `values` holds targets up to the current column and quantized
//! weights behind it, column by column with `steps` lanes each.

use super::viterbi::Lanes;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Columns whose feedback is applied by one large GEMM.
pub(super) const BLOCK: usize = 128;
/// Columns whose feedback is applied one by one.
pub(super) const STRIP: usize = 16;

/// Subtracts from the targets of `columns` what the quantized columns `columns.end..last` contribute.
pub(super) fn from_columns(
    l: MatRef<'_, f32>,
    values: &mut [Lanes],
    steps: usize,
    columns: Range<usize>,
    last: usize,
) {
    let (start, end) = (columns.start, columns.end);
    if end == last || steps == 0 {
        return;
    }
    let (targets, quantized) = values.split_at_mut(end * steps);
    let targets = targets[start * steps..].as_flattened_mut();
    let quantized = quantized[..(last - end) * steps].as_flattened();
    let positions = steps * size_of::<Lanes>() / size_of::<f32>();
    matmul(
        MatMut::from_column_major_slice_mut(targets, positions, end - start),
        Accum::Add,
        MatRef::from_column_major_slice(quantized, positions, last - end),
        l.submatrix(end, start, last - end, end - start),
        -1.0,
        Par::Seq,
    );
}

/// The same for one column and the few columns behind it in its strip, which ends at `end`.
pub(super) fn from_strip(l: MatRef<'_, f32>, values: &mut [Lanes], steps: usize, column: usize, end: usize) {
    let mut factors = [0.0; STRIP];
    for (factor, k) in factors.iter_mut().zip(column + 1..end) {
        *factor = l[(k, column)];
    }
    let (targets, quantized) = values.split_at_mut((column + 1) * steps);
    pulp::Arch::new().dispatch(Subtract {
        target: targets[column * steps..].as_flattened_mut(),
        columns: quantized[..(end - column - 1) * steps].as_flattened(),
        factors: &factors[..end - column - 1],
    });
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
