//! wsic: WaterSIC-quantized, entropy-coded language model weights.
//!
//! # Map
//!
//! Data flows one way, from the top of this list to its end; no module uses one below it
//! (`runtime` and `cli` sit on top and use everything above them). The C ABI over `kernels` is a crate of its own,
//! `capi/`, so that its library holds nothing else.
//!
//! | module | what it holds | depends on |
//! |---|---|---|
//! | `payload` | the tensor type: header, class tables, streams; encoder and scalar decoder (the definition) | std |
//! | `kernels` | decode, matvec, matmul, get_rows for each instruction set; run-time dispatch | `payload` |
//! | `gguf` | the container: read, write; ggml types and their dequantization | - |
//! | `import` | Hugging Face folders as metadata and tensors with ggml's names; importance matrices | `gguf` |
//! | `model` | tokenizer and forward pass of the supported architectures | `gguf` |
//! | `stats` | second moments of every linear layer's input; calibration text | `model` |
//! | `quantize` | WaterSIC and its trellis successor; rate search | `payload` (its integers and geometry) |
//! | `convert` | the whole conversion: plan, layers, spool, output file | `quantize`, `stats` |
//! | `runtime` | a model that runs from our type | `kernels`, `model` |
//! | `cli` | one file per command; the only place that prints | all |
//!
//! Without default features only `payload` and `kernels` are built, and they need std alone: this is the part that a
//! runtime vendors, with `capi/` if it is not written in Rust.

pub mod kernels;
pub mod payload;

#[cfg(feature = "convert")]
pub mod convert;
#[cfg(feature = "formats")]
pub mod gguf;
#[cfg(feature = "formats")]
pub mod import;
#[cfg(feature = "convert")]
pub mod model;
#[cfg(feature = "convert")]
pub mod quantize;
#[cfg(feature = "convert")]
pub mod runtime;
#[cfg(feature = "convert")]
pub mod stats;

#[cfg(feature = "cli")]
pub mod cli;
