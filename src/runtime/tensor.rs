//! Tensors of a GGUF file as payloads and as floats.

use crate::gguf::{GgmlType, GgufError, GgufFile, TensorInfo};
use crate::payload::{Limits, Payload, PayloadError};
use rayon::prelude::*;
use std::ops::Range;
use std::path::PathBuf;

/// Why a tensor cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The container refuses.
    #[error(transparent)]
    Container(#[from] GgufError),
    /// The payload is damaged or asks for something this version cannot do.
    #[error("{}: tensor '{tensor}': {source}; convert the model again or fetch the file again", path.display())]
    Payload {
        /// File that holds the tensor.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong.
        source: PayloadError,
    },
    /// The payload holds another shape than the container announces.
    #[error(
        "{}: tensor '{tensor}': the payload holds {found}, the file announces {expected}; convert the model again",
        path.display()
    )]
    Shape {
        /// File that holds the tensor.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Columns x rows x matrices that the container announces.
        expected: String,
        /// Columns x rows x matrices of the payload.
        found: String,
    },
}

/// Opens the payload of a tensor of type WSIC and compares its shape with the container's.
///
/// # Errors
/// [`TensorError`], naming file and tensor.
pub fn open_payload<'a>(
    file: &'a GgufFile,
    tensor: &TensorInfo,
    limits: &Limits,
) -> Result<Payload<'a>, TensorError> {
    let bytes = file.tensor_bytes(tensor)?;
    let payload = Payload::open(bytes, limits).map_err(|source| TensorError::Payload {
        path: file.path().to_owned(),
        tensor: tensor.name.clone(),
        source,
    })?;
    let shape = [payload.columns(), payload.rows(), payload.matrices().len()];
    let mut announced = [1u64; 4];
    for (target, &dim) in announced.iter_mut().zip(&tensor.dims) {
        *target = dim;
    }
    if announced[..3] != shape.map(|n| n as u64) || announced[3] != 1 {
        return Err(TensorError::Shape {
            path: file.path().to_owned(),
            tensor: tensor.name.clone(),
            expected: format!("{announced:?}"),
            found: format!("{shape:?}"),
        });
    }
    Ok(payload)
}

/// Floats of rows `rows` (of all matrices of the tensor together) of a tensor of any type, row-major.
///
/// # Errors
/// [`TensorError`], naming file and tensor.
pub fn dequantize_rows(
    file: &GgufFile,
    tensor: &TensorInfo,
    rows: Range<u64>,
    out: &mut [f32],
) -> Result<(), TensorError> {
    if tensor.ty != GgmlType::Wsic {
        return Ok(file.dequantize_rows(tensor, rows, out)?);
    }
    let payload = open_payload(file, tensor, &Limits::default())?;
    let fail =
        |source| TensorError::Payload { path: file.path().to_owned(), tensor: tensor.name.clone(), source };
    let (columns, per_matrix) = (payload.columns(), payload.rows());
    let (first, last) = (rows.start as usize, rows.end as usize);
    let inside = first <= last && last <= per_matrix * payload.matrices().len();
    assert!(inside && out.len() == (last - first) * columns, "rows of the tensor and a buffer of their size");
    // Cut the output where tiles end; each piece is decoded on its own.
    let mut pieces = Vec::new();
    let (mut rest, mut row) = (out, first);
    while row < last {
        let (matrix, inside) = (row / per_matrix, row % per_matrix);
        let height = payload.matrices()[matrix].geometry().rows_per_tile();
        let tile = inside / height;
        let end = ((tile + 1) * height).min(per_matrix).min(inside + last - row);
        let (piece, others) = rest.split_at_mut((end - inside) * columns);
        pieces.push((matrix, tile, inside - tile * height, piece));
        (rest, row) = (others, row + end - inside);
    }
    pieces.into_par_iter().try_for_each(|(matrix, tile, skip, piece)| {
        let matrix = &payload.matrices()[matrix];
        let height = matrix.geometry().rows_in_tile(per_matrix, tile);
        let mut integers = Vec::new();
        if skip == 0 && piece.len() == height * columns {
            return matrix.dequantize_tile(tile, &mut integers, piece).map_err(fail);
        }
        let mut whole = vec![0.0; height * columns];
        matrix.dequantize_tile(tile, &mut integers, &mut whole).map_err(fail)?;
        piece.copy_from_slice(&whole[skip * columns..][..piece.len()]);
        Ok(())
    })
}
