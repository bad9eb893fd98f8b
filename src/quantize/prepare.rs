//! The target of the quantizer: everything about a layer that stays when the step changes a little.

use super::blocks::{lanes, RowBlock};
use super::factored::{predicted_bits, Factored};
use super::scales::{ColumnScales, RowFactors};
use super::viterbi::{Lanes, LANES};
use super::{Covariance, Drift, Layer, Method, QuantizeError, Settings};
use crate::payload::Path;
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Positions whose targets are computed at a time, in double precision.
const TARGET_CHUNK: usize = 256;

/// Factor of the damped covariance of the live columns.
#[derive(Debug)]
pub(super) enum Factor {
    /// Lower triangular L.
    Full(Mat<f32>),
    /// L is diagonal: no feedback.
    Diagonal,
}

/// A layer ready to be quantized at any step c near the one it was prepared for.
#[derive(Debug)]
pub struct Prepared<'a> {
    pub(super) layer: Layer<'a>,
    pub(super) settings: Settings,
    /// Input column of each live column, ascending.
    pub(super) live: Vec<u32>,
    /// Input columns that are erased although they are active.
    pub(super) erased: Vec<u32>,
    pub(super) factor: Factor,
    /// Diagonal of L.
    pub(super) pivots: Vec<f64>,
    pub(super) row_factors: Option<RowFactors>,
    pub(super) blocks: Vec<RowBlock>,
    /// The target Y = (T + delta W) L^-T of each block, where T = W C without drift.
    pub(super) targets: Vec<Vec<Lanes>>,
    /// Mean square of the weighted weights of the live columns.
    pub(super) variance: f64,
    pub(super) mu: f64,
    pub(super) damping: f64,
}

impl<'a> Prepared<'a> {
    /// Checks the layer, factors its covariance and computes the target. `c` is the step that the MMSE target is
    /// meant for; steps within a tenth of it lose nothing measurable, a step half of it loses .05 bit.
    ///
    /// # Errors
    /// Bad input, or a covariance that is zero or far from positive semidefinite.
    pub fn new(layer: &Layer<'a>, settings: &Settings, c: f64) -> Result<Self, QuantizeError> {
        Ok(Self::from_factored(Factored::new(layer, settings, c)?))
    }

    /// Computes the target of a factored layer.
    pub(super) fn from_factored(factored: Factored<'a>) -> Self {
        let paths: Vec<Path> = if factored.settings.whole_column_paths {
            vec![Path { first: 0, stride: 1, len: factored.layer.rows }]
        } else {
            factored.settings.geometry.paths(factored.layer.rows).collect()
        };
        let diagonal = factored.layer.diagonal();
        let mut is_live = vec![false; factored.layer.columns];
        factored.live.iter().for_each(|&j| is_live[j as usize] = true);
        let erased = (0u32..).zip(diagonal.iter().zip(&is_live)).filter(|(_, (&d, &live))| d > 0.0 && !live);
        let mut prepared = Prepared {
            erased: erased.map(|(j, _)| j).collect(),
            layer: factored.layer,
            settings: factored.settings,
            live: factored.live,
            factor: Factor::Diagonal,
            pivots: factored.pivots,
            row_factors: factored.row_factors,
            blocks: RowBlock::split(paths.into_iter()),
            targets: Vec::new(),
            variance: factored.variance,
            mu: factored.mu,
            damping: factored.damping,
        };
        match factored.factor {
            Some(l) => {
                let single = Mat::from_fn(l.nrows(), l.ncols(), |i, j| l[(i, j)] as f32);
                prepared.full_targets((*l).as_ref(), single.as_ref());
                prepared.factor = Factor::Full(single);
            }
            None => prepared.diagonal_targets(),
        }
        prepared
    }

    /// mu of the MMSE target: what was added to the diagonal on purpose.
    pub fn mu(&self) -> f64 {
        self.mu
    }

    /// What was added to the diagonal so that the factor exists.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// Class entropy in bits per weight to be expected at step c with this factor.
    pub fn predicted_bits(&self, c: f64) -> f64 {
        predicted_bits(&self.settings, self.layer.columns, self.variance, &self.pivots, self.mu, c)
    }

    /// Stored steps of the columns at step c of the trellis method.
    pub(super) fn column_scales(&self, c: f64) -> Result<ColumnScales, QuantizeError> {
        let steps: Vec<f64> = self.pivots.iter().map(|l| c / l).collect();
        ColumnScales::new(self.settings.column_scales, &steps).ok_or_else(|| self.bad_step(c))
    }

    /// Factor that multiplies row `row` before it is quantized.
    pub(super) fn row_factor(&self, row: usize) -> f64 {
        self.row_factors.as_ref().map_or(1.0, |f| f.factors[row])
    }

    /// What the erased inputs add to `v Sigma vᵀ` when `v` is `live` on the live inputs and `sign` times the weighted
    /// weights of row `row` on the erased ones.
    pub(super) fn erased_part(&self, row: usize, sign: f64, live: impl Fn(usize) -> f64) -> f64 {
        let full = !matches!(self.layer.covariance, Covariance::Diagonal(_));
        let weight = |input: u32| {
            sign * self.row_factor(row)
                * f64::from(self.layer.weights[row * self.layer.columns + input as usize])
        };
        let mut sum = 0.0;
        for &input in &self.erased {
            let moment = |other: u32| self.layer.moment(input as usize, other as usize);
            let mut moved = 0.0;
            if full {
                for (j, &other) in self.live.iter().enumerate() {
                    moved += 2.0 * moment(other) * live(j);
                }
                for &other in &self.erased {
                    moved += moment(other) * weight(other);
                }
            } else {
                moved += moment(input) * weight(input);
            }
            sum += moved * weight(input);
        }
        sum
    }

    /// Calls `store(relative position, live column, weighted weight)` for the rows at `positions` of `block`.
    fn gather(
        &self,
        block: &RowBlock,
        positions: std::ops::Range<usize>,
        mut store: impl FnMut(usize, usize, f64),
    ) {
        for (position, row) in block.rows_in(positions) {
            let factor = self.row_factor(row);
            let weights = &self.layer.weights[row * self.layer.columns..][..self.layer.columns];
            for (column, &input) in self.live.iter().enumerate() {
                store(position, column, factor * f64::from(weights[input as usize]));
            }
        }
    }

    fn full_targets(&mut self, l: MatRef<'_, f64>, single: MatRef<'_, f32>) {
        let n = self.live.len();
        let this = &*self;
        let erased_alive = n < this.layer.columns && this.settings.method != Method::Trellis;
        let moved = this.layer.drift.is_some() || erased_alive;
        let cross = moved.then(|| this.cross_moments());
        let targets: Vec<Vec<Lanes>> = this
            .blocks
            .par_iter()
            .map(|block| {
                let mut target = lanes(n, block.steps);
                let positions = block.positions();
                let mut out = MatMut::from_column_major_slice_mut(target.as_flattened_mut(), positions, n);
                for start in (0..positions).step_by(TARGET_CHUNK) {
                    let range = start..(start + TARGET_CHUNK).min(positions);
                    let rows = range.len();
                    let mut weights = Mat::<f64>::zeros(rows, n);
                    this.gather(block, range.clone(), |p, j, w| weights[(p, j)] = w);
                    let mut out = out.as_mut().subrows_mut(start, rows);
                    match &cross {
                        _ if this.settings.method == Method::RoundToNearest => {
                            for j in 0..n {
                                for p in 0..rows {
                                    out[(p, j)] = weights[(p, j)] as f32;
                                }
                            }
                        }
                        None => {
                            // (W Sigma + delta W) L^-T = W L - mu W L^-T; the second term is small: f32 will do.
                            let mut product = Mat::<f64>::zeros(rows, n);
                            triangular::matmul(
                                product.as_mut(),
                                BlockStructure::Rectangular,
                                Accum::Replace,
                                weights.as_ref(),
                                BlockStructure::Rectangular,
                                l,
                                BlockStructure::TriangularLower,
                                1.0,
                                Par::Seq,
                            );
                            let mut small = Mat::<f32>::from_fn(rows, n, |p, j| weights[(p, j)] as f32);
                            if this.mu > 0.0 {
                                solve_lower_triangular_in_place(single, small.transpose_mut(), Par::Seq);
                            }
                            for j in 0..n {
                                for p in 0..rows {
                                    out[(p, j)] =
                                        (product[(p, j)] - this.mu * f64::from(small[(p, j)])) as f32;
                                }
                            }
                        }
                        Some(cross) => {
                            let mut y = this.drifted_target(block, range.clone(), cross.as_ref());
                            for j in 0..n {
                                for p in 0..rows {
                                    y[(p, j)] += this.damping * weights[(p, j)];
                                }
                            }
                            solve_lower_triangular_in_place(l, y.transpose_mut(), Par::Seq);
                            for j in 0..n {
                                for p in 0..rows {
                                    out[(p, j)] = y[(p, j)] as f32;
                                }
                            }
                        }
                    }
                }
                target
            })
            .collect();
        self.targets = targets;
    }

    /// C: all inputs x live inputs, double precision. Nothing if the layer's drift is that of its outputs.
    fn cross_moments(&self) -> Mat<f64> {
        let columns = self.layer.columns;
        if let Some(Drift::Outputs { .. }) = self.layer.drift {
            return Mat::new();
        }
        Mat::from_fn(columns, self.live.len(), |i, j| {
            let j = self.live[j] as usize;
            let moment = match self.layer.drift {
                Some(Drift::Inputs { cross }) => f64::from(cross[i * columns + j]),
                _ => self.layer.moment(i, j),
            };
            moment * if i == j { 1.0 } else { 1.0 - self.settings.shrinkage }
        })
    }

    /// W C, or the moment with the outputs, of the rows at `positions`.
    fn drifted_target(
        &self,
        block: &RowBlock,
        positions: std::ops::Range<usize>,
        cross: MatRef<'_, f64>,
    ) -> Mat<f64> {
        let columns = self.layer.columns;
        let mut target = Mat::<f64>::zeros(positions.len(), self.live.len());
        if let Some(Drift::Outputs { target: outputs, diagonal }) = self.layer.drift {
            let shrinkage = self.settings.shrinkage;
            for (p, row) in block.rows_in(positions) {
                for (j, &input) in self.live.iter().enumerate() {
                    let (at, own) = (row * columns + input as usize, f64::from(diagonal[input as usize]));
                    let kept = (1.0 - shrinkage) * f64::from(outputs[at]);
                    let own = shrinkage * f64::from(self.layer.weights[at]) * own;
                    target[(p, j)] = self.row_factor(row) * (kept + own);
                }
            }
            return target;
        }
        let mut weights = Mat::<f64>::zeros(positions.len(), columns);
        for (p, row) in block.rows_in(positions) {
            let factor = self.row_factor(row);
            for (j, &w) in self.layer.weights[row * columns..][..columns].iter().enumerate() {
                weights[(p, j)] = factor * f64::from(w);
            }
        }
        matmul(target.as_mut(), Accum::Replace, weights.as_ref(), cross, 1.0, Par::Seq);
        target
    }

    fn diagonal_targets(&mut self) {
        let n = self.live.len();
        let diagonal = self.layer.diagonal();
        let this = &*self;
        let moments: Vec<f64> = this.live.iter().map(|&j| diagonal[j as usize]).collect();
        let targets: Vec<Vec<Lanes>> = this
            .blocks
            .par_iter()
            .map(|block| {
                let mut target = lanes(n, block.steps);
                this.gather(block, 0..block.positions(), |position, j, w| {
                    let y = match this.settings.method {
                        Method::RoundToNearest => w,
                        _ => w * (moments[j] + this.damping) / this.pivots[j],
                    };
                    target[j * block.steps + position / LANES][position % LANES] = y as f32;
                });
                target
            })
            .collect();
        self.targets = targets;
    }
}
