//! A conversion from start to end.

use super::allocate::{Allocation, Part};
use super::error::ConvertError;
use super::identity::{fingerprint, identity, open_input};
use super::keys::*;
use super::options::{Options, Target};
use super::output::Output;
use super::plan::{plan, Action, PlannedTensor};
use super::progress::Progress;
use super::quantize_tensor::Quantizer;
use super::spool::Spool;
use crate::gguf::{Array, GgmlType, Metadata, Value};
use crate::import::Input;
use crate::model::Model;
use std::collections::HashMap;
use std::sync::Arc;

/// What a conversion gave.
#[derive(Clone, Debug, Default)]
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
    let input = open_input(&options.input, options.pre_tokenizer.as_deref(), progress)?;
    let network = Arc::new(Model::open(input.clone())?);
    let plan = plan(&input, &network, options)?;
    let identity = identity(&input)?;
    let spool = Spool::open(&options.output, &fingerprint(&identity, options), options.resume)?;
    let statistics_path = spool.path("statistics.gguf");
    let statistics = super::collect::collect(&network, &identity, options, &statistics_path, progress)?;
    let quantizer =
        Quantizer { source: network.source().as_ref(), statistics: &statistics, method: options.method };
    let metadata = output_metadata(&input, &plan, options, statistics.source()?);
    let output = Output::new(&options.output, options.split_bytes, metadata, &plan)?;
    let allocation = Allocation {
        plan: &plan,
        quantizer: &quantizer,
        spool: &spool,
        progress,
        target: options.target,
        loss_weights: options.loss_weights,
        file_bytes: &|parts| output.file_bytes(parts.iter().map(|part| (part.number, part.bytes))),
    };
    let parts = allocation.run()?;
    let bytes = write(&output, &input, &parts, &spool, progress)?;
    spool.remove()?;
    Ok(summary(bytes, &plan, &parts))
}

fn write(
    output: &Output,
    input: &Input,
    parts: &[Part],
    spool: &Spool,
    progress: &dyn Progress,
) -> Result<u64, ConvertError> {
    progress.begin("writing", output.plan.len() as u64);
    let lengths: HashMap<usize, u64> = parts.iter().map(|part| (part.number, part.bytes)).collect();
    let payload = |number: usize| {
        let part = parts.iter().find(|part| part.number == number);
        part.and_then(|part| spool.find(number, part.key)).ok_or_else(|| ConvertError::Resume {
            path: spool.path(""),
            problem: format!(
                "the part of tensor '{}' is missing or damaged; run the command again with --resume",
                output.plan[number].info.name
            ),
        })
    };
    output.write(input, &lengths, payload, |name| progress.advance(1, name))
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

/// Metadata of the output; lengths of payloads are zero until they are known.
fn output_metadata(input: &Input, plan: &[PlannedTensor], options: &Options, calibration: &str) -> Metadata {
    let quantized: Vec<&PlannedTensor> =
        plan.iter().filter(|tensor| matches!(tensor.action, Action::Quantize { .. })).collect();
    let mut metadata = input.joined_metadata();
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
