//! `wsic verify`: every payload decoded, every checksum compared.

use super::{progress, units, Context};
use crate::gguf::{self, GgmlType, GgufModel};
use crate::payload::Limits;
use crate::runtime::{check_gaps, check_metadata, dequantize_rows, open_payload, TensorError};
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
    check_metadata(&model).with_context(|| arguments.model.display().to_string())?;
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
    for file in model.files() {
        check_gaps(file).with_context(|| file.path().display().to_string())?;
    }
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
