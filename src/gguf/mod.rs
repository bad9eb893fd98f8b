//! The container: lossless GGUF reader, streaming writer, ggml types and their dequantization.

mod dequantize;
mod encode;
mod error;
mod file;
mod limits;
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
pub use metadata::Metadata;
pub use split::{
    group_by_size, shard_path, GgufModel, GgufModelWriter, SPLIT_COUNT_KEY, SPLIT_NUMBER_KEY,
    SPLIT_TENSORS_KEY,
};
pub use tensor::{payload_len, TensorInfo, PAYLOAD_LENGTH_OFFSET, PAYLOAD_MAGIC, PAYLOAD_PREFIX};
pub use types::{Block, GgmlType, WSIC_TYPE_ID};
pub use value::{Array, Value, ValueType};
pub use write::{GgufWriter, TensorSpec};
