//! Matrices whose rows are turned into floats each time they are needed: nothing but the mapped file is kept.

use super::shares::{multiply, Share};
use super::tensor::{dequantize_rows, TensorError};
use crate::gguf::{GgufFile, GgufModel, TensorInfo};
use crate::model::{DenseMatrix, MatrixProduct, ModelError, TokenTable};
use std::ops::Range;
use std::sync::Arc;

/// Rows that are floats at a time.
const BLOCK_ROWS: usize = 64;

/// An error of a tensor as the model layer carries it.
pub(super) fn source_error(
    tensor: &str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ModelError {
    ModelError::Source { tensor: tensor.to_owned(), source: error.into() }
}

/// A tensor of an open container, by name.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) container: Arc<GgufModel>,
    pub(super) tensor: String,
}

impl Located {
    /// File and tensor.
    pub(super) fn find(&self) -> Result<(&GgufFile, &TensorInfo), ModelError> {
        let missing = || ModelError::MissingTensor { tensor: self.tensor.clone() };
        self.container.get_tensor(&self.tensor).ok_or_else(missing)
    }

    /// Floats of some rows.
    pub(super) fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let (file, info) = self.find()?;
        dequantize_rows(file, info, rows.start as u64..rows.end as u64, out)
            .map_err(|error: TensorError| source_error(&self.tensor, error))
    }
}

/// Multiplies with rows that `read` turns into floats, one share of rows at a time.
pub(super) fn multiply_floats(
    shares: &[Share],
    columns: usize,
    x: &[f32],
    y: &mut [f32],
    read: impl Fn(&Share, &mut [f32]) -> Result<(), ModelError> + Sync,
) -> Result<(), ModelError> {
    let tokens = x.len().checked_div(columns).unwrap_or(0);
    multiply(shares, tokens, y, |share, y| {
        let mut values = vec![0.0; share.rows.len() * columns];
        read(share, &mut values)?;
        match DenseMatrix::new(share.rows.len(), columns, values) {
            Some(matrix) => matrix.multiply(x, y),
            None => Err(ModelError::request("matrix product", "whole rows", share.rows.len())),
        }
    })
}

/// Requires whole rows of inputs and an output for each token and weight row; the number of tokens.
pub(super) fn tokens_of(rows: usize, columns: usize, x: &[f32], y: &[f32]) -> Result<usize, ModelError> {
    let tokens = x.len().checked_div(columns).unwrap_or(0);
    if tokens.checked_mul(columns) == Some(x.len()) && tokens.checked_mul(rows) == Some(y.len()) {
        return Ok(tokens);
    }
    Err(ModelError::request(
        "matrix product",
        format!("whole rows of {columns} inputs, and {rows} outputs for each"),
        format!("{} inputs, {} outputs", x.len(), y.len()),
    ))
}

/// An ordinary tensor of a mapped file as a matrix or a table of tokens.
#[derive(Debug)]
pub(super) struct OnDemandMatrix {
    tensor: Located,
    rows: usize,
    columns: usize,
}

impl OnDemandMatrix {
    pub(super) fn new(tensor: Located) -> Result<Self, ModelError> {
        let (_, info) = tensor.find()?;
        let too_large = || ModelError::request("tensor", "sizes of this machine", format!("{:?}", info.dims));
        let rows = usize::try_from(info.rows()).map_err(|_| too_large())?;
        let columns = usize::try_from(info.columns()).map_err(|_| too_large())?;
        Ok(Self { tensor, rows, columns })
    }
}

impl MatrixProduct for OnDemandMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn multiply(&self, x: &[f32], y: &mut [f32]) -> Result<(), ModelError> {
        tokens_of(self.rows, self.columns, x, y)?;
        // One block for each share: results depend on the blocks.
        let shares: Vec<Share> = (0..self.rows.div_ceil(BLOCK_ROWS))
            .map(|block| Share {
                units: block..block + 1,
                rows: block * BLOCK_ROWS..((block + 1) * BLOCK_ROWS).min(self.rows),
            })
            .collect();
        multiply_floats(&shares, self.columns, x, y, |share, out| self.tensor.read(share.rows.clone(), out))
    }
}

impl TokenTable for OnDemandMatrix {
    fn tokens(&self) -> usize {
        self.rows
    }

    fn width(&self) -> usize {
        self.columns
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        self.tensor.read(rows, out)
    }

    fn product(&self) -> Option<&dyn MatrixProduct> {
        Some(self)
    }
}
