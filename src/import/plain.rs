//! The plain GGUF file of a folder: no quantization, F16, BF16 or F32.

use std::path::Path;

use super::error::ImportError;
use super::folder::Folder;
use super::tensor::ImportedTensor;
use crate::gguf::{GgmlType, GgufModelWriter, TensorSpec, Value};

/// Elements converted at a time.
const BLOCK: u64 = 1 << 22;

/// `general.file_type` of files whose weights are of this type (llama.cpp's numbers); `None` for other types than
/// F32, F16 and BF16.
pub(super) fn file_type(ty: GgmlType) -> Option<u32> {
    match ty {
        GgmlType::F32 => Some(0),
        GgmlType::F16 => Some(1),
        GgmlType::BF16 => Some(32),
        _ => None,
    }
}

/// Type of a tensor in a file whose weights are of type `ty`: norms, biases, routers and tables stay F32.
pub fn plain_tensor_type(tensor: &TensorSpec, ty: GgmlType) -> GgmlType {
    let name = tensor.name.as_str();
    let exact = tensor.dims.len() < 2
        || !name.ends_with(".weight")
        || name.ends_with("_norm.weight")
        || name.ends_with(".ffn_gate_inp.weight");
    if exact {
        GgmlType::F32
    } else {
        ty
    }
}

/// Writes the file with weights of type `ty` (F16, BF16 or F32) and calls `progress` with the name of each tensor
/// before it is written. Returns the size of the file in bytes.
///
/// Memory: one block of rows. Errors: another type, a disk that is full, a weight too large for F16.
pub fn write_plain(
    folder: &Folder,
    ty: GgmlType,
    path: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<u64, ImportError> {
    let Some(file_type) = file_type(ty) else {
        let hint = "plain files hold F16, BF16 or F32";
        return Err(ImportError::unsupported(path, format!("a plain file of {ty}"), hint));
    };
    let mut metadata = folder.metadata().clone();
    metadata.set("general.file_type", Value::U32(file_type));
    let spec = |tensor: &ImportedTensor| TensorSpec {
        ty: plain_tensor_type(&tensor.spec, ty),
        ..tensor.spec.clone()
    };
    let specs = folder.tensors().iter().map(spec).collect();
    let mut writer = GgufModelWriter::create(path, &metadata, vec![specs])?;
    let mut bytes = Vec::new();
    for tensor in folder.tensors() {
        progress(&tensor.spec.name);
        writer.begin_tensor(&tensor.spec.name)?;
        let target = plain_tensor_type(&tensor.spec, ty);
        let step = (BLOCK / tensor.columns().max(1)).max(1);
        let mut first = 0;
        while first < tensor.rows() {
            let last = first.saturating_add(step).min(tensor.rows());
            bytes.clear();
            folder.append_rows(tensor, first..last, target, &mut bytes)?;
            if target == GgmlType::F16 && tensor.spec.ty != GgmlType::F16 {
                check_range(path, &tensor.spec.name, &bytes)?;
            }
            writer.append(&bytes)?;
            first = last;
        }
        writer.end_tensor()?;
    }
    Ok(writer.finish()?)
}

/// Fails if a half float is not finite: the weight was beyond their range.
fn check_range(path: &Path, tensor: &str, halves: &[u8]) -> Result<(), ImportError> {
    let (halves, _) = halves.as_chunks::<2>();
    match halves.iter().any(|half| u16::from_le_bytes(*half) & 0x7c00 == 0x7c00) {
        true => {
            let expected = "weights of at most 65504 for F16 (choose bf16 or f32)";
            Err(ImportError::tensor(path, tensor, expected, "a larger one, or one that is not finite"))
        }
        false => Ok(()),
    }
}
