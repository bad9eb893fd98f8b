//! `wsic verify`: every payload decoded, every checksum compared.

use super::{output, progress, retag, units, Context};
use crate::gguf::{self, GgmlType, GgufModel};
use crate::payload::Limits;
use crate::runtime::{check_gaps, check_metadata, dequantize_rows, open_payload, TensorError};
use anyhow::{bail, Context as _, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::path::PathBuf;

/// Check a model: the container, and of every WSIC tensor the headers, checksums and each weight decoded. Other tensors
/// and the metadata have no checksums: damage of their content cannot be seen.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wsic verify model.gguf\n  wsic verify model.gguf --json\n\nExit code 0 means every tensor decodes; 1 names the tensors that do not."
)]
pub(crate) struct Arguments {
    /// GGUF file (the first one of a split model).
    model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    wsic_tensors: usize,
    wsic_bytes: u64,
    other_tensors: usize,
    /// What is wrong, one text for each damaged tensor.
    damage: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let model = GgufModel::open(&arguments.model, &gguf::Limits::default())?;
    retag::check(&model)?;
    check_metadata(&model).with_context(|| arguments.model.display().to_string())?;
    let bar = progress::bar(model.tensor_count() as u64, "verifying", context.quiet);
    let mut report = Report {
        model: arguments.model.display().to_string(),
        wsic_tensors: 0,
        wsic_bytes: 0,
        other_tensors: 0,
        damage: Vec::new(),
    };
    for file in model.files() {
        for tensor in file.tensors() {
            bar.set_message(tensor.name.clone());
            let checked = if tensor.ty == GgmlType::Wsic {
                report.wsic_tensors += 1;
                report.wsic_bytes += tensor.byte_len;
                verify_payload(file, tensor)
            } else {
                report.other_tensors += 1;
                file.tensor_bytes(tensor).map(|_| ()).map_err(TensorError::from).and_then(|()| {
                    if tensor.is_unknown() {
                        return Ok(());
                    }
                    let mut row = vec![0.0; tensor.columns() as usize];
                    dequantize_rows(file, tensor, 0..1, &mut row)
                })
            };
            if let Err(error) = checked {
                if !arguments.json {
                    bar.suspend(|| println!("FAILED {error}"));
                }
                report.damage.push(error.to_string());
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if !report.damage.is_empty() {
        if arguments.json {
            output::print(true, &report, String::new)?;
        }
        let tensors = units::counted(report.damage.len(), "damaged tensor");
        bail!("{}: {tensors}", report.model);
    }
    for file in model.files() {
        check_gaps(file).with_context(|| file.path().display().to_string())?;
    }
    output::print(arguments.json, &report, || {
        format!(
            "{}: {} ({}) decoded with correct checksums; {} without checksums present",
            report.model,
            units::counted(report.wsic_tensors, "WSIC tensor"),
            units::bytes(report.wsic_bytes),
            units::counted(report.other_tensors, "other tensor")
        )
    })
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
