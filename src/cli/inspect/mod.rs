//! `wsic inspect`: what is in a file.

mod charts;
mod log;
mod measure;
mod page;
mod table;

use super::{outputs, Context};
use crate::gguf::{self, GgmlType, GgufFile, GgufModel, TensorInfo, TensorSpec};
use crate::import::{self, Input};
use crate::payload::Limits;
use crate::runtime::{open_payload, TensorError};
use anyhow::Result;
use measure::PayloadReport;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// List tensors, sizes, bits per weight and column classes of a GGUF file or a folder; or draw them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic inspect model.gguf
  wsic inspect model.gguf --bars | less
  wsic inspect model.gguf --json | jq .totals
  wsic inspect small.gguf --report report.html --log conversion.json

The report is one page that needs nothing else: bits per tensor and layer, rate over columns, steps, escapes, sizes, and how \
the file was made. Water levels are in the log that `wsic convert --log` writes, not in the file.")]
pub(crate) struct Arguments {
    /// GGUF file (the first one of a split model), or a Hugging Face folder.
    model: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Draw bars beside the numbers even if standard output is no terminal.
    #[arg(long, conflicts_with_all = ["json", "report"])]
    bars: bool,
    /// Write a page with drawings instead of a table.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// With --report: log of the conversion (`wsic convert --log`), for the steps that the water level gave.
    #[arg(long, value_name = "FILE", requires = "report")]
    log: Option<PathBuf>,
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

impl Tensor {
    fn weights(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Number of the layer and name within it, for tensors of layers.
    fn place(&self) -> Option<(usize, &str)> {
        let (number, rest) = self.name.strip_prefix("blk.")?.split_once('.')?;
        Some((number.parse().ok()?, rest.strip_suffix(".weight").unwrap_or(rest)))
    }
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

fn per_weight(bytes: u64, weights: u64) -> f64 {
    if weights == 0 {
        0.0
    } else {
        bytes as f64 * 8.0 / weights as f64
    }
}

impl Totals {
    fn new(file_bytes: u64, tensors: &[Tensor]) -> Self {
        let ours = || tensors.iter().filter(|tensor| tensor.payload.is_some());
        let weights = tensors.iter().map(Tensor::weights).sum();
        let wsic_bytes = ours().map(|tensor| tensor.bytes).sum();
        let wsic_weights = ours().map(Tensor::weights).sum();
        Self {
            bytes: file_bytes,
            weights,
            bits_per_weight: per_weight(file_bytes, weights),
            wsic_tensors: ours().count(),
            wsic_bytes,
            wsic_weights,
            wsic_bits_per_weight: per_weight(wsic_bytes, wsic_weights),
        }
    }
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    if let Some(path) = &arguments.report {
        outputs::check(
            path,
            [Some(arguments.model.as_path()), arguments.log.as_deref()].into_iter().flatten(),
        )?;
    }
    let report = examine(arguments)?;
    let mut out = std::io::stdout().lock();
    if let Some(path) = &arguments.report {
        let steps = arguments.log.as_deref().map(log::steps).transpose()?;
        outputs::write(path, page::page(&report, steps.as_ref()))?;
        if !context.quiet {
            eprintln!("{}: written", path.display());
        }
    }
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else if arguments.report.is_none() {
        let bars = arguments.bars || std::io::stdout().is_terminal();
        table::print(&report, bars, &mut out)?;
    }
    Ok(())
}

fn examine(arguments: &Arguments) -> Result<Report> {
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
    let totals = Totals::new(model.file_bytes(), &tensors);
    let provenance = model
        .metadata()
        .iter()
        .filter(|(key, _)| key.starts_with("quantize.") || key.starts_with("wsic."))
        .filter(|(key, _)| {
            ![crate::convert::TENSOR_NAMES_KEY, crate::convert::TENSOR_BYTES_KEY].contains(key)
        })
        .map(|(key, value)| {
            let text =
                match (value.as_integer().and_then(|number| i64::try_from(number).ok()), value.as_f64()) {
                    (Some(number), _) => serde_json::json!(number),
                    (_, Some(number)) => serde_json::json!(number),
                    _ => serde_json::json!(match value {
                        gguf::Value::String(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                        other => other.summary(),
                    }),
                };
            (key.to_owned(), text)
        })
        .collect();
    Ok(Report { file: arguments.model.display().to_string(), tensors, totals, provenance })
}

fn describe(file: &GgufFile, tensor: &TensorInfo) -> Result<Tensor> {
    let payload = if tensor.ty == GgmlType::Wsic {
        let payload = open_payload(file, tensor, &Limits::default())?;
        let report = PayloadReport::new(&payload, tensor.byte_len);
        Some(report.map_err(|source| TensorError::Payload {
            path: file.path().to_owned(),
            tensor: tensor.name.clone(),
            source,
        })?)
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
