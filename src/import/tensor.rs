//! Tensors under their ggml names, and where in the checkpoint their rows are.

use super::checkpoint::{Checkpoint, SourceTensor};
use super::error::ImportError;
use super::scale::{self, plain_type, Scale};
use crate::gguf::{encode, GgmlType, TensorSpec};
use std::collections::HashMap;
use std::ops::Range;

/// A tensor of the model as ggml runtimes want it. Data is read and converted on demand.
#[derive(Debug)]
pub struct ImportedTensor {
    /// Name, dimensions (the fastest varying first) and the type that stock converters would write: F32 for norms,
    /// biases and routers, else the checkpoint's own type (BF16 for 8-bit floats).
    pub spec: TensorSpec,
    pub(crate) data: TensorData,
}

impl ImportedTensor {
    /// Elements of a row.
    pub fn columns(&self) -> u64 {
        self.spec.dims.first().copied().unwrap_or(1)
    }

    /// Rows of all matrices together: the product of all dimensions but the first.
    pub fn rows(&self) -> u64 {
        self.spec.dims.iter().skip(1).fold(1, |rows: u64, &dim| rows.saturating_mul(dim))
    }

    /// Elements of the tensor.
    pub fn elements(&self) -> u64 {
        self.columns().saturating_mul(self.rows())
    }
}

/// Where the elements come from.
#[derive(Debug)]
pub(crate) enum TensorData {
    /// Computed from the configuration, or small and rearranged.
    Computed(Vec<f32>),
    /// Rows of checkpoint tensors.
    Stored {
        /// In order of the rows.
        slices: Vec<Slice>,
        /// Rows in a head whose rows are to be interleaved.
        head_rows: Option<u64>,
        /// Added to each element.
        add: f32,
    },
}

/// A run of rows of one checkpoint tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Position of the tensor in the checkpoint.
    pub tensor: usize,
    /// First of the rows in it.
    pub first: u64,
    /// Number of rows in this slice and those before it.
    pub end: u64,
}

/// Row of the checkpoint that row `row` of an interleaved projection is. Runtimes of the llama family rotate
/// neighbouring elements, checkpoints the two halves of a head.
pub(crate) fn interleaved(row: u64, head_rows: u64) -> u64 {
    let within = row % head_rows;
    row - within + within % 2 * (head_rows / 2) + within / 2
}

/// The tensors of a checkpoint that can be read, with their scales.
#[derive(Debug)]
pub(crate) struct Reader {
    pub checkpoint: Checkpoint,
    /// Scales of 8-bit weights, by the position of the weight.
    pub scales: HashMap<usize, Scale>,
}

impl Reader {
    /// Checkpoint tensor and row of it that row `row` is.
    fn locate(
        &self,
        slices: &[Slice],
        head_rows: Option<u64>,
        row: u64,
    ) -> Option<(&SourceTensor, usize, u64)> {
        let row = head_rows.map_or(row, |head_rows| interleaved(row, head_rows));
        let at = slices.partition_point(|slice| slice.end <= row);
        let slice = slices.get(at)?;
        let before = at.checked_sub(1).and_then(|at| slices.get(at)).map_or(0, |slice| slice.end);
        let source = row.checked_sub(before)?.checked_add(slice.first)?;
        Some((self.checkpoint.tensor(slice.tensor)?, slice.tensor, source))
    }

    fn outside(tensor: &ImportedTensor, found: impl ToString) -> ImportError {
        let expected = format!("{} rows of {}", tensor.rows(), tensor.columns());
        ImportError::tensor(std::path::Path::new(""), &tensor.spec.name, expected, found)
    }

    /// Width of a row, if `rows` lie inside the tensor.
    fn width(tensor: &ImportedTensor, rows: &Range<u64>) -> Result<usize, ImportError> {
        if rows.start > rows.end || rows.end > tensor.rows() {
            return Err(Self::outside(tensor, format!("rows {rows:?}")));
        }
        usize::try_from(tensor.columns()).map_err(|_| Self::outside(tensor, "a row beyond the memory"))
    }

    /// As [`Folder::release`](super::Folder::release).
    pub fn release(&self, tensor: &ImportedTensor) {
        if let TensorData::Stored { slices, .. } = &tensor.data {
            let sources = slices.iter().filter_map(|slice| self.checkpoint.tensor(slice.tensor));
            sources.for_each(|source| self.checkpoint.release(source));
        }
    }

    /// As [`Folder::read_f32`](super::Folder::read_f32).
    pub fn read_f32(
        &self,
        tensor: &ImportedTensor,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), ImportError> {
        let width = Self::width(tensor, &rows)?;
        let count = usize::try_from(rows.end - rows.start).ok().and_then(|rows| rows.checked_mul(width));
        if count != Some(out.len()) {
            return Err(Self::outside(tensor, format!("rows {rows:?} for {} floats", out.len())));
        }
        match &tensor.data {
            TensorData::Computed(values) => {
                let start = usize::try_from(rows.start).unwrap_or(usize::MAX).saturating_mul(width);
                let from = values.get(start..).and_then(|values| values.get(..out.len()));
                out.copy_from_slice(from.ok_or_else(|| Self::outside(tensor, "less data"))?);
            }
            TensorData::Stored { slices, head_rows, add } => {
                for (row, out) in rows.zip(out.chunks_exact_mut(width.max(1))) {
                    let (source, at, from) =
                        self.locate(slices, *head_rows, row).ok_or_else(|| Self::outside(tensor, row))?;
                    scale::read_row(&self.checkpoint, source, self.scales.get(&at), from, out)?;
                    if *add != 0.0 {
                        out.iter_mut().for_each(|value| *value += add);
                    }
                }
            }
        }
        Ok(())
    }

    /// As [`Folder::append_rows`](super::Folder::append_rows). `scratch` is working memory.
    pub fn append_rows(
        &self,
        tensor: &ImportedTensor,
        rows: Range<u64>,
        ty: GgmlType,
        scratch: &mut Vec<f32>,
        out: &mut Vec<u8>,
    ) -> Result<(), ImportError> {
        let width = Self::width(tensor, &rows)?;
        for row in rows {
            if let TensorData::Stored { slices, head_rows, add } = &tensor.data {
                let located = self.locate(slices, *head_rows, row);
                let (source, at, from) = located.ok_or_else(|| Self::outside(tensor, row))?;
                let same = plain_type(source.dtype()) == Some(ty);
                if same && *add == 0.0 && !self.scales.contains_key(&at) {
                    out.extend_from_slice(scale::row_bytes(&self.checkpoint, source, from, width)?);
                    continue;
                }
            }
            scratch.clear();
            scratch.resize(width, 0.0);
            self.read_f32(tensor, row..row + 1, scratch)?;
            encode(ty, scratch, out)
                .map_err(|error| Self::outside(tensor, format!("a type that fails: {error}")))?;
        }
        Ok(())
    }
}
