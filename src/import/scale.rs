//! 8-bit floating point weights and their scales.

use std::path::Path;

use safetensors::tensor::Dtype;

use super::checkpoint::{Checkpoint, SourceTensor};
use super::error::ImportError;
use crate::gguf::{dequantize, f16_to_f32, GgmlType};

/// Scales of an 8-bit weight: a weight is its 8-bit float times the scale of its block.
#[derive(Debug)]
pub(crate) struct Scale {
    values: Vec<f32>,
    /// Rows of one matrix (a stack of experts has several).
    matrix_rows: u64,
    /// Rows and columns of scales in a matrix.
    grid: (u64, u64),
    /// Rows and columns that share a scale.
    block: (u64, u64),
}

impl Scale {
    /// The scales of `weight` in tensor `scale`. One for the whole tensor, one for each row, or one for each block:
    /// `block` is the configured (rows, columns) of a block, 128 x 128 if the configuration is silent.
    pub fn read(
        checkpoint: &Checkpoint,
        weight: &SourceTensor,
        scale: &SourceTensor,
        block: Option<(u64, u64)>,
    ) -> Result<Self, ImportError> {
        let path = checkpoint.path_of(scale);
        let ty = plain_type(scale.dtype()).ok_or_else(|| {
            ImportError::tensor(
                path,
                scale.name(),
                "scales of F32, F16 or BF16",
                format!("{:?}", scale.dtype()),
            )
        })?;
        let bytes = checkpoint.bytes_of(scale);
        let element = scale.dtype().bitsize() / 8;
        let mut values = vec![0.0; bytes.len() / element.max(1)];
        convert(path, scale.name(), ty, bytes, &mut values)?;
        if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
            return Err(ImportError::tensor(path, scale.name(), "finite scales", bad));
        }
        let (matrix_rows, columns) = match weight.shape() {
            [.., rows, columns] => (*rows, *columns),
            [columns] => (1, *columns),
            [] => (1, 1),
        };
        let wrong = |expected: String| {
            ImportError::tensor(path, scale.name(), expected, format!("shape {:?}", scale.shape()))
        };
        let (block_rows, block_columns) = block.unwrap_or((128, 128));
        let block = (block_rows.max(1), block_columns.max(1));
        let blocks = (matrix_rows.div_ceil(block.0), columns.div_ceil(block.1));
        let leading = weight.shape().len().saturating_sub(2);
        let stacked = scale.shape().split_at_checked(leading);
        let tail = match stacked {
            Some((stack, tail)) if weight.shape().starts_with(stack) => tail,
            _ => &[][..],
        };
        let (grid, block) = if values.len() == 1 {
            return Ok(Self { values, matrix_rows: u64::MAX, grid: (1, 1), block: (u64::MAX, u64::MAX) });
        } else if tail == [matrix_rows, 1] || tail == [matrix_rows] {
            ((matrix_rows, 1), (1, u64::MAX))
        } else if tail == [blocks.0, blocks.1] {
            (blocks, block)
        } else if tail == [1, 1] || tail == [1] || (tail.is_empty() && leading > 0) {
            ((1, 1), (u64::MAX, u64::MAX))
        } else {
            return Err(wrong(format!(
                "one scale, one for each of {matrix_rows} rows, or {} x {} of blocks of {} x {}",
                blocks.0, blocks.1, block.0, block.1
            )));
        };
        let matrices: u64 = weight.shape().iter().take(leading).product();
        if (values.len() as u64) != matrices.saturating_mul(grid.0).saturating_mul(grid.1) {
            return Err(wrong(format!("{matrices} x {} x {} scales", grid.0, grid.1)));
        }
        Ok(Self { values, matrix_rows, grid, block })
    }

    /// Multiplies row `row` (of all matrices together) by its scales.
    fn apply(&self, row: u64, out: &mut [f32]) {
        let (matrix, row) = (row / self.matrix_rows.max(1), row % self.matrix_rows.max(1));
        let first = (matrix * self.grid.0 + row / self.block.0) * self.grid.1;
        let width = usize::try_from(self.block.1).unwrap_or(usize::MAX).min(out.len().max(1));
        for (column, part) in out.chunks_mut(width).enumerate() {
            let scale = self.values.get(first as usize + column).copied().unwrap_or(f32::NAN);
            part.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// The ggml type with the same elements; `None` for other types than F32, F16, BF16, F64.
pub(crate) fn plain_type(dtype: Dtype) -> Option<GgmlType> {
    match dtype {
        Dtype::F32 => Some(GgmlType::F32),
        Dtype::F16 => Some(GgmlType::F16),
        Dtype::BF16 => Some(GgmlType::BF16),
        Dtype::F64 => Some(GgmlType::F64),
        _ => None,
    }
}

/// Whether elements of this type can become floats.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    plain_type(dtype).is_some() || matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

fn convert(path: &Path, name: &str, ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), ImportError> {
    dequantize(ty, bytes, out).map_err(|error| ImportError::tensor(path, name, "whole elements", error))
}

/// Writes row `row` of `tensor` as floats; `out` holds one row.
pub(crate) fn read_row(
    checkpoint: &Checkpoint,
    tensor: &SourceTensor,
    scale: Option<&Scale>,
    row: u64,
    out: &mut [f32],
) -> Result<(), ImportError> {
    let bytes = row_bytes(checkpoint, tensor, row, out.len())?;
    match (plain_type(tensor.dtype()), tensor.dtype()) {
        (Some(ty), _) => convert(checkpoint.path_of(tensor), tensor.name(), ty, bytes, out)?,
        (None, Dtype::F8_E5M2) => {
            for (value, &byte) in out.iter_mut().zip(bytes) {
                // E5M2 is the upper half of a half float.
                *value = f16_to_f32(u16::from(byte) << 8);
            }
        }
        (None, Dtype::F8_E4M3) => {
            out.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = e4m3_to_f32(byte));
        }
        (None, other) => {
            let path = checkpoint.path_of(tensor);
            return Err(ImportError::tensor(path, tensor.name(), "floats", format!("{other:?}")));
        }
    }
    if let Some(scale) = scale {
        scale.apply(row, out);
    }
    Ok(())
}

/// The bytes of row `row` of `columns` elements.
pub(crate) fn row_bytes<'a>(
    checkpoint: &'a Checkpoint,
    tensor: &SourceTensor,
    row: u64,
    columns: usize,
) -> Result<&'a [u8], ImportError> {
    let range = || {
        let length = columns.checked_mul(tensor.dtype().bitsize() / 8)?;
        let start = usize::try_from(row).ok()?.checked_mul(length)?;
        checkpoint.bytes_of(tensor).get(start..start.checked_add(length)?)
    };
    range().ok_or_else(|| {
        let expected = format!("rows inside shape {:?}", tensor.shape());
        let found = format!("row {row} of {columns} columns");
        ImportError::tensor(checkpoint.path_of(tensor), tensor.name(), expected, found)
    })
}

/// An 8-bit float of 4 exponent bits (bias 7) and 3 mantissa bits, without infinities: all ones is not a number.
fn e4m3_to_f32(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_values() {
        for (byte, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xc4, -3.0),
        ] {
            assert_eq!(e4m3_to_f32(byte), value, "{byte:#04x}");
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
        assert!(e4m3_to_f32(0x80).is_sign_negative());
    }
}
