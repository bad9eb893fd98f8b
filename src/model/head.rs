//! Embedding and output head: tables of one row per token, read a block of rows at a time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::error::ModelError;
use super::ops::{multiply_transposed, MatrixProduct};
use super::source::TensorSource;

/// Bytes of f32 weights that a block of the head's rows may take.
const BLOCK_BYTES: usize = 16 << 20;
/// Bytes of f32 logits that exist at a time.
const LOGIT_BYTES: usize = 32 << 20;

/// A table of one row of floats for each token: the embedding or the output head.
pub trait TokenTable: Send + Sync {
    /// Number of tokens.
    fn tokens(&self) -> usize;

    /// Values of a row.
    fn width(&self) -> usize;

    /// Writes rows `rows`, row after row; `out` holds `rows.len() * width` floats.
    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError>;

    /// Writes the rows of `tokens`, all of them below [`tokens`](Self::tokens), in their order.
    fn look_up(&self, tokens: &[u32], out: &mut [f32]) -> Result<(), ModelError> {
        let rows = out.par_chunks_mut(self.width().max(1)).zip(tokens);
        rows.try_for_each(|(row, &token)| self.read(token as usize..token as usize + 1, row))
    }

    /// The table as a matrix that multiplies without being turned into floats, if it can.
    fn product(&self) -> Option<&dyn MatrixProduct> {
        None
    }
}

/// A table that is a tensor of the model's file.
pub(crate) struct TensorTable {
    pub source: Arc<dyn TensorSource>,
    pub tensor: &'static str,
    pub tokens: usize,
    pub width: usize,
}

impl TokenTable for TensorTable {
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn width(&self) -> usize {
        self.width
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        self.source.read_rows(self.tensor, rows, out)
    }
}

/// Some rows of a table, in memory as floats: those of the tokens that will be looked up.
#[derive(Clone, Debug)]
pub struct RowTable {
    tokens: usize,
    width: usize,
    rows: HashMap<usize, Vec<f32>>,
}

impl RowTable {
    /// A table of `tokens` rows of `width` values that holds none of them yet.
    pub fn new(tokens: usize, width: usize) -> Self {
        Self { tokens, width, rows: HashMap::new() }
    }

    /// Adds a row.
    pub fn insert(&mut self, token: usize, row: Vec<f32>) {
        self.rows.insert(token, row);
    }
}

impl TokenTable for RowTable {
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn width(&self) -> usize {
        self.width
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        for (token, out) in rows.zip(out.chunks_exact_mut(self.width.max(1))) {
            match self.rows.get(&token).filter(|row| row.len() == out.len()) {
                Some(row) => out.copy_from_slice(row),
                None => return Err(ModelError::request("embedding", "a row that was kept", token)),
            }
        }
        Ok(())
    }
}

/// Looks tokens up in the embedding: one row of the hidden state each.
pub(crate) fn embed(table: &dyn TokenTable, tokens: &[u32], out: &mut [f32]) -> Result<(), ModelError> {
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= table.tokens()) {
        return Err(ModelError::Token { token, vocabulary: table.tokens() });
    }
    table.look_up(tokens, out)
}

/// Rows of the table that one block of [`for_each_block`] holds.
fn block_rows(table: &dyn TokenTable) -> usize {
    (BLOCK_BYTES / size_of::<f32>() / table.width().max(1)).clamp(64, 1 << 16)
}

/// Reads rows from `first` on, as many as `out` holds, in parallel.
fn read_parallel(table: &dyn TokenTable, first: usize, out: &mut [f32]) -> Result<(), ModelError> {
    const ROWS_PER_TASK: usize = 64;
    let width = table.width().max(1);
    out.par_chunks_mut(ROWS_PER_TASK * width).enumerate().try_for_each(|(task, out)| {
        let start = first + task * ROWS_PER_TASK;
        table.read(start..start + out.len() / width, out)
    })
}

fn blocks(
    table: &dyn TokenTable,
    rows: usize,
    mut visit: impl FnMut(usize, &[f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let width = table.width().max(1);
    let mut block = vec![0.0; rows.min(table.tokens()) * width];
    for first in (0..table.tokens()).step_by(rows.max(1)) {
        let count = rows.min(table.tokens() - first);
        block.truncate(count * width);
        read_parallel(table, first, &mut block)?;
        visit(first, &block)?;
    }
    Ok(())
}

/// Gives every block of the table's rows, as floats, to `visit` with the number of its first row.
pub(crate) fn for_each_block(
    table: &dyn TokenTable,
    visit: impl FnMut(usize, &[f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    blocks(table, block_rows(table), visit)
}

/// Gives blocks of logits to `visit`: number of the first input row, of the first token, and the logits of these
/// rows × tokens, row-major with the given number of tokens. `x` holds rows of the head's input.
///
/// The blocks of one token range come one after another; no more than some 32 MiB of logits exist at a time.
pub(crate) fn for_each_logits(
    table: &dyn TokenTable,
    x: &[f32],
    mut visit: impl FnMut(usize, usize, usize, &[f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let width = table.width().max(1);
    let rows_at_once = (LOGIT_BYTES / size_of::<f32>() / block_rows(table)).max(64);
    let mut logits = Vec::new();
    for_each_block(table, |first_token, weights| {
        let tokens = weights.len() / width;
        for (chunk, x) in x.chunks(rows_at_once * width).enumerate() {
            logits.resize(x.len() / width * tokens, 0.0);
            multiply_transposed(x, weights, width, &mut logits)?;
            visit(chunk * rows_at_once, first_token, tokens, &logits)?;
        }
        Ok(())
    })
}

/// As [`for_each_logits`] for two heads of as many tokens: the logits of the same rows and tokens of both.
pub(crate) fn for_each_logit_pair(
    tables: [&dyn TokenTable; 2],
    inputs: [&[f32]; 2],
    mut visit: impl FnMut(usize, usize, usize, &[f32], &[f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let [p_table, q_table] = tables;
    let [p_width, q_width] = tables.map(|table| table.width().max(1));
    let rows = block_rows(p_table).min(block_rows(q_table));
    let rows_at_once = (LOGIT_BYTES / 2 / size_of::<f32>() / rows).max(64);
    let mut q_weights = Vec::new();
    let (mut p_logits, mut q_logits) = (Vec::new(), Vec::new());
    blocks(p_table, rows, |first_token, p_weights| {
        let tokens = p_weights.len() / p_width;
        q_weights.resize(tokens * q_width, 0.0);
        read_parallel(q_table, first_token, &mut q_weights)?;
        let [p_inputs, q_inputs] = inputs;
        let pairs = p_inputs.chunks(rows_at_once * p_width).zip(q_inputs.chunks(rows_at_once * q_width));
        for (chunk, (p, q)) in pairs.enumerate() {
            let count = p.len() / p_width;
            p_logits.resize(count * tokens, 0.0);
            q_logits.resize(count * tokens, 0.0);
            multiply_transposed(p, p_weights, p_width, &mut p_logits)?;
            multiply_transposed(q, &q_weights, q_width, &mut q_logits)?;
            visit(chunk * rows_at_once, first_token, tokens, &p_logits, &q_logits)?;
        }
        Ok(())
    })
}
