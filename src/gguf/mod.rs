//! The container: lossless GGUF reader, streaming writer, ggml types and their dequantization.
//!
//! In: paths or hostile bytes, and [`Limits`]. Out: [`GgufFile`] (one file) or [`GgufModel`] (one or several split
//! files) with [`Metadata`] kept typed, in order and byte-exact, [`TensorInfo`]s, and the tensors' bytes without a
//! copy; floats of any ggml type through [`dequantize`]; files through [`GgufWriter`] and [`GgufModelWriter`].
//! Reading a file and writing the same again gives identical bytes, as long as the tensors lie in order without
//! gaps, as all known writers place them.
//!
//! Depends on no other module of this crate. It may not know what a model is, nor look into payloads of our own
//! type beyond the magic and length in their first 16 bytes (spec section "Payload header"), nor print. Every count
//! and length from a file is checked against limits and the file's real size before anything is allocated or
//! indexed; every error ([`GgufError`]) names the file, and the tensor or key, byte offset, what was expected and
//! what was found. The only `unsafe` of the layer is the memory map in `map.rs`.
//!
//! Versions 2 and 3 are read, little endian. Where this reader is more lenient than llama.cpp: tensors may lie in
//! any order with gaps, and unknown types are listed (with the distance to the next tensor as their size). Where
//! it is stricter: BOOL must be 0 or 1, names must be UTF-8, no dimension may be 0.

mod dequantize;
mod encode;
mod error;
mod file;
mod limits;
mod map;
mod metadata;
mod parse;
mod split;
mod tensor;
mod types;
mod value;
mod write;

pub use dequantize::{dequantize, f16_to_f32};
pub use encode::{encode, f32_to_bf16, quantize_q8_0};
pub use error::{ConversionError, GgufError};
pub use file::GgufFile;
pub use limits::Limits;
pub(crate) use map::FileBytes;
pub use metadata::Metadata;
pub use split::{
    group_by_size, shard_path, GgufModel, GgufModelWriter, SPLIT_COUNT_KEY, SPLIT_NUMBER_KEY,
    SPLIT_TENSORS_KEY,
};
pub use tensor::{payload_len, TensorInfo, PAYLOAD_LENGTH_OFFSET, PAYLOAD_MAGIC, PAYLOAD_PREFIX};
pub use types::{Block, GgmlType, WSIC_TYPE_ID};
pub use value::{Array, Value, ValueType};
#[cfg(all(test, feature = "cli"))]
pub(crate) use write::is_unfinished;
#[cfg(feature = "convert")]
pub(crate) use write::{begin_unfinished, forget_unfinished};
pub use write::{remove_unfinished, GgufWriter, TensorSpec};
