//! A conversion from start to end.

use super::allocate::{Allocation, Part};
use super::error::ConvertError;
use super::keys::*;
use super::options::{Calibration, Options, Target};
use super::plan::{plan, Action, PlannedTensor};
use super::progress::Progress;
use super::quantize_tensor::Quantizer;
use super::spool::Spool;
use crate::gguf::{self, Array, GgmlType, GgufModel, GgufWriter, Metadata, TensorSpec, Value};
use crate::model::Model;
use crate::payload::crc32c;
use std::sync::Arc;

/// What a conversion gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Bytes of the output file.
    pub bytes: u64,
    /// Weights of all tensors.
    pub weights: u64,
    /// Weights of the quantized linear layers.
    pub linear_weights: u64,
    /// Bytes of their payloads.
    pub linear_bytes: u64,
    /// Weights of quantized embeddings and output heads.
    pub embedding_weights: u64,
    /// Bytes of their payloads.
    pub embedding_bytes: u64,
}

/// Converts a model.
///
/// # Errors
/// [`ConvertError`]; the output then does not exist (or is unchanged), and finished parts stay for `--resume`.
pub fn convert(options: &Options, progress: &dyn Progress) -> Result<Outcome, ConvertError> {
    let model = Arc::new(GgufModel::open(&options.input, &gguf::Limits::default())?);
    if let Some(tensor) = model.tensors().find(|tensor| tensor.ty == GgmlType::Wsic) {
        return Err(ConvertError::Target(format!(
            "{}: tensor '{}' is already of type WSIC: convert the original model",
            options.input.display(),
            tensor.name
        )));
    }
    let network = Arc::new(Model::open(model.clone())?);
    let plan = plan(&model, &network, options)?;
    let identity = identity(&model);
    let spool = Spool::open(&options.output, &fingerprint(&identity, options), options.resume)?;
    let statistics_path = spool.path("statistics.gguf");
    let statistics = super::collect::collect(&network, &identity, options, &statistics_path, progress)?;
    let quantizer =
        Quantizer { source: network.source().as_ref(), statistics: &statistics, method: options.method };
    let metadata = output_metadata(&model, &plan, options, statistics.source()?);
    let header = header_bytes(options, &metadata, &plan)?;
    let allocation = Allocation {
        plan: &plan,
        quantizer: &quantizer,
        spool: &spool,
        progress,
        target: options.target,
        loss_weights: options.loss_weights,
        file_bytes: &|parts| header + data_bytes(&metadata, &plan, parts),
    };
    let parts = allocation.run()?;
    let bytes = write(options, &model, metadata, &plan, &parts, &spool, progress)?;
    spool.remove()?;
    Ok(summary(bytes, &plan, &parts))
}

fn summary(bytes: u64, plan: &[PlannedTensor], parts: &[Part]) -> Outcome {
    let mut outcome = Outcome {
        bytes,
        weights: plan.iter().map(PlannedTensor::weights).sum(),
        linear_weights: 0,
        linear_bytes: 0,
        embedding_weights: 0,
        embedding_bytes: 0,
    };
    for part in parts {
        let tensor = &plan[part.number];
        let Action::Quantize { role, .. } = tensor.action else { continue };
        if role.is_linear() {
            outcome.linear_weights += tensor.weights();
            outcome.linear_bytes += part.bytes;
        } else {
            outcome.embedding_weights += tensor.weights();
            outcome.embedding_bytes += part.bytes;
        }
    }
    outcome
}

/// What identifies a model: sizes, tensors, and a sample of the bytes of each.
fn identity(model: &GgufModel) -> String {
    let mut lines = Vec::new();
    for file in model.files() {
        let described: String = file
            .tensors()
            .iter()
            .map(|t| format!("{} {:?} {} {};", t.name, t.dims, t.ty, t.offset))
            .collect();
        let sample = file.tensors().iter().filter_map(|t| file.tensor_bytes(t).ok()).map(|bytes| {
            let end = bytes.len().min(4096);
            crc32c(&bytes[..end]) ^ crc32c(&bytes[bytes.len() - end..]).rotate_left(1)
        });
        let sample = sample.fold(0u32, |sum, crc| sum.rotate_left(1) ^ crc);
        lines.push(format!("{} bytes {:08x} {sample:08x}", file.file_len(), crc32c(described.as_bytes())));
    }
    lines.join(", ")
}

/// Everything that finished parts depend on, one item a line.
fn fingerprint(identity: &str, options: &Options) -> String {
    let mut lines = vec![format!("wsic {}", env!("CARGO_PKG_VERSION")), format!("input {identity}")];
    let overrides: Vec<String> =
        options.overrides.iter().map(|rule| format!("{}={:?}", rule.pattern, rule.choice)).collect();
    lines.push(format!("target {:?}", options.target));
    lines.push(format!("embedding {:?}", options.embedding_bits));
    lines.push(format!("overrides {overrides:?}"));
    lines.push(format!("method {:?}", options.method));
    lines.push(format!("loss weights {}", options.loss_weights));
    let calibration = match &options.calibration {
        Calibration::Model => "self".to_owned(),
        Calibration::Text(path) => {
            let text = std::fs::read(path).unwrap_or_default();
            format!("text {} bytes {:08x}", text.len(), crc32c(&text))
        }
    };
    lines.push(format!(
        "calibration {calibration}, {} tokens, seed {}",
        options.calibration_tokens, options.seed
    ));
    lines.join("\n") + "\n"
}

fn specs(plan: &[PlannedTensor]) -> Vec<TensorSpec> {
    plan.iter()
        .map(|tensor| {
            let ty = match tensor.action {
                Action::Copy => tensor.info.ty,
                Action::Store(ty) => ty,
                Action::Quantize { .. } => GgmlType::Wsic,
            };
            TensorSpec { name: tensor.info.name.clone(), dims: tensor.info.dims.clone(), ty }
        })
        .collect()
}

/// Metadata of the output; lengths of payloads are zero until they are known.
fn output_metadata(
    model: &GgufModel,
    plan: &[PlannedTensor],
    options: &Options,
    calibration: &str,
) -> Metadata {
    let quantized: Vec<&PlannedTensor> =
        plan.iter().filter(|tensor| matches!(tensor.action, Action::Quantize { .. })).collect();
    let mut metadata = model.joined_metadata();
    metadata.set("general.file_type", Value::U32(GgmlType::Wsic.id()));
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set(VERSION_KEY, Value::U32(1));
    metadata.set(TYPE_ID_KEY, Value::U32(GgmlType::Wsic.id()));
    let names = Array::from_strings(quantized.iter().map(|tensor| tensor.info.name.as_bytes()));
    metadata.set(TENSOR_NAMES_KEY, Value::Array(names));
    metadata.set(TENSOR_BYTES_KEY, Value::Array(Array::from_u64(&vec![0; quantized.len()])));
    let mut note = |key: &str, text: String| {
        metadata.set(format!("{PROVENANCE_PREFIX}{key}"), Value::String(text.into_bytes()));
    };
    note("tool", format!("wsic {}", env!("CARGO_PKG_VERSION")));
    note("method", format!("{:?}", options.method).to_lowercase());
    note(
        "target",
        match options.target {
            Target::LinearBits(bits) => format!("{bits} bits/weight, linear layers"),
            Target::FileBits(bits) => format!("{bits} bits/weight, whole file"),
            Target::FileBytes(bytes) => format!("{bytes} bytes, whole file"),
        },
    );
    note("calibration", calibration.to_owned());
    note("loss_weights", options.loss_weights.to_string());
    note("seed", options.seed.to_string());
    metadata
}

/// Bytes before the data section.
fn header_bytes(options: &Options, metadata: &Metadata, plan: &[PlannedTensor]) -> Result<u64, ConvertError> {
    // A writer reserves the header when it is created; dropped, it leaves no file.
    Ok(GgufWriter::create(&options.output, metadata.clone(), specs(plan))?.written())
}

/// Bytes of the data section.
fn data_bytes(metadata: &Metadata, plan: &[PlannedTensor], parts: &[Part]) -> u64 {
    let alignment = metadata.u64("general.alignment").unwrap_or(32);
    let payload: std::collections::HashMap<usize, u64> = parts.iter().map(|p| (p.number, p.bytes)).collect();
    let length = |(number, tensor): (usize, &PlannedTensor)| match tensor.action {
        Action::Copy => tensor.info.byte_len,
        Action::Store(ty) => ty.row_bytes(tensor.info.columns()).unwrap_or(0) * tensor.info.rows(),
        Action::Quantize { .. } => payload.get(&number).copied().unwrap_or(0),
    };
    plan.iter().enumerate().map(|item| length(item).next_multiple_of(alignment)).sum()
}

/// Floats converted at a time when a tensor changes its ordinary type.
const STORE_BLOCK: u64 = 1 << 22;

fn write(
    options: &Options,
    model: &GgufModel,
    metadata: Metadata,
    plan: &[PlannedTensor],
    parts: &[Part],
    spool: &Spool,
    progress: &dyn Progress,
) -> Result<u64, ConvertError> {
    progress.begin("writing", plan.len() as u64);
    let mut writer = GgufWriter::create(&options.output, metadata, specs(plan))?;
    let mut remaining = parts.iter();
    for (number, tensor) in plan.iter().enumerate() {
        let name = &tensor.info.name;
        match tensor.action {
            Action::Copy => writer.write_tensor(name, model.tensor_bytes(&tensor.info)?)?,
            Action::Store(ty) => {
                writer.begin_tensor(name)?;
                let step = (STORE_BLOCK / tensor.info.columns()).max(1);
                let (mut floats, mut bytes) = (Vec::new(), Vec::new());
                for first in (0..tensor.info.rows()).step_by(step as usize) {
                    let last = (first + step).min(tensor.info.rows());
                    floats.resize(((last - first) * tensor.info.columns()) as usize, 0.0);
                    model.dequantize_rows(&tensor.info, first..last, &mut floats)?;
                    bytes.clear();
                    gguf::encode(ty, &floats, &mut bytes).map_err(|error| ConvertError::Override {
                        tensor: name.clone(),
                        problem: error.to_string(),
                    })?;
                    writer.append(&bytes)?;
                }
                writer.end_tensor()?;
            }
            Action::Quantize { .. } => {
                let payload = remaining.next().filter(|part| part.number == number);
                let payload = payload.and_then(|part| spool.find(number, part.key));
                let Some(payload) = payload else {
                    return Err(ConvertError::Resume {
                        path: spool.path(""),
                        problem: format!(
                            "the part of tensor '{name}' is missing or damaged; run the command again"
                        ),
                    });
                };
                writer.write_tensor(name, &payload)?;
            }
        }
        progress.advance(1, name);
    }
    let lengths: Vec<u64> = parts.iter().map(|part| part.bytes).collect();
    writer.replace_metadata(TENSOR_BYTES_KEY, Value::Array(Array::from_u64(&lengths)))?;
    Ok(writer.finish()?)
}
