//! A model as an ordinary GGUF file, nothing quantized: `wsic convert --method none`.

use super::error::ConvertError;
use super::identity::open_input;
use super::options::{TensorChoice, TensorOverride};
use super::output::Output;
use super::plan::{apply_overrides, Action};
use super::progress::Progress;
use super::run::{Outcome, TensorRecord};
use crate::gguf::{GgmlType, TensorSpec, Value};
use crate::import::plain_tensor_type;
use crate::model::EMBEDDING;
use std::collections::HashMap;
use std::path::PathBuf;

/// What to write, and how.
#[derive(Clone, Debug)]
pub struct PlainOptions {
    /// Model to read.
    pub input: PathBuf,
    /// File to write.
    pub output: PathBuf,
    /// Type of the weights: F32, F16, BF16 or Q8_0. `None` leaves those that are 16-bit floats as they are and turns the
    /// others into the 16-bit floats of the embedding (F16 if it has none).
    pub ty: Option<GgmlType>,
    /// Overrides by name, in order: to keep a tensor or to store it as another type.
    pub overrides: Vec<TensorOverride>,
    /// Data bytes of one output file, at most (or one tensor); `None` for a single file.
    pub split_bytes: Option<u64>,
    /// Value of `tokenizer.ggml.pre` for a Hugging Face folder; found out by default.
    pub pre_tokenizer: Option<String>,
}

fn is_half(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::F16 | GgmlType::BF16)
}

/// Writes the model without quantization. Memory: a block of rows.
///
/// # Errors
/// [`ConvertError`]; the output then does not exist (or is unchanged).
pub fn convert_plain(options: &PlainOptions, progress: &dyn Progress) -> Result<Outcome, ConvertError> {
    if let Some(rule) = options
        .overrides
        .iter()
        .find(|rule| matches!(rule.choice, TensorChoice::Bits(_) | TensorChoice::Method(..)))
    {
        return Err(ConvertError::Override {
            tensor: rule.pattern.to_string(),
            problem: "bits per weight need a quantization method; with none give keep or a type".into(),
        });
    }
    let input = open_input(&options.input, options.pre_tokenizer.as_deref(), progress)?;
    let embedding = input.get_spec(EMBEDDING).map(|tensor| tensor.ty).filter(|ty| is_half(*ty));
    let weights = options.ty.or(embedding).unwrap_or(GgmlType::F16);
    let decide = |tensor: &TensorSpec, _| {
        let target = plain_tensor_type(tensor, weights);
        let as_is = match tensor.ty {
            ty if ty == target => true,
            // Exact ones that are no floats of 32 bits would only grow.
            ty if is_half(ty) => target == GgmlType::F32 && weights != target || options.ty.is_none(),
            GgmlType::F32 => target == GgmlType::F32,
            // Integers and types without a conversion are no weights.
            ty => {
                ty.block().is_none()
                    || matches!(ty, GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64)
            }
        };
        match target {
            _ if as_is => Action::Copy,
            // Rows that a block type cannot hold stay half floats.
            ty if ty.row_bytes(tensor.columns()).is_none() => Action::Store(GgmlType::F16),
            ty => Action::Store(ty),
        }
    };
    let plan = apply_overrides(&input, &options.overrides, decide)?;
    let mut metadata = input.joined_metadata();
    metadata.set("general.file_type", Value::U32(super::keys::file_type(weights)));
    let output = Output::new(&options.output, options.split_bytes, metadata, &plan)?;
    progress.begin("writing", plan.len() as u64);
    let no_payload = |_| Err(ConvertError::Target("nothing is quantized with --method none".into()));
    let bytes = output.write(&input, &HashMap::new(), no_payload, |name| progress.advance(1, name))?;
    let tensors = plan.iter().map(|tensor| TensorRecord::new(tensor, None)).collect();
    let weights = plan.iter().map(|tensor| tensor.weights()).sum();
    Ok(Outcome { bytes, weights, tensors, ..Outcome::default() })
}
