//! The rules of the specification's section "WSIC in GGUF" that go beyond those of GGUF itself.

use crate::convert::{TENSOR_BYTES_KEY, TENSOR_NAMES_KEY, TYPE_ID_KEY, VERSION_KEY};
use crate::gguf::{GgmlType, GgufFile, GgufModel, Value, ValueType};

/// A file that breaks one of the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {problem}")]
pub struct ContainerProblem {
    /// Error class of the specification.
    pub class: &'static str,
    /// What is wrong.
    pub problem: String,
}

fn problem<T>(class: &'static str, problem: impl Into<String>) -> Result<T, ContainerProblem> {
    Err(ContainerProblem { class, problem: problem.into() })
}

/// Checks keys, names, lengths and numbers of dimensions (checks 1, 2 and 5 of section 2). Files without WSIC tensors
/// pass.
///
/// # Errors
/// The first rule that is broken.
pub fn check_metadata(model: &GgufModel) -> Result<(), ContainerProblem> {
    let ours: Vec<_> = model.tensors().filter(|tensor| tensor.ty == GgmlType::Wsic).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let metadata = model.metadata();
    let Some(&Value::U32(version)) = metadata.get(VERSION_KEY) else {
        return problem("metadata-mismatch", format!("expected the key {VERSION_KEY} as UINT32"));
    };
    let names = match metadata.get(TENSOR_NAMES_KEY) {
        Some(Value::Array(array)) if array.element_type() == ValueType::String => array,
        _ => {
            return problem(
                "metadata-mismatch",
                format!("expected the key {TENSOR_NAMES_KEY} as array of strings"),
            )
        }
    };
    let lengths = match metadata.get(TENSOR_BYTES_KEY) {
        Some(Value::Array(array)) if array.element_type() == ValueType::U64 => {
            array.to_integers::<u64>().unwrap_or_default()
        }
        _ => {
            return problem(
                "metadata-mismatch",
                format!("expected the key {TENSOR_BYTES_KEY} as array of UINT64"),
            )
        }
    };
    if names.len() != ours.len() || lengths.len() != ours.len() {
        return problem(
            "metadata-mismatch",
            format!(
                "{} WSIC tensors, {} names, {} lengths in the metadata",
                ours.len(),
                names.len(),
                lengths.len()
            ),
        );
    }
    if let Some((tensor, _)) =
        ours.iter().zip(names.strings()).find(|(tensor, name)| tensor.name.as_bytes() != *name)
    {
        return problem(
            "metadata-mismatch",
            format!("tensor '{}' is not in its place in {TENSOR_NAMES_KEY}", tensor.name),
        );
    }
    if version != 1 {
        return problem(
            "unsupported-version",
            format!("expected version 1 in {VERSION_KEY}, found {version}"),
        );
    }
    if !matches!(metadata.get(TYPE_ID_KEY), None | Some(&Value::U32(crate::gguf::WSIC_TYPE_ID))) {
        return problem(
            "unsupported-feature",
            format!("{TYPE_ID_KEY} names another type id; see `wsic retag`"),
        );
    }
    for (tensor, length) in ours.iter().zip(lengths) {
        if !matches!(tensor.dims.len(), 2 | 3) {
            return problem(
                "shape-mismatch",
                format!("tensor '{}' has {} dimensions", tensor.name, tensor.dims.len()),
            );
        }
        if tensor.byte_len != length {
            return problem(
                "metadata-mismatch",
                format!(
                    "tensor '{}' has {} bytes, {TENSOR_BYTES_KEY} says {length}",
                    tensor.name, tensor.byte_len
                ),
            );
        }
    }
    Ok(())
}

/// What a verifier refuses besides: gaps between tensors and padding that is not zero, in files without WSIC tensors too.
/// Tensors that a file cuts off were refused when it was opened.
///
/// # Errors
/// The first such place.
pub fn check_gaps(file: &GgufFile) -> Result<(), ContainerProblem> {
    let alignment = u64::from(file.alignment());
    let mut end = Some(0u64);
    for tensor in file.tensors() {
        if let Some(end) = end {
            if tensor.offset != end.next_multiple_of(alignment) {
                return problem(
                    "bad-container",
                    format!("a gap or another order before tensor '{}'", tensor.name),
                );
            }
            if !file.data_between(end, tensor.offset).iter().all(|&byte| byte == 0) {
                return problem(
                    "bad-container",
                    format!("padding before tensor '{}' that is not zero", tensor.name),
                );
            }
        }
        end = if tensor.is_unknown() { None } else { tensor.offset.checked_add(tensor.byte_len) };
    }
    Ok(())
}
