//! `wsic inspect`: what is in a file.

use super::{units, Context};
use crate::gguf::{self, GgmlType, GgufFile, GgufModel, TensorInfo, TensorSpec};
use crate::import::{self, Input};
use crate::payload::{Limits, Payload};
use crate::runtime::open_payload;
use anyhow::Result;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// List tensors, sizes, bits per weight and column classes of a GGUF file or a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  wsic inspect model.gguf\n  wsic inspect model.gguf --json | jq .totals")]
pub(crate) struct Arguments {
    /// GGUF file (the first one of a split model), or a Hugging Face folder.
    model: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    tensors: Vec<Tensor>,
    totals: Totals,
    provenance: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    /// Fastest varying dimension first, as in the file.
    dims: Vec<u64>,
    #[serde(rename = "type")]
    ty: String,
    bytes: u64,
    bits_per_weight: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<PayloadReport>,
}

#[derive(Debug, Serialize)]
struct PayloadReport {
    columns_per_chunk: usize,
    steps: usize,
    tiles: usize,
    trellis: &'static str,
    classes: Vec<ClassReport>,
    dead_columns: usize,
    extra_columns: usize,
    row_scales: bool,
    header_bytes: u64,
    escape_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ClassReport {
    columns: usize,
    /// Identifier of the standard table; absent for a table of its own.
    standard_table: Option<u8>,
    raw_bits: u32,
}

#[derive(Debug, Serialize)]
struct Totals {
    bytes: u64,
    weights: u64,
    bits_per_weight: f64,
    wsic_tensors: usize,
    wsic_bytes: u64,
    wsic_weights: u64,
    wsic_bits_per_weight: f64,
}

pub(crate) fn run(arguments: &Arguments, _context: &Context) -> Result<()> {
    // Adapters and importance matrices can be looked at too, so files are opened whatever they hold.
    let model = if arguments.model.is_dir() {
        Input::open(&arguments.model, &import::Limits::default(), &import::Options::default())?
    } else {
        Input::Gguf(GgufModel::open(&arguments.model, &gguf::Limits::default())?)
    };
    let mut tensors = Vec::new();
    match &model {
        Input::Gguf(model) => {
            for file in model.files() {
                for tensor in file.tensors() {
                    tensors.push(describe(file, tensor)?);
                }
            }
        }
        Input::Folder(folder) => {
            tensors.extend(
                folder
                    .tensors()
                    .iter()
                    .map(|tensor| describe_plain(&tensor.spec, model.stored_bytes(&tensor.spec.name))),
            );
        }
    }
    let sum = |wsic: bool, part: &dyn Fn(&Tensor) -> u64| -> u64 {
        tensors.iter().filter(|tensor| !wsic || tensor.payload.is_some()).map(part).sum()
    };
    let weights = |tensor: &Tensor| tensor.dims.iter().product();
    let (all, ours) = (sum(false, &weights), sum(true, &weights));
    let our_bytes = sum(true, &|tensor| tensor.bytes);
    let per_weight =
        |bytes: u64, weights: u64| if weights == 0 { 0.0 } else { bytes as f64 * 8.0 / weights as f64 };
    let totals = Totals {
        bytes: model.file_bytes(),
        weights: all,
        bits_per_weight: per_weight(model.file_bytes(), all),
        wsic_tensors: tensors.iter().filter(|tensor| tensor.payload.is_some()).count(),
        wsic_bytes: our_bytes,
        wsic_weights: ours,
        wsic_bits_per_weight: per_weight(our_bytes, ours),
    };
    let provenance = model
        .metadata()
        .iter()
        .filter(|(key, _)| key.starts_with("quantize.") || key.starts_with("wsic."))
        .filter(|(key, _)| {
            ![crate::convert::TENSOR_NAMES_KEY, crate::convert::TENSOR_BYTES_KEY].contains(key)
        })
        .map(|(key, value)| {
            let text = match value.as_f64() {
                Some(number) => serde_json::json!(number),
                None => serde_json::json!(match value {
                    gguf::Value::String(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    other => other.summary(),
                }),
            };
            (key.to_owned(), text)
        })
        .collect();
    let report = Report { file: arguments.model.display().to_string(), tensors, totals, provenance };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(())
}

fn describe(file: &GgufFile, tensor: &TensorInfo) -> Result<Tensor> {
    let payload = if tensor.ty == GgmlType::Wsic {
        Some(describe_payload(&open_payload(file, tensor, &Limits::default())?, tensor.byte_len))
    } else {
        None
    };
    Ok(Tensor { payload, ..describe_plain(&TensorSpec::from(tensor), tensor.byte_len) })
}

fn describe_plain(tensor: &TensorSpec, bytes: u64) -> Tensor {
    Tensor {
        name: tensor.name.clone(),
        dims: tensor.dims.clone(),
        ty: tensor.ty.to_string(),
        bytes,
        bits_per_weight: bytes as f64 * 8.0 / tensor.elements() as f64,
        payload: None,
    }
}

/// Figures of the payload; for several matrices geometry and trellis of the first one, sums of the rest.
fn describe_payload(payload: &Payload, bytes: u64) -> PayloadReport {
    let first = &payload.matrices()[0];
    let mut report = PayloadReport {
        columns_per_chunk: first.geometry().columns_per_chunk(),
        steps: first.geometry().steps(),
        tiles: 0,
        trellis: match first.trellis() {
            crate::payload::Trellis::Scalar => "none",
            crate::payload::Trellis::EightState => "8 states",
        },
        classes: Vec::new(),
        dead_columns: 0,
        extra_columns: 0,
        row_scales: first.row_scales().is_some(),
        header_bytes: bytes,
        escape_bytes: 0,
    };
    for matrix in payload.matrices() {
        let live = matrix.stream_inputs().iter().filter(|&&input| input != crate::payload::PADDING).count();
        report.dead_columns += matrix.columns() + matrix.extra_columns() - live;
        report.extra_columns += matrix.extra_columns();
        report.tiles += matrix.tile_count();
        for tile in 0..matrix.tile_count() {
            let tile = matrix.tile(tile);
            report.escape_bytes += tile.escapes.len() as u64;
            report.header_bytes -= (tile.stream.len() + tile.escapes.len()) as u64;
        }
        let width = matrix.geometry().columns_per_chunk();
        report.classes.extend(matrix.classes().iter().map(|class| ClassReport {
            columns: class.chunks().len() * width,
            standard_table: class.standard_table(),
            raw_bits: class.table().raw_bits(),
        }));
    }
    report
}

fn print(report: &Report, out: &mut impl Write) -> Result<()> {
    let width = report.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0).max(6);
    writeln!(
        out,
        "{:width$}  {:>16}  {:>8}  {:>10}  {:>11}  classes",
        "tensor", "rows x columns", "type", "size", "bits/weight"
    )?;
    for tensor in &report.tensors {
        let classes = tensor.payload.as_ref().map_or(String::new(), |payload| {
            let extra = match payload.extra_columns {
                0 => String::new(),
                n => format!(", {n} extra columns"),
            };
            let dead = match payload.dead_columns {
                0 => String::new(),
                n => format!(", {n} dead columns"),
            };
            format!("{}{extra}{dead}", payload.classes.len())
        });
        writeln!(
            out,
            "{:width$}  {:>16}  {:>8}  {:>10}  {:>11.4}  {classes}",
            tensor.name,
            units::dims(&tensor.dims),
            tensor.ty,
            units::bytes(tensor.bytes),
            tensor.bits_per_weight,
        )?;
    }
    let totals = &report.totals;
    writeln!(out)?;
    if totals.wsic_tensors > 0 {
        writeln!(
            out,
            "{} WSIC tensors: {} weights in {}, {:.4} bits/weight with all side information",
            totals.wsic_tensors,
            totals.wsic_weights,
            units::bytes(totals.wsic_bytes),
            totals.wsic_bits_per_weight
        )?;
    }
    writeln!(
        out,
        "whole file: {} weights in {}, {:.4} bits/weight",
        totals.weights,
        units::bytes(totals.bytes),
        totals.bits_per_weight
    )?;
    for (key, value) in &report.provenance {
        writeln!(out, "{key}: {value}")?;
    }
    Ok(())
}
