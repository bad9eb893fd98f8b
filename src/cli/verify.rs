//! `wsic verify`: every payload decoded, every checksum compared.

use super::{progress, units, Context};
use crate::gguf::{self, GgmlType, GgufModel};
use crate::payload::Limits;
use crate::runtime::{dequantize_rows, open_payload, TensorError};
use anyhow::{bail, Context as _, Result};
use rayon::prelude::*;
use std::path::PathBuf;

/// Check a model completely: container, payload headers, checksums, and every weight decoded.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wsic verify model.gguf\n\nExit code 0 means every tensor decodes; 1 names the tensors that do not."
)]
pub(crate) struct Arguments {
    /// GGUF file (the first one of a split model).
    model: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let model = GgufModel::open(&arguments.model, &gguf::Limits::default())?;
    let bar = progress::bar(model.tensor_count() as u64, "verifying", context.quiet);
    let (mut failures, mut payloads, mut payload_bytes, mut others) = (0, 0, 0u64, 0);
    for file in model.files() {
        for tensor in file.tensors() {
            bar.set_message(tensor.name.clone());
            let checked = if tensor.ty == GgmlType::Wsic {
                payloads += 1;
                payload_bytes += tensor.byte_len;
                verify_payload(file, tensor)
            } else {
                others += 1;
                file.tensor_bytes(tensor).map(|_| ()).map_err(TensorError::from).and_then(|()| {
                    if tensor.is_unknown() {
                        return Ok(());
                    }
                    let mut row = vec![0.0; tensor.columns() as usize];
                    dequantize_rows(file, tensor, 0..1, &mut row)
                })
            };
            if let Err(error) = checked {
                failures += 1;
                bar.suspend(|| println!("FAILED {error}"));
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if failures > 0 {
        bail!("{}: {failures} tensors are damaged", arguments.model.display());
    }
    check_lengths(&model).with_context(|| arguments.model.display().to_string())?;
    println!(
        "{}: {payloads} WSIC tensors ({}) decode with correct checksums, {others} other tensors are present",
        arguments.model.display(),
        units::bytes(payload_bytes)
    );
    Ok(())
}

fn verify_payload(file: &gguf::GgufFile, tensor: &gguf::TensorInfo) -> Result<(), TensorError> {
    let payload = open_payload(file, tensor, &Limits::default())?;
    let tiles: Vec<_> = payload
        .matrices()
        .iter()
        .flat_map(|matrix| (0..matrix.tile_count()).map(move |tile| (matrix, tile)))
        .collect();
    let checked = tiles.into_par_iter().try_for_each_init(Vec::new, |integers, (matrix, tile)| {
        matrix.verify_tile(tile)?;
        integers.clear();
        let rows = matrix.geometry().rows_in_tile(matrix.rows(), tile);
        integers.resize(rows * matrix.stream_length(), 0);
        matrix.decode_tile(tile, integers)
    });
    checked.map_err(|source| TensorError::Payload {
        path: file.path().to_owned(),
        tensor: tensor.name.clone(),
        source,
    })
}

/// The metadata repeats names and lengths of the payloads, so that tools which do not know the type can tell.
fn check_lengths(model: &GgufModel) -> Result<()> {
    let metadata = model.metadata();
    if !metadata.contains(crate::convert::TENSOR_NAMES_KEY) {
        return Ok(());
    }
    let names: Vec<_> = metadata.strings(crate::convert::TENSOR_NAMES_KEY)?.map(<[u8]>::to_vec).collect();
    let lengths: Vec<u64> = metadata.integer_array(crate::convert::TENSOR_BYTES_KEY)?;
    let actual: Vec<_> = model.tensors().filter(|tensor| tensor.ty == GgmlType::Wsic).collect();
    let agree = names.len() == actual.len()
        && lengths.len() == actual.len()
        && actual
            .iter()
            .zip(names.iter().zip(&lengths))
            .all(|(tensor, (name, &length))| tensor.name.as_bytes() == name && tensor.byte_len == length);
    if !agree {
        bail!(
            "the metadata keys {} and {} do not agree with the tensors: another tool changed the file; convert again",
            crate::convert::TENSOR_NAMES_KEY,
            crate::convert::TENSOR_BYTES_KEY
        );
    }
    Ok(())
}
