//! Models in our tensor type: tensors opened from the container, multiplied as they are or turned into floats, and
//! text generation.
//!
//! In: a GGUF file. Out: a validated payload, or rows of f32 of any tensor, ours or ggml's ([`WeightSource`]);
//! products straight from the mapped file ([`FusedSource`]); text ([`TextModel`], [`Session`]). Resident memory of a
//! model that runs is its mapped file, the key-value cache and the activations, and if asked for
//! ([`RunOptions::decoded_bytes`]) a byte or half of one for each weight. May not print.

mod container;
mod form;
mod fused;
mod generate;
mod on_demand;
mod pieces;
mod sampling;
mod shares;
mod source;
mod tensor;

pub use container::{check_gaps, check_metadata, ContainerProblem};
pub use fused::Arithmetic;
pub use generate::{End, GenerateError, Generation, RunOptions, Session, TextModel};
pub use pieces::Pieces;
pub use sampling::{Drawer, Sampling};
pub use source::{FusedSource, WeightSource};
pub use tensor::{dequantize_rows, open_payload, TensorError};
