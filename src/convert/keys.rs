//! Metadata keys of converted files (spec section "Metadata").

use crate::gguf::{GgmlType, Metadata};

/// UINT32, version of the format: 1.
pub const VERSION_KEY: &str = "wsic.version";
/// Array of the names of all WSIC tensors, in file order.
pub const TENSOR_NAMES_KEY: &str = "wsic.tensor_names";
/// Array of UINT64: the byte length of each WSIC tensor, in the same order.
pub const TENSOR_BYTES_KEY: &str = "wsic.tensor_bytes";
/// UINT32, the type id that marks WSIC tensors in this file: 704 unless `wsic retag` changed it.
pub const TYPE_ID_KEY: &str = "wsic.type_id";
/// Prefix of the keys that say how the file was made.
pub const PROVENANCE_PREFIX: &str = "quantize.wsic.";

/// `general.file_type` of files whose weights are mostly of `ty` (llama.cpp's numbers; WSIC has its own type id).
pub fn file_type(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q8_0 => 7,
        GgmlType::BF16 => 32,
        other => other.id(),
    }
}

/// Removes the keys that describe WSIC tensors, for files that hold none; provenance stays.
pub fn remove_format_keys(metadata: &mut Metadata) {
    for key in [VERSION_KEY, TYPE_ID_KEY, TENSOR_NAMES_KEY, TENSOR_BYTES_KEY] {
        metadata.remove(key);
    }
}
