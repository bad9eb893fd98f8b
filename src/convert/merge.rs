//! Parts of a model, quantized by different processes, become one file.

use super::error::ConvertError;
use super::keys::*;
use super::progress::Progress;
use super::run::Outcome;
use crate::gguf::{
    self, group_by_size, Array, GgmlType, GgufFile, GgufModelWriter, Metadata, TensorSpec, Value,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Names of all tensors of the whole model, in file order.
const TENSORS_KEY: &str = "wsic.part.tensors";
/// Hash of the steps of all tensors: parts of one model agree in it.
const STEPS_KEY: &str = "wsic.part.steps";
/// Steps of the quantized tensors of this part, as the bits of the numbers.
const KEYS_KEY: &str = "wsic.part.keys";

/// Marks the metadata of an output as that of a part.
pub(super) fn mark_part(
    metadata: &mut Metadata,
    tensors: impl Iterator<Item = String>,
    steps: String,
    keys: &[f64],
) {
    metadata.set(TENSORS_KEY, Value::Array(Array::from_strings(tensors)));
    metadata.set(STEPS_KEY, Value::String(steps.into_bytes()));
    let bits: Vec<u64> = keys.iter().map(|key| key.to_bits()).collect();
    metadata.set(KEYS_KEY, Value::Array(Array::from_u64(&bits)));
}

fn open(path: &Path) -> Result<GgufFile, ConvertError> {
    let file = GgufFile::open(path, &gguf::Limits::default())?;
    match file.metadata().contains(STEPS_KEY) {
        true => Ok(file),
        false => Err(ConvertError::Part {
            path: path.to_owned(),
            problem: "is no part of a model; `wsic convert --only` makes one".into(),
        }),
    }
}

/// Bytes of each quantized tensor in the parts, by name and the bits of its step.
pub(super) fn measure(parts: &[PathBuf]) -> Result<HashMap<(String, u64), u64>, ConvertError> {
    let mut measured = HashMap::new();
    for path in parts {
        let file = open(path)?;
        let keys = file.metadata().integer_array::<u64>(KEYS_KEY)?;
        let quantized: Vec<_> = file.tensors().iter().filter(|tensor| tensor.ty == GgmlType::Wsic).collect();
        if quantized.len() != keys.len() {
            return Err(ConvertError::Part {
                path: path.clone(),
                problem: format!("holds {} steps for {} tensors", keys.len(), quantized.len()),
            });
        }
        for (tensor, key) in quantized.into_iter().zip(keys) {
            measured.insert((tensor.name.clone(), key), tensor.byte_len);
        }
    }
    Ok(measured)
}

/// Writes the model that the parts make up: the same file as that of one process.
///
/// # Errors
/// Parts of different models, settings or steps; a tensor in no part or in two. The output then does not exist.
pub fn merge(
    parts: &[PathBuf],
    output: &Path,
    split_bytes: Option<u64>,
    progress: &dyn Progress,
) -> Result<Outcome, ConvertError> {
    let files = parts.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = files.first() else {
        return Err(ConvertError::Target("no parts to merge".into()));
    };
    let mut places: HashMap<&str, (&GgufFile, &gguf::TensorInfo)> = HashMap::new();
    for file in &files {
        let part = |problem: String| ConvertError::Part { path: file.path().to_owned(), problem };
        for key in [STEPS_KEY, TENSORS_KEY] {
            if file.metadata().get(key) != first.metadata().get(key) {
                let first = first.path().display();
                return Err(part(format!(
                    "was made from another model, with other settings, or with another plan than {first}"
                )));
            }
        }
        for tensor in file.tensors() {
            if let Some((other, _)) = places.insert(&tensor.name, (file, tensor)) {
                return Err(part(format!(
                    "holds tensor '{}', which {} holds too; let the patterns of --only exclude one another",
                    tensor.name,
                    other.path().display()
                )));
            }
        }
    }
    let mut ordered = Vec::new();
    let mut missing = Vec::new();
    for name in first.metadata().strings(TENSORS_KEY)? {
        let name = String::from_utf8_lossy(name);
        match places.remove(name.as_ref()) {
            Some(place) => ordered.push(place),
            None => missing.push(name.into_owned()),
        }
    }
    let part = |problem: String| ConvertError::Part { path: first.path().to_owned(), problem };
    if let Some(name) = missing.first() {
        return Err(part(format!(
            "and the other parts lack {} of the model's tensors, '{name}' for one: make parts with them, and give all parts",
            missing.len()
        )));
    }
    if let Some(name) = places.keys().next() {
        return Err(part(format!("or another part holds tensor '{name}', which the model does not have")));
    }
    let quantized = || ordered.iter().map(|(_, tensor)| tensor).filter(|tensor| tensor.ty == GgmlType::Wsic);
    let mut metadata = first.metadata().clone();
    for key in [TENSORS_KEY, STEPS_KEY, KEYS_KEY] {
        metadata.remove(key);
    }
    let names = Array::from_strings(quantized().map(|tensor| tensor.name.as_bytes()));
    metadata.set(TENSOR_NAMES_KEY, Value::Array(names));
    let lengths: Vec<u64> = quantized().map(|tensor| tensor.byte_len).collect();
    metadata.set(TENSOR_BYTES_KEY, Value::Array(Array::from_u64(&lengths)));

    let bytes: HashMap<&str, u64> =
        ordered.iter().map(|(_, tensor)| (tensor.name.as_str(), tensor.byte_len)).collect();
    let size = |tensor: &TensorSpec| {
        bytes
            .get(tensor.name.as_str())
            .map_or(0, |bytes| bytes.next_multiple_of(u64::from(first.alignment())))
    };
    let specs = ordered.iter().map(|(_, tensor)| TensorSpec::from(*tensor)).collect();
    let groups = group_by_size(specs, split_bytes.unwrap_or(u64::MAX), size);
    let mut writer = GgufModelWriter::create(output, &metadata, groups)?;
    progress.begin("writing", ordered.len() as u64);
    let mut outcome = Outcome::default();
    for (file, tensor) in &ordered {
        writer.write_tensor(&tensor.name, file.tensor_bytes(tensor)?)?;
        progress.advance(1, &tensor.name);
        outcome.weights += tensor.elements();
        if tensor.ty == GgmlType::Wsic {
            let linear = tensor.name.starts_with("blk.");
            let (weights, bytes) = match linear {
                true => (&mut outcome.linear_weights, &mut outcome.linear_bytes),
                false => (&mut outcome.embedding_weights, &mut outcome.embedding_bytes),
            };
            *weights += tensor.elements();
            *bytes += tensor.byte_len;
        }
    }
    outcome.bytes = writer.finish()?;
    Ok(outcome)
}
