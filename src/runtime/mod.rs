//! Models in our tensor type: tensors opened from the container and turned into floats.
//!
//! In: a GGUF file and a tensor. Out: a validated payload, or rows of f32 of any tensor, ours or ggml's.

mod source;
mod tensor;

pub use source::WeightSource;
pub use tensor::{dequantize_rows, open_payload, TensorError};
