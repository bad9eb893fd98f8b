//! Matrix products with a weight matrix.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::model::error::ModelError;

/// Tokens that one task multiplies by the whole matrix.
const TOKENS_PER_TASK: usize = 512;
/// Output features that one task computes when there are few tokens.
const OUTPUTS_PER_TASK: usize = 192;

/// Where a matrix stands among those that are multiplied side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Rows of the matrices before it.
    pub before: usize,
    /// Rows of all of them, its own among them.
    pub rows: usize,
}

/// A weight matrix as the forward pass sees it: anything that maps input features to output features.
pub trait MatrixProduct: Send + Sync {
    /// Output features.
    fn rows(&self) -> usize;

    /// Input features.
    fn columns(&self) -> usize;

    /// `y = x Wᵀ` for every token: `x` holds tokens × columns values, `y` tokens × rows, both row-major.
    /// An error if the lengths do not fit.
    fn multiply(&self, x: &[f32], y: &mut [f32]) -> Result<(), ModelError>;

    /// [`multiply`](Self::multiply) while other matrices of the same input are multiplied at the same time. A product that
    /// is cut for threads may be cut into fewer pieces then; the results are the same.
    fn multiply_beside(&self, x: &[f32], y: &mut [f32], _beside: Beside) -> Result<(), ModelError> {
        self.multiply(x, y)
    }

    /// `dx += dy W` for every token: the way back of [`multiply`](Self::multiply), from gradients of outputs (tokens ×
    /// rows) to those of inputs (tokens × columns). An error if the lengths do not fit, or the matrix has no way back.
    fn multiply_back(&self, _dy: &[f32], _dx: &mut [f32]) -> Result<(), ModelError> {
        Err(ModelError::request(
            "backward pass",
            "weights as floats",
            "a matrix that only multiplies forward",
        ))
    }
}

/// A matrix of floats, row-major: one row of input weights per output feature.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseMatrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl DenseMatrix {
    /// A matrix of `rows * columns` values, row after row; `None` if their number is another.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Option<Self> {
        (rows.checked_mul(columns) == Some(values.len())).then_some(Self { rows, columns, values })
    }

    /// The values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

impl MatrixProduct for DenseMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn multiply(&self, x: &[f32], y: &mut [f32]) -> Result<(), ModelError> {
        multiply_transposed(x, &self.values, self.columns, y)
    }

    fn multiply_back(&self, dy: &[f32], dx: &mut [f32]) -> Result<(), ModelError> {
        add_product(dy, &self.values, self.columns, dx)
    }
}

/// `y = x Wᵀ` for row-major slices; `columns` is the number of input features. An error if lengths do not fit.
pub fn multiply_transposed(x: &[f32], w: &[f32], columns: usize, y: &mut [f32]) -> Result<(), ModelError> {
    let tokens = x.len().checked_div(columns).unwrap_or(0);
    let rows = w.len().checked_div(columns).unwrap_or(0);
    let fits = tokens.checked_mul(columns) == Some(x.len())
        && rows.checked_mul(columns) == Some(w.len())
        && tokens.checked_mul(rows) == Some(y.len());
    if !fits {
        return Err(ModelError::request(
            "matrix product",
            format!("whole rows of {columns} inputs, and one output for each token and weight row"),
            format!("{} inputs, {} weights, {} outputs", x.len(), w.len(), y.len()),
        ));
    }
    if tokens == 0 || rows == 0 {
        return Ok(());
    }
    if tokens < TOKENS_PER_TASK {
        multiply_few(x, w, columns, y, tokens, rows);
        return Ok(());
    }
    let weight = MatRef::from_row_major_slice(w, rows, columns);
    let tasks = y.par_chunks_mut(TOKENS_PER_TASK * rows).zip(x.par_chunks(TOKENS_PER_TASK * columns));
    tasks.for_each(|(y, x)| {
        let tokens = x.len() / columns;
        let x = MatRef::from_row_major_slice(x, tokens, columns);
        let y = MatMut::from_row_major_slice_mut(y, tokens, rows);
        matmul(y, Accum::Replace, x, weight.transpose(), 1.0, Par::Seq);
    });
    Ok(())
}

/// Tokens that one task of [`add_product`] takes.
const TOKENS_PER_PRODUCT: usize = 128;

/// `dx += dy W` for row-major slices; `columns` is the number of columns of `w`. An error if lengths do not fit.
pub fn add_product(dy: &[f32], w: &[f32], columns: usize, dx: &mut [f32]) -> Result<(), ModelError> {
    let tokens = dx.len().checked_div(columns).unwrap_or(0);
    let rows = w.len().checked_div(columns).unwrap_or(0);
    let fits = tokens.checked_mul(columns) == Some(dx.len())
        && rows.checked_mul(columns) == Some(w.len())
        && tokens.checked_mul(rows) == Some(dy.len());
    if !fits {
        return Err(ModelError::request(
            "matrix product",
            format!(
                "whole rows of {columns} results, and one factor for each of their tokens and weight row"
            ),
            format!("{} factors, {} weights, {} results", dy.len(), w.len(), dx.len()),
        ));
    }
    if tokens == 0 || rows == 0 {
        return Ok(());
    }
    let weight = MatRef::from_row_major_slice(w, rows, columns);
    let tasks = dx.par_chunks_mut(TOKENS_PER_PRODUCT * columns).zip(dy.par_chunks(TOKENS_PER_PRODUCT * rows));
    tasks.for_each(|(dx, dy)| {
        let tokens = dx.len() / columns;
        let dy = MatRef::from_row_major_slice(dy, tokens, rows);
        let dx = MatMut::from_row_major_slice_mut(dx, tokens, columns);
        matmul(dx, Accum::Add, dy, weight, 1.0, Par::Seq);
    });
    Ok(())
}

/// The product for few tokens, in parallel over outputs. With the tokens of one feature side by side the weights,
/// which are the most of what is read, stream once through the kernel as they lie in memory.
fn multiply_few(x: &[f32], w: &[f32], columns: usize, y: &mut [f32], tokens: usize, rows: usize) {
    let x = transposed(x, tokens, columns);
    let x = MatRef::from_column_major_slice(&x, tokens, columns);
    let mut outputs = vec![0.0; y.len()];
    outputs.par_chunks_mut(OUTPUTS_PER_TASK * tokens).zip(w.par_chunks(OUTPUTS_PER_TASK * columns)).for_each(
        |(y, w)| {
            let w = MatRef::from_row_major_slice(w, w.len() / columns, columns);
            let y = MatMut::from_column_major_slice_mut(y, tokens, w.nrows());
            matmul(y, Accum::Replace, x, w.transpose(), 1.0, Par::Seq);
        },
    );
    transpose(&outputs, rows, tokens, y);
}

/// Rows and columns of the squares in which matrices are transposed.
const SQUARE: usize = 16;

/// Writes a row-major matrix of `rows` x `columns` column by column.
fn transpose(x: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    out.par_chunks_mut(rows * 4 * SQUARE).enumerate().for_each(|(task, out)| {
        for (strip, out) in out.chunks_mut(rows * SQUARE).enumerate() {
            let first = (task * 4 + strip) * SQUARE;
            for (top, x) in x.chunks(columns * SQUARE).enumerate() {
                let start = top * SQUARE;
                let end = rows.min(start + SQUARE);
                for (column, out) in (first..).zip(out.chunks_exact_mut(rows)) {
                    let values = x.get(column..).unwrap_or_default().iter().step_by(columns);
                    out.get_mut(start..end)
                        .unwrap_or_default()
                        .iter_mut()
                        .zip(values)
                        .for_each(|(o, &v)| *o = v);
                }
            }
        }
    });
}

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    transpose(x, rows, columns, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_sums_of_products() {
        let value = |i: usize| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.5;
        for (tokens, columns, rows) in [(1, 3, 2), (5, 64, 200), (600, 32, 17), (513, 20, 400)] {
            let x: Vec<f32> = (0..tokens * columns).map(value).collect();
            let w: Vec<f32> = (0..rows * columns).map(|i| value(i + 5)).collect();
            let matrix = DenseMatrix::new(rows, columns, w.clone()).unwrap();
            let mut y = vec![0.0; tokens * rows];
            matrix.multiply(&x, &mut y).unwrap();
            for t in [0, tokens / 2, tokens - 1] {
                for r in [0, rows / 2, rows - 1] {
                    let sum: f64 = (0..columns)
                        .map(|c| f64::from(x[t * columns + c]) * f64::from(w[r * columns + c]))
                        .sum();
                    assert!((f64::from(y[t * rows + r]) - sum).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn the_way_back_agrees_with_sums_of_products() {
        let value = |i: usize| ((i * 41 + 7) % 31) as f32 / 31.0 - 0.5;
        for (tokens, columns, rows) in [(1, 3, 2), (130, 20, 64), (300, 17, 9)] {
            let dy: Vec<f32> = (0..tokens * rows).map(value).collect();
            let w: Vec<f32> = (0..rows * columns).map(|i| value(i + 3)).collect();
            let matrix = DenseMatrix::new(rows, columns, w.clone()).unwrap();
            let mut dx = vec![0.25; tokens * columns];
            matrix.multiply_back(&dy, &mut dx).unwrap();
            for t in [0, tokens / 2, tokens - 1] {
                for c in [0, columns - 1] {
                    let sum: f64 =
                        (0..rows).map(|r| f64::from(dy[t * rows + r]) * f64::from(w[r * columns + c])).sum();
                    assert!((f64::from(dx[t * columns + c]) - 0.25 - sum).abs() < 1e-5);
                }
            }
            assert!(matrix.multiply_back(&dy, &mut dx[1..]).is_err());
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let matrix = DenseMatrix::new(2, 3, vec![0.0; 6]).unwrap();
        assert!(matrix.multiply(&[0.0; 4], &mut [0.0; 2]).is_err());
        assert!(matrix.multiply(&[0.0; 6], &mut [0.0; 2]).is_err());
        assert!(DenseMatrix::new(2, 3, vec![0.0; 5]).is_none());
        assert!(DenseMatrix::new(usize::MAX, 2, vec![]).is_none());
    }
}
