//! Matrix products with a weight matrix.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::model::error::ModelError;

/// Tokens that one task multiplies by the whole matrix.
const TOKENS_PER_TASK: usize = 512;
/// Output features that one task computes when there are few tokens.
const OUTPUTS_PER_TASK: usize = 192;

/// A weight matrix as the forward pass sees it: anything that maps input features to output features.
pub trait MatrixProduct: Send + Sync {
    /// Output features.
    fn rows(&self) -> usize;

    /// Input features.
    fn columns(&self) -> usize;

    /// `y = x Wᵀ` for every token: `x` holds tokens × columns values, `y` tokens × rows, both row-major.
    /// An error if the lengths do not fit.
    fn multiply(&self, x: &[f32], y: &mut [f32]) -> Result<(), ModelError>;
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
    let weight = MatRef::from_row_major_slice(w, rows, columns);
    if tokens < TOKENS_PER_TASK {
        let x = MatRef::from_row_major_slice(x, tokens, columns);
        let y = MatMut::from_row_major_slice_mut(y, tokens, rows);
        by_outputs(x, weight, y);
    } else {
        y.par_chunks_mut(TOKENS_PER_TASK * rows).zip(x.par_chunks(TOKENS_PER_TASK * columns)).for_each(
            |(y, x)| {
                let tokens = x.len() / columns;
                let x = MatRef::from_row_major_slice(x, tokens, columns);
                let y = MatMut::from_row_major_slice_mut(y, tokens, rows);
                matmul(y, Accum::Replace, x, weight.transpose(), 1.0, Par::Seq);
            },
        );
    }
    Ok(())
}

/// Halves the outputs at multiples of the task size until a task is left.
fn by_outputs(x: MatRef<'_, f32>, weight: MatRef<'_, f32>, y: MatMut<'_, f32>) {
    let tasks = weight.nrows().div_ceil(OUTPUTS_PER_TASK);
    if tasks <= 1 {
        matmul(y, Accum::Replace, x, weight.transpose(), 1.0, Par::Seq);
        return;
    }
    let middle = tasks / 2 * OUTPUTS_PER_TASK;
    let (upper, lower) = weight.split_at_row(middle);
    let (left, right) = y.split_at_col_mut(middle);
    rayon::join(|| by_outputs(x, upper, left), || by_outputs(x, lower, right));
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
    fn wrong_lengths_are_errors() {
        let matrix = DenseMatrix::new(2, 3, vec![0.0; 6]).unwrap();
        assert!(matrix.multiply(&[0.0; 4], &mut [0.0; 2]).is_err());
        assert!(matrix.multiply(&[0.0; 6], &mut [0.0; 2]).is_err());
        assert!(DenseMatrix::new(2, 3, vec![0.0; 5]).is_none());
        assert!(DenseMatrix::new(usize::MAX, 2, vec![]).is_none());
    }
}
