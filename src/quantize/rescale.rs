//! Diagonal rescalers of rows (T) and columns (Gamma) by alternating least squares, after WaterSIC's loop
//! (arXiv 2603.04956): least tr((T V Gamma − W) Sigma (T V Gamma − W)ᵀ) for the quantized matrix V.

use super::cholesky;
use super::prepare::Prepared;
use super::scales::ColumnScales;
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Mat, Par};
use rayon::prelude::*;

/// Rounds of one fit of the rows and one of the columns.
const ROUNDS: usize = 4;
/// Columns of one task.
const CHUNK: usize = 64;
/// Added to the diagonal of the columns' system, relative to it: columns that are all zero stay as they are.
const RIDGE: f64 = 1e-9;

/// Fitted factors.
pub(super) struct Rescalers {
    pub rows: Vec<f64>,
    pub columns: Vec<f64>,
}

/// Fits both rescalers to `integers` (one vector per live column) with their stored scales.
pub(super) fn fit(prepared: &Prepared<'_>, integers: &[Vec<i32>], scales: &ColumnScales) -> Rescalers {
    let (rows, n) = (prepared.layer.rows, prepared.live.len());
    let moment =
        |i: usize, j: usize| prepared.layer.moment(prepared.live[i] as usize, prepared.live[j] as usize);
    let sigma = Mat::from_fn(n, n, moment);
    let weights = Mat::from_fn(rows, n, |r, j| {
        let weight = prepared.layer.weights[r * prepared.layer.columns + prepared.live[j] as usize];
        prepared.row_factor(r) * f64::from(weight)
    });
    let quantized = Mat::from_fn(rows, n, |r, j| scales.step(j) * f64::from(integers[j][r]));
    let target = product(&weights, &sigma);
    let mut fitted = Rescalers { rows: vec![1.0; rows], columns: vec![1.0; n] };
    for _ in 0..ROUNDS {
        fit_rows(&mut fitted, &quantized, &sigma, &target);
        if !fit_columns(&mut fitted, &quantized, &sigma, &target) {
            break;
        }
    }
    fitted
}

/// t_r = <w_r Sigma, v_r> / <v_r Sigma, v_r> with v = V Gamma.
fn fit_rows(fitted: &mut Rescalers, quantized: &Mat<f64>, sigma: &Mat<f64>, target: &Mat<f64>) {
    let (rows, n) = (quantized.nrows(), quantized.ncols());
    let scaled = Mat::from_fn(rows, n, |r, j| quantized[(r, j)] * fitted.columns[j]);
    let moved = product(&scaled, sigma);
    for r in 0..rows {
        let (mut up, mut down) = (0.0, 0.0);
        for j in 0..n {
            up += target[(r, j)] * scaled[(r, j)];
            down += moved[(r, j)] * scaled[(r, j)];
        }
        let t = up / down;
        fitted.rows[r] = if t > 0.0 && t.is_finite() { t } else { 1.0 };
    }
}

/// Solves (Sigma ∘ VᵀT²V) gamma = diag(Vᵀ T W Sigma). False if the system has no solution.
fn fit_columns(fitted: &mut Rescalers, quantized: &Mat<f64>, sigma: &Mat<f64>, target: &Mat<f64>) -> bool {
    let (rows, n) = (quantized.nrows(), quantized.ncols());
    let scaled = Mat::from_fn(rows, n, |r, j| quantized[(r, j)] * fitted.rows[r]);
    let mut system = product(&scaled.transpose().to_owned(), &scaled);
    let mut right = Mat::<f64>::zeros(n, 1);
    for j in 0..n {
        for i in 0..n {
            system[(i, j)] *= sigma[(i, j)];
        }
        right[(j, 0)] = (0..rows).map(|r| target[(r, j)] * scaled[(r, j)]).sum();
    }
    let mean = (0..n).map(|j| system[(j, j)]).sum::<f64>() / n as f64;
    for j in 0..n {
        let ridge = RIDGE * mean + RIDGE * system[(j, j)];
        system[(j, j)] += ridge;
        right[(j, 0)] += ridge * fitted.columns[j];
    }
    if cholesky::factor(&mut system).is_err() {
        return false;
    }
    solve_lower_triangular_in_place(system.as_ref(), right.as_mut(), Par::Seq);
    solve_upper_triangular_in_place(system.transpose(), right.as_mut(), Par::Seq);
    for (j, gamma) in fitted.columns.iter_mut().enumerate() {
        let value = right[(j, 0)];
        if value > 0.0 && value.is_finite() {
            *gamma = value;
        }
    }
    true
}

/// a b, in tasks of fixed size.
fn product(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let mut out = Mat::<f64>::zeros(a.nrows(), b.ncols());
    out.as_mut().par_col_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let columns = b.as_ref().subcols(chunk * CHUNK, out.ncols());
        matmul(out, Accum::Replace, a.as_ref(), columns, 1.0, Par::Seq);
    });
    out
}
