//! What a quantized matrix loses.

use super::prepare::{Factor, Prepared};
use super::scales::{row_scale_value, scale_value};
use crate::payload::{QuantizedMatrix, ScaleKind};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

/// Positions whose distortion is computed at a time.
const CHUNK: usize = 256;

/// Loss of a quantized matrix, in the unit of the covariance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// D = tr((Ŵ−W) Sigma (Ŵ−W)ᵀ).
    pub distortion: f64,
    /// D / tr(W Sigma Wᵀ).
    pub relative_loss: f64,
    /// D with each row's part multiplied by its (stored, rounded) weight relative to the mean weight; equal to
    /// `distortion` without row weights.
    pub weighted_distortion: f64,
    /// The same relative to the weighted tr(W Sigma Wᵀ).
    pub weighted_relative_loss: f64,
    /// The step c.
    pub c: f64,
    /// mu of the MMSE target.
    pub mu: f64,
    /// Damping added to the diagonal.
    pub damping: f64,
    /// Stream columns stored.
    pub stream_columns: usize,
}

/// Value of a matrix' weights without their row scales, column by column: `(input, column scale)` of each stream column.
fn column_scales(matrix: &QuantizedMatrix) -> Vec<f32> {
    let tensor = f64::from(matrix.tensor_scale);
    let value =
        |s: &crate::payload::StreamColumn| (tensor * scale_value(matrix.column_scale_kind, s.scale)) as f32;
    matrix.stream.iter().map(value).collect()
}

/// The weights that a quantized matrix stands for, row-major.
pub fn reconstruct(matrix: &QuantizedMatrix) -> Vec<f32> {
    let mut weights = vec![0.0f32; matrix.rows * matrix.columns];
    for (column, scale) in matrix.stream.iter().zip(column_scales(matrix)) {
        let cells = weights.iter_mut().skip(column.input as usize).step_by(matrix.columns.max(1));
        for (w, &m) in cells.zip(&column.integers) {
            *w += scale * m as f32;
        }
    }
    if let Some((kind, codes)) = &matrix.row_scales {
        for (row, &code) in weights.chunks_mut(matrix.columns.max(1)).zip(codes) {
            let factor = row_scale_value(*kind, code) as f32;
            row.iter_mut().for_each(|w| *w *= factor);
        }
    }
    weights
}

impl Prepared<'_> {
    /// Row scales that undo the weighting.
    pub(super) fn stored_row_scales(&self) -> Option<(ScaleKind, Vec<u16>)> {
        self.row_factors.as_ref().map(|f| (ScaleKind::Log8, f.codes.clone()))
    }

    /// Measures what `matrix`, a quantization of this layer, loses.
    pub fn report(&self, matrix: &QuantizedMatrix, c: f64) -> Report {
        let rows = self.row_distortions(Some(matrix));
        let energies = self.row_distortions(None);
        let (mut distortion, mut energy, mut weighted, mut weighted_energy) = (0.0, 0.0, 0.0, 0.0);
        for (row, (&d, &e)) in rows.iter().zip(&energies).enumerate() {
            let factor = self.row_factor(row).powi(2);
            weighted += d;
            weighted_energy += e;
            distortion += d / factor;
            energy += e / factor;
        }
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Report {
            distortion,
            relative_loss: share(distortion, energy),
            weighted_distortion: weighted,
            weighted_relative_loss: share(weighted, weighted_energy),
            c,
            mu: self.mu,
            damping: self.damping,
            stream_columns: matrix.stream.len(),
        }
    }

    /// Distortion of each row, of the weighted matrix; without a matrix, that of zeros: `w Sigma wᵀ`.
    fn row_distortions(&self, matrix: Option<&QuantizedMatrix>) -> Vec<f64> {
        let n = self.live.len();
        let scales = matrix.map_or_else(Vec::new, column_scales);
        let stream = matrix.map_or(&[][..], |matrix| &matrix.stream);
        let mut live_of = vec![None; self.layer.columns];
        for (index, &input) in self.live.iter().enumerate() {
            live_of[input as usize] = Some(index);
        }
        let row_scales = matrix.and_then(|matrix| matrix.row_scales.as_ref());
        let row_scale =
            |row: usize| row_scales.map_or(1.0, |(kind, codes)| row_scale_value(*kind, codes[row]));
        let extra = self.mu + self.damping;
        let parts: Vec<Vec<(usize, f64)>> = self
            .blocks
            .par_iter()
            .map(|block| {
                let mut out = Vec::with_capacity(block.present());
                for start in (0..block.positions()).step_by(CHUNK) {
                    let range = start..(start + CHUNK).min(block.positions());
                    let mut delta = Mat::<f32>::zeros(range.len(), n);
                    for (p, row) in block.rows_in(range.clone()) {
                        let factor = self.row_factor(row);
                        let weights = &self.layer.weights[row * self.layer.columns..][..self.layer.columns];
                        let mut line = vec![0.0f64; n];
                        for (column, &scale) in stream.iter().zip(&scales) {
                            if let Some(j) = live_of[column.input as usize] {
                                line[j] += f64::from(scale) * f64::from(column.integers[row]);
                            }
                        }
                        for (j, &input) in self.live.iter().enumerate() {
                            let value = line[j] * row_scale(row) - f64::from(weights[input as usize]);
                            delta[(p, j)] = (factor * value) as f32;
                        }
                    }
                    let product = self.times_factor(delta.as_ref());
                    for (p, row) in block.rows_in(range) {
                        let mut sum = 0.0;
                        for j in 0..n {
                            let (y, d) = (f64::from(product[(p, j)]), f64::from(delta[(p, j)]));
                            sum += y * y - extra * d * d;
                        }
                        out.push((row, sum + self.erased_part(row, -1.0, |j| f64::from(delta[(p, j)]))));
                    }
                }
                out
            })
            .collect();
        let mut rows = vec![0.0; self.layer.rows];
        for (row, value) in parts.into_iter().flatten() {
            rows[row] = value;
        }
        rows
    }

    /// `delta` L.
    fn times_factor(&self, delta: MatRef<'_, f32>) -> Mat<f32> {
        let mut product = Mat::<f32>::zeros(delta.nrows(), delta.ncols());
        match &self.factor {
            Factor::Full(l) => triangular::matmul(
                product.as_mut(),
                BlockStructure::Rectangular,
                Accum::Replace,
                delta,
                BlockStructure::Rectangular,
                l.as_ref(),
                BlockStructure::TriangularLower,
                1.0,
                Par::Seq,
            ),
            Factor::Diagonal => {
                for (j, &pivot) in self.pivots.iter().enumerate() {
                    for p in 0..delta.nrows() {
                        product[(p, j)] = delta[(p, j)] * pivot as f32;
                    }
                }
            }
        }
        product
    }
}
