//! Opening the input, and what tells one model from another.

use super::error::ConvertError;
use super::options::{Calibration, Options};
use super::progress::Progress;
use crate::gguf::GgmlType;
use crate::import::{self, Input};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

/// Bytes looked at at both ends of each tensor.
const SAMPLE: usize = 4096;

/// Opens a model to convert; what is lost or guessed is said to the listener.
///
/// # Errors
/// Those of [`Input::open`], and models that hold tensors of our type already.
pub(super) fn open_input(
    path: &Path,
    pre_tokenizer: Option<&str>,
    progress: &dyn Progress,
) -> Result<Arc<Input>, ConvertError> {
    let options = import::Options { pre_tokenizer: pre_tokenizer.map(str::to_owned) };
    let input = Input::open(path, &import::Limits::default(), &options)?;
    if let Some(tensor) = input.specs().into_iter().find(|tensor| tensor.ty == GgmlType::Wsic) {
        return Err(ConvertError::Target(format!(
            "{}: tensor '{}' is already of type WSIC: convert the original model, or use `wsic unpack`",
            path.display(),
            tensor.name
        )));
    }
    input.warnings().iter().for_each(|warning| progress.warn(warning));
    Ok(Arc::new(input))
}

/// What identifies a model: a SHA-256 over its metadata, and name, dimensions, type and both ends of the data of each
/// tensor. Where the files lie and how they are split does not matter.
pub(super) fn identity(input: &Input) -> Result<String, ConvertError> {
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    for (key, value) in input.joined_metadata().iter() {
        bytes.clear();
        bytes.extend_from_slice(key.as_bytes());
        bytes.push(0);
        value.encode(&mut bytes);
        hash.update(&bytes);
    }
    for tensor in input.specs() {
        hash.update(format!("{} {:?} {};", tensor.name, tensor.dims, tensor.ty));
        match input {
            Input::Gguf(model) => {
                let data = model.tensor_bytes(model.tensor(&tensor.name)?)?;
                hash.update(data.get(..SAMPLE).unwrap_or(data));
                hash.update(data.get(data.len().saturating_sub(SAMPLE)..).unwrap_or(data));
            }
            Input::Folder(folder) => {
                let Some(found) = folder.get_tensor(&tensor.name) else { continue };
                bytes.clear();
                for row in [0, tensor.rows().saturating_sub(1)] {
                    folder.append_rows(found, row..row + 1, tensor.ty, &mut bytes)?;
                }
                hash.update(&bytes);
            }
        }
    }
    Ok(hexadecimal(&hash.finalize()))
}

/// Lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that finished parts depend on, one item a line. `statistics` is the fingerprint of the statistics file,
/// if the user gave one.
pub(super) fn fingerprint(identity: &str, options: &Options, statistics: Option<&str>) -> String {
    let mut lines = vec![format!("wsic {}", env!("CARGO_PKG_VERSION")), format!("input {identity}")];
    let overrides: Vec<String> =
        options.overrides.iter().map(|rule| format!("{}={:?}", rule.pattern, rule.choice)).collect();
    lines.push(format!("target {:?}", options.target));
    lines.push(format!("embedding {:?}", options.embedding_bits));
    lines.push(format!("overrides {overrides:?}"));
    lines.push(format!("method {:?}", options.method));
    lines.push(format!("loss weights {}", options.loss_weights));
    lines.push(format!("shrinkage {:?}", options.shrinkage));
    lines.push(format!("prefer {:?}", options.prefer));
    lines.push(format!("drift {}", options.drift));
    let file = |kind: &str, path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        format!("{kind} of {} bytes {}", bytes.len(), hexadecimal(&Sha256::digest(&bytes)))
    };
    let calibration = match &options.calibration {
        Calibration::Model => "self".to_owned(),
        Calibration::Text(path) => file("text", path),
        Calibration::Importance(path) => file("importance matrix", path),
        Calibration::Statistics(_) => format!("statistics {}", statistics.unwrap_or_default()),
    };
    lines.push(format!(
        "calibration {calibration}, {} tokens, seed {}",
        options.calibration_tokens, options.seed
    ));
    lines.join("\n") + "\n"
}
